//! Workers that speak only HTTP/2, behind the proxy, as gRPC needs it.

use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::clients::{Clients, beside};
use rpm_e2e::outside::kill;
use rpm_e2e::place::Place;
use rpm_testkit::{Kind, Load, Outcome, Port, Process, Rpm, Status, get, wait_until};

const BOUND: Duration = Duration::from_secs(20);
/// Good answers between two events.
const SOME: u64 = 100;

/// Answers "NODE_APP_INSTANCE pid", with a trailer, as gRPC ends its responses.
const WORKER: &str = "
const server = require('node:http2').createServer();
server.on('stream', (stream, headers) => {
  let length = 0;
  stream.on('data', (data) => { length += data.length; });
  stream.on('end', () => {
    stream.respond({ ':status': 200, 'x-method': headers[':method'], 'x-host': headers[':authority'] }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0', length }));
    stream.end(`${process.env.NODE_APP_INSTANCE} ${process.pid}`);
  });
  stream.on('error', () => {});
});
server.listen(process.env.PORT);
";

/// Sends a body of this many bytes over HTTP/2 and prints what it receives.
const CLIENT: &str = "
const [port, length] = process.argv.slice(2).map(Number);
const session = require('node:http2').connect(`http://localhost:${port}`);
const stream = session.request({ ':method': 'POST', ':path': '/', te: 'trailers' });
const seen = {};
stream.on('response', (headers) => Object.assign(seen, { status: headers[':status'], method: headers['x-method'], host: headers['x-host'] }));
stream.on('trailers', (trailers) => Object.assign(seen, { grpc: trailers['grpc-status'], length: trailers.length }));
stream.on('data', () => {});
stream.on('close', () => { console.log(JSON.stringify(seen)); session.close(); });
stream.end(Buffer.alloc(length));
";

fn app(place: &Place, port: &Port) -> App {
    let script = place.write("worker.js", WORKER);
    App::of([script])
        .args([
            "--name",
            "rpc",
            "-i",
            "2",
            "--balance",
            "proxy",
            "--protocol",
            "h2c",
        ])
        .port(port)
}

#[test]
fn bodies_and_trailers_go_both_ways() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    app(&place, &port).start(&rpm);
    let client = place.write("client.js", CLIENT);
    for length in ["0", "1", "3000000"] {
        let mut node = std::process::Command::new("node");
        let ran = node
            .arg(&client)
            .args([&port.to_string(), length])
            .output()
            .expect("it runs");
        let seen: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON");
        let expected = serde_json::json!({
            "status": 200, "method": "POST", "host": format!("localhost:{port}"), "grpc": "0", "length": length,
        });
        assert_eq!(seen, expected, "{}", rpm.log());
    }
    // HTTP/1 clients use the same port.
    let answer = get(port.number(), "/").expect("an answer");
    assert_eq!(answer.status, 200);
}

/// Clients of each kind.
const CLIENTS: usize = 8;

fn clients(port: &Port) -> Clients {
    let load = |kind| Load {
        kind,
        ..beside(port, CLIENTS)
    };
    Clients::of(&[Kind::Http2, Kind::KeepAlive, Kind::NewConnection].map(load))
}

#[test]
fn reloads_cost_no_request() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    app(&place, &port).start(&rpm);
    let clients = clients(&port);
    for _ in 0..3 {
        clients.wait_ok(SOME);
        rpm.ok(["reload", "rpc"]);
    }
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
}

/// The head of a response is passed on as soon as it arrives, so a response is cut off if its worker is killed before the end. Requests
/// without a response head go to another worker, and no other client notices.
#[test]
fn a_killed_worker_truncates_what_it_had_begun_and_nothing_else() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    app(&place, &port).start(&rpm);
    let clients = clients(&port);
    clients.wait_ok(SOME);
    let victim = rpm.process(1).pid.expect("it runs");
    kill(victim);
    let back = |process: &Process| process.status == Status::Online && process.pid != Some(victim);
    wait_until("its replacement", BOUND, || rpm.process(1), back);
    clients.wait_ok(SOME);
    for (kind, report) in clients.finish() {
        let only = report.outcomes.check_allowing(&[Outcome::Truncated]).is_ok();
        // An HTTP/2 connection has several requests in flight; every other client has one.
        let most = if kind == Kind::Http2 { 4 * CLIENTS } else { CLIENTS } as u64;
        let fine = only && report.outcomes.failures() <= most;
        assert!(fine, "{}: {report}\n{}", kind.as_str(), rpm.log());
    }
}

#[test]
fn a_health_check_would_be_asked_in_another_version() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let refused = app(&place, &port).args(["--health-check", "/"]).try_start(&rpm);
    assert!(
        refused.code == Some(1) && refused.stderr.contains("HTTP/2 only"),
        "{refused:?}"
    );
}

/// An HTTP/1 client that ends in the middle of its body, or sends a malformed one, learns that its request has failed.
#[test]
fn a_malformed_body_is_rejected_though_the_workers_speak_http2() {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpStream};
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    app(&place, &port).start(&rpm);
    let head = "POST / HTTP/1.1\r\nHost: x\r\n";
    for rest in [
        "Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        "Content-Length: 10\r\n\r\nab",
    ] {
        let mut client = TcpStream::connect(("127.0.0.1", port.number())).expect("it listens");
        client.set_read_timeout(Some(BOUND)).expect("a deadline");
        client
            .write_all(format!("{head}{rest}").as_bytes())
            .expect("it is sent");
        client.shutdown(Shutdown::Write).expect("it ends");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("the proxy closes it");
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{rest:?}: {answer}"
        );
    }
    assert_eq!(
        get(port.number(), "/").expect("it answers").status,
        200,
        "{}",
        rpm.log()
    );
}
