//! Commands for apps that are known: options of `restart`, `reload` and `start`, and apps named by their scripts.

use std::time::Duration;

use rpm_e2e::place::Place;
use rpm_testkit::{Rpm, Status, wait_until};
use rpm_wire::api::AppSpec;

const BOUND: Duration = Duration::from_secs(20);

/// An app that prints its arguments.
fn place() -> (Rpm, Place) {
    let (rpm, place) = (Rpm::new(), Place::new());
    let text = "console.log(JSON.stringify([process.argv.slice(2), process.execArgv, process.env.COLOUR]));\n\
                setInterval(() => {}, 1000);\n";
    place.write("echo.js", text);
    (rpm, place)
}

fn spec(rpm: &Rpm, app: &str) -> AppSpec {
    rpm.describe(app).spec
}

/// Waits until the app has printed this line.
fn prints(rpm: &Rpm, app: &str, line: &str) {
    let out = || String::from_utf8_lossy(&rpm.output(app, "out", None)).into_owned();
    wait_until("its line", BOUND, out, |text| text.lines().any(|it| it == line));
}

#[test]
fn options_of_a_restart_apply_from_then_on() {
    let (rpm, place) = place();
    place.ok(&rpm, ["start", "echo.js", "-n", "x", "--", "-a"]);
    let options = [
        "--node-args=--no-warnings",
        "--max-memory-restart",
        "1G",
        "--kill-timeout",
        "5000",
        "--",
        "-b",
        "c d",
    ];
    place.ok(&rpm, [&["restart", "x"][..], &options].concat());
    prints(&rpm, "x", r#"[["-b","c d"],["--no-warnings"],null]"#);
    let now = spec(&rpm, "x");
    assert_eq!(
        (now.max_memory_restart, now.kill_timeout_ms),
        (Some(1 << 30), Some(5000))
    );
    let options = [
        "--cron-restart",
        "0 3 * * *",
        "--time",
        "--no-autorestart",
        "--namespace",
        "shop",
    ];
    place.ok(&rpm, [&["reload", "0"][..], &options].concat());
    let now = spec(&rpm, "x");
    assert_eq!(
        (
            now.cron_restart.as_deref(),
            now.autorestart,
            now.namespace.as_str()
        ),
        (Some("0 3 * * *"), false, "shop")
    );
    assert_eq!(now.logs.date_format.as_deref(), Some("YYYY-MM-DDTHH:mm:ss"));
    assert_eq!(now.kill_timeout_ms, Some(5000), "what was said before stays");
    place.ok(&rpm, ["restart", "shop", "--cron-restart", "0"]);
    assert_eq!(spec(&rpm, "x").cron_restart, None);
    let would = place.ok(&rpm, ["restart", "x", "--kill-timeout", "9", "--dry-run"]);
    assert!(would.stdout.contains("kill_timeout 5s -> 9ms"), "{would:?}");
    assert_eq!(spec(&rpm, "x").kill_timeout_ms, Some(5000));
    let would = place.ok(&rpm, ["start", "echo.js", "-n", "new", "--dry-run"]);
    assert!(
        would.stdout.contains("new: new") && rpm.list().len() == 1,
        "{would:?}"
    );
}

#[test]
fn a_dry_run_of_any_command_changes_nothing() {
    let (rpm, place) = place();
    place.write(
        "e.json",
        r#"{"apps": [{"name": "x", "script": "echo.js", "watch": true}]}"#,
    );
    place.ok(&rpm, ["start", "e.json"]);
    let before = rpm.pids("x");
    for (words, expected) in [
        (&["stop", "x"][..], "x: would be stopped (1 process)"),
        (&["stop", "e.json"], "x: would be stopped (1 process)"),
        (&["delete", "all"], "x: would be deleted (1 process)"),
        (&["delete", "0"], "x: would be deleted (1 process)"),
        (&["start", "x"], "x: configuration unchanged"),
        (
            &["restart", "x", "--kill-timeout", "9"],
            "x: kill_timeout default -> 9ms",
        ),
        (&["reload", "e.json"], "x: configuration unchanged"),
        (&["startOrReload", "e.json"], "x: configuration unchanged"),
        (&["startOrRestart", "e.json"], "x: configuration unchanged"),
        (&["start", "echo.js", "-n", "y"], "y: new"),
    ] {
        let ran = place.ok(&rpm, [words, &["--dry-run"]].concat());
        assert_eq!(ran.stdout.trim_end(), expected, "{words:?}");
        assert_eq!(
            (rpm.pids("x"), rpm.list().len()),
            (before.clone(), 1),
            "{words:?}"
        );
    }
    assert_eq!(place.run(&rpm, ["delete", "nothing", "--dry-run"]).code, Some(1));
    // Stopping can end the watching of files, too.
    place.ok(&rpm, ["stop", "x", "--watch"]);
    assert!(!rpm.list()[0].watching);
    place.ok(&rpm, ["restart", "x", "--watch"]);
    assert!(rpm.list()[0].watching);
    for asked in [["pid", "nope"], ["unset", "x.PORT"]] {
        assert_eq!(place.run(&rpm, asked).code, Some(1), "{asked:?}");
    }
}

#[test]
fn an_app_can_have_another_name() {
    let (rpm, place) = place();
    place.ok(&rpm, ["start", "echo.js", "-n", "x", "--namespace", "shop"]);
    // Only the new name is known.
    place.ok(&rpm, ["restart", "x", "--name", "y"]);
    assert_eq!((rpm.list().len(), rpm.list()[0].name.as_str()), (1, "y"));
    assert_eq!(place.run(&rpm, ["restart", "x"]).code, Some(1));
    place.ok(&rpm, ["start", "y", "--kill-timeout", "3", "--", "-q"]);
    assert_eq!(
        (spec(&rpm, "y").kill_timeout_ms, spec(&rpm, "y").args),
        (Some(3), vec!["-q".to_owned()])
    );
    // An invalid change changes nothing.
    place.ok(&rpm, ["start", "echo.js", "-n", "z"]);
    for wrong in [
        &["restart", "z", "--name", "y"][..],
        &["restart", "all", "--name", "w"],
        &["restart", "z", "--cron", "soon"],
        &["restart", "z", "--cwd", "/nowhere"],
    ] {
        assert_eq!(place.run(&rpm, wrong).code, Some(1), "{wrong:?}");
    }
    assert_eq!(rpm.pids("z").len(), 1);
    rpm.ok(["save"]);
    rpm.ok(["delete", "all"]);
    rpm.ok(["resurrect"]);
    assert_eq!(spec(&rpm, "y").namespace, "shop");
}

#[test]
fn watching_is_switched_on_and_off() {
    let (rpm, place) = place();
    place.ok(&rpm, ["start", "echo.js"]);
    let watched = || rpm.list()[0].watching;
    for expected in [true, false, true] {
        place.ok(&rpm, ["restart", "echo", "--watch"]);
        assert_eq!(watched(), expected);
    }
    let paths = spec(&rpm, "echo").watch.expect("it is watched").paths;
    assert_eq!(paths, [place.path().display().to_string()]);
}

#[test]
fn what_is_for_files_alone_is_not_swallowed() {
    let (rpm, place) = place();
    place.ok(&rpm, ["start", "echo.js"]);
    let pids = rpm.pids("echo");
    for command in ["restart", "reload", "start"] {
        for (option, value) in [("--env", "production"), ("--only", "echo"), ("--no-daemon", "")] {
            // `start --no-daemon` is another command.
            if (command, option) == ("start", "--no-daemon") {
                continue;
            }
            let words = [command, "echo", option, value];
            let ran = place.run(&rpm, words.into_iter().filter(|word| !word.is_empty()));
            assert_eq!(ran.code, Some(1), "{command} {option}: {ran:?}");
            assert!(
                ran.stderr.contains(&format!("{option} is for ")),
                "{command}: {ran:?}"
            );
        }
    }
    assert_eq!(rpm.pids("echo"), pids, "nothing was done");
    // PM2 accepts them.
    let rpm = Rpm::new().with_env("RPM_COMPAT", "pm2");
    place.ok(&rpm, ["start", "echo.js"]);
    let ran = place.ok(&rpm, ["restart", "echo", "--env", "production"]);
    assert!(ran.stderr.contains("warning: --env is for "), "{ran:?}");
}

#[test]
fn variables_of_a_file_are_read_by_a_restart() {
    let (rpm, place) = place();
    place.write("more.env", "COLOUR=blue\n");
    place.ok(&rpm, ["start", "echo.js"]);
    for command in ["restart", "reload"] {
        place.write("more.env", &format!("COLOUR={command}\n"));
        place.ok(&rpm, [command, "echo", "--env-file", "more.env"]);
        let now = spec(&rpm, "echo");
        assert_eq!(now.env.get("COLOUR").map(String::as_str), Some(command));
    }
}

#[test]
fn a_stopped_cluster_comes_back_as_it_was() {
    let (rpm, place) = place();
    let start = |args: &[&str], colour: &str| {
        let mut command = rpm.command(args);
        command
            .current_dir(place.path())
            .env("PWD", place.path())
            .env("COLOUR", colour);
        let done = command.output().expect("it runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    start(
        &[
            "start",
            "echo.js",
            "-i",
            "4",
            "--kill-timeout",
            "7",
            "--listen-timeout",
            "500",
        ],
        "red",
    );
    rpm.ok(["stop", "echo"]);
    start(&["start", "echo.js"], "blue");
    let list = rpm.list();
    assert!(
        list.len() == 4 && list.iter().all(|it| it.status == Status::Online),
        "{list:?}"
    );
    let now = spec(&rpm, "echo");
    assert_eq!(now.kill_timeout_ms, Some(7));
    assert_eq!(now.env.get("COLOUR").map(String::as_str), Some("red"));
    rpm.ok(["stop", "echo"]);
    start(&["start", "echo.js", "-i", "2", "-a"], "blue");
    let two = wait_until("two of them", BOUND, || rpm.list(), |list| list.len() == 2);
    assert!(two.iter().all(|it| it.status == Status::Online), "{two:?}");
    let now = spec(&rpm, "echo");
    assert_eq!(
        (now.kill_timeout_ms, now.env.get("COLOUR").map(String::as_str)),
        (Some(7), Some("blue"))
    );
}

#[test]
fn a_script_means_every_process_of_it() {
    let (rpm, place) = place();
    place.write("other.js", "setInterval(() => {}, 1000);");
    place.ok(
        &rpm,
        [
            "start",
            "echo.js",
            "-n",
            "a",
            "-i",
            "2",
            "--listen-timeout",
            "500",
        ],
    );
    place.ok(&rpm, ["start", "echo.js", "-n", "b"]);
    place.ok(&rpm, ["start", "other.js"]);
    let whole = place.path().join("echo.js").display().to_string();
    let other = rpm.pids("other");
    for command in ["restart", "reload", "stop", "start", "delete"] {
        for script in ["echo.js", "./echo.js", &whole] {
            if command == "start" || (command == "delete" && script != whole) {
                continue;
            }
            let before = [rpm.pids("a"), rpm.pids("b")].concat();
            place.ok(&rpm, [command, script]);
            let after = [rpm.pids("a"), rpm.pids("b")].concat();
            assert!(
                before.iter().all(|pid| !after.contains(pid)),
                "{command} {script}"
            );
        }
    }
    assert_eq!(rpm.pids("other"), other);
    assert_eq!(rpm.list().len(), 1);
    assert_eq!(place.run(&rpm, ["stop", "echo.js"]).code, Some(1));
}

#[test]
fn names_may_have_slashes() {
    let (rpm, place) = place();
    place.ok(&rpm, ["start", "echo.js", "-n", "@acme/api"]);
    place.ok(&rpm, ["start", "echo.js", "-n", "../../up", "-f"]);
    let files = [
        "logs/-acme-api-out.log",
        "logs/..-..-up-out.log",
        "pids/-acme-api-0.pid",
    ];
    // Another thread creates the logs.
    let there = || files.map(|file| rpm.home().join(file).exists());
    wait_until("their files", BOUND, there, |there| *there == [true; 3]);
    for args in [
        &["describe", "@acme/api"][..],
        &["restart", "@acme/api"],
        &["logs", "@acme/api", "--nostream"],
        &["env", "@acme/api"],
        &["pid", "@acme/api"],
        &["stop", "../../up"],
        &["delete", "../../up"],
    ] {
        place.ok(&rpm, args);
    }
    assert_eq!(rpm.pids("@acme/api").len(), 1);
    let long = "x".repeat(300);
    for name in [long.as_str(), "a\nb", "all"] {
        assert_eq!(
            place.run(&rpm, ["start", "echo.js", "-n", name]).code,
            Some(1),
            "{name:?}"
        );
    }
}

#[test]
fn a_directory_is_started_as_node_runs_it() {
    let (rpm, place) = place();
    place.write("site/package.json", r#"{"main": "main.js"}"#);
    place.write(
        "site/main.js",
        "console.log('at home'); setInterval(() => {}, 1000);",
    );
    place.ok(&rpm, ["start", "site"]);
    prints(&rpm, "site", "at home");
    place.ok(
        &rpm,
        [
            "start",
            ".",
            "--cwd",
            place.path().join("site").to_str().expect("UTF-8"),
            "-n",
            "dot",
        ],
    );
    prints(&rpm, "dot", "at home");
    place.write("empty/readme", "");
    assert_eq!(place.run(&rpm, ["start", "empty"]).code, Some(1));
}

#[test]
fn what_python_prints_is_there_at_once() {
    let (rpm, place) = place();
    place.write("loop.py", "import time\nprint('here')\ntime.sleep(1000)\n");
    let mut command = rpm.command(["start", "loop.py"]);
    command
        .current_dir(place.path())
        .env("PWD", place.path())
        .env_remove("PYTHONUNBUFFERED");
    assert!(command.output().expect("it runs").status.success());
    prints(&rpm, "loop", "here");
}

#[test]
fn options_of_pm2_are_taken_everywhere_in_its_name() {
    let (rpm, place) = (Rpm::new().with_env("RPM_COMPAT", "pm2"), Place::new());
    place.write("app.js", "setInterval(() => {}, 1000);");
    place.ok(&rpm, ["--name", "foo", "start", "app.js"]);
    place.ok(&rpm, ["--no-color", "list", "-i", "2", "--hp", "/root"]);
    place.ok(&rpm, ["stop", "foo", "--watch", "--kill-timeout", "3"]);
    place.ok(&rpm, ["delete", "foo", "-f"]);
    let ours = Rpm::new();
    assert_eq!(place.run(&ours, ["list", "-i", "2"]).code, Some(1));
}

#[test]
fn an_interpreter_that_path_had_is_found_in_the_path_that_comes_with_update_env() {
    let (rpm, place) = place();
    let node = rpm_testkit::node(20);
    let install = |version: &str| {
        std::fs::create_dir(place.path().join(version)).expect("a directory");
        std::os::unix::fs::symlink(&node, place.path().join(version).join("node")).expect("a link");
    };
    let run = |args: &[&str], version: &str| {
        let mut command = rpm.command(args);
        command.current_dir(place.path()).env("PWD", place.path());
        let ran = command
            .env("PATH", place.path().join(version))
            .output()
            .expect("it runs");
        assert!(ran.status.success(), "{args:?}: {ran:?}");
        spec(&rpm, "echo").interpreter.expect("it has one")
    };
    let named = node.display().to_string();
    let of = |version: &str| place.path().join(version).join("node").display().to_string();
    install("one");
    install("two");
    assert_eq!(run(&["start", "echo.js"], "one"), of("one"));
    assert_eq!(run(&["reload", "echo"], "two"), of("one"), "it is not asked for");
    assert_eq!(run(&["reload", "echo", "--update-env"], "two"), of("two"));
    // As after uninstalling it.
    std::fs::remove_dir_all(place.path().join("two")).expect("removed");
    assert_eq!(run(&["restart", "echo", "--update-env"], "one"), of("one"));
    install("three");
    assert_eq!(
        run(
            &["restart", "echo", "--update-env", "--max-restarts", "5"],
            "three"
        ),
        of("three")
    );
    // An interpreter that is named by its path stays.
    assert_eq!(run(&["restart", "echo", "--interpreter", &named], "one"), named);
    assert_eq!(run(&["restart", "echo", "--update-env"], "one"), named);
}
