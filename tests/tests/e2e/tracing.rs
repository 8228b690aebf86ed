//! OTLP: spans of the proxy and metrics, at a receiver of the test's own.

mod receiver;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rpm_e2e::clients::{Clients, one_of};
use rpm_e2e::place::Place;
use rpm_e2e::raw::Connection;
use rpm_testkit::{Kind, Load, Port, Rpm, fixture, get, node, wait_for, wait_until};
use serde_json::{Value, json};

use receiver::{Receiver, SECRET, Seen, attribute, list};

const BOUND: Duration = Duration::from_secs(60);
/// Good answers between two events.
const SOME: u64 = 60;

struct Scene {
    rpm: Rpm,
    _place: Place,
    receiver: Arc<Receiver>,
    port: Port,
    listen: Port,
}

impl Scene {
    fn new(interval: &str) -> Scene {
        let (rpm, place, port, listen) = (Rpm::new(), Place::new(), Port::reserve(), Port::reserve());
        let (receiver, at) = Receiver::start();
        let otlp = json!({
            "url": format!("http://127.0.0.1:{at}/base/"), "headers": {"Authorization": "Bearer s3cret"}, "interval": interval,
        });
        let app = json!({
            "name": "web", "script": fixture("edge.js"), "interpreter": node(22), "instances": 2, "balance": "proxy",
            "trace_ratio": 1, "env": {"PORT": port.number(), "TOKEN": SECRET},
        });
        let file = json!({"apps": [app], "observe": {"listen": listen.number(), "otlp": otlp}});
        place.write("site.json", &file.to_string());
        let started = place.ok(&rpm, ["start", "site.json"]);
        let line = format!("otlp: metrics and traces sent to http://127.0.0.1:{at}");
        assert!(
            started.stderr.contains(&line) && !started.stderr.contains(SECRET),
            "{started:#?}"
        );
        let kept = std::fs::metadata(rpm.home().join("otlp.json")).expect("it is written");
        assert_eq!(kept.permissions().mode() & 0o777, 0o600);
        Scene {
            rpm,
            _place: place,
            receiver,
            port,
            listen,
        }
    }

    fn page(&self) -> String {
        get(self.listen.number(), "/metrics").map_or_else(|error| error.to_string(), |page| page.body)
    }

    /// Waits until a figure of the exporter's is one that is wanted.
    fn wait_figure(&self, name: &str, signal: &str, wanted: impl Fn(u64) -> bool) -> u64 {
        let start = format!("rpm_otlp_{name}_total{{signal=\"{signal}\"}} ");
        let figure = || {
            let page = self.page();
            let value = page.lines().find_map(|line| line.strip_prefix(&start));
            value.and_then(|value| value.parse::<u64>().ok())
        };
        let found = wait_until(name, BOUND, figure, |found| found.is_some_and(&wanted));
        found.expect("it is there")
    }

    /// Sends a request, and returns the `traceparent` that the worker got.
    fn ask(&self, over: Over, traceparent: Option<&str>) -> String {
        let path = "/asked?token=s3cret";
        let body = match over {
            Over::Http1 => {
                let field = traceparent.map_or_else(String::new, |value| format!("traceparent: {value}\r\n"));
                let mut client = Connection::open(&self.port);
                client.send(&format!(
                    "GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{field}\r\n"
                ));
                let answer = client.answer();
                assert_eq!(answer.status, 200, "{answer:?}");
                answer.body
            }
            Over::Http2 => {
                let mut curl = Command::new("curl");
                curl.args([
                    "--silent",
                    "--fail",
                    "--max-time",
                    "60",
                    "--http2-prior-knowledge",
                ]);
                if let Some(value) = traceparent {
                    curl.args(["--header", &format!("traceparent: {value}")]);
                }
                let url = format!("http://127.0.0.1:{}{path}", self.port);
                let ran = curl.arg(url).output().expect("curl runs");
                assert!(ran.status.success(), "{ran:?}");
                String::from_utf8(ran.stdout).expect("text")
            }
        };
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        answer["headers"]["traceparent"]
            .as_str()
            .expect("the worker gets one")
            .to_owned()
    }
}

