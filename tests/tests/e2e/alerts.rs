//! Alerts: somebody is told what happens, once, whoever dies in between.

use std::io::{BufReader, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rpm_e2e::ask::BOUND;
use rpm_e2e::certificate::certificate;
use rpm_e2e::outside::{kill, kill_daemon};
use rpm_e2e::place::Place;
use rpm_e2e::posted::Posted;
use rpm_testkit::{Port, Ran, Rpm, Status, fixture, node, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A receiver of webhooks. The first request is refused, as by a service that is being deployed.
fn receiver() -> (u16, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (port, receive(listener, 1))
}

/// What is posted there. So many requests are refused first.
pub(crate) fn receive(listener: TcpListener, refused: usize) -> Receiver<Value> {
    let (bodies, received) = channel();
    thread::spawn(move || {
        let mut number = 0;
        for client in listener.incoming() {
            let mut client = client.expect("a client");
            let mut reader = BufReader::new(client.try_clone().expect("a socket"));
            // One that is killed while it sends has told nothing.
            let posted = Posted::read(&mut reader).ok().flatten();
            let Some(posted) = posted.filter(|posted| !posted.body.is_empty()) else {
                continue;
            };
            let answer = if number < refused {
                "503 Service Unavailable"
            } else {
                "204 No Content"
            };
            let _ = write!(
                client,
                "HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            let body = serde_json::from_slice(&posted.body).expect("JSON");
            if number >= refused && bodies.send(body).is_err() {
                return;
            }
            number += 1;
        }
    });
    received
}

/// The next message that was received.
pub(crate) fn next(received: &Receiver<Value>, rpm: &Rpm) -> Value {
    let message = received.recv_timeout(BOUND);
    message.unwrap_or_else(|_| panic!("nobody was told\n{}", observed(rpm)))
}

/// A message in words.
pub(crate) fn text_of(message: &Value) -> &str {
    message["text"].as_str().expect("text")
}

/// The numbers of the crashes of the app.
fn crashes(rpm: &Rpm) -> Vec<u64> {
    let events = rpm.ok(["events", "api", "--json"]);
    let events = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let crashes = events.filter(|event| event["kind"] == "crashed");
    crashes.filter_map(|event| event["seq"].as_u64()).collect()
}

/// What the process that tells has said.
pub(crate) fn observed(rpm: &Rpm) -> String {
    rpm.ok(["logs", "rpm-observe", "--nostream"])
}

/// What the process that tells has left for the next.
pub(crate) fn state(rpm: &Rpm) -> Value {
    let text = std::fs::read(rpm.home().join("alerts.state")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// The process that tells.
pub(crate) fn teller(rpm: &Rpm) -> Option<u32> {
    let status: Value = serde_json::from_str(&rpm.ok(["observe", "status", "--json"])).expect("JSON");
    let pid = status["process"]["pid"].as_u64();
    pid.and_then(|pid| u32::try_from(pid).ok())
}

fn file(port: &Port, listen: &Port, webhook: u16, limit: &str) -> String {
    let app = json!({
        "name": "api", "script": fixture("hello.js"), "interpreter": node(22), "instances": 2,
        "env": {"PORT": port.number()},
    });
    let alerts = json!([
        {"on": "crash", "webhook": format!("http://127.0.0.1:{webhook}/s3cret"), "every": "1s"},
        {"on": "memory", "above": limit, "for": 0, "app": "api", "exec": "echo \"$RPM_ALERT_STATE $RPM_ALERT_APP $RPM_ALERT_ID\" >> told"},
    ]);
    json!({"apps": [app], "observe": {"listen": listen.number(), "alerts": alerts}}).to_string()
}

/// The rules are muted, and new. One crash is not told, and after `unmute` the next one is.
fn a_crash_in_silence_is_not_told(rpm: &Rpm, received: &Receiver<Value>) {
    assert!(rpm.run(["alerts"]).stderr.contains("muted for 60 more minutes"));
    let muted = || observed(rpm).matches("alerts: 2 rules").count();
    wait_until("the new rules are in force", BOUND, muted, |count| *count >= 3);
    kill(rpm.process(0).pid.expect("it runs"));
    rpm.wait_status("api", Status::Online);
    wait_until(
        "the third crash is an event",
        BOUND,
        || crashes(rpm),
        |crashes| crashes.len() == 3,
    );
    let silent = crashes(rpm)[2];
    wait_until(
        "it was looked at",
        BOUND,
        || state(rpm),
        |state| state["seq"].as_u64() >= Some(silent),
    );
    rpm.ok(["alerts", "unmute"]);
    // Had it been told, this one would be held back for two hours, and what comes would be the other.
    let victim = rpm.process(1).pid.and_then(|pid| i32::try_from(pid).ok());
    let victim = victim.and_then(Pid::from_raw).expect("it runs");
    kill_process(victim, Signal::USR2).expect("it is ours");
    let message = next(received, rpm);
    assert!(text_of(&message).contains("killed by SIGUSR2"), "{message}");
}

/// `observe status` says so, when the process has taken note of the answer.
fn the_webhook_has_taken_all(rpm: &Rpm, webhook: u16) {
    let told = || {
        let status: Value = serde_json::from_str(&rpm.ok(["observe", "status", "--json"])).expect("JSON");
        status["receivers"][0].clone()
    };
    let told = wait_until("it waits for nothing", BOUND, told, |told| {
        told["state"] == "idle" && told["behind_messages"] == 0 && told["taken"].as_u64() > Some(0)
    });
    assert_eq!(
        (&told["what"], &told["to"]),
        (&json!("alerts"), &json!(format!("http://127.0.0.1:{webhook}/…"))),
        "{told}"
    );
}

#[test]
fn whoever_is_named_is_told_once_whoever_dies() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let (port, listen) = (Port::reserve(), Port::reserve());
    let (webhook, received) = receiver();
    place.write("site.json", &file(&port, &listen, webhook, "1M"));
    place.ok(&rpm, ["start", "site.json"]);
    let rules = rpm.ok(["alerts"]);
    for part in ["crash", "memory", "above 1 MiB", "http://127.0.0.1:", "echo …"] {
        assert!(rules.contains(part), "{part}: {rules}");
    }
    assert!(!rules.contains("s3cret"), "{rules}");
    // What happens from now on is told: the rules are in force when the command has returned.
    let told = || std::fs::read_to_string(place.path().join("told")).unwrap_or_default();
    wait_until("a command tells of memory", BOUND, told, |told| {
        told.contains("fired api ")
    });

    let victim = rpm.process(1).pid.expect("it runs");
    kill(victim);
    let message = next(&received, &rpm);
    assert_eq!(message["messages"][0]["on"], "crash", "{message}");
    assert_eq!(message["messages"][0]["app"], "api", "{message}");
    let text = text_of(&message);
    assert!(text.contains("api: crashed: killed by SIGKILL"), "{text}");
    assert!(
        observed(&rpm).contains("503"),
        "the first attempt failed: {}",
        observed(&rpm)
    );
    assert!(!observed(&rpm).contains("s3cret"), "{}", observed(&rpm));
    rpm.wait_status("api", Status::Online);

    // One that is killed before it has taken note of an answer leaves the message to the next, which sends it again.
    wait_until(
        "nothing waits",
        BOUND,
        || state(&rpm)["waiting"].clone(),
        |waiting| *waiting == json!([]),
    );
    // What happens while neither the daemon nor the process that tells is there is told afterwards, and nothing again.
    let (teller, victim) = (
        teller(&rpm).expect("it runs"),
        rpm.process(0).pid.expect("it runs"),
    );
    kill_daemon(&rpm);
    kill(teller);
    kill(victim);
    rpm.wait_status("api", Status::Online);
    let message = next(&received, &rpm);
    let messages = message["messages"].as_array().expect("a list");
    assert_eq!(messages.len(), 1, "{message}");
    assert!(text_of(&message).contains("api: crashed"), "{message}");

    // Other rules come into force. They know nothing of what was told by those before, so they would tell of the next crash.
    let changed = file(&port, &listen, webhook, "100G").replace("1s", "2h");
    place.write("site.json", &changed);
    place.ok(&rpm, ["start", "site.json"]);
    rpm.ok(["alerts", "mute", "1h"]);
    a_crash_in_silence_is_not_told(&rpm, &received);
    let tested = rpm.ok(["alerts", "test", "0"]);
    assert!(tested.contains("it answered 204"), "{tested}");
    assert_eq!(next(&received, &rpm)["messages"][0]["state"], "test");
    the_webhook_has_taken_all(&rpm, webhook);
    let metrics = rpm_testkit::get(listen.number(), "/metrics")
        .expect("it answers")
        .body;
    assert!(metrics.contains("rpm_alerts_failed_total 0\n"), "{metrics}");
    assert!(received.try_recv().is_err(), "told twice");
}

#[test]
fn a_rule_that_is_wrong_is_refused_and_says_where() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let rules = json!([{"on": "crashes", "exec": "x"}, {"on": "cpu", "webhook": "ftp://s3cret"}]);
    let text =
        json!({"apps": [{"name": "api", "script": fixture("hello.js")}], "observe": {"alerts": rules}});
    place.write("site.json", &text.to_string());
    let refused = place.run(&rpm, ["start", "site.json"]);
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    for part in [
        "`observe.alerts[0].on`",
        "did you mean \"crash\"?",
        "`observe.alerts[1].webhook` must be an address",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {refused:#?}");
    }
    assert!(!refused.stderr.contains("s3cret"), "{refused:#?}");
    assert!(rpm.run(["alerts", "test"]).stderr.contains("there are no rules"));
}

#[test]
fn a_receiver_must_be_who_it_says() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let [chain, key] = certificate(&place, "receiver", "localhost");
    // The receiver is an app behind the proxy, which has the certificate.
    let app = json!({
        "name": "receiver", "script": fixture("hello.js"), "interpreter": node(22), "balance": "proxy", "instances": 1,
        "tls_cert": chain, "tls_key": key, "env": {"PORT": port.number()},
    });
    let rules = json!([
        {"on": "crash", "webhook": format!("https://localhost:{port}/")},
        // It is valid for two days.
        {"on": "certificate", "exec": "echo \"$RPM_ALERT_TEXT\" >> expires"},
    ]);
    let listen = Port::reserve();
    let file = json!({"apps": [app], "observe": {"listen": listen.number(), "alerts": rules}});
    place.write("site.json", &file.to_string());
    place.ok(&rpm, ["start", "site.json"]);
    let unknown = rpm.run(["alerts", "test"]);
    assert_eq!(unknown.code, Some(1), "{unknown:#?}");
    assert!(
        unknown.stderr.contains("invalid peer certificate"),
        "{unknown:#?}"
    );
    let known = rpm
        .command(["alerts", "test"])
        .env("SSL_CERT_FILE", &chain)
        .output();
    let known = Ran::from(known.expect("it runs"));
    assert!(known.stdout.contains("it answered 200"), "{known:#?}");
    let told = || std::fs::read_to_string(place.path().join("expires")).unwrap_or_default();
    wait_until("an expiry is told", BOUND, told, |told| {
        // It is 48 h within its first second.
        let hours = ["47", "48"].map(|hours| format!("expires in {hours} h, less than 14 days"));
        told.contains("] receiver: its certificate ") && hours.iter().any(|hours| told.contains(hours))
    });
}
