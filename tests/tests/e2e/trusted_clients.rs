//! Which clients the proxy believes, and how much one client may have of it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::complaint::assert_says;
use rpm_e2e::raw::Connection;
use rpm_testkit::{Port, Rpm};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(20);

fn edge(instances: &str, port: &Port) -> App {
    App::cluster("edge.js", instances)
        .args(["--name", "edge", "--balance", "proxy"])
        .port(port)
}

#[test]
fn only_those_that_are_named_speak_for_others() {
    let (rpm, ports) = (Rpm::new(), [Port::reserve(), Port::reserve()]);
    let forged = "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n";
    let line = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n";
    let seen = |port: &Port, sent: &str| -> Value {
        let mut connection = Connection::open(port);
        connection.send(sent);
        serde_json::from_str(&connection.answer().body).expect("JSON")
    };
    for (port, network, word) in [
        (&ports[0], "10.0.0.0/8,::1", false),
        (&ports[1], "10.1.2.3,127.0.0.0/8", true),
    ] {
        let name = if word { "named" } else { "others" };
        let trust = format!("--trust-forwarded={network}");
        App::cluster("edge.js", "1")
            .args(["--name", name, "--balance", "proxy", &trust])
            .port(port)
            .start(&rpm);
        let client = seen(port, forged)["headers"]["x-forwarded-for"].clone();
        assert_eq!(client, if word { "192.0.2.9, 127.0.0.1" } else { "127.0.0.1" });
        let protocol = format!("--proxy-protocol={network}");
        rpm.ok(["reload", name, &protocol]);
        let mut connection = Connection::open(port);
        connection.send(&format!("{line}GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        let answer = connection.answer();
        if word {
            let client: Value = serde_json::from_str(&answer.body).expect("JSON");
            assert_eq!(client["headers"]["x-forwarded-for"], "192.0.2.7");
        } else {
            assert_eq!(answer.status, 400, "it is no request");
            let client = seen(port, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            assert_eq!(client["headers"]["x-forwarded-for"], "127.0.0.1");
        }
    }
    let wrong = edge("1", &Port::reserve())
        .args(["--trust-forwarded=host"])
        .try_start(&rpm);
    assert_says(&wrong, &["an address or a network"]);
}

/// The number of streams that the server allows a client, from its first frame (RFC 9113, 6.5.2).
fn streams(port: &Port) -> Option<u32> {
    let mut stream = TcpStream::connect(("127.0.0.1", port.number())).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a deadline");
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .expect("it is sent");
    let mut head = [0; 9];
    stream.read_exact(&mut head).expect("a frame");
    let mut settings = vec![0; usize::from(head[2])];
    stream.read_exact(&mut settings).expect("its settings");
    let streams = settings.chunks(6).find(|entry| entry[..2] == [0, 3])?;
    Some(u32::from_be_bytes(*streams.last_chunk()?))
}

#[test]
fn tunnels_streams_and_underscores_are_as_is_said() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let forged = "GET / HTTP/1.1\r\nHost: x\r\nX_Forwarded_For: 192.0.2.9\r\n\r\n";
    let forged = || -> Value {
        let mut connection = Connection::open(&port);
        connection.send(forged);
        let seen: Value = serde_json::from_str(&connection.answer().body).expect("JSON");
        seen["headers"]["x_forwarded_for"].clone()
    };
    edge("1", &port).start(&rpm);
    assert_eq!((forged(), streams(&port)), (Value::Null, Some(256)));
    rpm.ok(["reload", "edge", "--allow-underscores", "--max-streams", "7"]);
    assert_eq!((forged(), streams(&port)), ("192.0.2.9".into(), Some(7)));
    rpm.ok(["reload", "edge", "--protocol", "tcp", "--tunnel-timeout", "300ms"]);
    assert!(Connection::open(&port).has_ended(), "nobody says anything");
}
