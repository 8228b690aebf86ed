//! The proxy at the edge: TLS, limits, names, logs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::ask::{different, metric};
use rpm_e2e::certificate::certificate;
use rpm_e2e::clients::Clients;
use rpm_e2e::complaint::assert_says;
use rpm_e2e::place::Place;
use rpm_e2e::raw::Connection;
use rpm_testkit::{Port, Rpm, fixture, wait_until};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(20);

pub(crate) fn edge(instances: &str, port: &Port) -> App {
    App::cluster("edge.js", instances)
        .args(["--name", "edge", "--balance", "proxy"])
        .port(port)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("it is UTF-8")
}

#[test]
fn what_cannot_be_done_is_refused_with_what_to_do() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let [one, other] = ["one", "other"].map(|name| certificate(&place, name, "a.test"));
    let refused = |options: &[&str], said: &[&str]| {
        let done = edge("1", &port).args(options.iter().copied()).try_start(&rpm);
        assert_says(&done, said);
    };
    let missing = place.path().join("missing.crt");
    refused(
        &["--tls-cert", text(&one[0]), "--tls-key", text(&other[1])],
        &["not the key of the certificate", "other.key"],
    );
    refused(
        &["--tls-cert", text(&missing), "--tls-key", text(&one[1])],
        &["missing.crt", "cannot read a certificate"],
    );
    refused(&["--tls-cert", text(&one[0])], &["1 certificate and no key"]);
    refused(&["--redirect-http", "8080"], &["has no certificate"]);
    refused(
        &["--check-interval", "1s"],
        &["has no health check", "--health-check"],
    );
    refused(
        &["--max-head", "1K"],
        &["max_head must be between 4096 and 1048576 bytes, not 1024"],
    );
    refused(&["--sticky", "a b"], &["cannot be the name of a cookie"]);
    let direct = App::cluster("edge.js", "1")
        .args(["--compress"])
        .port(&port)
        .try_start(&rpm);
    assert_says(&direct, &["is not behind the proxy", "--balance proxy"]);
    let direct = App::cluster("edge.js", "2")
        .args(["--policy", "latency"])
        .port(&port)
        .try_start(&rpm);
    assert_says(&direct, &["`latency`", "--balance proxy"]);
}

#[test]
fn a_load_balancer_before_it_says_who_the_client_is() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    edge("1", &port).args(["--proxy-protocol"]).start(&rpm);
    let seen = |first: &[u8]| -> Value {
        let mut connection = Connection::open(&port);
        connection.send_bytes(first);
        serde_json::from_str(&connection.get("/").body).expect("JSON")
    };
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n";
    assert_eq!(seen(line)["headers"]["x-forwarded-for"], "192.0.2.7");
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    binary.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    binary.extend([0; 16]);
    binary.extend([0x12, 0x34, 0, 80]);
    assert_eq!(seen(&binary)["headers"]["x-forwarded-for"], "2001:db8::7");
    let mut without = Connection::open(&port);
    without.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(without.has_ended(), "whoever does not speak it is not served");
}

#[test]
fn a_busy_worker_has_a_queue_before_it_and_it_has_an_end() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    edge("2", &port)
        .args([
            "--max-in-flight",
            "1",
            "--queue-limit",
            "1",
            "--queue-timeout",
            "20s",
        ])
        .start(&rpm);
    let ask = |path: &str| {
        let mut connection = Connection::open(&port);
        connection.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        connection
    };
    let in_flight = || {
        rpm.describe("edge").listeners[0]
            .slots
            .iter()
            .filter_map(|slot| slot.proxied)
            .map(|it| it.in_flight)
            .sum::<u32>()
    };
    let held = [ask("/hold"), ask("/hold")];
    wait_until("both are busy", BOUND, in_flight, |count| *count == 2);
    let mut waiting = ask("/");
    wait_until(
        "one waits",
        BOUND,
        || metric(&rpm, "rpm_proxy_queued"),
        |count| *count >= 1.0,
    );
    let answer = ask("/").answer();
    assert_eq!(answer.status, 503);
    assert!(
        answer.head.contains("retry-after: 1") && answer.body.contains("busy"),
        "{}",
        answer.head
    );
    // The worker of the client that leaves has room for the one that waits.
    let [_stays, goes] = held;
    drop(goes);
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn a_cookie_keeps_a_client_with_its_worker_across_reloads() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    edge("3", &port).args(["--sticky", "worker"]).start(&rpm);
    let ask = |cookie: Option<&str>| {
        let cookie = cookie
            .map(|cookie| format!("Cookie: other=9; {cookie}\r\n"))
            .unwrap_or_default();
        let mut connection = Connection::open(&port);
        connection.send(&format!("GET / HTTP/1.1\r\nHost: x\r\n{cookie}\r\n"));
        let answer = connection.answer();
        let seen: Value = serde_json::from_str(&answer.body).expect("JSON");
        let set = answer
            .head
            .lines()
            .find_map(|line| line.strip_prefix("set-cookie: "));
        let set = set.map(|line| line.split(';').next().unwrap_or_default().to_owned());
        (seen["number"].as_u64().expect("a number"), set)
    };
    let mut clients = BTreeMap::new();
    let numbers = different(3, || {
        let (number, cookie) = ask(None);
        clients.insert(number, cookie.expect("a cookie"));
        number
    });
    assert_eq!(numbers.len(), 3, "new clients take turns");
    let stay = || {
        for (number, cookie) in clients.iter().cycle().take(24) {
            assert_eq!(ask(Some(cookie)), (*number, None));
        }
    };
    stay();
    rpm.ok(["reload", "edge"]);
    stay();
    let (_, again) = ask(Some("worker=4711"));
    assert!(again.is_some(), "whose worker is not there gets another");
}

