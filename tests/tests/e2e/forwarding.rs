//! Logs that are sent on: no line is missing, whoever dies, whatever is rotated, and however long the receivers are away.

mod syslog;

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use flate2::read::GzDecoder;
use rpm_e2e::outside::{kill, kill_daemon};
use rpm_e2e::place::Place;
use rpm_e2e::posted::Posted;
use rpm_testkit::{Port, Rpm, get, wait_for, wait_until};
use serde_json::{Value, json};

/// Everything here waits for pauses of up to 30 s after failures.
pub(crate) const BOUND: Duration = Duration::from_secs(90);
/// Lines of one order to the app.
const LINES: u32 = 5_000;
/// What it prints: numbered lines, an object, and a stack.
pub(crate) const WRITER: &str = r#"
while read -r what; do
  case "$what" in
    object) echo '{"level":50,"time":"2026-03-05T13:07:09.042Z","msg":"boom","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","user":7}' ;;
    stack) printf 'Error: deep\n    at f\n    at g\n' ;;
    *) seq -f 'line %.0f.' "$what" "$((what + 4999))" ;;
  esac
done
"#;

/// Receivers of every kind, of which all are there or away.
#[derive(Default)]
struct Receivers {
    away: AtomicBool,
    requests: AtomicU32,
    /// Texts in the order of arrival, by kind.
    texts: Mutex<BTreeMap<&'static str, Vec<String>>>,
    /// Records of OTLP.
    records: Mutex<Vec<Value>>,
}

impl Receivers {
    fn add(&self, kind: &'static str, text: &str) {
        let mut texts = self.texts.lock().expect("nobody panics");
        texts.entry(kind).or_default().push(text.to_owned());
    }

    /// How often each numbered line has arrived.
    fn lines(&self, kind: &str) -> BTreeMap<u32, u32> {
        let texts = self.texts.lock().expect("nobody panics");
        let mut lines = BTreeMap::new();
        let numbers = texts
            .get(kind)
            .into_iter()
            .flatten()
            .filter_map(|text| number(text));
        numbers.for_each(|number| *lines.entry(number).or_default() += 1);
        lines
    }

    /// The numbers in the order of their first arrival.
    fn is_in_order(&self, kind: &str) -> bool {
        let texts = self.texts.lock().expect("nobody panics");
        let mut newest = 0;
        let numbers = texts[kind].iter().filter_map(|text| number(text));
        numbers.fold(true, |so_far, number| {
            let follows = number <= newest + 1;
            newest = newest.max(number);
            so_far && follows
        })
    }
}

fn number(text: &str) -> Option<u32> {
    text.strip_prefix("line ")?.strip_suffix('.')?.parse().ok()
}

/// Serves each client on a thread of its own.
fn serve(receivers: &Arc<Receivers>, with: fn(&Receivers, TcpStream) -> io::Result<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let receivers = Arc::clone(receivers);
    thread::spawn(move || {
        for client in listener.incoming() {
            let receivers = Arc::clone(&receivers);
            // A client that is killed is none of ours.
            thread::spawn(move || with(&receivers, client.expect("a client")));
        }
    });
    port
}

fn http(receivers: &Receivers, client: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    while let Some(posted) = Posted::read(&mut reader)? {
        let length = posted.body.len();
        assert!(length < 2_000_000, "{length} bytes");
        // Destinations of this test are compressed but for one.
        let is_plain = posted.path() == "/v1/logs";
        assert_ne!(
            is_plain,
            posted.has("content-encoding: gzip"),
            "{}",
            posted.path()
        );
        let mut body = Vec::new();
        match is_plain {
            true => body = posted.body.clone(),
            false => drop(GzDecoder::new(&posted.body[..]).read_to_end(&mut body)?),
        }
        let is_known = posted.has("authorization: bearer s3cret");
        let (status, answer) = match receivers.away.load(Ordering::SeqCst) {
            _ if !is_known => ("401 Unauthorized", "who is Bearer nobody?".to_owned()),
            true => ("503 Service Unavailable", "away".to_owned()),
            false => ("200 OK", take(receivers, posted.path(), &body)),
        };
        write!(
            client,
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len()
        )?;
    }
    Ok(())
}

