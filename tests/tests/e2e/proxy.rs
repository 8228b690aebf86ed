//! `--balance proxy`: the daemon speaks HTTP and forwards each request.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::clients::Clients;
use rpm_e2e::complaint::assert_says;
use rpm_e2e::outside::{freeze, kill, thaw};
use rpm_e2e::place::Place;
use rpm_e2e::raw::Connection;
use rpm_e2e::steering::{talkative, undisturbed};
use rpm_testkit::{Outcome, Port, Process, Rpm, Status, node, wait_until};

const BOUND: Duration = Duration::from_secs(20);
/// Clients of each kind.
const CLIENTS: usize = 8;
/// Responses between two events.
const SOME: u64 = 100;

fn web(instances: &str, port: &Port) -> App {
    App::cluster("hello.js", instances)
        .args(["--name", "web", "--balance", "proxy"])
        .port(port)
}

/// Workers' backlogs are longer than they asked for (511 for Node), because the proxy's connections come at once if all clients do.
fn has_room_for_all(rpm: &Rpm) {
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux says");
    let most: u32 = most.trim().parse().expect("a number");
    for slot in &rpm.describe("web").listeners[0].slots {
        assert_eq!(slot.backlog, most.min(4096), "{slot:?}");
    }
}

#[test]
fn there_is_room_also_where_no_call_is_intercepted() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("2", &port).args(["--no-intercept"]).start(&rpm);
    has_room_for_all(&rpm);
}

#[test]
fn requests_of_one_connection_take_turns() {
    let (rpm, port) = (talkative(Rpm::new()), Port::reserve());
    web("3", &port).start(&rpm);
    let app = rpm.describe("web");
    assert_eq!(
        (app.plane.as_str(), app.listeners[0].steering.as_str()),
        ("proxy", "proxy")
    );
    assert_eq!(
        app.listeners[0].address,
        format!("tcp 127.0.0.1:{}", port.number())
    );
    has_room_for_all(&rpm);
    let served = undisturbed(&rpm, || {
        let mut connection = Connection::open(&port);
        let mut served: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..30 {
            let answer = connection.get("/");
            assert_eq!(answer.status, 200);
            *served.entry(answer.body).or_insert(0) += 1;
        }
        served
    });
    assert_eq!(
        served.values().copied().collect::<Vec<_>>(),
        [10; 3],
        "{served:?}"
    );
    rpm.ok(["delete", "web"]);
    assert!(
        TcpStream::connect(("127.0.0.1", port.number())).is_err(),
        "nobody accepts"
    );
}

#[test]
fn reloads_and_scaling_lose_nothing_and_cut_no_client() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("2", &port).start(&rpm);
    let mut kept = Connection::open(&port);
    assert_eq!(kept.get("/").status, 200);
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    for _ in 0..3 {
        rpm.ok(["reload", "web", "--wait"]);
        clients.wait_ok(SOME);
    }
    rpm.ok(["scale", "web", "4"]);
    clients.wait_ok(SOME);
    rpm.ok(["scale", "web", "2"]);
    clients.wait_ok(SOME);
    let answer = kept.get("/");
    assert!(
        answer.status == 200 && !answer.head.contains("connection: close"),
        "{}",
        answer.head
    );
    clients.finish_clean(&rpm);
}

#[test]
fn programs_that_know_nothing_of_it_are_behind_it_too() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.py", "2")
        .args(["--name", "web", "--balance", "proxy"])
        .port(&port)
        .start(&rpm);
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    for _ in 0..2 {
        rpm.ok(["reload", "web", "--wait"]);
        clients.wait_ok(SOME);
    }
    has_room_for_all(&rpm);
    clients.finish_clean(&rpm);
}