/// The worker that answers a client with this cookie, and the cookie that the client gets.
fn ask_slow(port: &Port, query: &str, cookie: &str) -> (String, Option<String>) {
    let mut connection = Connection::open(port);
    connection.send(&format!(
        "GET /{query} HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n\r\n"
    ));
    let answer = connection.answer();
    assert_eq!(answer.status, 200);
    let mut lines = answer.head.lines();
    let set = lines.find_map(|line| line.strip_prefix("set-cookie: "));
    let set = set.and_then(|line| line.split(';').next()).map(str::to_owned);
    (answer.body.trim().to_owned(), set)
}

#[test]
fn a_cookie_keeps_a_client_with_its_worker_while_that_is_busy() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("slow.js", "2")
        .args(["--name", "slow", "--balance", "proxy", "--sticky", "worker"])
        .port(&port)
        .start(&rpm);
    let (home, cookie) = ask_slow(&port, "", "other=1");
    let cookie = cookie.expect("a cookie");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            // Far longer than it takes until a worker counts as frozen.
            let busy = scope.spawn(|| ask_slow(&port, "?block=400", &cookie));
            for _ in 0..10 {
                assert_eq!(
                    ask_slow(&port, "", &cookie),
                    (home.clone(), None),
                    "{}",
                    rpm.log()
                );
            }
            assert_eq!(busy.join().expect("it is answered"), (home.clone(), None));
        }
    });
}

#[test]
fn a_worker_that_fails_its_health_check_gets_nothing() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    edge("2", &port)
        .args(["--health-check", "/health", "--check-interval", "50ms"])
        // The other worker must not fail for want of CPU: if none is healthy, all get requests.
        .args(["--health-timeout", "20s"])
        .start(&rpm);
    let mut connection = Connection::open(&port);
    let body: Value = serde_json::from_str(&connection.get("/ill").body).expect("JSON");
    let ill = body["number"].as_u64().expect("a number");
    let circuits = || -> Vec<String> {
        let shown = rpm.ok(["describe", "edge"]);
        shown
            .lines()
            .filter(|line| line.contains("fails its health check"))
            .map(str::to_owned)
            .collect()
    };
    wait_until("it is found out", BOUND, circuits, |circuits| circuits.len() == 1);
    let event = "fails its health check: /health is answered with status";
    let events = || rpm.ok(["events"]);
    wait_until("it is an event", BOUND, events, |events| events.contains(event));
    for _ in 0..20 {
        let body: Value = serde_json::from_str(&connection.get("/").body).expect("JSON");
        assert_ne!(body["number"], ill, "{body}");
    }
}

#[test]
fn each_request_has_a_line_in_the_access_log() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let log = place.path().join("access.log");
    edge("1", &port)
        .args(["--access-log", text(&log), "--access-log-format", "json"])
        .start(&rpm);
    let mut connection = Connection::open(&port);
    let length = connection.get("/a?b=\\c").body.len();
    connection.send("BAD\r\n\r\n");
    assert_eq!(connection.answer().status, 400);
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    let lines = wait_until("the lines are written", BOUND, lines, |text| {
        text.ends_with('\n') && text.lines().count() == 2
    });
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let [line, rejected] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    assert_eq!(rejected["status"], 400, "{rejected}");
    assert_eq!(
        (
            &line["client"],
            &line["method"],
            &line["target"],
            &line["status"],
            &line["bytes"]
        ),
        (
            &"127.0.0.1".into(),
            &"GET".into(),
            &"/a?b=\\c".into(),
            &200.into(),
            &length.into()
        ),
        "{line}"
    );
}