/// Something else than a receiver: it says what it was asked for, as it came and decoded.
fn echo(_: &Receivers, mut client: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut first, mut line) = (String::new(), String::new());
    reader.read_line(&mut first)?;
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let decoded = first.replace("%20", " ");
    let answer = format!("no handler found: {} [{}]", first.trim(), decoded.trim());
    write!(
        client,
        "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{answer}",
        answer.len()
    )
}

/// What was posted to this path; returns the answer.
fn take(receivers: &Receivers, path: &str, body: &[u8]) -> String {
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    match path {
        "/loki/api/v1/push" => {
            for stream in list(&json(body)["streams"]) {
                assert_eq!(
                    (&stream["stream"]["app"], &stream["stream"]["env"]),
                    (&json!("writer"), &json!("test"))
                );
                for value in list(&stream["values"]) {
                    receivers.add("loki", value[1].as_str().expect("a line"));
                }
            }
            String::new()
        }
        "/v1/logs" => {
            for resource in list(&json(body)["resourceLogs"]) {
                for record in list(&resource["scopeLogs"][0]["logRecords"]) {
                    receivers.add("otlp", record["body"]["stringValue"].as_str().expect("a text"));
                    receivers.records.lock().expect("nobody panics").push(record);
                }
            }
            "{}".to_owned()
        }
        "/_bulk" => {
            let lines: Vec<&[u8]> = body
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .collect();
            // Every third request is too much for it in part.
            let is_busy = receivers
                .requests
                .fetch_add(1, Ordering::SeqCst)
                .is_multiple_of(3);
            let mut items = Vec::new();
            for (number, pair) in lines.chunks(2).enumerate() {
                assert_eq!(json(pair[0])["create"]["_index"], "rpm-logs");
                let busy = is_busy && number % 2 == 1;
                if !busy {
                    receivers.add(
                        "elasticsearch",
                        json(pair[1])["message"].as_str().expect("a text"),
                    );
                }
                items.push(json!({"create": {"status": if busy { 429 } else { 201 }}}));
            }
            json!({"errors": is_busy, "items": items}).to_string()
        }
        _ => panic!("{path}"),
    }
}

const KINDS: [&str; 4] = ["loki", "otlp", "elasticsearch", "syslog"];

struct Scene {
    rpm: Rpm,
    /// What the app runs.
    _place: Place,
    receivers: Arc<Receivers>,
    listen: Port,
    _syslog_port: Port,
}

impl Scene {
    fn new() -> Scene {
        let (rpm, place, listen) = (Rpm::new(), Place::new(), Port::reserve());
        let receivers = Arc::new(Receivers::default());
        let url = format!("http://127.0.0.1:{}", serve(&receivers, http));
        let syslog_port = Port::reserve();
        syslog::serve(&receivers, syslog_port.number());
        let syslog = format!("tcp://127.0.0.1:{}", syslog_port.number());
        let (labels, headers) = (json!({"env": "test"}), json!({"Authorization": "Bearer s3cret"}));
        let mut logs: Vec<Value> = KINDS[..3]
            .iter()
            .map(|kind| json!({"to": kind, "url": url, "labels": labels, "headers": headers, "gzip": *kind != "otlp"}))
            .collect();
        logs.push(json!({"to": "syslog", "address": syslog, "labels": labels, "apps": "writer"}));
        let app = json!({"name": "writer", "script": "writer.sh", "interpreter": "sh", "log_max_size": "20K", "log_keep": 100});
        let file = json!({"apps": [app], "observe": {"listen": listen.number(), "logs": logs}});
        place.write("writer.sh", WRITER);
        place.write("site.json", &file.to_string());
        let started = place.ok(&rpm, ["start", "site.json"]);
        assert!(
            started.stderr.contains("logs: sent to loki-127.0.0.1:"),
            "{started:#?}"
        );
        Scene {
            rpm,
            _place: place,
            receivers,
            listen,
            _syslog_port: syslog_port,
        }
    }

    /// Has the app print, and waits until it has.
    fn print(&self, what: &str, last: &str) {
        self.rpm.ok(["send", "writer", what]);
        let files = || {
            std::fs::read_dir(self.rpm.home().join("logs"))
                .into_iter()
                .flatten()
                .flatten()
        };
        // The file with the last line may be one that is rotated since.
        let printed =
            || files().any(|file| std::fs::read_to_string(file.path()).is_ok_and(|text| text.contains(last)));
        wait_until("it is printed", BOUND, printed, |printed| *printed);
    }

