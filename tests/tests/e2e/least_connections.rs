//! `--policy least-connections`: a new connection goes to the worker with the fewest open.

use std::net::TcpStream;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::outside::{kill, kill_daemon};
use rpm_e2e::steering::{Path, talkative, undisturbed};
use rpm_testkit::{Port, Process, Rpm, Status, wait_until};

const BOUND: Duration = Duration::from_secs(20);

fn web(policy: &str, port: &Port) -> App {
    App::cluster("hello.js", "3")
        .args(["--name", "web", "--policy", policy])
        .port(port)
}

/// The connections of each worker, by its number.
fn counts(rpm: &Rpm) -> Vec<u64> {
    let listener = rpm.describe("web").listeners.swap_remove(0);
    let mut slots = listener.slots;
    slots.retain(|slot| slot.connections.is_some());
    slots.sort_by_key(|slot| slot.instance);
    slots.iter().filter_map(|slot| slot.connections).collect()
}

/// Connections that no worker has accepted yet.
fn queued(rpm: &Rpm) -> u32 {
    let listener = rpm.describe("web").listeners.swap_remove(0);
    listener.slots.iter().map(|slot| slot.queued).sum()
}

fn has(rpm: &Rpm, expected: &[u64]) {
    wait_until("the counts", BOUND, || counts(rpm), |counted| counted == expected);
}

/// Opens this many connections after `first`, while no worker counts as frozen. Those of an attempt that was disturbed are closed again.
fn opened(rpm: &Rpm, port: &Port, count: usize, first: impl Fn()) -> Vec<TcpStream> {
    let before = counts(rpm);
    undisturbed(rpm, || {
        has(rpm, &before);
        first();
        open(port, count)
    })
}

/// Opens this many connections.
fn open(port: &Port, count: usize) -> Vec<TcpStream> {
    let open = |_| TcpStream::connect(("127.0.0.1", port.number())).expect("it is taken");
    (0..count).map(open).collect()
}

#[test]
fn whoever_has_the_fewest_gets_the_next() {
    let test = "whoever_has_the_fewest_gets_the_next";
    let rpm = talkative(Rpm::new());
    let port = Port::reserve();
    web("least-connections", &port).start(&rpm);
    if !Path::Ebpf.is_used(&rpm, "web", test) {
        return;
    }
    let reason = &rpm.describe("web").listeners[0].reason;
    assert!(reason.contains("(least-connections)"), "{reason}");
    has(&rpm, &[0, 0, 0]);
    let idle = opened(&rpm, &port, 30, || ());
    has(&rpm, &[10, 10, 10]);
    // The dead worker's accepted connections are gone. Its replacement, with the same slot, gets all new ones until it has as many as the
    // others.
    wait_until("all are accepted", BOUND, || queued(&rpm), |queued| *queued == 0);
    let victim = rpm.process(1).pid.expect("it runs");
    kill(victim);
    let replaced = |now: &Process| now.status == Status::Online && now.pid.is_some_and(|pid| pid != victim);
    wait_until("a replacement", BOUND, || rpm.process(1), replaced);
    has(&rpm, &[10, 0, 10]);
    let more = opened(&rpm, &port, 10, || ());
    has(&rpm, &[10, 10, 10]);
    // The counts continue without a daemon, and the next one takes them over.
    let between = opened(&rpm, &port, 6, || kill_daemon(&rpm));
    has(&rpm, &[12, 12, 12]);
    drop(between);
    has(&rpm, &[10, 10, 10]);
    // The new workers of a reload count only what comes after it.
    drop((idle, more));
    has(&rpm, &[0, 0, 0]);
    rpm.ok(["reload", "web"]);
    has(&rpm, &[0, 0, 0]);
    let _after = opened(&rpm, &port, 9, || ());
    has(&rpm, &[3, 3, 3]);
}

#[test]
fn where_nothing_can_count_it_says_so() {
    let test = "where_nothing_can_count_it_says_so";
    for path in [Path::Capable, Path::Classic] {
        let Some(rpm) = path.rpm(test) else { return };
        let port = Port::reserve();
        web("least-connections", &port).start(&rpm);
        if !path.is_used(&rpm, "web", test) {
            return;
        }
        let listener = rpm.describe("web").listeners.swap_remove(0);
        let lacks = match path {
            Path::Capable => "CAP_NET_ADMIN",
            Path::Ebpf | Path::Classic => "random among eligible workers",
        };
        assert!(listener.reason.contains(lacks), "{listener:?}");
        assert!(listener.slots.iter().all(|slot| slot.connections.is_none()));
    }
}

#[test]
fn file_capabilities_are_enough() {
    let test = "file_capabilities_are_enough";
    let Some(rpm) = Rpm::capable(test, "cap_bpf,cap_perfmon,cap_net_admin+ep").map(talkative) else {
        return;
    };
    let port = Port::reserve();
    web("least-connections", &port).start(&rpm);
    if !Path::Capable.is_used(&rpm, "web", test) {
        return;
    }
    has(&rpm, &[0, 0, 0]);
    let _idle = opened(&rpm, &port, 9, || ());
    has(&rpm, &[3, 3, 3]);
}
