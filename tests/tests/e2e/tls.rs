//! TLS at the edge of the proxy.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::certificate::certificate;
use rpm_e2e::outside::kill_daemon;
use rpm_e2e::place::Place;
use rpm_e2e::raw::Connection;
use rpm_testkit::{Port, Rpm, wait_until};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(20);

fn edge(instances: &str, port: &Port) -> App {
    App::cluster("edge.js", instances)
        .args(["--name", "edge", "--balance", "proxy"])
        .port(port)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("it is UTF-8")
}

/// What curl gets from a host, resolved to this machine, if it trusts this certificate.
fn curl(host: &str, port: &Port, trusted: &Path, more: &[&str]) -> Output {
    let number = port.number();
    Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--cacert",
            text(trusted),
        ])
        .args(["--resolve", &format!("{host}:{number}:127.0.0.1")])
        .args(["--write-out", "\n%{http_version} %{http_code}"])
        .args(more)
        .arg(format!("https://{host}:{number}/"))
        .output()
        .expect("curl runs")
}

fn answered(done: &Output) -> (Value, String) {
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let (body, last) = text.rsplit_once('\n').expect("two lines");
    assert!(
        done.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    (serde_json::from_str(body).expect("JSON"), last.to_owned())
}

#[test]
fn clients_may_speak_tls_and_http_2_and_are_served_the_certificate_they_ask_for() {
    let (rpm, place, port, plain) = (Rpm::new(), Place::new(), Port::reserve(), Port::reserve());
    let [first, second] = ["a.test", "b.test"].map(|host| certificate(&place, host, host));
    let plain_port = plain.number().to_string();
    edge("2", &port)
        .args(["--tls-cert", text(&first[0]), "--tls-key", text(&first[1])])
        .args(["--tls-cert", text(&second[0]), "--tls-key", text(&second[1])])
        .args(["--redirect-http", &plain_port])
        .start(&rpm);
    for (host, own) in [("a.test", &first), ("b.test", &second)] {
        let (seen, version) = answered(&curl(host, &port, &own[0], &[]));
        assert_eq!(version, "2 200", "HTTP/2 is agreed on");
        assert_eq!(seen["headers"]["x-forwarded-proto"], "https", "{seen}");
        let (seen, version) = answered(&curl(host, &port, &own[0], &["--http1.1"]));
        assert_eq!(version, "1.1 200");
        // If it agrees on a version, it names no other.
        let (_, version) = answered(&curl(host, &port, &own[0], &["--http1.0"]));
        assert_eq!(version, "1.1 200");
        let forwarded = format!("for=127.0.0.1;proto=https;host=\"{host}:{}\"", port.number());
        assert_eq!(seen["headers"]["forwarded"], forwarded.as_str());
    }
    let mut unwary = Connection::open(&port);
    unwary.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let answer = unwary.answer();
    assert!(
        answer.status == 400 && answer.body.contains("https"),
        "{answer:?}"
    );
    assert!(unwary.has_ended());
    let other = curl("a.test", &port, &second[0], &[]);
    assert_eq!(other.status.code(), Some(60), "it is not the other's certificate");
    let mut connection = Connection::open(&plain);
    connection.send("GET /x?y HTTP/1.1\r\nHost: a.test:80\r\n\r\n");
    let answer = connection.answer();
    assert_eq!(answer.status, 308);
    let location = format!("location: https://a.test:{}/x?y\r\n", port.number());
    assert!(answer.head.contains(&location), "{}", answer.head);
    let now = answer.head.lines().find_map(|line| line.strip_prefix("date: "));
    assert!(
        now.is_some_and(|now| now.len() == 29 && now.ends_with(" gmt")),
        "{}",
        answer.head
    );
    let by_2 = Command::new("curl")
        .args([
            "--silent",
            "--max-time",
            "20",
            "--http2-prior-knowledge",
            "--output",
            "/dev/null",
        ])
        .args([
            "--write-out",
            "%{http_code} %{redirect_url}",
            "--header",
            "Host: a.test:80",
        ])
        .arg(format!("http://127.0.0.1:{}/x?y", plain.number()))
        .output()
        .expect("curl runs");
    let expected = format!("308 https://a.test:{}/x?y", port.number());
    assert_eq!(String::from_utf8_lossy(&by_2.stdout), expected, "{by_2:?}");
    rpm.ok(["delete", "edge"]);
    assert!(TcpStream::connect(("127.0.0.1", plain.number())).is_err());
}

/// Connects repeatedly to the port that redirects to https, until `stop`. Returns how many clients were redirected, and what happened to
/// the others.
fn sent_on(port: u16, stop: &AtomicBool) -> (u32, Vec<String>) {
    let (mut sent_on, mut others) = (0, Vec::new());
    while !stop.load(Ordering::SeqCst) {
        let asked = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(BOUND))?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        });
        match asked {
            Ok(answer) if answer.starts_with("HTTP/1.1 308 ") => sent_on += 1,
            other => others.push(format!("{other:?}")),
        }
    }
    (sent_on, others)
}

