//! The command line: exit codes, what is printed where, and starting and stopping the daemon.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rpm_e2e::app::App;
use rpm_e2e::ask::{BOUND, workers};
use rpm_e2e::process::{runs, signal};
use rpm_testkit::{Port, Ran, Rpm, Status, fixture, wait_until};
use rpm_wire::api::{AppInfo, Pong, Process};
use serde_json::Value;

#[test]
fn mistakes_exit_with_1_and_say_what_to_do() {
    let rpm = Rpm::new();
    let cases: [(&[&str], &str); 9] = [
        (&[], "Usage:"),
        (&["nonsense"], "nonsense"),
        (&["list", "--nonsense"], "--nonsense"),
        (&["start"], "ecosystem.config.js"),
        (&["start", "/nowhere/app.js"], "script not found"),
        (&["stop", "ghost"], "ghost"),
        (&["restart", "ghost"], "ghost"),
        (&["describe", "ghost"], "ghost"),
        (&["scale", "ghost", "many"], "many"),
    ];
    for (args, wanted) in cases {
        let ran = rpm.run(args);
        assert_eq!(ran.code, Some(1), "{args:?}: {ran:#?}");
        assert!(ran.stderr.contains(wanted), "{args:?}: {ran:#?}");
        assert_eq!(ran.stdout, "", "{args:?}");
    }
    assert!(rpm.ok(["--version"]).contains(env!("CARGO_PKG_VERSION")));
    assert!(rpm.ok(["help"]).contains("Usage:"));
}

/// The parts in backticks.
fn commands_in(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Runs it in a shell that knows nothing of the test.
fn typed(line: &str) -> Ran {
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).env_remove("RPM_HOME");
    shell.output().expect("sh runs").into()
}

#[test]
fn a_name_with_a_letter_wrong_is_asked_about_and_the_hint_can_be_pasted() {
    let rpm = Rpm::new();
    for (name, namespace) in [
        ("api", "default"),
        ("npm start", "default"),
        ("worker", "staging"),
    ] {
        App::new("no-listen.js")
            .args(["--name", name, "--namespace", namespace])
            .start(&rpm);
    }
    for (args, near) in [
        (&["restart", "apii", "--update-env"][..], "api"),
        (&["describe", "ap1"], "api"),
        (&["logs", "npm strat", "--nostream"], "npm start"),
        (&["env", "wroker"], "worker"),
        (&["scale", "workre", "1"], "worker"),
        (&["flush", "stagin"], "staging"),
        (&["reset", "stgaing"], "staging"),
        (&["attach", "apii"], "api"),
        (&["stop", "api", "workr"], "worker"),
    ] {
        let said = rpm.fails(args);
        assert!(said.contains(&format!("; did you mean {near:?}?\n")), "{said}");
        let [line] = commands_in(&said)[..] else {
            panic!("one command in {said}");
        };
        let ran = typed(line);
        assert_eq!(ran.code, Some(0), "{line}: {ran:#?}");
    }
    let said = rpm.fails(["start", "wroker"]);
    assert!(said.contains("did you mean \"worker\"?"), "{said}");
    let said = rpm.fails(["stop", "nothing-like-it"]);
    assert!(
        said.contains("there are: ") && !said.contains("did you mean"),
        "{said}"
    );
    // For a script that runs already, both alternatives are suggested.
    let hello = fixture("no-listen.js");
    let said = rpm.fails([
        "start".as_ref(),
        hello.as_os_str(),
        "--name".as_ref(),
        "npm start".as_ref(),
    ]);
    let [restart, more] = commands_in(&said)[..] else {
        panic!("two commands in {said}");
    };
    assert_eq!(typed(restart).code, Some(0), "{said}");
    assert!(more.ends_with("--force"), "{said}");
}

#[test]
fn the_list_shows_what_is_named() {
    let rpm = Rpm::new();
    for (name, namespace) in [("api", "default"), ("web", "shop"), ("admin", "shop")] {
        App::new("no-listen.js")
            .args(["--name", name, "--namespace", namespace])
            .start(&rpm);
    }
    let named = |targets: &[&str]| -> Vec<String> {
        let words = ["list", "--json"].iter().chain(targets);
        let list: Vec<Process> = serde_json::from_str(&rpm.ok(words)).expect("processes");
        list.into_iter().map(|process| process.name).collect()
    };
    for (targets, expected) in [
        (&[][..], &["api", "web", "admin"][..]),
        (&["web"], &["web"]),
        (&["shop"], &["web", "admin"]),
        (&["0", "admin"], &["api", "admin"]),
        (&["/^a/"], &["api", "admin"]),
    ] {
        assert_eq!(named(targets), expected, "{targets:?}");
    }
    assert!(rpm.fails(["list", "wbe"]).contains("did you mean \"web\"?"));
}

