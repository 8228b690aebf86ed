//! What outlives the daemon: the saved list, PM2's list, the service that starts it at boot.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Ran, Rpm, Status, wait_until};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(20);

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn what_was_saved_comes_back_as_it_was() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write("app.js", "setInterval(() => {}, 1000);");
    let quiet = place.ok(&rpm, ["save"]);
    assert!(quiet.stderr.contains("nothing is saved"), "{quiet:?}");
    assert!(!rpm.home().join("dump.json").exists());
    place.ok(
        &rpm,
        [
            "start",
            "app.js",
            "-i",
            "2",
            "-n",
            "two",
            "--listen-timeout",
            "500",
        ],
    );
    place.ok(&rpm, ["start", "app.js", "-n", "rests", "--cron", "0 3 * * *"]);
    place.ok(&rpm, ["stop", "rests"]);
    place.ok(&rpm, ["scale", "two", "3"]);
    place.ok(&rpm, ["save"]);
    place.ok(&rpm, ["save"]);
    for name in ["dump.json", "dump.json.bak"] {
        assert_eq!(mode(&rpm.home().join(name)), 0o600, "{name} holds variables");
    }
    let kill = place.ok(&rpm, ["kill"]);
    assert_eq!(kill.code, Some(0));
    place.ok(&rpm, ["resurrect"]);
    let statuses = |name: &str| -> Vec<Status> {
        let list = rpm.list();
        let ours = list.iter().filter(|process| process.name == name);
        ours.map(|process| process.status).collect()
    };
    assert_eq!(statuses("two"), [Status::Online; 3]);
    assert_eq!(statuses("rests"), [Status::Stopped]);
    let pids = rpm.pids("two");
    let again = place.ok(&rpm, ["resurrect"]);
    assert!(again.stderr.contains("two is there already"), "{again:?}");
    assert_eq!(rpm.pids("two"), pids, "what runs is left alone");
    // A list cut short, by a full disk for example, is ignored in favour of the previous one.
    place.ok(&rpm, ["delete", "all"]);
    fs::write(rpm.home().join("dump.json"), "{\"format\":1,\"apps\":[{").expect("it is written");
    let healed = place.ok(&rpm, ["resurrect"]);
    assert!(healed.stderr.contains("dump.json.bak"), "{healed:?}");
    let renamed = "the damaged file was renamed to";
    let healed_file = healed.stderr.lines().find(|line| line.starts_with(renamed));
    assert!(
        healed_file.is_some_and(|line| line.ends_with("dump.json.damaged")),
        "{healed:?}"
    );
    assert_eq!(statuses("two").len(), 3);
    let text = fs::read_to_string(rpm.home().join("dump.json.damaged"));
    assert_eq!(text.expect("what is left of it"), "{\"format\":1,\"apps\":[{");
    let next = place.ok(&rpm, ["resurrect"]);
    assert!(!next.stderr.contains("damaged"), "it is said once: {next:?}");
    place.ok(&rpm, ["save"]);
    place.ok(&rpm, ["cleardump"]);
    place.ok(&rpm, ["delete", "all"]);
    place.ok(&rpm, ["resurrect"]);
    assert!(rpm.list().is_empty(), "not from the copy either");
}

#[test]
fn many_may_save_and_set_at_the_same_time() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write("app.js", "setInterval(() => {}, 1000);");
    place.ok(&rpm, ["start", "app.js"]);
    let key = |number: usize| format!("key{number}");
    let running: Vec<_> = (0..8)
        .flat_map(|number| [rpm.spawn(["save"]), rpm.spawn(["set", &key(number), "yes"])])
        .collect();
    for child in running {
        let ran: Ran = child.wait_with_output().expect("it ends").into();
        assert_eq!(ran.code, Some(0), "{ran:#?}");
    }
    for number in 0..8 {
        assert_eq!(rpm.ok(["get", &key(number)]), "yes\n", "it was overwritten");
    }
    rpm.ok(["delete", "all"]);
    rpm.ok(["resurrect"]);
    assert_eq!(rpm.list().len(), 1);
}