#[test]
fn the_port_that_sends_to_https_is_kept_for_the_next_daemon() {
    let (rpm, place, port, plain) = (Rpm::new(), Place::new(), Port::reserve(), Port::reserve());
    let [chain, key] = certificate(&place, "own", "a.test");
    edge("2", &port)
        .args(["--tls-cert", text(&chain), "--tls-key", text(&key)])
        .args(["--redirect-http", &plain.number().to_string()])
        .start(&rpm);
    for _ in 0..2 {
        kill_daemon(&rpm);
        let mut waiting = Connection::open(&plain);
        waiting.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        rpm.ok(["ping"]);
        assert_eq!(waiting.answer().status, 308);
    }
    let stop = AtomicBool::new(false);
    let (sent_on, others) = thread::scope(|scope| {
        let client = scope.spawn(|| sent_on(plain.number(), &stop));
        let ran = [rpm.run(["update"]), rpm.run(["reload", "edge"])];
        // This comes before the assertions, because the client ends only then.
        stop.store(true, Ordering::SeqCst);
        let counted = client.join().expect("it counts");
        assert!(ran.iter().all(|ran| ran.code == Some(0)), "{ran:#?}");
        counted
    });
    assert!(sent_on > 0 && others.is_empty(), "{sent_on} and {others:?}");
    rpm.ok(["delete", "edge"]);
    assert!(TcpStream::connect(("127.0.0.1", plain.number())).is_err());
}

#[test]
fn a_certificate_is_replaced_and_nobody_is_cut() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let old = certificate(&place, "old", "a.test");
    let new = certificate(&place, "new", "a.test");
    let used = ["used.crt", "used.key"].map(|name| place.path().join(name));
    let put = |files: &[PathBuf; 2]| {
        for (from, to) in files.iter().zip(&used) {
            std::fs::copy(from, to).expect("it is copied");
        }
    };
    put(&old);
    edge("1", &port)
        .args(["--tls-cert", text(&used[0]), "--tls-key", text(&used[1])])
        .start(&rpm);
    assert!(curl("a.test", &port, &old[0], &[]).status.success());
    // Half of the new one: the old one stays in use.
    std::fs::copy(&new[0], &used[0]).expect("it is copied");
    wait_until(
        "it is seen that they do not fit",
        BOUND,
        || {
            assert!(
                curl("a.test", &port, &old[0], &[]).status.success(),
                "{}",
                rpm.log()
            );
            rpm.log()
        },
        |log| log.contains("the old ones stay in use"),
    );
    put(&new);
    let served = |trusted: &PathBuf| curl("a.test", &port, trusted, &[]).status.success();
    wait_until(
        "the new one is served",
        BOUND,
        || served(&new[0]),
        |served| *served,
    );
    assert!(!served(&old[0]));
}