#[test]
fn every_reading_command_speaks_json() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2").port(&port).start(&rpm);
    for alias in ["list", "ls", "status"] {
        let list: Vec<Process> = serde_json::from_str(&rpm.ok([alias, "--json"])).expect("processes");
        assert_eq!(list.len(), 2, "{alias}");
    }
    let info: AppInfo = serde_json::from_str(&rpm.ok(["describe", "1", "--json"])).expect("an app");
    assert_eq!(
        (
            info.spec.name.as_str(),
            info.processes.len(),
            info.listeners.len()
        ),
        ("hello", 2, 1)
    );
    let pong: Pong = serde_json::from_str(&rpm.ok(["ping", "--json"])).expect("a pong");
    assert_eq!((pong.msg.as_str(), Some(pong.pid)), ("pong", rpm.daemon_pid()));
    let described = rpm.ok(["describe", "hello"]);
    for wanted in ["hello", "cluster", &format!("tcp 127.0.0.1:{port}"), "eligible"] {
        assert!(described.contains(wanted), "{wanted:?} in\n{described}");
    }
}

#[test]
fn jlist_prints_one_array_and_nothing_else_even_when_it_starts_the_daemon() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let first = rpm.run(["jlist"]);
    assert_eq!(
        (first.code, first.stdout.as_str()),
        (Some(0), "[]\n"),
        "{first:#?}"
    );
    App::cluster("hello.js", "2").port(&port).start(&rpm);
    let list: Vec<Value> = serde_json::from_str(&rpm.ok(["jlist"])).expect("an array");
    assert_eq!(list.len(), 2);
    for (id, entry) in list.iter().enumerate() {
        let env = &entry["pm2_env"];
        assert_eq!((&entry["pm_id"], &entry["name"]), (&id.into(), &"hello".into()));
        assert_eq!(
            (&env["status"], &env["exec_mode"]),
            (&"online".into(), &"cluster_mode".into())
        );
        assert_eq!(env["restart_time"], 0);
        assert!(
            entry["pid"].as_u64().is_some() && entry["monit"]["memory"].as_u64() > Some(0),
            "{entry}"
        );
    }
}

#[test]
fn watching_the_list_needs_a_terminal() {
    let error = Rpm::new().fails(["list", "--watch"]);
    assert!(
        error.contains("needs a terminal") && error.contains("rpm list --json"),
        "{error}"
    );
}

#[test]
fn the_table_has_a_line_for_each_process() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let started = App::cluster("hello.js", "2")
        .port(&port)
        .args(["--name", "web"])
        .start(&rpm)
        .stdout;
    for table in [started, rpm.ok(["list"])] {
        let header = table
            .lines()
            .find(|line| line.contains("status"))
            .expect("a header");
        for column in [
            "id", "name", "plane", "pid", "uptime", "↺", "status", "port", "cpu", "memory", "conn",
        ] {
            assert!(header.contains(column), "{column} in {header}");
        }
        let rows: Vec<&str> = table.lines().filter(|line| line.contains("web")).collect();
        assert_eq!(rows.len(), 2, "{table}");
        assert!(
            rows.iter()
                .all(|row| row.contains("online") && row.contains("direct")),
            "{table}"
        );
        assert!(!table.contains('\u{1b}'), "no colours into a pipe");
    }
}

#[test]
fn where_an_app_is_found_is_said_when_it_starts_and_in_the_list() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let started = App::cluster("hello.js", "2")
        .port(&port)
        .args(["--name", "web"])
        .start(&rpm);
    let (number, line) = (port.to_string(), format!("serving http://localhost:{port}\n"));
    assert!(started.stderr.ends_with(&line), "{started:#?}");
    for change in ["reload", "restart"] {
        let ran = rpm.run([change, "web"]);
        assert!(ran.stderr.ends_with(&line), "{ran:#?}");
    }
    for process in rpm.list() {
        let addresses: Vec<&str> = process
            .serves
            .iter()
            .map(|served| served.address.as_str())
            .collect();
        assert!(
            matches!(addresses[..], [one] if one.starts_with("tcp ") && one.ends_with(&format!(":{number}"))),
            "{process:#?}"
        );
    }
    let rows = rpm.ok(["list"]);
    // A pid may be the same number.
    let alike = rpm
        .pids("web")
        .iter()
        .filter(|pid| pid.to_string() == number)
        .count();
    let shown = rows.matches(&format!(" {number} ")).count();
    assert_eq!(shown, 2 + alike, "{rows}");
    let stopped = rpm.run(["stop", "web"]);
    assert!(!stopped.stderr.contains("serving"), "{stopped:#?}");
    assert!(rpm.list().iter().all(|process| process.serves.is_empty()));
}

