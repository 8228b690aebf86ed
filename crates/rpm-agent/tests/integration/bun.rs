//! The agent for Bun.

use crate::support::{App, Client, Daemon};

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
