//! Keeping processes alive, and ending them.

use std::fs;
use std::io::ErrorKind;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rpm_e2e::app::App;
use rpm_e2e::ask::{BOUND, printed, refused, workers};
use rpm_e2e::clients::beside;
use rpm_e2e::outside::kill_daemon;
use rpm_e2e::process::{runs, signal};
use rpm_testkit::{Outcome, Port, Process, Ran, Rpm, Status, Traffic, get, wait_until};
use serde_json::Value;

/// Outcomes of connections that were being served when their process ended.
const IN_FLIGHT: [Outcome; 2] = [Outcome::ResetFresh, Outcome::Truncated];

/// The times in milliseconds that `stamp.sh` wrote when it ran.
fn stamps(rpm: &Rpm, name: &str) -> Vec<u64> {
    let text = printed(rpm, name, None);
    text.lines().map(|line| line.parse().expect("a time")).collect()
}

fn gaps(stamps: &[u64]) -> Vec<u64> {
    stamps.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// The delays in milliseconds after which the events announce another try.
fn announced_delays(rpm: &Rpm) -> Vec<u64> {
    let delay = |line: &str| {
        let event: Value = serde_json::from_str(line).expect("an object a line");
        event["retry_in_ms"].as_u64()
    };
    let told = || {
        let answer = rpm.api("GET", "/v1/events?lines=1000", "");
        answer.body.lines().filter_map(delay).collect::<Vec<u64>>()
    };
    wait_until("a delay is announced", BOUND, told, |delays: &Vec<u64>| {
        !delays.is_empty()
    })
}

/// It never gets ready, so the command does not wait for that. Those who count its failures give it a `min_uptime`: on a busy machine it may
/// take longer than the usual second.
fn stamping(options: &[&str]) -> App {
    App::new("stamp.sh")
        .args(["--interpreter", "sh", "--name", "stamp", "--no-wait"])
        .args(options)
}

/// The pids of the app, its child and its grandchild, as `tree.js` last printed them.
fn tree(rpm: &Rpm) -> [u32; 3] {
    let said = printed(rpm, "tree", Some(0));
    let last = said
        .lines()
        .rfind(|line| line.starts_with("tree "))
        .expect("the tree is up");
    let mut pids = last.split(' ').skip(1).map(|pid| pid.parse().expect("a pid"));
    let [child, grandchild] = [pids.next(), pids.next()].map(|pid| pid.expect("two pids"));
    [rpm.process(0).pid.expect("it runs"), child, grandchild]
}

#[test]
fn a_killed_worker_is_replaced_and_nobody_is_refused() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2").port(&port).start(&rpm);
    let before = rpm.process(1);
    let traffic = Traffic::start(&beside(&port, 4));
    traffic.wait_ok(100);
    signal(before.pid.expect("it runs"), "KILL");
    let replaced = |now: &Process| now.status == Status::Online && now.pid != before.pid;
    let after = wait_until("a replacement", BOUND, || rpm.process(1), replaced);
    traffic.wait_ok(100);
    traffic
        .finish()
        .check_allowing(&IN_FLIGHT)
        .expect("only what was in flight is lost");
    assert_eq!(
        (after.restarts, after.exit_code, after.instance),
        (1, Some(137), 1)
    );
    assert_eq!(rpm.process(0).restarts, 0);
}

#[test]
fn young_crashes_end_in_errored_and_a_restart_begins_from_zero() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("crash.js", "1")
        .port(&port)
        .args(["--max-restarts", "3", "--min-uptime", "60000"])
        .start(&rpm);
    let crash = || {
        // Refused, reset or unanswered: only what becomes of the process counts.
        let _ = get(port.number(), "/?exit=7");
        rpm.process(0)
    };
    // Each try waits until the program has started.
    let errored = wait_until("it is given up", 3 * BOUND, crash, |now| {
        now.status == Status::Errored
    });
    assert_eq!(
        (errored.unstable_restarts, errored.exit_code, errored.pid),
        (3, Some(7), None)
    );
    assert!(refused(&port), "nobody queues behind an app that was given up");
    rpm.ok(["restart", "crash"]);
    let again = rpm.process(0);
    assert_eq!((again.status, again.unstable_restarts), (Status::Online, 0));
    assert_eq!(workers(&port, 1).len(), 1);
    let _ = get(port.number(), "/?exit=7");
    let back = |now: &Process| now.status == Status::Online && now.pid != again.pid;
    let back = wait_until("one crash is forgiven again", BOUND, || rpm.process(0), back);
    assert_eq!(back.unstable_restarts, 1);
}