#[test]
fn an_instance_that_was_stopped_stays_so() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write("app.js", "setInterval(() => {}, 1000);");
    place.ok(&rpm, ["start", "app.js", "-i", "3", "--listen-timeout", "500"]);
    place.ok(&rpm, ["stop", "1"]);
    place.ok(&rpm, ["save"]);
    place.ok(&rpm, ["delete", "all"]);
    place.ok(&rpm, ["resurrect"]);
    let statuses: Vec<Status> = rpm.list().iter().map(|process| process.status).collect();
    assert_eq!(statuses, [Status::Online, Status::Stopped, Status::Online]);
}

/// What PM2 would have saved for various apps, some of which are gone.
fn saved_by_pm2(place: &Place) -> Value {
    let script = place.write("a.js", "setInterval(() => {}, 1000);");
    place.write("b.js", "setInterval(() => {}, 1000);");
    let process = |id: u32, started: &str, port: u32, changes: &Value| {
        let mut process = json!({
            "name": "web", "pm_id": id, "status": "online", "exec_mode": "cluster_mode", "pm_exec_path": script,
            "pm_cwd": place.path(), "exec_interpreter": "node", "unique_id": started, "listen_timeout": 500,
            "env": {"PATH": std::env::var("PATH").expect("a path"), "PORT": port},
            "pm_out_log_path": place.path().join(format!("out-{id}.log")),
        });
        let fields = process.as_object_mut().expect("an object");
        fields.extend(changes.as_object().expect("an object").clone());
        process
    };
    json!([
        process(3, "one", 5901, &json!({})),
        process(4, "one", 5901, &json!({"status": "stopped"})),
        process(
            5,
            "two",
            5902,
            &json!({"pm_exec_path": place.path().join("b.js")})
        ),
        process(6, "three", 5903, &json!({"namespace": "admin"})),
        process(
            7,
            "four",
            5904,
            &json!({"name": "@acme/api", "exec_mode": "fork_mode"})
        ),
        process(
            8,
            "five",
            5905,
            &json!({"name": "gone", "pm_exec_path": "/nowhere/x.js"})
        ),
        process(9, "six", 5906, &json!({"name": "late", "cron_restart": "soon"})),
    ])
}

#[test]
fn nothing_of_the_list_of_pm2_is_lost_without_a_word() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let list = saved_by_pm2(&place);
    place.write("dump.pm2", &list.to_string());
    for dry_run in [true, false] {
        let mut args = vec!["import", "dump.pm2"];
        args.extend(dry_run.then_some("--dry-run"));
        let ran = place.run(&rpm, args);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        for part in [
            "web-2:",
            "web-admin:",
            "gone: script not found",
            "late: ",
            "2 not:",
        ] {
            assert!(ran.stderr.contains(part), "{part}: {ran:?}");
        }
        if dry_run {
            assert!(rpm.list().is_empty(), "nothing is started");
            assert!(
                ran.stdout.contains("web: new") && ran.stdout.contains("1 of them stopped"),
                "{ran:?}"
            );
        }
    }
    let found = rpm.list();
    let found: Vec<(&str, Status)> = found.iter().map(|it| (it.name.as_str(), it.status)).collect();
    let expected = [
        ("web", Status::Online),
        ("web", Status::Stopped),
        ("web-2", Status::Online),
        ("web-admin", Status::Online),
        ("@acme/api", Status::Online),
    ];
    assert_eq!(found, expected);
    assert!(
        place.path().join("out-0.log").exists(),
        "its number is not there twice"
    );
}

#[test]
fn with_nothing_saved_the_daemon_is_started_all_the_same() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let ran = place.ok(&rpm, ["resurrect"]);
    assert!(ran.stderr.contains("nothing was saved"), "{ran:?}");
    assert!(rpm.home().join("rpm.sock").exists());
}

