//! The IPC channel: what workers may do with it, and that they cannot harm the daemon.

use std::time::{Duration, Instant};

use rpm_e2e::app::App;
use rpm_e2e::ask::{BOUND, json, printed, workers};
use rpm_e2e::clients::beside;
use rpm_e2e::process::{descriptors, own_bytes};
use rpm_testkit::{Load, Port, Rpm, Status, Traffic, wait_until};
use serde_json::{Value, json};

/// How long a command may take beyond its own time-out, on a loaded machine.
const SLACK: Duration = Duration::from_secs(10);

#[test]
fn a_worker_can_send_and_is_sent_nothing_it_did_not_ask_for() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("ipc.js", "2").port(&port).start(&rpm);
    Traffic::start(&Load {
        requests: Some(200),
        clients: 8,
        ..Load::local(port.number())
    })
    .wait()
    .check_clean()
    .expect("the messages of the app disturb nobody");
    for _ in 0..4 {
        let seen = json(&port, "/");
        assert_eq!(
            (&seen["send"], &seen["connected"]),
            (&json!("function"), &json!(true)),
            "{seen}"
        );
        assert_eq!(
            seen["received"],
            json!([]),
            "the daemon's own messages are not the app's: {seen}"
        );
    }
}

#[test]
fn descriptors_that_a_worker_sends_are_acknowledged_and_closed() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    // "ready" follows them and would be stuck.
    let app = App::cluster("sendfd.js", "1")
        .port(&port)
        .env("SENDFDS", 100)
        .args(["--wait-ready"]);
    app.args(["--listen-timeout", "15000"]).start(&rpm);
    assert_eq!(rpm.process(0).status, Status::Online);
    assert_eq!(workers(&port, 1).len(), 1);
    let open = descriptors(rpm.daemon_pid().expect("a daemon"));
    // The daemon itself has two thirds of that, half of them in reserve.
    assert!(open < 100, "the daemon keeps {open} descriptors open");
}

#[test]
fn the_end_of_the_channel_is_not_the_end_of_the_process() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::new("ipc.js").port(&port).start(&rpm);
    wait_until(
        "the app serves",
        BOUND,
        || rpm.describe("ipc").listeners.len(),
        |count| *count == 1,
    );
    let before = rpm.process(0);
    let _ = json(&port, "/?disconnect");
    let connected = || json(&port, "/")["connected"].clone();
    wait_until("the channel is closed", BOUND, connected, |connected| {
        *connected == Value::Bool(false)
    });
    let after = rpm.process(0);
    assert_eq!(
        (after.pid, after.restarts, after.status),
        (before.pid, 0, Status::Online)
    );
}

#[test]
fn a_cluster_worker_that_disconnects_serves_on() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("disconnect.js", "1").port(&port).start(&rpm);
    let before = rpm.process(0);
    let _ = json(&port, "/?disconnect");
    let connected = || json(&port, "/")["connected"].clone();
    wait_until("the channel is closed", BOUND, connected, |connected| {
        *connected == Value::Bool(false)
    });
    Traffic::start(&Load {
        requests: Some(50),
        ..Load::local(port.number())
    })
    .wait()
    .check_clean()
    .expect("it serves on");
    let after = rpm.process(0);
    assert_eq!(
        (after.pid, after.restarts, after.status),
        (before.pid, 0, Status::Online)
    );
}

#[test]
fn garbage_on_the_channel_is_logged_and_harms_nobody() {
    let (rpm, port, others) = (Rpm::new(), Port::reserve(), Port::reserve());
    App::cluster("hello.js", "2").port(&others).start(&rpm);
    let traffic = Traffic::start(&beside(&others, 2));
    // Its message that it listens is lost in the garbage.
    App::cluster("garbage.js", "2")
        .args(["--listen-timeout", "1s"])
        .port(&port)
        .env("GARBAGE_MB", 2)
        .start(&rpm);
    for id in [2, 3] {
        let said = || printed(&rpm, "garbage", Some(id));
        wait_until("all of it is written", BOUND, said, |said| {
            said.contains("garbage written")
        });
    }
    traffic.wait_ok(100);
    traffic
        .finish()
        .check_clean()
        .expect("another app is not disturbed");
    assert_eq!(workers(&port, 2).len(), 2);
    // What was written last may still be in the channel.
    for wanted in ["not a message", "more than 1048576 bytes"] {
        let what = format!("{wanted:?} is in the log");
        wait_until(&what, BOUND, || rpm.log(), |log| log.contains(wanted));
    }
    let log = rpm.log();
    assert!(
        log.len() < 64 * 1024,
        "garbage is reported, not repeated: {} bytes",
        log.len()
    );
    let pid = rpm.daemon_pid().expect("a daemon");
    assert!(own_bytes(pid) < 20 << 20, "{} bytes of its own", own_bytes(pid));
    assert!(
        rpm.list()
            .iter()
            .all(|process| process.restarts == 0 && process.status == Status::Online)
    );
}

#[test]
fn a_worker_that_announces_itself_is_ready_when_it_says_so() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let begun = Instant::now();
    App::cluster("ready.js", "2")
        .port(&port)
        .env("READY_MS", 700)
        .args(["--wait-ready"])
        .start(&rpm);
    assert!(
        begun.elapsed() >= Duration::from_millis(700),
        "{:?}",
        begun.elapsed()
    );
    assert!(rpm.list().iter().all(|process| process.status == Status::Online));
    assert_eq!(workers(&port, 2).len(), 2);
}

#[test]
fn a_worker_that_never_announces_itself_fails_in_time() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let app = App::cluster("ready.js", "1").port(&port).env("READY_MS", "never");
    let begun = Instant::now();
    let ran = app
        .args(["--wait-ready", "--listen-timeout", "1500"])
        .try_start(&rpm);
    let took = begun.elapsed();
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.contains("was not ready within 1500 ms"), "{ran:#?}");
    assert!(
        took >= Duration::from_millis(1500) && took < Duration::from_millis(1500) + SLACK,
        "{took:?}"
    );
}

/// The worker would answer Node's own messages, and its answer would be taken for another one.
#[test]
fn clients_send_messages_of_programs_and_no_others() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("ipc.js", "1").port(&port).start(&rpm);
    let send = |message: Value| {
        let request = json!({ "target": "ipc", "message": message });
        rpm.api("POST", "/v1/message", &request.to_string())
    };
    for refused in [
        json!({ "cmd": "NODE_HANDLE", "type": "net.Native", "msg": {} }),
        json!({ "cmd": "NODE_CLUSTER", "act": "disconnect" }),
    ] {
        let answer = send(refused);
        assert!(
            answer.status >= 400 && answer.body.contains("Node's own"),
            "{answer:?}"
        );
    }
    let long = send(json!("x".repeat(1 << 20)));
    assert!(
        long.status >= 400 && long.body.contains("too long"),
        "{}",
        long.status
    );
    assert_eq!(send(json!({ "cmd": "NODE_", "hello": 1 })).status, 200);
    let received = || json(&port, "/")["received"].clone();
    let one = json!([{ "cmd": "NODE_", "hello": 1 }]);
    wait_until("the message of the program", BOUND, received, |seen| *seen == one);
    assert_eq!(rpm.process(0).restarts, 0);
}
