//! What a worker can listen on: every kind of address that node:cluster serves, and what happens when it closes.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::ask::{BOUND, V4, V6, different, has_ipv6, printed, refused, refused_by, unix, who, workers};
use rpm_e2e::clients::beside;
use rpm_e2e::process::signal;
use rpm_testkit::{Port, Process, Rpm, Status, Traffic, get, get_from, wait_until};

/// What a worker printed.
fn said(rpm: &Rpm, app: &str, id: u32) -> String {
    printed(rpm, app, Some(id))
}

/// `listen.js` with these options of `server.listen()`, one server for each.
fn listening(options: &str, instances: &str) -> App {
    App::cluster("listen.js", instances).env("LISTEN", options)
}

/// The address of each listener, and how it is steered.
fn listeners(rpm: &Rpm, app: &str) -> Vec<(String, String)> {
    rpm.describe(app)
        .listeners
        .into_iter()
        .map(|listener| (listener.address, listener.steering))
        .collect()
}

/// Kills a worker and waits for its replacement.
fn crash(rpm: &Rpm, id: u32) {
    let victim = rpm.process(id).pid.expect("it runs");
    signal(victim, "KILL");
    let replaced = |now: &Process| now.status == Status::Online && now.pid.is_some_and(|pid| pid != victim);
    wait_until("a replacement", BOUND, || rpm.process(id), replaced);
}

#[test]
fn every_worker_serves_every_port() {
    let (rpm, first, second) = (Rpm::new(), Port::reserve(), Port::reserve());
    App::cluster("two-ports.js", "2")
        .port(&first)
        .env("PORT2", &second)
        .start(&rpm);
    // Each is ready once it listens on one.
    let opened = || refused(&second);
    wait_until("the second port is open", BOUND, opened, |refused| !refused);
    assert_eq!(workers(&first, 2), workers(&second, 2));
    let addresses: BTreeSet<String> = listeners(&rpm, "two-ports")
        .into_iter()
        .map(|(address, _)| address)
        .collect();
    assert_eq!(
        addresses,
        [&first, &second]
            .map(|port| format!("tcp 127.0.0.1:{port}"))
            .into()
    );
}

/// Starts `hello.js` with this `HOST`. It must be reachable at `yes` and refused at `no`.
fn reached_at(host: &str, address: &str, yes: &[IpAddr], no: &[IpAddr]) {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2")
        .port(&port)
        .env("HOST", host)
        .start(&rpm);
    for ip in yes {
        assert_eq!(different(2, || who(*ip, &port)).len(), 2, "HOST={host} at {ip}");
    }
    for ip in no {
        assert!(refused_by(*ip, &port), "HOST={host} at {ip}");
    }
    assert_eq!(listeners(&rpm, "hello")[0].0, format!("tcp {address}:{port}"));
}

#[test]
fn ipv4_only() {
    if has_ipv6("ipv4_only") {
        reached_at("127.0.0.1", "127.0.0.1", &[V4], &[V6]);
    }
}

#[test]
fn ipv6_only() {
    if has_ipv6("ipv6_only") {
        reached_at("::1", "[::1]", &[V6], &[V4]);
    }
}

#[test]
fn without_a_host_both_families_are_served() {
    if has_ipv6("without_a_host_both_families_are_served") {
        reached_at("", "[::]", &[V4, V6], &[]);
    }
}

#[test]
fn a_host_name_is_looked_up() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2")
        .port(&port)
        .env("HOST", "localhost")
        .start(&rpm);
    let address = listeners(&rpm, "hello").remove(0).0;
    let ip = if address.starts_with("tcp [::1]") { V6 } else { V4 };
    assert_eq!(different(2, || who(ip, &port)).len(), 2, "{address}");
}