#[test]
fn the_list_of_pm2_is_taken_over() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let script = place.write("app.js", "setInterval(() => {}, 1000);");
    let process = |id: u32, name: &str, mode: &str, status: &str| {
        json!({
            "name": name, "pm_id": id, "status": status, "exec_mode": mode, "pm_exec_path": script, "pm_cwd": place.path(),
            "exec_interpreter": "node", "node_args": [], "args": ["one"], "namespace": "shop", "listen_timeout": 500,
            "env": {"PATH": std::env::var("PATH").expect("a path"), "COLOR": "green", "web": {}}, "autorestart": true,
            "pm_out_log_path": "/srv/.pm2/logs/web-out.log",
        })
    };
    let list = json!([
        process(0, "web", "cluster_mode", "online"),
        process(1, "web", "cluster_mode", "online"),
        process(2, "job", "fork_mode", "stopped"),
        {"name": "pm2-logrotate", "pmx_module": true},
    ]);
    place.write("dump.pm2", &list.to_string());
    place.ok(&rpm, ["import", "dump.pm2"]);
    let found: Value = serde_json::from_str(&rpm.ok(["jlist"])).expect("JSON");
    let named = found.as_array().expect("a list").iter().map(|it| {
        (
            it["name"].as_str().expect("a name"),
            it["pm2_env"]["status"].as_str().expect("a status"),
        )
    });
    let named: Vec<_> = named.collect();
    assert_eq!(named, [("web", "online"), ("web", "online"), ("job", "stopped")]);
    let env = &found[0]["pm2_env"];
    assert_eq!(
        (&env["COLOR"], &env["namespace"], &env["args"][0]),
        (&json!("green"), &json!("shop"), &json!("one"))
    );
    assert_eq!(place.run(&rpm, ["import", "nowhere.pm2"]).code, Some(1));
}

/// The daemon does not need the capabilities that the systemd unit removes.
#[test]
fn a_daemon_with_the_capabilities_of_its_service_does_all_that_root_can() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let unit = Rpm::new().ok(["startup", "systemd", "--print", "-u", "root"]);
    let dropped = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet=~"));
    let dropped: Vec<String> = dropped
        .expect("some are dropped")
        .split(' ')
        .map(|name| name.replace("CAP_", "-").to_lowercase())
        .collect();
    let started = |bounded: bool| {
        let (rpm, port) = (Rpm::new(), Port::reserve());
        let ping = rpm.command(["ping"]);
        let set = if bounded {
            dropped.join(",")
        } else {
            "+all".to_owned()
        };
        let done = Command::new("setpriv")
            .arg(format!("--bounding-set={set}"))
            .arg(ping.get_program())
            .arg("ping")
            .env("RPM_HOME", rpm.home())
            .output()
            .expect("setpriv runs");
        assert!(done.status.success(), "{done:?}");
        let app = App::new("hello.py").args(["--name", "web", "-i", "2"]);
        app.port(&port).start(&rpm);
        let listener = rpm.describe("web").listeners.remove(0);
        (listener.steering, listener.slots.len())
    };
    assert_eq!(started(true), started(false));
}

