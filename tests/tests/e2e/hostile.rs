//! Hostile programs harm only themselves: beside each of them, another app is reloaded under load.

use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::ask::printed;
use rpm_e2e::clients::Clients;
use rpm_testkit::{Port, Rpm, wait_until};

/// Ten thousand listeners take their time on a loaded machine.
const BOUND: Duration = Duration::from_secs(60);
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;

fn harms_nobody(how: &str) {
    let (rpm, port, other) = (Rpm::new(), Port::reserve(), Port::reserve());
    App::cluster("hello.js", "2")
        .args(["--name", "web", "--drain-timeout", "10s"])
        .port(&port)
        .start(&rpm);
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    let descriptors = descriptors(&rpm);
    App::new("hostile.py")
        .args(["--name", "wild"])
        .port(&other)
        .env("HOSTILE", how)
        .start(&rpm);
    clients.wait_ok(SOME);
    rpm.ok(["reload", "web"]);
    let done = || printed(&rpm, "wild", None);
    wait_until("it has done its worst", BOUND, done, |said| said.contains("done"));
    rpm.ok(["reload", "web", "--wait"]);
    clients.wait_ok(SOME);
    assert_eq!(rpm.list().len(), 3);
    rpm.ok(["delete", "wild"]);
    wait_until(
        "what it had is given back",
        BOUND,
        || self::descriptors(&rpm),
        |now| *now <= descriptors + 4,
    );
    clients.finish_clean(&rpm);
}

/// The number of descriptors of the daemon.
fn descriptors(rpm: &Rpm) -> usize {
    let pid = rpm.daemon_pid().expect("it runs");
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it is ours")
        .count()
}

#[test]
fn one_that_listens_on_ten_thousand_ports() {
    harms_nobody("many_ports");
}

#[test]
fn one_that_forks_and_binds_in_a_loop() {
    harms_nobody("forks");
}

#[test]
fn one_that_closes_the_reports() {
    harms_nobody("closes");
}

#[test]
fn one_that_reads_the_reports_itself() {
    harms_nobody("steals");
}

#[test]
fn one_that_has_no_descriptor_left() {
    harms_nobody("exhausts");
}
