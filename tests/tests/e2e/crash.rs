//! Workers are killed under load: the port stays open, and only the requests that they were answering are lost.

use std::time::{Duration, Instant};

use rpm_e2e::app::App;
use rpm_e2e::clients::{Clients, beside};
use rpm_e2e::outside::{freeze, kill};
use rpm_e2e::steering::Path;
use rpm_testkit::{Load, Outcome, Port, Rpm, Status, Traffic, wait_until};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(15);
/// Pause between two kills.
const PAUSE: Duration = Duration::from_secs(1);
/// Clients of each kind: with a new connection per request, and with a kept one.
const CLIENTS: usize = 8;

fn app(port: &Port, instances: &str) -> App {
    App::cluster("hello.js", instances)
        .args(["--name", "web"])
        .port(port)
}

/// Kills one worker after the other, a second apart, and checks that requests fail only then: at most one per client, because each has one
/// request in flight.
fn kill_in_turn(rpm: &Rpm, clients: &Clients, kills: u32) {
    let mut settled = clients.failures();
    let mut due = Instant::now() + PAUSE;
    for round in 0..kills {
        // tidy: sleep because the pace of the kills is what the test is about
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += PAUSE;
        assert_eq!(
            clients.failures(),
            settled,
            "a request failed while nobody was killed, before kill {round}"
        );
        let victim = rpm.process(round % 2).pid.expect("the worker runs");
        kill(victim);
        let successor = || rpm.process(round % 2);
        let replaced = |seen: &rpm_testkit::Process| {
            seen.status == Status::Online && seen.pid.is_some_and(|pid| pid != victim)
        };
        wait_until("the killed worker is replaced", BOUND, successor, replaced);
        clients.wait_ok(100);
        let now = clients.failures();
        for (now, before) in now.iter().zip(settled) {
            assert!(
                now - before <= CLIENTS as u64,
                "{} requests failed by kill {round}",
                now - before
            );
        }
        settled = now;
    }
}

fn survives_kills(test: &str, path: Path, kills: u32) {
    let Some(rpm) = path.rpm(test) else { return };
    let port = Port::reserve();
    app(&port, "2").start(&rpm);
    if !path.is_used(&rpm, "web", test) {
        return;
    }
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(100);
    kill_in_turn(&rpm, &clients, kills);
    let [(_, fresh), (_, kept)] = clients.finish().try_into().expect("both kinds");
    println!("{kills} kills, {path:?}\n{fresh}{kept}");
    fresh
        .check_allowing(&[Outcome::ResetFresh, Outcome::Truncated])
        .expect("no refusal, nothing hangs");
    let in_flight = [Outcome::ResetFresh, Outcome::ResetReused, Outcome::Truncated];
    kept.check_allowing(&in_flight)
        .expect("no refusal, nothing hangs");
    assert!(
        fresh.responders.len() as u32 >= kills,
        "the replacements serve: {:?}",
        fresh.responders
    );
    let restarts: u32 = rpm.list().iter().map(|process| process.restarts).sum();
    assert_eq!(restarts, kills);
}

#[test]
fn a_worker_killed_every_second_costs_its_requests_in_flight() {
    survives_kills(
        "a_worker_killed_every_second_costs_its_requests_in_flight",
        Path::Ebpf,
        30,
    );
}

#[test]
fn the_same_under_an_unprivileged_daemon() {
    survives_kills("the_same_under_an_unprivileged_daemon", Path::Classic, 15);
}

/// The replacement inherits the slot. Until it accepts, connections wait in the queue.
#[test]
fn connections_wait_while_the_only_worker_is_replaced() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    app(&port, "1").start(&rpm);
    let traffic = Traffic::start(&beside(&port, CLIENTS));
    for _ in 0..3 {
        traffic.wait_ok(100);
        let before = traffic.so_far();
        kill(rpm.process(0).pid.expect("the worker runs"));
        traffic.wait_ok(100);
        let lost = traffic.so_far().outcomes.failures() - before.outcomes.failures();
        assert!(lost <= CLIENTS as u64, "{lost} requests failed");
        rpm.wait_status("web", Status::Online);
    }
    let report = traffic.finish();
    report
        .check_allowing(&[Outcome::ResetFresh, Outcome::Truncated])
        .expect("no refusal, nothing hangs");
    assert_eq!(report.responders.len(), 4, "{:?}", report.responders);
}

/// Clients with one request each, which they wait for as long as it takes to replace a process.
fn waiting(port: &Port) -> Load {
    Load {
        clients: CLIENTS,
        requests: Some(CLIENTS as u64),
        timeout: 4 * BOUND,
        ..Load::local(port.number())
    }
}