#[test]
fn the_log_says_which_worker_has_not_answered_and_why() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    place.write(
        "app.js",
        "require('http').createServer((q, r) => {
            if (q.url === '/odd') return q.socket.end('SSH-2.0-OpenSSH\\r\\n\\r\\n');
            if (q.url === '/end') q.socket.destroy();
        }).listen(process.env.PORT);",
    );
    let words = [
        "start",
        "app.js",
        "-i",
        "1",
        "--balance",
        "proxy",
        "--response-timeout",
        "1s",
    ];
    let mut start = rpm.command(words);
    start
        .current_dir(place.path())
        .env("PORT", port.number().to_string());
    assert!(start.output().expect("it runs").status.success(), "{}", rpm.log());
    for (path, status, why) in [
        ("/odd", 502, "malformed upstream response"),
        ("/end", 502, "connection closed before the response"),
        ("/never", 504, "upstream response timed out"),
    ] {
        // The daemon logs the failures of a worker at most once per second. A worker that gets no CPU has not answered in time, whatever it
        // would have said.
        let told = || {
            let mut connection = Connection::open(&port);
            connection.send(&format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
            ));
            let answered = connection.answer().status;
            assert!([status, 504].contains(&answered), "{path}: {answered}");
            (answered, rpm.log())
        };
        wait_until("the log says why", BOUND, told, |(answered, log)| {
            let mut lines = log.lines();
            *answered == status && lines.any(|line| line.contains(why) && line.contains("instance=0"))
        });
    }
}

/// No client waits for a worker that was stopped on purpose.
#[test]
fn what_a_stopped_program_has_not_answered_is_told_at_once() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    place.write(
        "app.py",
        "import http.server, os, threading
class Never(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        open(os.environ['HERE'] + '/asked', 'w').close()
        threading.Event().wait()
http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Never).serve_forever()
",
    );
    let words = ["start", "app.py", "-n", "app", "-i", "2", "--balance", "proxy"];
    let times = [
        "--hold-timeout",
        "10m",
        "--drain-timeout",
        "100ms",
        "--kill-timeout",
        "100ms",
    ];
    let mut start = rpm.command(words);
    start
        .args(times)
        .current_dir(place.path())
        .env("HERE", place.path())
        .env("PORT", port.number().to_string());
    assert!(start.output().expect("it runs").status.success(), "{}", rpm.log());
    let mut connection = Connection::open(&port);
    connection.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_until(
        "it is with a worker",
        BOUND,
        || place.path().join("asked").exists(),
        |asked| *asked,
    );
    rpm.ok(["stop", "app"]);
    let answer = connection.answer();
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (503, "no worker available\n")
    );
}

fn replaced(rpm: &Rpm, id: u32, victim: u32) {
    let now = |now: &Process| now.status == Status::Online && now.pid.is_some_and(|pid| pid != victim);
    wait_until("a replacement", BOUND, || rpm.process(id), now);
}

#[test]
fn a_killed_worker_costs_no_get() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("2", &port).start(&rpm);
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    for round in 0..5 {
        let victim = rpm.process(round % 2).pid.expect("it runs");
        kill(victim);
        replaced(&rpm, round % 2, victim);
        clients.wait_ok(SOME);
    }
    for (kind, report) in clients.finish() {
        // A response that has begun cannot be sent again.
        report
            .check_allowing(&[Outcome::Truncated])
            .unwrap_or_else(|error| panic!("{kind:?}: {error}\n{}", rpm.log()));
    }
}

#[test]
fn requests_wait_while_the_only_worker_is_replaced() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("1", &port).start(&rpm);
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    for _ in 0..3 {
        let victim = rpm.process(0).pid.expect("it runs");
        kill(victim);
        replaced(&rpm, 0, victim);
        clients.wait_ok(SOME);
    }
    for (kind, report) in clients.finish() {
        report
            .check_allowing(&[Outcome::Truncated])
            .unwrap_or_else(|error| panic!("{kind:?}: {error}\n{}", rpm.log()));
    }
}

