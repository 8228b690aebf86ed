//! What PM2's users type, and what their scripts parse: exit codes, standard output, files.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use rpm_e2e::place::Place;
use rpm_testkit::{Port, Rpm, Status, fixture, wait_until};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(20);

/// An app that stays alive.
fn sleeper(place: &Place) {
    place.write("app.js", "setInterval(() => {}, 1000);");
}

#[test]
fn exit_codes_are_those_of_pm2() {
    let (rpm, place) = (Rpm::new(), Place::new());
    sleeper(&place);
    place.write("bad.js", "process.exit(1)");
    // In this order: each line depends on those before it.
    let lines: [(&[&str], i32); 50] = [
        (&[], 1),
        (&["nonsense"], 1),
        (&["restart", "all"], 1),
        (&["stop", "all"], 1),
        (&["list"], 0),
        (&["jlist"], 0),
        (&["ping"], 0),
        (&["start", "nowhere.js"], 1),
        (&["start", "app.js"], 0),
        (&["start", "app.js"], 1),
        (&["start", "app.js", "-f"], 0),
        (&["start", "app"], 0),
        (&["start", "0"], 0),
        (&["restart", "app"], 0),
        (&["restart", "ghost"], 1),
        (&["restart", "17"], 1),
        (&["reload", "app"], 0),
        (&["reload", "all"], 0),
        (&["reload", "ghost"], 1),
        (&["describe", "app"], 0),
        (&["show", "0"], 0),
        (&["describe", "ghost"], 1),
        (&["pid", "app"], 0),
        (&["id", "app"], 0),
        (&["env", "0"], 0),
        (&["env", "17"], 1),
        (&["reset", "all"], 0),
        (&["reset", "ghost"], 1),
        (&["sendSignal", "SIGCONT", "app"], 0),
        (&["sendSignal", "SIGNONE", "app"], 1),
        (&["flush"], 0),
        (&["reloadLogs"], 0),
        (&["report"], 0),
        (&["save"], 0),
        (&["resurrect"], 0),
        (&["update"], 0),
        (&["init"], 0),
        (&["init"], 1),
        (&["set", "color", "red"], 0),
        (&["get", "color"], 0),
        (&["unset", "color"], 0),
        (&["get", "color"], 1),
        (&["stop", "app"], 0),
        (&["start", "app.js"], 0),
        (&["stop", "ghost"], 1),
        (&["delete", "ghost"], 1),
        (&["start", "app.js", "-n", "c", "--cron", "soon"], 1),
        (&["start", "bad.js", "-i", "1"], 1),
        (&["delete", "all"], 0),
        (&["kill"], 0),
    ];
    for (args, code) in lines {
        let ran = place.run(&rpm, args);
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:#?}");
        assert!(code == 0 || !ran.stderr.is_empty(), "{args:?} says why");
    }
}

#[test]
fn answers_are_what_scripts_parse() {
    let (rpm, place) = (Rpm::new(), Place::new());
    sleeper(&place);
    assert_eq!(place.run(&rpm, ["prettylist"]).stdout, "[]\n");
    assert_eq!(place.run(&rpm, ["jlist"]).stdout, "[]\n");
    assert_eq!(place.run(&rpm, ["ping"]).stdout, "{ msg: 'pong' }\n");
    let options = [
        "-i",
        "2",
        "-n",
        "x",
        "--namespace",
        "shop",
        "--node-args=--no-warnings",
        "--max-memory-restart",
        "1G",
        "--listen-timeout",
        "500",
    ];
    place.ok(&rpm, [&["start", "app.js"][..], &options].concat());
    place.ok(
        &rpm,
        [
            "start",
            "app.js",
            "-n",
            "y",
            "--no-autorestart",
            "--cron",
            "0 3 * * *",
        ],
    );
    assert_eq!(rpm.ok(["id", "x"]), "[ 0, 1 ]\n");
    assert_eq!(rpm.ok(["id", "ghost"]), "[]\n");
    let pids: Vec<u32> = rpm
        .ok(["pid"])
        .lines()
        .map(|line| line.parse().expect("a pid"))
        .collect();
    assert_eq!(pids, [rpm.pids("x"), rpm.pids("y")].concat());
    let env = rpm.ok(["env", "2"]);
    assert!(env.lines().any(|line| line.starts_with("PATH: ")), "{env}");
    check_list(&rpm, &place);
    let pretty = rpm.ok(["prettylist"]);
    for (part, times) in PRETTY_PARTS {
        assert_eq!(pretty.matches(part).count(), times, "{part} in\n{pretty}");
    }
    assert!(pretty.contains("node_args: [ '--no-warnings' ]"), "{pretty}");
    let silent = place.ok(&rpm, ["restart", "y", "-s"]);
    assert_eq!((silent.stdout.as_str(), silent.stderr.as_str()), ("", ""));
}

