//! The agent for Bun.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use crate::support::{App, Client, Daemon, PATIENCE};
use rpm_agent::ToAgent;
use rpm_testkit::wait_until;

const APP: &str = "served-by-bun.js";

/// One answer on a connection of its own.
fn get(port: u16, path: &str) -> crate::support::Answer {
    Client::connect(port).get(path)
}

fn bodies(port: u16) -> [String; 3] {
    ["/", "/route", "/fails"].map(|path| get(port, path).body)
}

#[test]
fn what_a_program_reloads_is_served_while_it_drains() {
    let daemon = Daemon::start();
    let mut app = App::start(&mut daemon.bun(APP));
    let mut agent = daemon.agent();
    let port = app.port();
    assert_eq!(bodies(port), ["fetch 1", "route 1", "error 1"]);
    app.tell();
    assert_eq!(app.line(), "2");
    assert!(!get(port, "/").says_close(), "before the drain");
    agent.drain();
    assert_eq!(bodies(port), ["fetch 2", "route 2", "error 2"]);
    for path in ["/", "/route", "/fails"] {
        assert!(get(port, path).says_close(), "{path}");
    }
    app.tell();
    assert_eq!(app.line(), "3");
    assert_eq!(
        bodies(port),
        ["fetch 3", "route 3", "error 3"],
        "the drain goes on"
    );
    for path in ["/", "/route", "/fails"] {
        assert!(get(port, path).says_close(), "{path}, reloaded meanwhile");
    }
}

#[test]
fn what_a_program_does_not_reload_stays_and_says_close() {
    for (part, after) in [
        ("fetch", ["fetch 2", "route 1", "error 1"]),
        ("routes", ["fetch 1", "route 2", "error 1"]),
    ] {
        let daemon = Daemon::start();
        let mut app = App::start(daemon.bun(APP).env("RELOADS", part));
        let mut agent = daemon.agent();
        let port = app.port();
        app.tell();
        assert_eq!(app.line(), "2");
        assert_eq!(bodies(port), after, "{part}: as Bun does it");
        agent.drain();
        assert_eq!(bodies(port), after, "{part}");
        for path in ["/", "/route", "/fails"] {
            assert!(get(port, path).says_close(), "{part} {path}");
        }
    }
}

#[test]
fn stopped_servers_are_forgotten() {
    let daemon = Daemon::start();
    let mut app = App::start(daemon.bun(APP).env("STOPS", "1"));
    app.port();
    let held: usize = app.line().parse().expect("a number");
    // What lies on the stack may be kept by the collector.
    assert!(held < 10, "{held} of 50");
}

#[test]
fn a_program_that_refuses_clients_is_there_for_its_signal() {
    let daemon = Daemon::start();
    let mut app = App::start(&mut daemon.bun(APP));
    let mut agent = daemon.agent();
    let port = app.port();
    agent.say(ToAgent::Refuse { keeps: false });
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|error| error.kind());
    let refused = |outcome: &Result<TcpStream, ErrorKind>| {
        outcome
            .as_ref()
            .is_err_and(|kind| *kind == ErrorKind::ConnectionRefused)
    };
    drop(wait_until("clients are refused", PATIENCE, connect, refused));
    // A process that has nothing else to do ends within some milliseconds.
    assert!(agent.stays(Duration::from_millis(500)), "it has ended");
    app.interrupt();
    assert_eq!(app.line(), "interrupted");
    assert_eq!(app.ended(PATIENCE).code(), Some(7));
}

#[test]
fn a_program_that_refuses_clients_may_end_once_it_is_released() {
    let daemon = Daemon::start();
    let mut app = App::start(&mut daemon.bun(APP));
    let mut agent = daemon.agent();
    app.port();
    agent.say(ToAgent::Refuse { keeps: false });
    agent.say(ToAgent::Release {});
    assert_eq!(app.ended(PATIENCE).code(), Some(0), "nothing of its own is left");
}
