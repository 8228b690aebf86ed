//! What alerts are about: how requests go, what is written to logs, and what lasts over a restart of the process that tells.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use rpm_e2e::ask::BOUND;
use rpm_e2e::outside::kill;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Rpm, Status, fixture, get, node, wait_for, wait_until};
use serde_json::{Value, json};

use crate::alerts::{next, observed, receive, state, teller, text_of};

/// Answers slowly, with an error, or after a time in which it does nothing else.
const SERVER: &str = r#"
require('node:http').createServer((request, response) => {
  if (request.url === '/bad') response.statusCode = 500;
  if (request.url === '/busy') for (const end = Date.now() + 300; Date.now() < end;);
  setTimeout(() => response.end('x'), { '/slow': 400, '/busy': 0 }[request.url] ?? 20);
}).listen(process.env.PORT);
"#;
/// Says what it is told: to standard error in colours, and to standard output.
const WRITER: &str = r#"
while read -r what; do
  case "$what" in
    fatal*) printf '\033[31mFATAL\033[0m: %s\n' "$what" >&2 ;;
    *) echo "$what" ;;
  esac
done
"#;

/// A receiver and its address.
fn receiver() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    (url, receive(listener, 0))
}

/// The kinds of messages with this state that have come; in the end all of these.
fn wait_all(received: &Receiver<Value>, rpm: &Rpm, state: &str, wanted: &[&str]) -> Vec<String> {
    let (mut missing, mut texts) = (wanted.to_vec(), Vec::new());
    while !missing.is_empty() {
        let message = next(received, rpm);
        texts.push(text_of(&message).to_owned());
        for one in message["messages"].as_array().expect("a list") {
            if one["state"] == state {
                missing.retain(|on| one["on"] != *on);
            }
        }
    }
    texts
}

/// Waits until the last message about each of these has this state, and adds to what was last known. On a busy machine a condition may come
/// and go before it stays.
fn wait_last(
    received: &Receiver<Value>,
    rpm: &Rpm,
    last: &mut BTreeMap<String, Value>,
    state: &str,
    wanted: &[&str],
) -> Vec<String> {
    let mut texts = Vec::new();
    while !wanted
        .iter()
        .all(|on| last.get(*on).is_some_and(|last| *last == state))
    {
        let message = received.recv_timeout(2 * BOUND);
        let message = message.unwrap_or_else(|_| panic!("{last:?}, not {state}\n{}", observed(rpm)));
        texts.push(text_of(&message).to_owned());
        for one in message["messages"].as_array().expect("a list") {
            let on = one["on"].as_str().expect("a name");
            last.insert(on.to_owned(), one["state"].clone());
        }
    }
    texts
}

#[test]
fn what_requests_and_event_loops_are_like_is_told_and_when_it_is_over() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let (port, listen) = (Port::reserve(), Port::reserve());
    let (url, received) = receiver();
    place.write("server.js", SERVER);
    let api = json!({"name": "api", "script": "server.js", "interpreter": node(22), "instances": 1, "env": {"PORT": port.number()}});
    let quiet = json!({"name": "quiet", "script": fixture("no-listen.js"), "interpreter": node(22)});
    let alerts = json!([
        {"on": "error-rate", "above": "10%", "for": "4s", "min_requests": 5, "every": "1s", "webhook": url},
        {"on": "latency", "above": "200ms", "for": "4s", "min_requests": 5, "every": "1s", "webhook": url},
        // A loop that only waits for a CPU is not that late in every second.
        {"on": "loop-delay", "above": "150ms", "for": "2s", "every": "1s", "webhook": url},
    ]);
    let file = json!({"apps": [api, quiet], "observe": {"listen": listen.number(), "alerts": alerts}});
    place.write("site.json", &file.to_string());
    place.ok(&rpm, ["start", "site.json"]);
    let (is_bad, is_over) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let client = thread::spawn({
        let (is_bad, is_over, port) = (Arc::clone(&is_bad), Arc::clone(&is_over), port.number());
        move || {
            while !is_over.load(Ordering::SeqCst) {
                let paths: &[&str] = match is_bad.load(Ordering::SeqCst) {
                    true => &["/bad", "/slow", "/busy"],
                    false => &["/"],
                };
                paths.iter().for_each(|path| drop(get(port, path)));
            }
        }
    });
    let all = ["error-rate", "latency", "loop-delay"];
    let mut last = BTreeMap::new();
    let texts = wait_last(&received, &rpm, &mut last, "fired", &all).join("\n");
    for part in [
        " requests within 4 s got 5xx: ",
        ", more than 10 %",
        " requests within 4 s is ",
        "more than 200 ms",
        "the event loop is ",
        "more than 150 ms for 2 s",
    ] {
        assert!(texts.contains(part), "{part}: {texts}");
    }
    is_bad.store(false, Ordering::SeqCst);
    wait_last(&received, &rpm, &mut last, "recovered", &all);
    is_over.store(true, Ordering::SeqCst);
    client.join().expect("it ends");
    // The other app has none of these figures, and will never be heard of.
    let blind = wait_until(
        "an app without figures is named",
        3 * BOUND,
        || rpm.run(["alerts"]).stderr,
        |said| said.matches("quiet").count() == 3,
    );
    assert!(!blind.contains("api"), "{blind}");
    assert!(
        blind.contains("rule 2 (loop-delay): quiet has no figures of an event loop"),
        "{blind}"
    );
}

