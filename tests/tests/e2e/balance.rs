//! How evenly connections are shared: exactly with eBPF, randomly with classic BPF.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rpm_e2e::app::App;
use rpm_e2e::namespace::Network;
use rpm_e2e::steering::{Path, talkative, undisturbed};
use rpm_loadtest::Stop;
use rpm_testkit::{Load, Port, Report, Rpm, Status};

/// Connections that are counted.
const CONNECTIONS: u64 = 1_000;
/// One test at a time: a worker that gets no CPU for 15 ms counts as frozen, which changes the choice.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn app(port: &Port, instances: u32) -> App {
    App::cluster("hello.js", &instances.to_string())
        .args(["--name", "web"])
        .port(port)
}

/// Sequential requests, each on a new connection.
fn sequence(port: &Port) -> Load {
    Load {
        requests: Some(CONNECTIONS),
        ..Load::local(port.number())
    }
}

fn send(load: &Load) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(load.run(&Stop::new()))
}

/// The requests of each worker in an undisturbed measurement.
fn counts(rpm: &Rpm, measure: impl Fn() -> Report) -> BTreeMap<String, u64> {
    undisturbed(rpm, || {
        let report = measure();
        report.check_clean().expect("every request is answered");
        report.responders
    })
}

fn assert_exact(counts: &BTreeMap<String, u64>, workers: u64) {
    assert_eq!(counts.len() as u64, workers, "{counts:?}");
    let share = CONNECTIONS / workers;
    let (least, most) = (counts.values().min(), counts.values().max());
    assert!(
        least >= Some(&(share - 1)) && most <= Some(&(share + 1)),
        "{counts:?}"
    );
}

/// So many standard deviations of the binomial distribution: a correct program is beyond them once in 500 million counts.
const DEVIATIONS: f64 = 6.0;

fn assert_random(counts: &BTreeMap<String, u64>, workers: u64) {
    assert_eq!(counts.len() as u64, workers, "{counts:?}");
    let (connections, chance) = (CONNECTIONS as f64, 1.0 / workers as f64);
    let (mean, deviation) = (
        connections * chance,
        (connections * chance * (1.0 - chance)).sqrt(),
    );
    for count in counts.values() {
        assert!(
            (*count as f64 - mean).abs() <= DEVIATIONS * deviation,
            "{counts:?}: {mean} ± {DEVIATIONS} × {deviation}"
        );
    }
}

fn ebpf_is_exact(test: &str, workers: u32) {
    let _alone = alone();
    let (rpm, port) = (talkative(Rpm::new()), Port::reserve());
    app(&port, workers).start(&rpm);
    if Path::Ebpf.is_used(&rpm, "web", test) {
        assert_exact(&counts(&rpm, || send(&sequence(&port))), workers.into());
    }
}

#[test]
fn two_workers_get_exactly_half_each() {
    ebpf_is_exact("two_workers_get_exactly_half_each", 2);
}

#[test]
fn three_workers_get_exactly_a_third_each() {
    ebpf_is_exact("three_workers_get_exactly_a_third_each", 3);
}

#[test]
fn four_workers_get_exactly_a_quarter_each() {
    ebpf_is_exact("four_workers_get_exactly_a_quarter_each", 4);
}

#[test]
fn the_shares_stay_exact_after_scaling() {
    let _alone = alone();
    let (rpm, port) = (talkative(Rpm::new()), Port::reserve());
    app(&port, 2).start(&rpm);
    if !Path::Ebpf.is_used(&rpm, "web", "the_shares_stay_exact_after_scaling") {
        return;
    }
    for count in ["4", "3"] {
        rpm.ok(["scale", "web", count]);
    }
    assert_exact(&counts(&rpm, || send(&sequence(&port))), 3);
}

