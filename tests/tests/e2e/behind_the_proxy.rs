//! All kinds of clients behind the proxy, while workers are replaced and killed.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::certificate::certificate;
use rpm_e2e::clients::{Clients, one_of};
use rpm_e2e::outside::kill;
use rpm_e2e::place::Place;
use rpm_testkit::{Kind, Load, Port, Process, Rpm, Status, wait_until};

const BOUND: Duration = Duration::from_secs(30);
/// Good answers between two events.
const SOME: u64 = 40;
/// How long a long-lived connection is left open when its worker is replaced.
const HOLDS: Duration = Duration::from_millis(1500);

fn everything(port: &Port) -> App {
    App::cluster("everything.js", "2")
        .args(["--name", "web", "--balance", "proxy", "--drain-timeout", "2s"])
        .port(port)
}

fn settled(list: &[Process]) -> bool {
    let fine = |process: &Process| process.status == Status::Online && process.others.is_empty();
    list.iter().all(fine)
}

#[test]
fn whatever_a_client_is_a_reload_loses_nothing() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    everything(&port).start(&rpm);
    // HTTP/2 in clear text uses the same port.
    let clients = Clients::everything(&port, &port, 2, HOLDS);
    clients.wait_ok(SOME);
    for _ in 0..2 {
        clients.through(|| rpm.ok(["reload", "web"]));
        clients.wait_ok(SOME);
        wait_until(
            "the old workers are gone",
            BOUND,
            || rpm.list(),
            |list| settled(list),
        );
    }
    clients.finish_clean(&rpm);
}

/// A certificate in use, whose files can be replaced.
struct Certificate {
    place: Place,
    used: [PathBuf; 2],
}

impl Certificate {
    fn new() -> Certificate {
        let place = Place::new();
        let used = ["used.crt", "used.key"].map(|name| place.path().join(name));
        let made = Certificate { place, used };
        made.replace("first");
        made
    }

    /// Replaces it, and returns the new one for clients to trust.
    fn replace(&self, name: &str) -> PathBuf {
        let new = certificate(&self.place, name, "a.test");
        for (from, to) in new.iter().zip(&self.used) {
            std::fs::copy(from, to).expect("it is copied");
        }
        new.into_iter().next().expect("two files")
    }

    /// Waits until new clients get the certificate in this file.
    fn is_served(&self, trusted: &std::path::Path, port: &Port) {
        let number = port.number();
        let served = || {
            Command::new("curl")
                .args([
                    "--silent",
                    "--max-time",
                    "20",
                    "--output",
                    "/dev/null",
                    "--cacert",
                ])
                .arg(trusted)
                .args(["--resolve", &format!("a.test:{number}:127.0.0.1")])
                .arg(format!("https://a.test:{number}/"))
                .status()
                .expect("curl runs")
                .success()
        };
        wait_until("the new certificate is served", BOUND, served, |served| *served);
    }
}

#[test]
fn hundreds_of_clients_see_neither_reloads_nor_killed_workers_nor_certificates() {
    const RELOADS: usize = 10;
    const KILLS: usize = 5;
    let (rpm, port, certificate) = (Rpm::new(), Port::reserve(), Certificate::new());
    let [chain, key] = &certificate.used;
    let started = everything(&port)
        .args(["--tls-cert".as_ref(), chain.as_os_str()])
        .args(["--tls-key".as_ref(), key.as_os_str()])
        .start(&rpm);
    let line = format!("serving https://localhost:{port}\n");
    assert!(started.stderr.ends_with(&line), "{started:#?}");
    // Half the usual rate: where a busy machine cannot keep up, so many requests are under way in a worker that is killed that the proxy
    // may not send all of them again.
    let load = |kind, clients| Load {
        kind,
        tls: true,
        ..one_of(8, &port, clients)
    };
    // 200 connections of HTTP/1.1, and 25 of HTTP/2 with four streams each, each of which pauses by itself. Some are opened again for each
    // request.
    let clients = Clients::of(&[
        load(Kind::KeepAlive, 200),
        Load {
            clients: 25,
            ..load(Kind::Http2, 4 * 25)
        },
        load(Kind::NewConnection, 4),
    ]);
    let sockets = Clients::of(&[Load {
        holds: HOLDS,
        ..load(Kind::WebSocket, 50)
    }]);
    for round in 0..RELOADS {
        clients.wait_ok(SOME);
        sockets.wait_ok(SOME);
        sockets.through(|| rpm.ok(["reload", "web"]));
        if round % 5 == 2 {
            let new = certificate.replace(&format!("round-{round}"));
            certificate.is_served(&new, &port);
        }
        wait_until(
            "the old workers are gone",
            BOUND,
            || rpm.list(),
            |list| settled(list),
        );
    }
    sockets.finish_clean(&rpm);
    for _ in 0..KILLS {
        clients.wait_ok(SOME);
        let victim = rpm.process(1).pid.expect("it runs");
        kill(victim);
        let replaced = |it: &Process| it.status == Status::Online && it.pid != Some(victim);
        wait_until("it is replaced", BOUND, || rpm.process(1), replaced);
        // Resets the back-off, so that the next crash waits no longer than this one.
        rpm.ok(["reset", "web"]);
    }
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
}
