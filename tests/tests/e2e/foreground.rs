//! `runtime`: what a container prints, and how it ends.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rpm_e2e::ask::BOUND;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Rpm, Status, get, wait_until};

/// For commands that look for seconds before they end.
const LONG: Duration = Duration::from_secs(60);
/// Prints, and its last output does not end with a newline.
const APP: &str = "process.on('SIGINT', () => process.stdout.write('bye', () => process.exit(0)));
    console.log('up'); setInterval(() => {}, 1000);";

fn runtime(rpm: &Rpm, place: &Place, args: &[&str]) -> Child {
    let mut command: Command = rpm.command(["runtime"].iter().chain(args));
    command
        .current_dir(place.path())
        .env("PWD", place.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("it runs")
}

fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is there");
}

fn wait_for_output(rpm: &Rpm, name: &str, length: usize) {
    let written = || rpm.output(name, "out", None).len();
    wait_until("it has printed", BOUND, written, |written| *written >= length);
}

#[test]
fn each_run_prints_its_own_lines_once_and_to_the_last_word() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write("app.js", APP);
    let mut length = 0;
    for run in 0..2 {
        let running = runtime(&rpm, &place, &["app.js"]);
        wait_for_output(&rpm, "app", length + "up\n".len());
        terminate(&running);
        let output = running.wait_with_output().expect("it ends");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert_eq!(printed, "up\nbye\n", "run {run}\n{}", rpm.log());
        length = rpm.output("app", "out", None).len();
    }
}

#[test]
fn ready_says_whether_the_apps_serve() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let number = port.number();
    let none = rpm.fails(["ready"]);
    assert!(none.contains("the daemon is not running"), "{none}");
    assert_eq!(rpm.daemon_pid(), None, "it starts none");
    let text = format!(
        "const fs = require('fs'); const go = `${{__dirname}}/go`;
         const serve = () => fs.existsSync(go) ? require('http').createServer((_, r) => r.end('x')).listen({number}) : setTimeout(serve, 10);
         serve();"
    );
    place.write("app.js", &text);
    place.write("bad.js", "process.exit(1);");
    // Otherwise one that has done nothing for 3 s is online without listening.
    let start = [
        "start",
        "app.js",
        "-i",
        "2",
        "--no-wait",
        "--listen-timeout",
        "60s",
    ];
    place.ok(&rpm, start);
    let early = rpm.fails(["ready"]);
    assert_eq!(early.lines().count(), 2, "{early}");
    assert!(early.contains("app: process 0 is launching"), "{early}");
    place.write("go", "");
    rpm.wait_status("app", Status::Online);
    assert_eq!(rpm.ok(["ready"]), "");
    place.run(&rpm, ["start", "bad.js", "-i", "1", "--max-restarts", "0"]);
    rpm.wait_status("bad", Status::Errored);
    let bad = rpm.fails(["ready"]);
    assert!(bad.contains("bad: process 2 is errored"), "{bad}");
    assert_eq!(rpm.ok(["ready", "app"]), "");
    let json = rpm.run(["ready", "--json"]);
    assert_eq!(json.code, Some(1), "{json:#?}");
    let seen: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    let expected = serde_json::json!({ "ready": false, "apps": [
        { "name": "app", "ready": true, "instances": { "ready": 2, "wanted": 2 }, "reasons": [] },
        { "name": "bad", "ready": false, "instances": { "ready": 0, "wanted": 1 }, "reasons": ["process 2 is errored"] },
    ] });
    assert_eq!(seen, expected);
    rpm.ok(["delete", "bad"]);
    rpm.ok(["stop", "app"]);
    assert_eq!(rpm.ok(["ready"]), "");
    let stopped = rpm.fails(["ready", "app"]);
    assert!(stopped.contains("app: process 0 is stopped"), "{stopped}");
    rpm.ok(["kill"]);
    let gone = rpm.run(["ready", "--json"]);
    assert_eq!(gone.code, Some(1), "{gone:#?}");
    assert!(
        gone.stdout.contains("\"reason\": \"the daemon is not running\""),
        "{gone:#?}"
    );
}

#[test]
fn whoever_does_not_read_does_not_delay_the_end() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write(
        "app.js",
        "process.on('SIGINT', () => { require('fs').writeFileSync('told', ''); process.exit(0); });
         process.stdout.write(`${'x'.repeat(127)}\\n`.repeat(16 * 1024)); setInterval(() => {}, 1000);",
    );
    let mut running = runtime(&rpm, &place, &["app.js"]);
    wait_for_output(&rpm, "app", 128 * 16 * 1024);
    terminate(&running);
    let told = || place.path().join("told").exists();
    wait_until("the app is told", BOUND, told, |told| *told);
    let ended = || running.try_wait().expect("it can be waited for");
    // `docker stop` waits for 10 s before it kills. It takes some 4 s beside other tests.
    let status = wait_until("it ends", BOUND, ended, Option::is_some);
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}