#[test]
fn an_ipv6_wildcard_may_leave_ipv4_alone() {
    if !has_ipv6("an_ipv6_wildcard_may_leave_ipv4_alone") {
        return;
    }
    let (rpm, port) = (Rpm::new(), Port::reserve());
    listening(
        &format!(r#"[{{"port":{port},"host":"::","ipv6Only":true}}]"#),
        "2",
    )
    .start(&rpm);
    assert_eq!(different(2, || who(V6, &port)).len(), 2);
    assert!(refused_by(V4, &port));
}

#[test]
fn a_unix_socket_is_shared_and_removed_in_the_end() {
    let rpm = Rpm::new();
    let path = rpm.home().join("absolute.sock");
    App::cluster("unix.js", "2")
        .env("SOCKET", path.display())
        .start(&rpm);
    let address = SocketAddr::from_pathname(&path).expect("a short path");
    assert_eq!(different(2, || unix(&address).expect("an answer")).len(), 2);
    assert_eq!(
        listeners(&rpm, "unix"),
        [(format!("unix {}", path.display()), "shared".to_owned())]
    );
    crash(&rpm, 0);
    assert_eq!(different(2, || unix(&address).expect("an answer")).len(), 2);
    rpm.ok(["stop", "unix"]);
    assert!(!path.exists());
    rpm.ok(["restart", "unix"]);
    assert_eq!(different(2, || unix(&address).expect("an answer")).len(), 2);
}

#[test]
fn a_relative_unix_socket_lies_in_the_working_directory() {
    let rpm = Rpm::new();
    let directory = rpm.home().join("work");
    fs::create_dir(&directory).expect("a directory");
    App::cluster("unix.js", "2")
        .env("SOCKET", "app.sock")
        .args(["--cwd".as_ref(), directory.as_os_str()])
        .start(&rpm);
    let address = SocketAddr::from_pathname(directory.join("app.sock")).expect("a short path");
    assert_eq!(different(2, || unix(&address).expect("an answer")).len(), 2);
}

#[test]
fn the_unix_socket_of_the_dead_is_replaced_and_that_of_the_living_is_not() {
    let rpm = Rpm::new();
    let path = rpm.home().join("used.sock");
    let alive = UnixListener::bind(&path).expect("a socket");
    let app = App::cluster("unix.js", "1")
        .env("SOCKET", path.display())
        .args(["--max-restarts", "1"]);
    let ran = app.try_start(&rpm);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(
        ran.stderr.contains("used.sock") && ran.stderr.contains("EADDRINUSE"),
        "{ran:#?}"
    );
    drop(alive);
    assert!(
        path.exists(),
        "it was left to its owner, who has left it behind now"
    );
    rpm.ok(["restart", "unix"]);
    let address = SocketAddr::from_pathname(&path).expect("a short path");
    unix(&address).expect("an answer");
}

#[test]
fn an_abstract_unix_socket_is_shared() {
    let rpm = Rpm::new();
    let name = format!("rpm-test-{}", std::process::id());
    listening(&format!(r#"[{{"path":"\u0000{name}"}}]"#), "2").start(&rpm);
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    assert_eq!(different(2, || unix(&address).expect("an answer")).len(), 2);
    rpm.ok(["stop", "listen"]);
    assert!(unix(&address).is_err());
}

/// The ports that `listen.js` or `port0.js` printed, by line.
fn printed_ports(rpm: &Rpm, app: &str, id: u32) -> Vec<u16> {
    let said = said(rpm, app, id);
    said.lines()
        .map(|line| {
            line.rsplit(' ')
                .next()
                .and_then(|port| port.parse().ok())
                .expect("a port")
        })
        .collect()
}

#[test]
fn a_random_port_is_the_same_for_all_and_for_the_heirs() {
    let rpm = Rpm::new();
    App::cluster("port0.js", "2").start(&rpm);
    let one = |id| {
        wait_until(
            "it listens",
            BOUND,
            || printed_ports(&rpm, "port0", id),
            |ports| ports.len() == 1,
        )
    };
    let ports = [0, 1].map(one);
    assert_eq!(ports[0], ports[1]);
    let port = ports[0][0];
    let ask = || get(port, "/").expect("an answer").body;
    assert_eq!(different(2, ask).len(), 2);
    crash(&rpm, 0);
    let again = wait_until(
        "it listens again",
        BOUND,
        || printed_ports(&rpm, "port0", 0),
        |ports| ports.len() == 2,
    );
    assert_eq!(again, [port, port]);
    assert_eq!(different(2, ask).len(), 2);
}

#[test]
fn two_random_ports_differ() {
    let rpm = Rpm::new();
    listening(
        r#"[{"port":0,"host":"127.0.0.1"},{"port":0,"host":"127.0.0.1"}]"#,
        "2",
    )
    .start(&rpm);
    let both = |id| {
        wait_until(
            "both listen",
            BOUND,
            || printed_ports(&rpm, "listen", id),
            |ports| ports.len() == 2,
        )
    };
    let ports = [0, 1].map(both);
    assert_eq!(ports[0], ports[1]);
    assert_ne!(ports[0][0], ports[0][1]);
    for port in &ports[0] {
        assert_eq!(different(2, || get(*port, "/").expect("an answer").body).len(), 2);
    }
}

#[test]
fn datagrams_reach_all_workers_over_time() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("udp.js", "2").port(&port).start(&rpm);
    assert_eq!(
        listeners(&rpm, "udp"),
        [(format!("udp 127.0.0.1:{port}"), "shared".to_owned())]
    );
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.connect(("127.0.0.1", port.number())).expect("an address");
    client
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("a timeout");
    let mut heard = BTreeSet::new();
    // More at once than a worker reads in one turn.
    let burst = || {
        (0..100).for_each(|_| drop(client.send(b"?")));
        let mut buffer = [0; 64];
        while let Ok(count) = client.recv(&mut buffer) {
            heard.insert(String::from_utf8_lossy(&buffer[..count]).into_owned());
        }
        heard.clone()
    };
    let heard = wait_until("both answer", BOUND, burst, |heard| heard.len() == 2);
    let listed = rpm
        .list()
        .iter()
        .map(|p| format!("{} {}", p.instance, p.pid.expect("it runs")))
        .collect();
    assert_eq!(heard, listed);
}

#[test]
fn a_closed_listener_is_out_and_serves_again_when_it_listens_again() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("relisten.js", "2").port(&port).start(&rpm);
    let everybody = workers(&port, 2);
    let traffic = Traffic::start(&beside(&port, 4));
    traffic.wait_ok(50);
    let count = || {
        [0, 1]
            .map(|id| said(&rpm, "relisten", id).matches("listening").count())
            .iter()
            .sum::<usize>()
    };
    for round in 1..=4 {
        assert_eq!(get(port.number(), "/relisten").expect("an answer").status, 200);
        traffic.wait_ok(50);
        // Before the next one closes: while neither listens, clients are refused.
        wait_until("it listens again", BOUND, count, |count| *count == 2 + round);
    }
    traffic
        .finish()
        .check_clean()
        .expect("the others serve meanwhile");
    assert_eq!(workers(&port, 2), everybody);
}

#[test]
fn when_all_have_closed_the_port_is_refused() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("relisten.js", "2").port(&port).start(&rpm);
    let closed = || [0, 1].map(|id| said(&rpm, "relisten", id).contains("closing"));
    get(port.number(), "/relisten?ms=3600000").expect("an answer");
    let one = wait_until("one has closed", BOUND, closed, |closed| closed[0] != closed[1]);
    let other = rpm.process(if one[0] { 1 } else { 0 });
    let name = format!("{} {}", other.instance, other.pid.expect("it runs"));
    assert_eq!(different(1, || who(V4, &port)), [name].into());
    get(port.number(), "/relisten?ms=3600000").expect("an answer");
    wait_until(
        "the port is refused",
        BOUND,
        || refused(&port),
        |refused| *refused,
    );
    assert!(
        rpm.list()
            .iter()
            .all(|process| process.status == Status::Online && process.restarts == 0)
    );
}