#[test]
fn ping_and_kill() {
    let rpm = Rpm::new();
    assert!(rpm.run(["kill"]).stderr.contains("nothing to kill"));
    assert_eq!(rpm.daemon_pid(), None, "kill starts no daemon");
    assert_eq!(rpm.ok(["ping"]), "{ msg: 'pong' }\n");
    let pid = rpm.daemon_pid().expect("a daemon");
    rpm.ok(["kill"]);
    wait_until("the daemon has ended", BOUND, || runs(pid), |runs| !runs);
    assert!(!rpm.home().join("rpm.sock").exists());
}

#[test]
fn kill_ends_every_process() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2").port(&port).start(&rpm);
    let pids = rpm.pids("hello");
    rpm.ok(["kill"]);
    assert!(pids.len() == 2 && !pids.into_iter().any(runs));
}

#[test]
fn help_and_completions_use_the_name_it_was_called_by() {
    let rpm = Rpm::new();
    let other = rpm.home().join("pm2");
    symlink(rpm.command(["x"]).get_program(), &other).expect("a link");
    let called = |args: &[&str]| -> Ran {
        let output: Output = Command::new(&other)
            .args(args)
            .env("RPM_HOME", rpm.home())
            .output()
            .expect("it runs");
        output.into()
    };
    assert!(called(&["--help"]).stdout.contains("Usage: pm2 "));
    for shell in ["bash", "zsh", "fish"] {
        let script = called(&["completion", shell]);
        assert_eq!(script.code, Some(0));
        assert!(
            script.stdout.contains("pm2") && !script.stdout.contains("rpm"),
            "{shell}: {script:?}"
        );
        let asked = if shell == "bash" { "pm2 sca" } else { "sca" };
        let answer = match shell {
            "bash" => called(&["__complete", shell, " =:", asked]),
            _ => called(&["__complete", shell, asked]),
        };
        assert!(answer.stdout.starts_with("scale"), "{shell}: {answer:?}");
        assert!(rpm.ok(["completion", shell]).contains("rpm"), "{shell}");
    }
    assert_eq!(rpm.daemon_pid(), None, "none of this needs a daemon");
}

#[test]
fn no_wait_returns_before_the_workers_are_ready() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let app = App::cluster("ready.js", "1")
        .port(&port)
        .env("READY_MS", "never")
        .args(["--wait-ready"]);
    let ran = app.args(["--listen-timeout", "60000", "--no-wait"]).start(&rpm);
    assert!(ran.stdout.contains("launching"), "{}", ran.stdout);
    assert_eq!(rpm.process(0).status, Status::Launching);
    rpm.ok(["delete", "ready"]);
    assert!(rpm.list().is_empty());
}

#[test]
fn a_failing_app_shows_its_last_lines() {
    let rpm = Rpm::new();
    let thrown = App::cluster("throws.js", "2").try_start(&rpm);
    assert_eq!(thrown.code, Some(1), "{thrown:#?}");
    for wanted in ["throws", "exited with code 1", "broken on purpose"] {
        assert!(thrown.stderr.contains(wanted), "{wanted:?} in {}", thrown.stderr);
    }
    // Node prints the error before ten lines of stack and the fields of the error.
    let place = rpm.home().join("deep.js");
    let deep =
        "const down = (n) => (n ? down(n - 1) : require('fs').readFileSync('/no/such/file')); down(20);";
    std::fs::write(&place, deep).expect("a script");
    let read = rpm.run([OsStr::new("start"), place.as_os_str(), "-i1".as_ref()]);
    assert!(read.stderr.contains("Error: ENOENT: no such file"), "{read:#?}");
    let left = App::cluster("exit-at-once.js", "1")
        .env("EXIT_CODE", 3)
        .try_start(&rpm);
    assert_eq!(left.code, Some(1), "{left:#?}");
    assert!(
        left.stderr.contains("code 3") && left.stderr.contains("leaving at once"),
        "{}",
        left.stderr
    );
}