#[test]
fn a_line_that_matches_is_told() {
    let (rpm, place, listen) = (Rpm::new(), Place::new(), Port::reserve());
    let (url, received) = receiver();
    place.write("writer.sh", WRITER);
    let app = |name: &str| json!({"name": name, "script": "writer.sh", "interpreter": "sh"});
    let apps = json!([app("writer"), app("other")]);
    let start = |alerts: Value| {
        let file = json!({"apps": apps, "observe": {"listen": listen.number(), "alerts": alerts}});
        place.write("site.json", &file.to_string());
        place.ok(&rpm, ["start", "site.json"]);
    };
    start(json!([]));
    rpm.ok(["send", "writer", "fatal old"]);
    let is_written = || String::from_utf8_lossy(&rpm.output("writer", "error", None)).contains("fatal old");
    wait_until("it is written", BOUND, is_written, |is| *is);
    start(json!([
        {"on": "log-pattern", "pattern": "FATAL: fatal|OutOfMemory", "app": "writer", "every": "1h", "webhook": url},
        {"on": "log-pattern", "pattern": "^many [0-9]+$", "above": 3, "exec": "echo \"$RPM_ALERT_APP: $RPM_ALERT_TEXT\" >> told"},
        {"on": "logs-size", "above": 1, "app": "writer", "exec": "echo \"$RPM_ALERT_TEXT\" >> size"},
    ]));
    // It is told of what is written from then on.
    let mut number = 0;
    let told = || {
        number += 1;
        rpm.ok(["send", "other", &format!("fatal other {number}")]);
        rpm.ok(["send", "writer", &format!("fatal new {number}")]);
        received.recv_timeout(Duration::from_millis(500)).ok()
    };
    let message = wait_for("a line is told", BOUND, told);
    let text = text_of(&message);
    assert!(
        text.contains("writer: FATAL: fatal new "),
        "{text}\n{}",
        observed(&rpm)
    );
    assert!(!text.contains('\u{1b}') && !text.contains("old"), "{text}");
    for number in 1..=4 {
        rpm.ok(["send", "other", &format!("many {number}")]);
    }
    let told = || std::fs::read_to_string(place.path().join("told")).unwrap_or_default();
    let told = wait_until("many lines are told", BOUND, told, |told| told.ends_with('\n'));
    assert!(
        told.starts_with("other: ") && told.contains("4 lines within 1 min, such as: many "),
        "{told}"
    );
    assert!(received.try_recv().is_err(), "once an hour");
    let told = || std::fs::read_to_string(place.path().join("size")).unwrap_or_default();
    wait_until("the size is told", BOUND, told, |told| {
        told.contains("writer: its logs take ")
    });
}

/// An app that runs as long as a file is there.
fn flaky(place: &Place) -> Value {
    place.write("flaky.sh", "test -e good && exec sleep 1000\nexit 1\n");
    place.write("good", "");
    json!({"name": "flaky", "script": "flaky.sh", "interpreter": "sh", "max_restarts": 1, "restart_delay": 10})
}