/// How often each part then occurs in `prettylist`.
const PRETTY_PARTS: [(&str, usize); 5] = [
    ("status: 'online'", 3),
    ("name: 'x'", 4),
    ("pm_id: 2,", 2),
    ("restart_time: 0", 3),
    ("node_args: []", 1),
];

fn check_list(rpm: &Rpm, place: &Place) {
    let list: Value = serde_json::from_str(&rpm.ok(["jlist"])).expect("JSON");
    let first = &list[0];
    for (pointer, expected) in [
        ("/name", Value::from("x")),
        ("/pm_id", Value::from(0)),
        ("/pm2_env/status", Value::from("online")),
        ("/pm2_env/namespace", Value::from("shop")),
        ("/pm2_env/exec_mode", Value::from("cluster_mode")),
        ("/pm2_env/instances", Value::from(2)),
        ("/pm2_env/watch", Value::from(false)),
        ("/pm2_env/restart_time", Value::from(0)),
        ("/pm2_env/max_memory_restart", Value::from(1_u64 << 30)),
        ("/pm2_env/exec_interpreter", Value::from("node")),
        ("/pm2_env/node_args/0", Value::from("--no-warnings")),
        (
            "/pm2_env/pm_exec_path",
            Value::from(place.path().join("app.js").to_str()),
        ),
    ] {
        assert_eq!(first.pointer(pointer), Some(&expected), "{pointer} in {first:#}");
    }
    assert_eq!(
        list[2].pointer("/pm2_env/cron_restart"),
        Some(&Value::from("0 3 * * *"))
    );
}

#[test]
fn counts_and_numbers_are_those_of_pm2() {
    let (rpm, place) = (Rpm::new(), Place::new());
    sleeper(&place);
    place.ok(&rpm, ["start", "app.js", "-i", "3", "--listen-timeout", "500"]);
    place.ok(&rpm, ["scale", "app", "-1"]);
    wait_until(
        "the lowest goes",
        BOUND,
        || rpm.list(),
        |list| list.iter().map(|it| it.id).eq([1, 2]),
    );
    place.ok(&rpm, ["scale", "app", "+1"]);
    let numbers: Vec<(u32, u32)> = rpm.list().iter().map(|it| (it.id, it.instance)).collect();
    assert_eq!(numbers, [(1, 1), (2, 2), (3, 0)], "its number is used again");
    rpm.ok(["restart", "app"]);
    rpm.ok(["stop", "2"]);
    rpm.ok(["start", "2"]);
    let restarts: Vec<u32> = rpm.list().iter().map(|it| it.restarts).collect();
    assert_eq!(restarts, [1, 1, 1], "the start of a stopped one does not count");
    rpm.ok(["stop", "2"]);
    let before = rpm.pids("app");
    rpm.ok(["restart", "app"]);
    let after = rpm.pids("app");
    assert_eq!(
        (before.len(), after.len()),
        (2, 3),
        "the stopped one is started, too"
    );
    assert!(
        after.iter().all(|pid| !before.contains(pid)),
        "{before:?}, {after:?}"
    );
    rpm.ok(["delete", "all"]);
    place.ok(&rpm, ["start", "app.js"]);
    assert_eq!(rpm.list()[0].id, 0, "ids begin again");
}

#[test]
fn called_pm2_it_uses_its_names() {
    let (rpm, place) = (Rpm::new().with_env("RPM_COMPAT", "pm2"), Place::new());
    sleeper(&place);
    place.ok(&rpm, ["start", "app.js"]);
    let home = rpm.home();
    let pid = fs::read_to_string(home.join("pm2.pid")).expect("its pid");
    assert_eq!(pid.trim().parse().ok(), rpm.daemon_pid());
    assert!(
        fs::read_to_string(home.join("pm2.log"))
            .expect("its log")
            .contains("started")
    );
    assert!(home.join("logs/app-out.log").exists() && home.join("pids/app-0.pid").exists());
    rpm.ok(["kill"]);
    assert!(!home.join("pm2.pid").exists());
    // By the name of a link only, in the directory that PM2's variable names.
    let other = Place::new();
    let binary = rpm.command(["x"]).get_program().to_owned();
    symlink(&binary, other.path().join("pm2")).expect("a link");
    let pm2 = |args: &[&str]| {
        let mut command = std::process::Command::new(other.path().join("pm2"));
        command
            .args(args)
            .env_remove("RPM_HOME")
            .env("PM2_HOME", other.path().join("h"))
            .current_dir(place.path());
        command.output().expect("it runs")
    };
    assert!(pm2(&["start", "app.js"]).status.success());
    assert!(other.path().join("h/pm2.pid").exists());
    assert!(String::from_utf8_lossy(&pm2(&["--help"]).stdout).contains("Usage: pm2"));
    assert!(pm2(&["kill"]).status.success());
}