#[derive(Clone, Copy, Debug)]
enum Over {
    Http1,
    Http2,
}

/// A request that a test has sent.
#[derive(Debug)]
struct Asked {
    /// The client's span, of a trace that is continued.
    parent: Option<String>,
    is_sampled: bool,
    /// What the worker got.
    trace: String,
    span: String,
}

/// Sends one request of each sort; `number` makes their traces others than those of before.
fn ask_each(scene: &Scene, number: u32) -> Vec<Asked> {
    let mut asked = Vec::new();
    for (place, over) in [(0, Over::Http1), (1, Over::Http2)] {
        for (sort, flags) in [Some("01"), Some("00"), None].into_iter().enumerate() {
            let trace = format!("{:032x}", 0xabcd_0000_u32 + number * 16 + place * 4 + sort as u32);
            let parent = format!("{:016x}", 0xef00 + sort);
            let field = flags.map(|flags| format!("00-{trace}-{parent}-{flags}"));
            let got = scene.ask(over, field.as_deref());
            let words: Vec<&str> = got.split('-').collect();
            let [_, got_trace, span, got_flags] = words[..] else {
                panic!("{got}");
            };
            assert_eq!(got_flags, flags.unwrap_or("01"), "{over:?}: {got}");
            assert_eq!(got_trace == trace, flags.is_some(), "{over:?}: {got}");
            assert_ne!(span, parent, "{over:?}: {got}");
            asked.push(Asked {
                parent: flags.map(|_| parent),
                is_sampled: got_flags == "01",
                trace: got_trace.to_owned(),
                span: span.to_owned(),
            });
        }
    }
    asked
}

/// Ends the clients, of which no request may have failed. Returns how many there were.
fn finished(clients: Clients, rpm: &Rpm) -> usize {
    let mut sent = 0;
    for (kind, report) in clients.finish() {
        let log = rpm.log();
        assert!(report.check_clean().is_ok(), "{}: {report}\n{log}", kind.as_str());
        sent += report.outcomes.ok();
    }
    usize::try_from(sent).expect("a few")
}

/// No request has two spans, and those that were asked have what they should.
fn check_spans(spans: &[Seen], asked: &[Asked]) {
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), spans.len(), "no two have the same number");
    let whole = spans
        .iter()
        .filter(|span| !span.attribute("http.response.status_code").is_empty());
    whole.for_each(Seen::check);
    let mut by_trace: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
    for span in spans {
        by_trace.entry(&span.trace).or_default().push(span);
    }
    for asked in asked {
        let found = by_trace.get(asked.trace.as_str()).map_or(&[][..], Vec::as_slice);
        match (asked.is_sampled, found) {
            (false, []) => {}
            (true, [span]) => {
                assert_eq!(span.id, asked.span, "the worker's parent is the proxy's span");
                assert_eq!(span.parent, asked.parent.clone().unwrap_or_default(), "{asked:?}");
                assert_eq!(span.attribute("url.path"), "/asked");
            }
            _ => panic!("{asked:?}: {found:?}"),
        }
    }
}