#[test]
fn listeners_that_bypass_node_cluster_are_balanced_too() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let there = format!(r#""port":{port},"host":"127.0.0.1""#);
    for (name, options) in [
        ("exclusive", r#""exclusive":true"#),
        ("reusePort", r#""reusePort":true"#),
    ] {
        listening(&format!("[{{{there},{options}}}]"), "2")
            .args(["--name", name])
            .start(&rpm);
        assert_eq!(workers(&port, 2).len(), 2, "{name}");
        rpm.ok(["delete", name]);
    }
}

#[test]
fn an_exclusive_listener_is_the_workers_own_if_it_is_left_alone() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let ran = App::cluster("exclusive.js", "2")
        .port(&port)
        .args(["--listen-timeout", "1500", "--no-intercept"])
        .start(&rpm);
    assert!(
        ran.stderr.contains("without balancing") || ran.stderr.contains("listens on nothing"),
        "{ran:#?}"
    );
    let both = || BTreeSet::from([0, 1].map(|id| said(&rpm, "exclusive", id).trim().to_owned()));
    let expected = BTreeSet::from(["listening", "EADDRINUSE"].map(String::from));
    wait_until("one listens, the other cannot", BOUND, both, |said| {
        *said == expected
    });
    assert_eq!(workers(&port, 1).len(), 1);
    // A socket that the daemon did not see being made is found later.
    let listeners = || rpm.describe("exclusive").listeners;
    let mut listeners = wait_until("it is found", BOUND, listeners, |found| !found.is_empty());
    let listener = listeners.remove(0);
    assert_eq!(
        (listener.address, listener.steering.as_str()),
        (format!("tcp 127.0.0.1:{port}"), "own")
    );
    assert!(listener.reason.contains("itself"), "{}", listener.reason);
}

#[test]
fn the_same_port_twice_is_taken() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let here = format!(r#"{{"port":{port},"host":"127.0.0.1"}}"#);
    listening(&format!("[{here},{here}]"), "2").start(&rpm);
    for id in [0, 1] {
        let expected = format!("0 listening {port}\n1 EADDRINUSE\n");
        wait_until(
            "both have tried",
            BOUND,
            || said(&rpm, "listen", id),
            |said| *said == expected,
        );
    }
    assert_eq!(workers(&port, 2).len(), 2);
    assert!(
        rpm.log().contains("in use by another server of the same app"),
        "{}",
        rpm.log()
    );
}

#[test]
fn a_descriptor_of_its_own_can_be_listened_on() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    // The first server opens the socket itself; the second gets its number, and outlives it.
    let first = format!(r#"{{"port":{port},"host":"127.0.0.1","exclusive":true}}"#);
    listening(&format!(r#"[{first},{{"fd":0}}]"#), "1").start(&rpm);
    let expected = format!("0 listening {port}\n1 listening {port}\n");
    wait_until(
        "both listen",
        BOUND,
        || said(&rpm, "listen", 0),
        |said| *said == expected,
    );
    let pid = rpm.process(0).pid.expect("it runs");
    assert_eq!(
        get_from(V4, port.number(), "/").expect("an answer").body.trim(),
        format!("0 {pid}")
    );
    rpm.ok(["stop", "listen"]);
    assert!(refused(&port));
}