#[test]
fn a_service_is_written_for_the_system() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let unit = place
        .ok(&rpm, ["startup", "systemd", "--print", "-u", "root"])
        .stdout;
    let home = format!("Environment=\"RPM_HOME={}\"", rpm.home().display());
    for line in ["Type=notify", "KillMode=process", "User=root", &home] {
        assert!(unit.lines().any(|it| it == line), "{line} in\n{unit}");
    }
    let lines = rpm
        .command(["startup", "systemd", "--print", "-u", "root"])
        .env("PATH", "/bin\nExecStartPre=/bin/x")
        .output()
        .expect("rpm runs");
    assert!(!lines.status.success() && lines.stdout.is_empty(), "{lines:?}");
    let wrong = place.run(&rpm, ["startup", "sysd"]);
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    if let Some(other) = Rpm::unprivileged("a_service_is_written_for_the_system") {
        let told = place.run(&other, ["startup", "systemd"]);
        assert_eq!(told.code, Some(1), "{told:?}");
        assert!(told.stdout.starts_with("sudo env PATH="), "{told:?}");
        let explained = "error: only root may do that\nhint: type the line above";
        assert!(told.stderr.starts_with(explained), "{told:?}");
    }
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // In a namespace with a systemctl that only records its arguments.
    place.write(
        "systemctl",
        "#!/bin/sh\necho \"$@\" >> \"$(dirname \"$0\")/asked\"\n",
    );
    fs::set_permissions(place.path().join("systemctl"), fs::Permissions::from_mode(0o755))
        .expect("a program");
    let script = "cp /etc/passwd passwd; mount -t tmpfs tmpfs /etc && mkdir -p /etc/systemd/system && cp passwd /etc/passwd
        PATH=$PWD:$PATH; $RPM startup systemd --service-name apps && cat /etc/systemd/system/apps.service &&
        $RPM unstartup systemd --service-name apps && test ! -e /etc/systemd/system/apps.service";
    let done = Command::new("unshare")
        .args(["--mount", "sh", "-ec", script])
        .current_dir(place.path())
        .env("RPM", rpm.binary())
        .env("RPM_HOME", rpm.home())
        .output();
    let done = done.expect("unshare runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(String::from_utf8_lossy(&done.stdout).contains("ExecStart="));
    assert_eq!(place.read("asked"), "daemon-reload\nenable apps\ndisable apps\n");
    // If systemd refuses, nothing is left behind; if it does not run, it must be named.
    place.write("systemctl", "#!/bin/sh\nexit 1\n");
    let script = "cp /etc/passwd passwd; mount -t tmpfs tmpfs /etc && mkdir -p /etc/systemd/system && cp passwd /etc/passwd
        PATH=$PWD:$PATH; ! $RPM startup systemd --service-name apps && test ! -e /etc/systemd/system/apps.service
        echo before > /etc/systemd/system/apps.service
        ! $RPM startup systemd --service-name apps && cat /etc/systemd/system/apps.service
        test -e /run/systemd/system || { ! $RPM startup --service-name other; test ! -e /etc/systemd/system/other.service; }";
    let refused = Command::new("unshare")
        .args(["--mount", "sh", "-ec", script])
        .current_dir(place.path())
        .env("RPM", rpm.binary())
        .env("RPM_HOME", rpm.home())
        .output()
        .expect("unshare runs");
    assert!(refused.status.success(), "{refused:?}");
    assert_eq!(
        String::from_utf8_lossy(&refused.stdout),
        "before\n",
        "{refused:?}"
    );
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("is as it was before"),
        "{refused:?}"
    );
}

#[test]
fn in_the_foreground_a_signal_or_the_last_end_ends_everything() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write(
        "app.js",
        "process.on('SIGINT', () => process.stdout.write('bye\\n', () => process.exit(0)));
         console.log('up'); setInterval(() => {}, 1000);",
    );
    place.write("short.js", "console.log('done');");
    let start = |args: &[&str]| {
        let mut command = rpm.command(args);
        command
            .current_dir(place.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        command.spawn().expect("it runs")
    };
    let running = start(&["start", "app.js", "--no-daemon"]);
    wait_until(
        "it is online",
        BOUND,
        || rpm.home().join("rpm.sock").exists() && rpm.list().len() == 1,
        |up| *up,
    );
    let refused = place.run(&rpm, ["runtime", "app.js"]);
    assert!(
        refused.code == Some(1) && refused.stderr.contains("already runs"),
        "{refused:?}"
    );
    wait_until(
        "it has printed",
        BOUND,
        || rpm.output("app", "out", None),
        |text| text == b"up\n",
    );
    let pid = rustix::process::Pid::from_child(&running);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is there");
    let output = running.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "up\nbye\n",
        "to the last word"
    );
    assert!(!rpm.home().join("state.json").exists(), "nothing is left");
    let ended = start(&["runtime", "start", "short.js", "--no-autorestart", "--json"]);
    let output = ended.wait_with_output().expect("it ends by itself");
    assert_eq!(output.status.code(), Some(2));
    let line: Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
    assert_eq!(
        (&line["message"], &line["app_name"]),
        (&json!("done"), &json!("short"))
    );
}