#[test]
fn a_frozen_worker_gets_nothing_new() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("4", &port).start(&rpm);
    let victim = rpm.process(1).pid.expect("it runs");
    freeze(victim);
    // Some notice; the others are served by its siblings.
    let served = wait_until(
        "answers of the others alone",
        BOUND,
        || {
            let answers = (0..20).filter(|_| {
                let mut connection = Connection::open(&port);
                connection.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
                !connection.is_silent(Duration::from_secs(2)) && connection.line().contains("200")
            });
            answers.count()
        },
        |count| *count == 20,
    );
    assert_eq!(served, 20);
    thaw(victim);
}

#[test]
fn heads_are_made_for_whom_they_go_to() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    place.write(
        "app.js",
        "require('http').createServer((q, r) => {
            if (q.url === '/echo') { r.setHeader('x-hop', '1'); r.setHeader('connection', 'x-hop'); }
            const body = JSON.stringify(q.headers); r.setHeader('content-length', body.length); r.end(body);
        }).listen(process.env.PORT);",
    );
    let mut start = rpm.command(["start", "app.js", "-i", "1", "--balance", "proxy"]);
    start
        .current_dir(place.path())
        .env("PORT", port.number().to_string());
    assert!(start.output().expect("it runs").status.success(), "{}", rpm.log());
    let mut connection = Connection::open(&port);
    connection.send(
        "GET /echo HTTP/1.1\r\nHost: shop\r\nConnection: x-own\r\nX-Own: 1\r\nX-Forwarded-For: 10.9.9.9\r\n\r\n",
    );
    let answer = connection.answer();
    let seen: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(seen["x-forwarded-for"], "127.0.0.1", "{seen}");
    assert_eq!(
        (&seen["host"], &seen["x-forwarded-host"]),
        (&"shop".into(), &"shop".into())
    );
    assert_eq!(
        (seen.get("x-own"), seen.get("connection")),
        (None, None),
        "{seen}"
    );
    assert!(!answer.head.contains("x-hop"), "{}", answer.head);
    // A request that two readers could interpret differently is rejected, and the connection closed.
    for (text, status) in [
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
            400,
        ),
        ("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nBad Name: 1\r\n\r\n", 400),
        ("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    ] {
        let mut connection = Connection::open(&port);
        connection.send(text);
        assert_eq!(connection.answer().status, status, "{text:?}");
    }
}

#[test]
fn whether_a_body_is_wanted_is_for_the_worker_to_say() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    place.write(
        "app.js",
        "const server = require('http').createServer((q, r) => {
            let length = 0;
            q.on('data', (part) => { length += part.length; });
            q.on('end', () => r.writeHead(200, { 'content-length': 1 }).end(String(length)));
        });
        server.on('checkContinue', (q, r) => {
            if (q.url === '/no') return r.writeHead(417, { 'content-length': 0 }).end();
            r.writeContinue();
            r.writeEarlyHints({ link: '</style.css>; rel=preload' });
            server.emit('request', q, r);
        });
        server.listen(process.env.PORT);",
    );
    let mut start = rpm.command(["start", "app.js", "-i", "1", "--balance", "proxy"]);
    start
        .current_dir(place.path())
        .env("PORT", port.number().to_string());
    assert!(start.output().expect("it runs").status.success(), "{}", rpm.log());
    let post = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    };
    let mut connection = Connection::open(&port);
    for _ in 0..2 {
        connection.send(&post("/"));
        assert_eq!(connection.answer().status, 100);
        let hints = connection.answer();
        assert!(
            hints.status == 103 && hints.head.contains("</style.css>"),
            "{hints:?}"
        );
        connection.send("hello");
        let answer = connection.answer();
        assert_eq!((answer.status, answer.body.as_str()), (200, "5"));
    }
    connection.send(&post("/no"));
    assert_eq!(connection.answer().status, 417);
}