#[test]
fn what_cannot_start_says_so_without_a_cluster_too() {
    let rpm = Rpm::new();
    let cases: [(&str, &str, &[&str], &str); 5] = [
        ("syntax", "const x = ;", &[], "SyntaxError"),
        ("missing", "require('./nowhere')", &[], "MODULE_NOT_FOUND"),
        ("throws", "throw new Error('no database')", &[], "no database"),
        (
            "leaves",
            "console.error('PORT is not set'); process.exit(3)",
            &[],
            "PORT is not set",
        ),
        ("argument", "", &["--node-args=--bogus"], "bad option"),
    ];
    for (name, body, options, wanted) in cases {
        let script = rpm.home().join(format!("{name}.js"));
        fs::write(&script, body).expect("a script");
        let ran: Ran = rpm
            .command(["start", "--listen-timeout", "60000"])
            .arg(&script)
            .args(options)
            .output()
            .expect("rpm runs")
            .into();
        assert_eq!(ran.code, Some(1), "{name}: {ran:#?}");
        assert!(ran.stderr.contains("before it was ready"), "{name}: {ran:#?}");
        assert!(ran.stderr.contains(wanted), "{name}: {ran:#?}");
        rpm.ok(["delete", name]);
    }
}

/// A process that uses CPU; killed when it is dropped.
struct Hog(Child);

impl Hog {
    fn on(cpu: &str) -> Hog {
        let mut hog = Command::new("taskset");
        hog.args(["-c", cpu, "sh", "-c", "while :; do :; done"]);
        Hog(hog.spawn().expect("taskset runs"))
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A CPU that this process may use.
fn some_cpu() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("a status");
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = list.expect("a list").trim().split(['-', ',']).next();
    first.expect("a CPU").to_owned()
}

/// It gets half of a CPU, so this takes it more than a second.
const LATE: &str = "import sys, threading, time
def work():
    while time.process_time() < 0.8: pass
WORK
print('no database', file=sys.stderr)
sys.exit(3)";

#[test]
fn what_has_had_no_cpu_for_a_second_may_still_fail_to_start() {
    let (rpm, cpu) = (Rpm::new(), some_cpu());
    // Or its first thread waits for another one, which lacks the CPU.
    let in_a_thread = "worker = threading.Thread(target=work)\nworker.start()\nworker.join()";
    for (name, work) in [("itself", "work()"), ("thread", in_a_thread)] {
        let [program, script] = ["py", "sh"].map(|end| rpm.home().join(format!("{name}.{end}")));
        fs::write(&program, LATE.replace("WORK", work)).expect("a script");
        let run = format!("exec taskset -c {cpu} python3 {}", program.display());
        fs::write(&script, run).expect("a script");
        let hog = Hog::on(&cpu);
        let began = Instant::now();
        let start = [
            "start",
            "--interpreter",
            "sh",
            "--no-autorestart",
            "--listen-timeout",
            "60000",
        ];
        let ran: Ran = rpm.command(start).arg(&script).output().expect("rpm runs").into();
        drop(hog);
        let took = began.elapsed();
        assert!(
            took > Duration::from_secs(1),
            "{name} had the CPU: {took:?}, {ran:#?}"
        );
        assert_eq!(ran.code, Some(1), "{name}: {ran:#?}");
        assert!(ran.stderr.contains("no database"), "{name}: {ran:#?}");
        assert!(!ran.stderr.contains("restarted"), "{name}: nobody does: {ran:#?}");
    }
}

#[test]
fn what_starts_without_a_cluster_is_there_when_the_command_returns() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let script = rpm.home().join("late.js");
    // It works until then. One that waits counts as started after a second, and a busy machine takes longer than that to get here.
    let body = "for (const begun = Date.now(); Date.now() < begun + 200;);
        require('http').createServer((q, r) => r.end('ok')).listen(process.env.PORT)";
    fs::write(&script, body).expect("a script");
    let started: Ran = rpm
        .command(["start", "--listen-timeout", "60000"])
        .arg(&script)
        .env("PORT", port.to_string())
        .output()
        .expect("rpm runs")
        .into();
    assert_eq!(started.code, Some(0), "{started:#?}");
    let line = format!("serving http://localhost:{port}\n");
    assert!(started.stderr.ends_with(&line), "{started:#?}");
    assert_eq!(get(port.number(), "/").expect("an answer").body, "ok");
    // A job that ends before a server would listen has not failed.
    let job = rpm.home().join("job.js");
    fs::write(&job, "console.log('done')").expect("a script");
    let mut command = rpm.command(["start", "--no-autorestart", "--listen-timeout", "60000"]);
    let ran: Ran = command.arg(&job).output().expect("rpm runs").into();
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert_eq!(rpm.process(1).status, Status::Stopped);
}