#[test]
fn what_was_told_and_what_was_not_taken_outlives_the_process_that_tells() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let (listen, hook) = (Port::reserve(), Port::reserve());
    let url = format!("http://127.0.0.1:{}/s3cret", hook.number());
    let alerts = json!([
        {"on": "errored", "app": "flaky", "every": "1s", "webhook": url},
        {"on": "down", "app": "flaky", "for": "1s", "every": "1s", "webhook": url},
    ]);
    let file = json!({"apps": [flaky(&place)], "observe": {"listen": listen.number(), "alerts": alerts}});
    place.write("site.json", &file.to_string());
    place.ok(&rpm, ["start", "site.json"]);

    // It fails for good while nobody takes messages, and the process that tells dies with them.
    std::fs::remove_file(place.path().join("good")).expect("it is there");
    kill(rpm.process(0).pid.expect("it runs"));
    rpm.wait_status("flaky", Status::Errored);
    let waiting = |state: &Value| state["waiting"][0]["messages"].as_array().map_or(0, Vec::len);
    // It looks at the processes every five seconds, and has to see it down twice.
    let kept = wait_until(
        "both wait",
        3 * BOUND,
        || state(&rpm),
        |state| waiting(state) == 2,
    );
    assert!(!kept.to_string().contains("s3cret"), "{kept}");
    let first = teller(&rpm).expect("it runs");
    kill(first);
    let received = receive(
        TcpListener::bind(("127.0.0.1", hook.number())).expect("it is reserved"),
        0,
    );
    wait_all(&received, &rpm, "fired", &["errored", "down"]);
    let settled = |state: &Value| waiting(state) == 0;
    wait_until("nothing waits", BOUND, || state(&rpm), settled);

    // The next one knows what was told: it says nothing of what lasts, and says that it is over.
    let second = wait_for("another one", BOUND, || teller(&rpm).filter(|pid| *pid != first));
    kill(second);
    let uptime = || {
        let status: Value = serde_json::from_str(&rpm.ok(["observe", "status", "--json"])).expect("JSON");
        let is_third = status["process"]["pid"].as_u64() != Some(second.into());
        status["process"]["uptime_ms"].as_u64().filter(|_| is_third)
    };
    // It has looked at the processes three times, five seconds apart.
    wait_until("a third one has looked around", 3 * BOUND, uptime, |uptime| {
        *uptime >= Some(12_000)
    });
    assert!(received.try_recv().is_err(), "told twice");
    place.write("good", "");
    rpm.ok(["restart", "flaky"]);
    let texts = wait_all(&received, &rpm, "recovered", &["errored", "down"]);
    assert!(
        texts.iter().all(|text| text.contains("recovered: flaky")),
        "{texts:?}"
    );
    assert!(received.try_recv().is_err(), "told twice");
}

#[test]
fn a_body_of_the_users_own_is_sent() {
    let (rpm, place, listen) = (Rpm::new(), Place::new(), Port::reserve());
    let (url, received) = receiver();
    let start = |template: Value| {
        let app = json!({"name": "api", "script": fixture("no-listen.js"), "interpreter": node(22)});
        let alerts = json!([{"on": "crash", "app": "api", "webhook": url, "template": template}]);
        let file = json!({"apps": [app], "observe": {"listen": listen.number(), "alerts": alerts}});
        place.write("site.json", &file.to_string());
        place.run(&rpm, ["start", "site.json"])
    };
    let refused = start(json!({"card": {"title": "{name}"}}));
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(
        refused
            .stderr
            .contains("`observe.alerts[0].template`.card.title: unknown {name}"),
        "{refused:#?}"
    );
    let started = start(json!(r#"{"msg": {text}, "tags": ["{app}/{on}", {state}]}"#));
    assert_eq!(started.code, Some(0), "{started:#?}");
    let tested = rpm.ok(["alerts", "test"]);
    assert!(tested.contains("it answered 204"), "{tested}");
    let body = next(&received, &rpm);
    assert_eq!(body["tags"], json!(["api/crash", "test"]), "{body}");
    let text = body["msg"].as_str().expect("a text");
    assert!(
        text.contains("test: api: this is how a message about \"crash\" arrives"),
        "{text}"
    );
    kill(rpm.process(0).pid.expect("it runs"));
    let body = next(&received, &rpm);
    assert_eq!(body["tags"], json!(["api/crash", "fired"]), "{body}");
}