#[test]
fn each_sampled_request_has_one_span_during_a_reload_too() {
    let scene = Scene::new("60s");
    let load = |kind| Load {
        kind,
        ..one_of(3, &scene.port, 4)
    };
    let clients = Clients::of(&[Kind::Http2, Kind::KeepAlive, Kind::NewConnection].map(load));
    clients.wait_ok(SOME);
    let mut asked = ask_each(&scene, 0);
    thread::scope(|threads| {
        let reload = threads.spawn(|| clients.through(|| scene.rpm.ok(["reload", "web"])));
        let mut number = 1;
        while !reload.is_finished() {
            asked.extend(ask_each(&scene, number));
            number += 1;
        }
        reload.join().expect("it is reloaded");
    });
    asked.extend(ask_each(&scene, 1_000_000));
    clients.wait_ok(SOME);
    let expected = finished(clients, &scene.rpm) + asked.iter().filter(|it| it.is_sampled).count();
    // Requests that clients have given up have no status, and stand for none of those.
    let is_good = |span: &Seen| span.attribute("http.response.status_code") == "200";
    let count = || scene.receiver.spans().iter().filter(|span| is_good(span)).count();
    wait_until("every span has come", BOUND, count, |count| *count >= expected);
    let spans = scene.receiver.spans();
    check_spans(&spans, &asked);
    // Requests that clients have given up when they stopped have spans, too.
    let most = expected + 3 * 4 * 4;
    assert!(
        spans.len() <= most,
        "{} spans of {expected} requests",
        spans.len()
    );
    let workers: BTreeSet<String> = spans.iter().map(|span| span.attribute("rpm.worker")).collect();
    assert!(workers.contains("0") && workers.contains("1"), "{workers:?}");
    let page = scene.page();
    assert!(
        page.contains("rpm_otlp_dropped_total{signal=\"traces\"} 0\n"),
        "{page}"
    );
    scene.receiver.assert_says_nothing_secret();
    let said =
        scene.rpm.ok(["logs", "rpm-observe", "--nostream"]) + &scene.rpm.ok(["describe", "rpm-observe"]);
    assert!(
        said.contains("otlp: spans are sent to http://127.0.0.1:") && !said.contains(SECRET),
        "{said}"
    );
}

/// The metrics of a service, and of one of its instances, by name.
fn metrics(receiver: &Receiver, service: &str, instance: &str) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for body in receiver.posted("/base/v1/metrics") {
        for resource in list(&body["resourceMetrics"]) {
            let of = |key: &str| attribute(&resource["resource"]["attributes"], key);
            let host = of("host.name");
            assert!(!host.is_empty());
            if of("service.name") == service && of("service.instance.id") == format!("{host}{instance}") {
                for metric in list(&resource["scopeMetrics"][0]["metrics"]) {
                    found.insert(
                        metric["name"].as_str().expect("a name").to_owned(),
                        metric.clone(),
                    );
                }
            }
        }
    }
    found
}

/// The proxy has counted a good answer: metrics that came before the first request have none.
fn has_counted(web: &BTreeMap<String, Value>) -> bool {
    let answers = web.get("rpm_proxy_answers_total");
    let points = answers.map_or(&[][..], |answers| list(&answers["sum"]["dataPoints"]));
    let mut of_status = points
        .iter()
        .filter(|it| attribute(&it["attributes"], "status") == "2xx");
    of_status.any(|it| it["asDouble"].as_f64() >= Some(1.0))
}

/// What an instance uses is known: it is sampled now and then.
fn has_memory(receiver: &Receiver, instance: &str) -> bool {
    let own = metrics(receiver, "web", instance);
    own.get("rpm_worker_memory_bytes")
        .is_some_and(|memory| memory["gauge"]["dataPoints"][0]["asDouble"].as_f64() > Some(1e6))
}

/// What the page has is there, each with its type.
fn check_metrics(receiver: &Receiver) {
    let web = wait_for("the figures of proxy and workers", BOUND, || {
        let web = metrics(receiver, "web", "");
        let known = has_counted(&web) && ["/0", "/1"].iter().all(|instance| has_memory(receiver, instance));
        known.then_some(web)
    });
    let answers = &web["rpm_proxy_answers_total"]["sum"];
    assert_eq!(
        (&answers["isMonotonic"], &answers["aggregationTemporality"]),
        (&json!(true), &json!(2))
    );
    let good = list(&answers["dataPoints"])
        .iter()
        .find(|it| attribute(&it["attributes"], "status") == "2xx");
    assert!(
        good.expect("a point")["asDouble"].as_f64() >= Some(1.0),
        "{answers}"
    );
    let times = &web["rpm_proxy_answer_seconds"]["histogram"];
    let point = &times["dataPoints"][0];
    assert_eq!(
        list(&point["bucketCounts"]).len(),
        list(&point["explicitBounds"]).len() + 1,
        "{times}"
    );
    assert_eq!(times["aggregationTemporality"], 2);
    assert!(web["rpm_workers"]["gauge"]["dataPoints"][0]["asDouble"].is_number());
    for instance in ["/0", "/1"] {
        let own = metrics(receiver, "web", instance);
        let memory = &own["rpm_worker_memory_bytes"];
        assert_eq!(memory["unit"], "By");
        assert!(
            memory["gauge"]["dataPoints"][0]["asDouble"].as_f64() > Some(1e6),
            "{memory}"
        );
    }
    assert_eq!(
        metrics(receiver, "rpm", "")["rpm_up"]["gauge"]["dataPoints"][0]["asDouble"],
        1.0
    );
}