fn queue_is_inherited(test: &str, path: Path) {
    let Some(rpm) = path.rpm(test) else { return };
    let port = Port::reserve();
    app(&port, "1").start(&rpm);
    if !path.is_used(&rpm, "web", test) {
        return;
    }
    let doomed = rpm.process(0).pid.expect("the worker runs");
    freeze(doomed);
    let traffic = Traffic::start(&waiting(&port));
    let queued = || rpm.describe("web").listeners[0].slots[0].queued;
    wait_until("all connections are queued", BOUND, queued, |queued| {
        *queued == CLIENTS as u32
    });
    kill(doomed);
    let report = traffic.wait();
    report.check_clean().expect("the replacement serves the queue");
    assert_eq!(report.outcomes.ok(), CLIENTS as u64);
    let metrics = rpm.api("GET", "/metrics", "").body;
    assert!(
        metrics
            .lines()
            .any(|line| line == "rpm_rescued_connections_total 0"),
        "it inherits the slot, nothing is moved:\n{metrics}"
    );
    assert!(
        !report
            .responders
            .keys()
            .any(|who| who.ends_with(&format!(" {doomed}"))),
        "{:?}",
        report.responders
    );
}

#[test]
fn a_replacement_serves_what_its_predecessor_had_not_accepted() {
    queue_is_inherited(
        "a_replacement_serves_what_its_predecessor_had_not_accepted",
        Path::Ebpf,
    );
}

#[test]
fn so_does_that_of_an_unprivileged_daemon() {
    queue_is_inherited("so_does_that_of_an_unprivileged_daemon", Path::Classic);
}

/// A process in fork mode that has not accepted what came: its pid, and the clients that wait.
fn frozen_process(rpm: &Rpm, port: &Port) -> (u32, Traffic) {
    let old = rpm.process(0).pid.expect("the process runs");
    freeze(old);
    let traffic = Traffic::start(&waiting(port));
    let queued = || rpm.describe("web").listeners[0].slots[0].queued;
    wait_until("all connections are queued", BOUND, queued, |queued| {
        *queued == CLIENTS as u32
    });
    (old, traffic)
}

fn process(port: &Port) -> App {
    let times = ["--kill-timeout", "200ms", "--drain-timeout", "500ms"];
    App::new("hello.js")
        .args(["--name", "web"])
        .args(times)
        .port(port)
}

/// In fork mode a restart ends the old process first. Other variables make a new version of the app, whose process has the queue of the old
/// one all the same.
fn queue_outlives_a_restart(test: &str, path: Path) {
    let Some(rpm) = path.rpm(test) else { return };
    let port = Port::reserve();
    process(&port).start(&rpm);
    if !path.is_used(&rpm, "web", test) {
        return;
    }
    let (old, traffic) = frozen_process(&rpm, &port);
    let restarted = rpm
        .command(["restart", "web", "--update-env"])
        .env("COLOR", "blue")
        .output();
    assert!(restarted.is_ok_and(|done| done.status.success()));
    let report = traffic.wait();
    report.check_clean().expect("the next process serves the queue");
    assert_eq!(report.outcomes.ok(), CLIENTS as u64);
    let new = rpm.process(0).pid.expect("it runs");
    let mut served = report.responders.keys();
    assert!(
        old != new && served.all(|who| who.ends_with(&format!(" {new}"))),
        "{old}, {new}: {:?}",
        report.responders
    );
    let slots = rpm.describe("web").listeners[0].slots.len();
    assert_eq!(slots, 1, "it has the slot of the old one");
}

#[test]
fn clients_of_a_process_that_is_restarted_with_other_variables_are_served() {
    queue_outlives_a_restart(
        "clients_of_a_process_that_is_restarted_with_other_variables_are_served",
        Path::Ebpf,
    );
}

#[test]
fn so_are_those_of_an_unprivileged_daemon() {
    queue_outlives_a_restart("so_are_those_of_an_unprivileged_daemon", Path::Classic);
}

/// Without eBPF the queue of a socket goes nowhere when that is closed, and a process in fork mode takes no connections one by one. A client
/// that is closed may try again; one that is kept would wait for nothing.
#[test]
fn clients_that_no_process_can_have_are_closed() {
    let test = "clients_that_no_process_can_have_are_closed";
    let Some(rpm) = Path::Classic.rpm(test) else {
        return;
    };
    let port = Port::reserve();
    process(&port).start(&rpm);
    if !Path::Classic.is_used(&rpm, "web", test) {
        return;
    }
    let (_, traffic) = frozen_process(&rpm, &port);
    rpm.ok(["reload", "web"]);
    let report = traffic.wait();
    assert_eq!(
        report.outcomes.count(Outcome::ResetFresh),
        CLIENTS as u64,
        "{report}"
    );
}
