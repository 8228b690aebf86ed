//! Reloads on a path with delay and loss, where handshakes are in progress whenever workers change.

use std::net::SocketAddr;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::namespace::Path;
use rpm_loadtest::Stop;
use rpm_testkit::{Kind, Load, Pace, Port, Process, Rpm, wait_until};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(30);
/// Clients of each kind.
const CLIENTS: usize = 16;
const RELOADS: usize = 5;

fn reloads_lose_nothing(test: &str, rpm: &Rpm) {
    // 50 ms ± 20 ms round trip, and one packet in a hundred is lost.
    let Some(path) = Path::new(test, 25, 10, 1) else {
        return;
    };
    let port = Port::reserve();
    let app = App::cluster("everything.js", "2").args(["--name", "web", "--drain-timeout", "20s"]);
    let started = path
        .server
        .inside(&app.port(&port).command(rpm))
        .output()
        .expect("it runs");
    assert!(started.status.success(), "{started:?}\n{}", rpm.log());
    let stop = Stop::new();
    let clients = [Kind::NewConnection, Kind::KeepAlive, Kind::Pipelined, Kind::Post].map(|kind| {
        let load = Load {
            kind,
            clients: CLIENTS,
            // Clients with new connections are in a handshake whenever workers change; the others may pause.
            pace: match kind {
                Kind::NewConnection => Pace::Closed,
                _ => Pace::Pausing {
                    most: Duration::from_millis(100),
                },
            },
            // A lost packet is sent again after 200 ms, a lost SYN after 1 s, 2 s, 4 s.
            timeout: Duration::from_secs(30),
            ..Load::new(SocketAddr::from((Path::SERVER, port.number())))
        };
        (kind, path.client.begin(&load, &stop))
    });
    for _ in 0..RELOADS {
        rpm.ok(["reload", "web"]);
        let none = |list: &Vec<Process>| list.iter().all(|process| process.others.is_empty());
        wait_until("the old workers are gone", BOUND, || rpm.list(), none);
    }
    stop.stop();
    for (kind, client) in clients {
        let report = client.join().expect("it ends");
        println!("{}: {report}", kind.as_str());
        assert!(
            report.check_clean().is_ok(),
            "{}: {report}\n{}",
            kind.as_str(),
            rpm.log()
        );
        assert!(report.outcomes.ok() > 100, "{}: {report}", kind.as_str());
    }
}

#[test]
fn handshakes_that_are_half_done_are_not_lost() {
    reloads_lose_nothing("handshakes_that_are_half_done_are_not_lost", &Rpm::new());
}

#[test]
fn nor_are_they_without_privileges() {
    let test = "nor_are_they_without_privileges";
    if let Some(rpm) = rpm_e2e::steering::Path::Classic.rpm(test) {
        reloads_lose_nothing(test, &rpm);
    }
}