#[test]
fn the_end_of_the_last_app_does_not_wait_for_a_reader() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write(
        "app.js",
        "process.stdout.write(`${'x'.repeat(127)}\n`.repeat(16 * 1024));",
    );
    // As under a container runtime: one reader for both streams, which has stopped.
    let (_reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = rpm.command(["runtime", "app.js", "--no-autorestart"]);
    command
        .current_dir(place.path())
        .stdout(writer.try_clone().expect("a descriptor"))
        .stderr(writer);
    let mut running = command.spawn().expect("it runs");
    let ended = || running.try_wait().expect("it can be waited for");
    let status = wait_until("it ends", LONG, ended, Option::is_some);
    assert_eq!(status.and_then(|status| status.code()), Some(2));
}

#[test]
fn requests_in_flight_are_answered_before_a_container_ends() {
    let (port, place) = (Port::reserve(), Place::new());
    let rpm = Rpm::new().with_env("PORT", &port.number().to_string());
    place.write(
        "app.js",
        "require('http').createServer((request, response) => {
           if (request.url !== '/slow') return response.end('hello');
           require('fs').writeFileSync(`${__dirname}/asked`, '');
           setTimeout(() => response.end('answered'), 1000);
         }).listen(process.env.PORT);",
    );
    let running = runtime(&rpm, &place, &["app.js", "-i", "2"]);
    let number = port.number();
    wait_until("it serves", BOUND, || get(number, "/").is_ok(), |serves| *serves);
    let request = std::thread::spawn(move || get(number, "/slow"));
    let asked = || place.path().join("asked").exists();
    wait_until("the request is there", BOUND, asked, |asked| *asked);
    terminate(&running);
    let answer = request.join().expect("it ends").expect("it is answered");
    assert_eq!((answer.status, answer.body.as_str()), (200, "answered"));
    let output = running.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_signal_that_comes_during_the_start_is_heard() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write("app.js", APP);
    // It is read when the test allows that.
    place.write(
        "ecosystem.config.js",
        "const { existsSync, writeFileSync } = require('fs');
         writeFileSync(`${__dirname}/reading`, '');
         while (!existsSync(`${__dirname}/go`)) {}
         module.exports = { apps: [{ name: 'app', script: 'app.js' }] };",
    );
    let running = runtime(&rpm, &place, &["ecosystem.config.js"]);
    let reading = || place.path().join("reading").exists();
    wait_until("the file is read", BOUND, reading, |reading| *reading);
    terminate(&running);
    place.write("go", "");
    let output = running.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!rpm.home().join("rpm.sock").exists(), "no daemon is left");
}

#[test]
fn files_named_like_the_standard_streams_are_the_streams_of_the_foreground() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write(
        "app.js",
        "process.on('SIGINT', () => process.exit(0));
         console.log('to out'); console.error('to err'); setInterval(() => {}, 1000);",
    );
    place.write(
        "ecosystem.config.js",
        "module.exports = { apps: [{ name: 'app', script: 'app.js', out_file: '/dev/stdout', error_file: '/dev/stderr' }] };",
    );
    let running = runtime(&rpm, &place, &["ecosystem.config.js"]);
    let written = || rpm.output("app", "error", None);
    wait_until("it has printed", BOUND, written, |text| text == b"to err\n");
    terminate(&running);
    let output = running.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "to out\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "to err\n");
    let daemon_log = rpm.log();
    assert!(
        !daemon_log.contains("to out") && !daemon_log.contains("to err"),
        "{daemon_log}"
    );
    // In the background these streams do not exist: lines are stored as usual, and the user is told.
    let started = place.ok(&rpm, ["start", "ecosystem.config.js"]);
    assert!(started.stderr.contains("/dev/stdout"), "{started:?}");
    // They come by two pipes.
    let lines = || {
        let shown = rpm.ok(["logs", "--nostream", "--raw", "--lines", "1"]);
        let mut lines: Vec<String> = shown.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    wait_until("each line once", BOUND, lines, |lines| {
        *lines == ["to err", "to out"]
    });
}

#[test]
fn the_daemons_log_is_bounded() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let log = rpm.home().join("rpm.log");
    let line = format!("{}\n", "o".repeat(1023));
    std::fs::write(&log, line.repeat(10 * 1024)).expect("a large log");
    place.write("app.js", APP);
    place.ok(&rpm, ["start", "app.js"]);
    assert!(rpm.log().len() < 100 * 1024 && rpm.log().contains("serving"));
    let before = std::fs::metadata(log.with_extension("log.1")).expect("the one before");
    assert!(before.len() >= 10 << 20);
}