    fn print_from(&self, first: u32) {
        self.print(&first.to_string(), &format!("line {}.", first + LINES - 1));
    }

    /// Waits until every receiver has every line up to this one.
    fn wait_all(&self, last: u32) {
        for kind in KINDS {
            let missing = || {
                let lines = self.receivers.lines(kind);
                (1..=last).filter(|line| !lines.contains_key(line)).count()
            };
            wait_until(&format!("{kind} has every line"), BOUND, missing, |missing| {
                *missing == 0
            });
            // Elasticsearch takes parts of a batch.
            assert!(
                kind == "elasticsearch" || self.receivers.is_in_order(kind),
                "{kind}"
            );
        }
    }

    fn observer(&self) -> Option<u32> {
        let status: Value =
            serde_json::from_str(&self.rpm.ok(["observe", "status", "--json"])).expect("JSON");
        status["process"]["pid"]
            .as_u64()
            .and_then(|pid| u32::try_from(pid).ok())
    }

    fn metrics(&self) -> String {
        get(self.listen.number(), "/metrics").map_or_else(|error| error.to_string(), |page| page.body)
    }
}

/// Every receiver has taken all: the metrics say so, and `observe status`.
fn nothing_is_behind(scene: &Scene) {
    let caught_up = |page: &String| {
        page.matches("rpm_logs_behind_bytes{").count() == 4
            && page
                .lines()
                .filter(|line| line.starts_with("rpm_logs_behind_bytes{"))
                .all(|line| line.ends_with(" 0"))
    };
    let page = wait_until("nothing is behind", BOUND, || scene.metrics(), caught_up);
    for figure in ["rpm_logs_refused_lines_total{", "rpm_logs_gaps_total{"] {
        let of_each: Vec<&str> = page.lines().filter(|line| line.starts_with(figure)).collect();
        let none = of_each.iter().all(|line| line.ends_with(" 0"));
        assert!(of_each.len() == KINDS.len() && none, "{of_each:?}");
    }

    // The process that is asked may be slow to answer, and then there is no list.
    let status =
        || -> Value { serde_json::from_str(&scene.rpm.ok(["observe", "status", "--json"])).expect("JSON") };
    let listed = |status: &Value| status["receivers"].is_array();
    let status = wait_until("the receivers are listed", BOUND, status, listed);
    let receivers = status["receivers"].as_array().expect("a list");
    assert_eq!(receivers.len(), KINDS.len(), "{status}");
    for receiver in receivers {
        assert_eq!(
            (&receiver["what"], &receiver["behind_bytes"]),
            (&json!("logs"), &json!(0))
        );
        assert_eq!(
            (&receiver["state"], &receiver["given_up"]),
            (&json!("idle"), &json!(0))
        );
        assert!(
            receiver["last_taken_ms"].is_u64() && receiver["taken"].as_u64() > Some(0),
            "{receiver}"
        );
    }
}

#[test]
fn no_line_is_missing_whoever_dies_and_whatever_is_away() {
    let scene = Scene::new();
    scene.print_from(1);
    scene.wait_all(LINES);

    // Nobody takes anything; meanwhile the logs are rotated, and everything that runs is killed.
    scene.receivers.away.store(true, Ordering::SeqCst);
    scene.print_from(1 + LINES);
    let failing = |page: &String| {
        let failures = page
            .lines()
            .filter(|line| line.starts_with("rpm_logs_forward_failures_total{"));
        failures.filter(|line| !line.ends_with(" 0")).count() == KINDS.len()
    };
    wait_until("all of them fail", BOUND, || scene.metrics(), failing);
    kill(scene.observer().expect("it runs"));
    kill_daemon(&scene.rpm);
    scene.print_from(1 + 2 * LINES);
    let worker = scene.rpm.process(0).pid.expect("it runs");
    kill(worker);
    let other = || scene.rpm.process(0).pid.filter(|pid| *pid != worker);
    wait_for("another worker", BOUND, other);
    scene.print_from(1 + 3 * LINES);
    assert!(
        scene.rpm.home().join("logs/writer-out.log.3").exists(),
        "it was rotated"
    );
    kill(wait_for("it runs again", BOUND, || scene.observer()));
    scene.receivers.away.store(false, Ordering::SeqCst);
    scene.wait_all(4 * LINES);

    nothing_is_behind(&scene);

    // It goes on where it was: what has arrived long ago does not come again.
    let positions = std::fs::read_dir(scene.rpm.home().join("forward"))
        .expect("positions")
        .flatten();
    let positions = positions.filter(|file| file.path().extension().is_some_and(|end| end == "json"));
    assert_eq!(positions.count(), KINDS.len());
    kill(scene.observer().expect("it runs"));
    scene.print_from(1 + 4 * LINES);
    scene.print("object", "boom");
    scene.print("stack", "at g");
    scene.wait_all(5 * LINES);
    for kind in KINDS {
        let lines = scene.receivers.lines(kind);
        assert!(lines[&(2 * LINES)] <= 2, "{kind}: {}", lines[&(2 * LINES)]);
        let has_stack = || {
            scene.receivers.texts.lock().expect("nobody panics")[kind]
                .iter()
                .any(|text| text == "Error: deep\n    at f\n    at g")
        };
        wait_until("a stack is one record", BOUND, has_stack, |has| *has);
    }
    let records = scene.receivers.records.lock().expect("nobody panics");
    let record = records
        .iter()
        .find(|record| record["body"]["stringValue"] == "boom")
        .expect("the object");
    assert_eq!(
        (&record["severityText"], &record["traceId"]),
        (&json!("error"), &json!("4bf92f3577b34da6a3ce929d0e0e4736"))
    );
    assert_eq!(record["timeUnixNano"], "1772716029042000000");
}