#[test]
fn answers_are_compressed_for_those_who_want_it() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    edge("1", &port).args(["--compress"]).start(&rpm);
    let page = |options: &[&str]| {
        let done = Command::new("curl")
            .args(["--silent", "--include", "--max-time", "20"])
            .args(options)
            .arg(format!("http://127.0.0.1:{}/text", port.number()))
            .output()
            .expect("curl runs");
        assert!(done.status.success(), "{done:?}");
        let text = String::from_utf8(done.stdout).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        (head.to_lowercase(), body.to_owned())
    };
    let (head, plain) = page(&[]);
    assert!(
        !head.contains("content-encoding") && head.contains("etag: \"1\""),
        "{head}"
    );
    for version in ["--http1.0", "--http1.1", "--http2-prior-knowledge"] {
        // A cache must not give the one to clients that accept gzip, nor the other to those that do not.
        let (head, body) = page(&[version]);
        assert!(body == plain && head.contains("vary: accept-encoding"), "{head}");
        let (head, body) = page(&["--compressed", version]);
        assert_eq!(body, plain, "{version}");
        assert!(
            head.contains("content-encoding: gzip") && head.contains("vary: accept-encoding"),
            "{head}"
        );
        assert!(head.contains("etag: w/\"1\""), "{head}");
    }
}

#[test]
fn what_is_not_http_is_passed_on_as_it_is() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    place.write(
        "app.js",
        "require('net').createServer((c) => { c.write(`${process.env.NODE_APP_INSTANCE}\\n`); c.pipe(c); }).listen(process.env.PORT);",
    );
    let mut start = rpm.command([
        "start",
        "app.js",
        "-i",
        "2",
        "--balance",
        "proxy",
        "--protocol",
        "tcp",
    ]);
    start
        .current_dir(place.path())
        .env("PORT", port.number().to_string());
    assert!(start.output().expect("it runs").status.success(), "{}", rpm.log());
    let numbers = different(2, || {
        let mut connection = Connection::open(&port);
        let number = connection.line();
        connection.send("\x16\x03 not HTTP\n");
        assert_eq!(connection.line(), "\x16\x03 not HTTP\n");
        number
    });
    assert_eq!(numbers.len(), 2, "connections take turns");
}

#[test]
fn what_the_proxy_is_to_do_is_changed_by_a_reload_without_a_loss() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let app = fixture("edge.js");
    let file = |more: &str| {
        place.write(
            "ecosystem.json",
            &format!(
                r#"{{"apps": [{{"name": "edge", "script": {:?}, "instances": 2, "balance": "proxy", "env": {{"PORT": "{}"}}{more}}}]}}"#,
                text(&app),
                port.number()
            ),
        );
    };
    let run = |verb: &str| {
        let mut command = rpm.command([verb, "ecosystem.json"]);
        let done = command.current_dir(place.path()).output().expect("it runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    file("");
    run("start");
    let clients = Clients::begin(&port, "/", 4);
    clients.wait_ok(50);
    file(r#", "sticky": "worker""#);
    run("reload");
    clients.wait_ok(50);
    clients.finish_clean(&rpm);
    assert!(
        Connection::open(&port)
            .get("/")
            .head
            .contains("set-cookie: worker=")
    );
}

#[test]
fn from_fork_mode_an_app_goes_behind_the_proxy_by_two_reloads() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let run = |verb: &str, how: &str| {
        let (script, port) = (fixture("edge.js"), port.number());
        let script = text(&script);
        place.write(
            "ecosystem.json",
            &format!(
                r#"{{"apps": [{{"name": "edge", "script": {script:?}, {how} "env": {{"PORT": "{port}"}}}}]}}"#
            ),
        );
        let mut command = rpm.command([verb, "ecosystem.json"]);
        let done = command.current_dir(place.path()).output().expect("it runs");
        (
            done.status.success(),
            String::from_utf8_lossy(&done.stderr).into_owned(),
        )
    };
    assert!(run("start", "").0);
    let listens = || !rpm.describe("edge").listeners.is_empty();
    wait_until("it listens", BOUND, listens, |listens| *listens);
    let proxied = r#""instances": 2, "balance": "proxy","#;
    let (done, said) = run("reload", proxied);
    assert!(
        !done && said.contains("cannot change to `balance: proxy`") && said.contains("two reloads"),
        "{said}"
    );
    assert_eq!(rpm.describe("edge").plane, "direct");
    for how in [r#""instances": 2,"#, proxied] {
        let (done, said) = run("reload", how);
        assert!(done, "{said}");
    }
    assert_eq!(rpm.describe("edge").plane, "proxy");
    assert_eq!(Connection::open(&port).get("/").status, 200);
}
