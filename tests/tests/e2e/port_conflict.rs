//! Two apps that want the same port: the first keeps it, and the second's error names the first.

use std::fs;

use rpm_e2e::app::App;
use rpm_e2e::ask::{BOUND, printed};
use rpm_testkit::{Port, Rpm, get, wait_until};

/// Enough that an app with a share of the connections would be seen.
const ASKED: usize = 40;

/// `binds.py` under this name, which it answers with.
fn app(name: &str, port: &Port) -> App {
    App::new("binds.py")
        .port(port)
        .env("NAME", name)
        .args(["--name", name, "--max-restarts", "1"])
}

/// Checks that all connections go to this app, from the first one that is accepted on.
fn has_all(port: &Port, name: &str) {
    wait_until("it listens", BOUND, || port.listeners(), |count| *count > 0);
    for _ in 0..ASKED {
        assert_eq!(get(port.number(), "/").expect("an answer").body, name);
    }
}

#[test]
fn the_second_app_is_refused_whatever_its_socket_says() {
    let ways: [(&str, &[&str], bool, &str); 6] = [
        ("plain", &["-i", "2"], false, "127.0.0.1"),
        ("reuse", &["-i", "2"], true, "127.0.0.1"),
        ("wider", &["-i", "2"], true, "0.0.0.0"),
        ("fork", &[], true, "127.0.0.1"),
        ("proxied", &["-i", "2", "--balance", "proxy"], true, "127.0.0.1"),
        ("elsewhere", &["-i", "2", "--ports", "1"], true, "127.0.0.1"),
    ];
    for first in [&["-i", "2"][..], &[], &["-i", "2", "--balance", "proxy"]] {
        let (rpm, port) = (Rpm::new(), Port::reserve());
        app("first", &port).args(first).start(&rpm);
        // In fork mode it counts as ready after one second, too.
        has_all(&port, "first");
        for (name, args, reuse, host) in ways {
            let mut second = app(name, &port).env("HOST", host).args(args);
            if reuse {
                second = second.env("REUSE", 1);
            }
            let ran = second.try_start(&rpm);
            if name == "fork" {
                // It counts as ready after one second, and may need longer to reach its port.
                let failed = |log: &String| log.contains("worker failed app=\"fork\"");
                wait_until("it is refused", BOUND, || rpm.log(), failed);
            } else {
                let told = format!(
                    "{host}:{port} is in use by the app \"first\", which listens on 127.0.0.1:{port}; stop it or use another port"
                );
                assert_eq!(ran.code, Some(1), "{first:?} {name}: {ran:#?}");
                assert!(ran.stderr.contains(&told), "{first:?} {name}: {ran:#?}");
            }
            has_all(&port, "first");
        }
        rpm.ok(["delete", "first"]);
    }
}

#[test]
fn of_two_that_have_bound_a_port_at_the_same_time_one_may_listen() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let go = rpm.home().join("go");
    for name in ["one", "two"] {
        let waits = app(name, &port)
            .env("GO", go.display())
            .args(["-i", "2", "--no-wait"]);
        waits.start(&rpm);
    }
    let bound =
        || [("one", 0), ("one", 1), ("two", 2), ("two", 3)].map(|(name, id)| printed(&rpm, name, Some(id)));
    wait_until("all have bound it", BOUND, bound, |bound| {
        bound.iter().all(|said| said == "bound\n")
    });
    fs::write(&go, "").expect("a file");
    let refused = || {
        let log = rpm.log();
        ["one", "two"]
            .map(|name| log.contains(&format!("is in use by the app {name:?}").replace('"', "\\\"")))
    };
    let taken = wait_until("one is refused", BOUND, refused, |taken| taken.contains(&true));
    assert_ne!(taken, [true, true], "{}", rpm.log());
    has_all(&port, if taken[0] { "one" } else { "two" });
}

#[test]
fn the_port_is_free_again_when_its_app_is_stopped() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    app("first", &port).args(["-i", "2"]).start(&rpm);
    rpm.ok(["stop", "first"]);
    app("second", &port).env("REUSE", 1).args(["-i", "2"]).start(&rpm);
    has_all(&port, "second");
    let error = rpm.fails(["restart", "first"]);
    assert!(error.contains("is in use by the app \"second\""), "{error}");
    has_all(&port, "second");
    rpm.ok(["restart", "second", "--name", "third"]);
    has_all(&port, "second");
}