#[test]
fn young_crashes_back_off() {
    let rpm = Rpm::new();
    stamping(&["--max-restarts", "8", "--min-uptime", "60000"]).start(&rpm);
    rpm.wait_status("stamp", Status::Errored);
    let stamps = stamps(&rpm, "stamp");
    assert_eq!(stamps.len(), 8, "eight failures, then no more");
    // Half as long again each time, from 50 ms on, give or take a tenth.
    for (gap, least) in gaps(&stamps).into_iter().zip([45, 67, 101, 151, 227, 341, 450]) {
        assert!(gap >= least, "{gap} ms, not {least}");
    }
}

#[test]
fn the_restart_delay_is_kept() {
    let rpm = Rpm::new();
    stamping(&[
        "--max-restarts",
        "4",
        "--restart-delay",
        "400",
        "--min-uptime",
        "60000",
    ])
    .start(&rpm);
    rpm.wait_status("stamp", Status::Errored);
    let gaps = gaps(&stamps(&rpm, "stamp"));
    assert_eq!(gaps.len(), 3);
    // A tenth of jitter, so that a thousand instances do not restart at the same moment.
    assert!(gaps.iter().all(|gap| *gap >= 360), "{gaps:?}");
    // How much longer the processes themselves take is up to the machine, so the delays are looked up.
    let delays = announced_delays(&rpm);
    assert!(
        !delays.is_empty() && delays.iter().all(|delay| (360..=440).contains(delay)),
        "{delays:?}"
    );
}

#[test]
fn an_exit_after_the_minimal_uptime_is_no_failure() {
    let rpm = Rpm::new();
    stamping(&[
        "--max-restarts",
        "2",
        "--min-uptime",
        "1",
        "--restart-delay",
        "20",
    ])
    .start(&rpm);
    wait_until(
        "it is restarted again and again",
        BOUND,
        || stamps(&rpm, "stamp").len(),
        |count| *count >= 6,
    );
    assert_eq!(rpm.process(0).unstable_restarts, 0);
    assert!(rpm.process(0).restarts >= 5);
}

#[test]
fn without_autorestart_an_exit_is_the_end() {
    let rpm = Rpm::new().with_env("EXIT_CODE", "5");
    stamping(&["--no-autorestart"]).start(&rpm);
    let ended = rpm.wait_status("stamp", Status::Stopped).remove(0);
    assert_eq!((ended.exit_code, ended.restarts, ended.pid), (Some(5), 0, None));
    assert_eq!(stamps(&rpm, "stamp").len(), 1);
}

#[test]
fn stop_ends_the_whole_tree_and_the_port_is_refused() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("tree.js", "1")
        .port(&port)
        .args(["--kill-timeout", "400"])
        .start(&rpm);
    let tree = tree(&rpm);
    assert!(tree.into_iter().all(runs), "{tree:?}");
    rpm.ok(["stop", "tree"]);
    assert!(refused(&port));
    assert!(!tree.into_iter().any(runs), "{tree:?}");
    let stopped = rpm.process(0);
    assert_eq!((stopped.status, stopped.pid), (Status::Stopped, None));
}

/// The process ignores the signal and lives on for a while, but its clients must not wait for it.
#[test]
fn a_stopped_app_refuses_before_its_processes_are_gone() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let app = App::cluster("sigint.js", "1").port(&port).env("IGNORE", 1);
    // It must not have passed before the test has looked.
    let patience = Duration::from_secs(10);
    app.args(["--kill-timeout", "10s"]).start(&rpm);
    let pid = rpm.process(0).pid.expect("it runs");
    let begun = Instant::now();
    rpm.ok(["stop", "sigint", "--no-wait"]);
    wait_until(
        "the port is refused",
        BOUND,
        || refused(&port),
        |refused| *refused,
    );
    assert!(
        runs(pid) && rpm.process(0).status == Status::Stopping,
        "it still has its time"
    );
    let stopped = |now: &Process| now.status == Status::Stopped;
    wait_until("it is killed", 2 * BOUND, || rpm.process(0), stopped);
    assert!(begun.elapsed() >= patience, "killed after {:?}", begun.elapsed());
    assert!(!runs(pid));
    assert_eq!(rpm.process(0).exit_code, Some(137));
    let said = printed(&rpm, "sigint", Some(0));
    assert_eq!(said.matches("sigint").count(), 1);
}