#[test]
fn a_destination_that_is_wrong_is_refused_and_one_that_is_gone_is_taken_back() {
    let (rpm, place, listen) = (Rpm::new(), Place::new(), Port::reserve());
    let app = json!({"name": "writer", "script": "writer.sh", "interpreter": "sh"});
    let start = |logs: &Value| {
        let file = json!({"apps": [app], "observe": {"listen": listen.number(), "logs": logs}});
        place.write("site.json", &file.to_string());
        place.run(&rpm, ["start", "site.json"])
    };
    place.write("writer.sh", WRITER);
    let wrong = json!([{"to": "loky", "url": "http://a"}, {"to": "otlp", "url": "http://u:s3cret@a"}]);
    let refused = start(&wrong);
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    for part in [
        "did you mean \"loki\"?",
        "`observe.logs[1].url` must be an address",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {refused:#?}");
    }
    assert!(!refused.stderr.contains("s3cret"), "{refused:#?}");

    let port = serve(&Arc::default(), echo);
    let url = format!("http://127.0.0.1:{port}/s3cret-path?token=s3cret%20token");
    let right = start(&json!([{"to": "loki", "url": url, "name": "far"}]));
    assert!(right.stderr.contains("logs: sent to far"), "{right:#?}");
    let mode = std::fs::metadata(rpm.home().join("forward.json"))
        .expect("it is written")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let page = || get(listen.number(), "/metrics").map_or_else(|error| error.to_string(), |page| page.body);
    wait_until("it is counted", BOUND, page, |page| {
        page.contains("rpm_logs_behind_bytes{destination=\"far\"}")
    });
    // What answers repeats what it was asked for.
    rpm.ok(["send", "writer", "object"]);
    let own = || rpm.ok(["logs", "rpm-observe", "--nostream"]);
    let has_answer = |log: &String| log.contains("it answered 404 Not Found: no handler found");
    let log = wait_until("its answer is told", BOUND, own, has_answer);
    assert!(!log.contains("s3cret"), "{log}");
    // The process that is asked may be slow to answer, and then there is no row.
    let status = || rpm.ok(["observe", "status"]);
    let listed = |status: &String| status.lines().any(|line| line.starts_with("logs "));
    let status = wait_until("the receiver is listed", BOUND, status, listed);
    let row: Vec<&str> = status
        .lines()
        .find(|line| line.starts_with("logs "))
        .map(|line| line.split_whitespace().collect())
        .expect("a receiver");
    assert_eq!((row[1], row.last()), ("far", Some(&"never")), "{status}");
    assert!(
        ["waiting", "sending"].contains(&row[2]) && status.contains("ago: it answered 404 Not Found"),
        "{status}"
    );
    assert!(!status.contains("s3cret"), "{status}");
    let none = start(&json!([]));
    assert!(none.stderr.contains("logs: sent nowhere"), "{none:#?}");
    wait_until("it is forgotten", BOUND, page, |page| !page.contains("rpm_logs_"));
    assert!(!own().contains("s3cret"));
}