#[test]
fn metrics_have_their_types_and_a_receiver_that_is_away_costs_nothing_but_time() {
    let scene = Scene::new("500ms");
    // Nobody takes anything for a while.
    scene.receiver.answer(503);
    let mut asked = ask_each(&scene, 0);
    for signal in ["traces", "metrics"] {
        scene.wait_figure("failures", signal, |count| count > 0);
    }
    asked.extend(ask_each(&scene, 1));
    scene.wait_figure("dropped", "metrics", |count| count > 0);
    scene.receiver.answer(0);
    let sampled: BTreeSet<String> = asked
        .iter()
        .filter(|it| it.is_sampled)
        .map(|it| it.span.clone())
        .collect();
    let ids = || {
        scene
            .receiver
            .spans()
            .into_iter()
            .map(|span| span.id)
            .collect::<Vec<_>>()
    };
    let came = wait_until("all spans have come", BOUND, ids, |ids| {
        ids.len() >= sampled.len()
    });
    assert_eq!(came.len(), sampled.len(), "each came once");
    assert_eq!(came.into_iter().collect::<BTreeSet<_>>(), sampled);
    assert_eq!(scene.wait_figure("dropped", "traces", |_| true), 0);

    // What is refused for good is dropped, and counted.
    scene.receiver.answer(400);
    let refused = ask_each(&scene, 2).iter().filter(|it| it.is_sampled).count() as u64;
    scene.wait_figure("dropped", "traces", |count| count == refused);
    scene.receiver.answer(0);

    check_metrics(&scene.receiver);
    scene.receiver.assert_says_nothing_secret();
}

#[test]
fn the_environment_says_where_if_no_file_does() {
    let (receiver, at) = Receiver::start();
    let (port, listen) = (Port::reserve(), Port::reserve());
    let rpm = Rpm::new()
        .with_env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            &format!("http://127.0.0.1:{at}/base"),
        )
        .with_env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret")
        .with_env("OTEL_METRICS_EXPORTER", "none")
        .with_env("OTEL_SERVICE_NAME", "shop");
    rpm_e2e::app::App::cluster("edge.js", "1")
        .args(["--name", "web", "--balance", "proxy", "--trace-ratio", "1"])
        .port(&port)
        .start(&rpm);
    rpm.ok(["observe", "on", "--listen", &listen.to_string()]);
    assert_eq!(get(port.number(), "/").expect("an answer").status, 200);
    let spans = wait_until("its span", BOUND, || receiver.spans(), |spans| !spans.is_empty());
    assert_eq!((spans.len(), spans[0].service.as_str()), (1, "shop"));
    assert_eq!(spans[0].attribute("rpm.app"), "web");
    assert_eq!(receiver.posted("/base/v1/metrics").len(), 0);
    receiver.assert_says_nothing_secret();
    // Each span is given to one client, and that reads.
    let refused = rpm.api("GET", "/v1/spans", "");
    assert_eq!(refused.status, 422, "{refused:?}");
    // Without the option nothing is added.
    rpm.ok(["reload", "web", "--trace-ratio", "0"]);
    let answer = get(port.number(), "/").expect("an answer");
    assert!(!answer.body.contains("traceparent"), "{answer:?}");
}