#[test]
fn a_handler_of_its_own_finishes_what_is_in_flight() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("sigint.js", "1")
        .port(&port)
        .args(["--kill-timeout", "15000"])
        .start(&rpm);
    let number = port.number();
    let slow = thread::spawn(move || get(number, "/?ms=1200"));
    let said = || printed(&rpm, "sigint", Some(0));
    wait_until("the request has arrived", BOUND, said, |said| {
        said.contains("request")
    });
    rpm.ok(["stop", "sigint"]);
    let answer = slow.join().expect("no panic").expect("the request is answered");
    assert_eq!(answer.status, 200);
    assert_eq!(rpm.process(0).exit_code, Some(0));
    assert!(matches!(get(number, "/"), Err(error) if error.kind() == ErrorKind::ConnectionRefused));
}

#[test]
fn restart_brings_new_processes_and_never_refuses() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2").port(&port).start(&rpm);
    let before = rpm.pids("hello");
    let traffic = Traffic::start(&beside(&port, 4));
    traffic.wait_ok(50);
    rpm.ok(["restart", "hello"]);
    traffic.wait_ok(50);
    let report = traffic.finish();
    report
        .check_allowing(&IN_FLIGHT)
        .expect("connections wait in the backlog meanwhile");
    assert_eq!(report.outcomes.count(Outcome::Refused), 0);
    let after = rpm.pids("hello");
    assert!(
        after.len() == 2 && after.iter().all(|pid| !before.contains(pid)),
        "{before:?} {after:?}"
    );
    assert!(rpm.list().iter().all(|process| process.restarts == 1));
}

#[test]
fn a_deleted_app_is_forgotten() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let app = App::cluster("hello.js", "2").port(&port);
    app.start(&rpm);
    let pids = rpm.pids("hello");
    assert_eq!(app.try_start(&rpm).code, Some(1), "its name is taken");
    rpm.ok(["delete", "0"]);
    assert_eq!(
        rpm.list().iter().map(|process| process.id).collect::<Vec<_>>(),
        [1]
    );
    rpm.ok(["delete", "hello"]);
    assert!(rpm.list().is_empty() && refused(&port) && !pids.into_iter().any(runs));
    assert!(rpm.fails(["describe", "hello"]).contains("hello"));
    app.start(&rpm);
    assert_eq!(workers(&port, 2).len(), 2);
}

/// A process that the worker has put into its own session, and that does not end when asked to, keeps serving while the shells above it are
/// killed one after the other.
#[test]
fn what_a_worker_has_left_in_other_sessions_ends_with_it() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let app = App::new("sessions.js").args(["--name", "web", "--kill-timeout", "300"]);
    app.port(&port).start(&rpm);
    let serves = || get(port.number(), "/").is_ok();
    wait_until("it serves", BOUND, serves, |serves| *serves);
    let before = rpm.processes_of_workers();
    assert!(
        before.len() >= 4,
        "the leader, two shells and the server: {before:?}"
    );
    rpm.ok(["restart", "web"]);
    wait_until("it serves", BOUND, serves, |serves| *serves);
    let after = rpm.processes_of_workers();
    assert!(
        before.iter().all(|pid| !after.contains(pid)),
        "{before:?} {after:?}"
    );
    rpm.ok(["stop", "web"]);
    assert_eq!(rpm.processes_of_workers(), [] as [u32; 0]);
    assert!(get(port.number(), "/").is_err());
    rpm.ok(["start", "web"]);
    wait_until("it serves", BOUND, serves, |serves| *serves);
    // The next daemon is not the parent of any process.
    kill_daemon(&rpm);
    rpm.ok(["stop", "web"]);
    assert_eq!(rpm.processes_of_workers(), [] as [u32; 0]);
    rpm.ok(["start", "web"]);
    wait_until("it serves", BOUND, serves, |serves| *serves);
    rpm.ok(["kill"]);
    assert_eq!(rpm.processes_of_workers(), [] as [u32; 0]);
}

#[test]
fn the_children_of_a_crashed_worker_do_not_survive_it() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("tree.js", "1").port(&port).start(&rpm);
    let [leader, child, grandchild] = tree(&rpm);
    signal(leader, "KILL");
    let others = || [child, grandchild].map(runs);
    wait_until("its children are gone", BOUND, others, |runs| {
        !runs[0] && !runs[1]
    });
    let replaced = |now: &Process| now.status == Status::Online && now.pid.is_some_and(|pid| pid != leader);
    wait_until("a replacement", BOUND, || rpm.process(0), replaced);
    assert!(tree(&rpm).into_iter().all(runs));
}