/// With SYN cookies the program runs twice per connection, for the SYN and for the ACK.
fn cookies_keep_it_exact(test: &str, workers: u32) {
    let _alone = alone();
    let Some(network) = Network::new(test, "echo 2 > /proc/sys/net/ipv4/tcp_syncookies") else {
        return;
    };
    let (rpm, port) = (talkative(Rpm::new()), Port::reserve());
    let started = network
        .inside(&app(&port, workers).command(&rpm))
        .output()
        .expect("rpm runs");
    assert!(
        started.status.success(),
        "{}",
        String::from_utf8_lossy(&started.stderr)
    );
    if Path::Ebpf.is_used(&rpm, "web", test) {
        assert_exact(&counts(&rpm, || network.send(&sequence(&port))), workers.into());
        let sent = network
            .inside(&shell("grep TcpExt: /proc/net/netstat"))
            .output()
            .expect("it runs");
        // A SYN that reuses addresses and port of a connection in TIME_WAIT gets no cookie: a few of 1,000.
        let cookies = cookies_sent(&String::from_utf8_lossy(&sent.stdout));
        assert!(cookies >= CONNECTIONS * 9 / 10, "{cookies} cookies were sent");
    }
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// `SyncookiesSent` from two lines of `/proc/net/netstat`: names and numbers.
fn cookies_sent(table: &str) -> u64 {
    let mut lines = table.lines().map(str::split_whitespace);
    let (names, numbers) = lines.next().zip(lines.next()).expect("names and numbers");
    let found = names.zip(numbers).find(|(name, _)| *name == "SyncookiesSent");
    found
        .and_then(|(_, number)| number.parse().ok())
        .expect("a count of cookies")
}

#[test]
fn two_workers_get_half_each_with_syn_cookies() {
    cookies_keep_it_exact("two_workers_get_half_each_with_syn_cookies", 2);
}

#[test]
fn three_workers_get_a_third_each_with_syn_cookies() {
    cookies_keep_it_exact("three_workers_get_a_third_each_with_syn_cookies", 3);
}

#[test]
fn four_workers_get_a_quarter_each_with_syn_cookies() {
    cookies_keep_it_exact("four_workers_get_a_quarter_each_with_syn_cookies", 4);
}

fn classic_is_random(test: &str, workers: u32) {
    let _alone = alone();
    let Some(rpm) = Path::Classic.rpm(test).map(talkative) else {
        return;
    };
    let port = Port::reserve();
    app(&port, workers).start(&rpm);
    assert!(Path::Classic.is_used(&rpm, "web", test));
    let reason = &rpm.describe("web").listeners[0].reason;
    assert!(
        reason.contains("not permitted") || reason.contains("CAP_BPF"),
        "{reason}"
    );
    assert_random(&counts(&rpm, || send(&sequence(&port))), workers.into());
}

#[test]
fn an_unprivileged_daemon_shares_at_random_among_two() {
    classic_is_random("an_unprivileged_daemon_shares_at_random_among_two", 2);
}

#[test]
fn an_unprivileged_daemon_shares_at_random_among_three() {
    classic_is_random("an_unprivileged_daemon_shares_at_random_among_three", 3);
}

#[test]
fn an_unprivileged_daemon_shares_at_random_among_four() {
    classic_is_random("an_unprivileged_daemon_shares_at_random_among_four", 4);
}

/// The kernel's order of the sockets changes when one leaves, and the daemon's copy of it has to follow.
#[test]
fn an_unprivileged_daemon_keeps_the_order_of_its_slots_while_scaling() {
    let _alone = alone();
    let test = "an_unprivileged_daemon_keeps_the_order_of_its_slots_while_scaling";
    let Some(rpm) = Path::Classic.rpm(test).map(talkative) else {
        return;
    };
    let port = Port::reserve();
    app(&port, 2).start(&rpm);
    for (count, workers) in [("4", 4), ("3", 3), ("4", 4), ("2", 2)] {
        rpm.ok(["scale", "web", count]);
        rpm.wait_status("web", Status::Online);
        assert_random(&counts(&rpm, || send(&sequence(&port))), workers);
    }
}