#[test]
fn scripts_of_every_kind_find_their_interpreter() {
    let port = Port::reserve();
    let rpm = Rpm::new().with_env("PORT", &port.number().to_string());
    let place = Place::new();
    let stay = "setInterval(() => {}, 1000)";
    place.write("module.mjs", &format!("import 'node:fs'; {stay}"));
    place.write("common.cjs", &format!("require('node:fs'); {stay}"));
    place.write("snake.py", "import time\ntime.sleep(1000)");
    place.write("shell.sh", "sleep 1000");
    for (script, interpreter) in [
        ("module.mjs", "node"),
        ("common.cjs", "node"),
        ("snake.py", "python3"),
        ("shell.sh", "bash"),
    ] {
        place.ok(&rpm, ["start", script]);
        let name = script.split('.').next().expect("a name");
        assert!(
            rpm.describe(name)
                .spec
                .interpreter
                .is_some_and(|found| found.ends_with(interpreter)),
            "{script}"
        );
    }
    place.ok(&rpm, ["start", "sleep", "-n", "program", "--", "1000"]);
    place.ok(&rpm, ["start", "sleep 500; sleep 500", "-n", "line"]);
    place.ok(
        &rpm,
        [
            "start",
            fixture("hello.js").to_str().expect("UTF-8"),
            "-x",
            "-n",
            "fork",
        ],
    );
    assert!(rpm.list().iter().all(|process| process.status == Status::Online));
    place.write("type/package.json", r#"{"type": "module"}"#);
    place.write("type/app.js", &format!("import 'node:fs'; {stay}"));
    place.ok(&rpm, ["start", "type/app.js", "-n", "typed"]);
}

#[test]
fn the_environment_is_that_of_the_first_start() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write(
        "app.js",
        "console.log(`colour ${process.env.COLOUR}`); setInterval(() => {}, 1000);",
    );
    let run = |args: &[&str], colour: &str| {
        let mut command = rpm.command(args);
        command
            .current_dir(place.path())
            .env("PWD", place.path())
            .env("COLOUR", colour);
        assert!(command.output().expect("it runs").status.success());
    };
    let said = |count: usize| {
        let out = || String::from_utf8_lossy(&rpm.output("app", "out", None)).into_owned();
        let text = wait_until("its line", BOUND, out, |text| text.lines().count() >= count);
        text.lines().last().unwrap_or_default().to_owned()
    };
    run(&["start", "app.js"], "red");
    assert_eq!(said(1), "colour red");
    run(&["restart", "app"], "blue");
    assert_eq!(said(2), "colour red");
    run(&["restart", "app", "--update-env"], "blue");
    assert_eq!(said(3), "colour blue");
}

#[test]
fn jlist_has_what_is_an_instance_s_own() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let app = |file: &str| place.path().join(file);
    place.write("package.json", r#"{"version": "2.0.1"}"#);
    place.write("app.js", "setInterval(() => {}, 1000)");
    let apps = json!({"apps": [{
        "name": "own", "script": "app.js", "cwd": place.path(), "exec_mode": "fork",
        "instance_var": "INSTANCE", "increment_var": "PORT", "env": {"PORT": 7000}, "log_file": "both.log", "watch": ["app.js"],
    }]});
    place.write("apps.json", &apps.to_string());
    rpm.ok([OsStr::new("start"), app("apps.json").as_os_str()]);
    let list: Value = serde_json::from_str(&rpm.ok(["jlist"])).expect("JSON");
    let env = &list[0]["pm2_env"];
    for (field, value) in [
        ("INSTANCE", json!(0)),
        ("PORT", json!("7000")),
        ("version", json!("2.0.1")),
        ("watch", json!(["app.js"])),
        ("pm_log_path", json!(app("both.log"))),
        ("axm_actions", json!([])),
    ] {
        assert_eq!(env[field], value, "{field} in {env:#}");
    }
    let pid = fs::read_to_string(env["pm_pid_path"].as_str().expect("a path")).expect("its pid");
    assert_eq!(pid, list[0]["pid"].to_string());
    assert_eq!(env["unique_id"].as_str().map(str::len), Some(36));
}