#[test]
fn a_silent_app_is_online_with_a_note() {
    let rpm = Rpm::new();
    let ran = App::cluster("no-listen.js", "2")
        .args(["--listen-timeout", "800"])
        .start(&rpm);
    assert_eq!(ran.stderr.matches("listens on nothing").count(), 2, "{ran:#?}");
    assert!(rpm.list().iter().all(|process| process.status == Status::Online));
}

#[test]
fn a_cluster_that_ends_after_some_seconds_of_its_start_has_failed() {
    let rpm = Rpm::new();
    let script = rpm.home().join("slow.js");
    // It uses CPU all the time; a program that rests may be one that does not listen.
    let ends = "const end = Date.now() + 3500; const work = () => { if (Date.now() < end) return setImmediate(work); \
                console.error('no database'); process.exit(3); }; work();";
    std::fs::write(&script, ends).expect("a script");
    for program in [vec!["slow.js"], vec!["slow.js", "--wait-ready"]] {
        let mut start = rpm.command(["start", "--name", "slow", "-i", "1", "--max-restarts", "0"]);
        let ran: Ran = start
            .current_dir(rpm.home())
            .args(&program)
            .output()
            .expect("rpm runs")
            .into();
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        let told = ["slow (", "exited with code 3 before it was ready", "no database"];
        assert!(told.iter().all(|text| ran.stderr.contains(text)), "{ran:#?}");
        rpm.ok(["delete", "slow"]);
    }
}

#[test]
fn a_cluster_that_rests_and_listens_on_nothing_is_online() {
    let rpm = Rpm::new();
    let script = rpm.home().join("consumer.js");
    // On a busy machine it wants a CPU for a while each time.
    std::fs::write(&script, "setInterval(() => {}, 1000)").expect("a script");
    let began = Instant::now();
    let ran: Ran = rpm
        .command([
            "start",
            "-i",
            "2",
            "--name",
            "consumer",
            "--reload-timeout",
            "100s",
        ])
        .arg(&script)
        .output()
        .expect("rpm runs")
        .into();
    // A program that uses CPU gets the 100 s of a reload. After 3 s of rest this one is online.
    assert!(began.elapsed() < Duration::from_secs(60), "{ran:#?}");
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.stderr.contains("online and listens on nothing"), "{ran:#?}");
}

#[test]
fn twenty_commands_at_once_start_one_daemon() {
    let rpm = Rpm::new();
    let running: Vec<_> = (0..20).map(|_| rpm.spawn(["ping", "--json"])).collect();
    let outputs: Vec<Ran> = running
        .into_iter()
        .map(|c| c.wait_with_output().expect("it ends").into())
        .collect();
    let pids: BTreeSet<u32> = outputs
        .iter()
        .map(|ran| {
            assert_eq!(ran.code, Some(0), "{ran:#?}");
            serde_json::from_str::<Pong>(&ran.stdout).expect("a pong").pid
        })
        .collect();
    assert_eq!(pids, rpm.daemon_pid().into_iter().collect());
    assert_eq!(rpm.log().matches("serving").count(), 1, "{}", rpm.log());
}

#[test]
fn what_a_killed_daemon_left_behind_is_no_obstacle() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    rpm.ok(["ping"]);
    let first = rpm.daemon_pid().expect("a daemon");
    signal(first, "KILL");
    wait_until("it is gone", BOUND, || runs(first), |runs| !runs);
    assert!(
        rpm.home().join("rpm.sock").exists() && rpm.daemon_pid() == Some(first),
        "it could not clean up"
    );
    App::cluster("hello.js", "1").port(&port).start(&rpm);
    assert_ne!(rpm.daemon_pid(), Some(first));
    assert_eq!(workers(&port, 1).len(), 1);
}

#[test]
fn a_second_daemon_on_the_same_home_refuses() {
    let rpm = Rpm::new();
    rpm.ok(["ping"]);
    let pid = rpm.daemon_pid().expect("a daemon");
    let second = rpm.run(["daemon"]);
    assert_eq!(second.code, Some(1), "{second:#?}");
    assert!(second.stdout.contains(&format!("pid {pid}")), "{second:#?}");
    assert_eq!(rpm.daemon_pid(), Some(pid));
    rpm.ok(["ping"]);
}