#[test]
fn a_websocket_goes_through_and_ends_with_its_worker() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    place.write("app.js", ECHO);
    let mut start = rpm.command(["start", "app.js", "-n", "app", "-i", "1", "--balance", "proxy"]);
    start
        .current_dir(place.path())
        .env("PORT", port.number().to_string());
    assert!(start.output().expect("it runs").status.success(), "{}", rpm.log());
    let mut connection = Connection::open(&port);
    connection.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    let answer = connection.answer();
    assert!(
        answer.status == 101 && answer.head.contains("upgrade: echo"),
        "{}",
        answer.head
    );
    connection.send("ping\r\n");
    let mut line = String::new();
    line.push_str(&connection.line());
    assert_eq!(line, "ping\r\n");
    rpm.ok(["delete", "app", "--hard"]);
    assert!(connection.has_ended());
}

#[test]
fn clients_may_speak_http_2() {
    let (rpm, port) = (talkative(Rpm::new()), Port::reserve());
    web("2", &port).start(&rpm);
    let url = format!("http://127.0.0.1:{}/", port.number());
    let served = undisturbed(&rpm, || {
        let mut served = BTreeMap::new();
        for _ in 0..4 {
            let done = Command::new("curl")
                .args([
                    "--silent",
                    "--http2-prior-knowledge",
                    "--write-out",
                    " %{http_version} %{http_code}",
                    &url,
                ])
                .output()
                .expect("curl runs");
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            assert!(text.ends_with(" 2 200"), "{text}");
            *served.entry(text).or_insert(0) += 1;
        }
        served
    });
    assert_eq!(
        served.into_values().collect::<Vec<_>>(),
        [2, 2],
        "each worker has half"
    );
}

/// The part of a WebSocket server that is needed: it switches, and echoes bytes.
const ECHO: &str = "const s = require('http').createServer((q, r) => r.end('http'));
    s.on('upgrade', (q, socket) => {
        socket.write(`HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: ${q.headers.upgrade}\\r\\nConnection: Upgrade\\r\\n\\r\\n`);
        socket.pipe(socket);
    });
    s.listen(process.env.PORT);";

#[test]
fn websockets_come_over_http_2_too() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    place.write("app.js", ECHO);
    place.write(
        "client.js",
        "const client = require('http2').connect(`http://127.0.0.1:${process.env.PORT}`);
        client.on('remoteSettings', (settings) => {
            if (!settings.enableConnectProtocol) throw new Error('not offered');
            const socket = client.request({ ':method': 'CONNECT', ':protocol': 'websocket', ':path': '/chat', 'sec-websocket-version': '13' });
            socket.on('response', (head) => { console.log(head[':status']); socket.write('ping'); });
            socket.on('data', (data) => { console.log(String(data)); client.destroy(); });
        });",
    );
    let mut start = rpm.command(["start", "app.js", "-n", "app", "-i", "1", "--balance", "proxy"]);
    start
        .current_dir(place.path())
        .env("PORT", port.number().to_string());
    assert!(start.output().expect("it runs").status.success(), "{}", rpm.log());
    let client = Command::new(node(22))
        .arg(place.path().join("client.js"))
        .env("PORT", port.number().to_string())
        .output()
        .expect("Node runs");
    let said = String::from_utf8_lossy(&client.stdout).into_owned();
    assert_eq!(said, "200\nping\n", "{}", String::from_utf8_lossy(&client.stderr));
}

#[test]
fn a_client_that_nobody_here_wrote_is_served_over_http_2() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("2", &port).start(&rpm);
    let done = Command::new("h2load")
        .args(["-n", "2000", "-c", "10", "-m", "10", "-T", "100"])
        .arg(format!("http://127.0.0.1:{}/", port.number()))
        .output()
        .expect("h2load runs");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout")
            && said.contains("status codes: 2000 2xx"),
        "{said}"
    );
}

#[test]
fn one_process_that_owns_its_port_cannot_be_behind_it() {
    let rpm = Rpm::new();
    let refused = App::new("hello.js").args(["--balance", "proxy"]).try_start(&rpm);
    assert_says(&refused, &["runs in fork mode", "-i 1"]);
}
