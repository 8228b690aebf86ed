//! `GET /metrics`: workers and their slots.

use rpm_e2e::app::App;
use rpm_e2e::ask::{BOUND, workers};
use rpm_e2e::process::signal;
use rpm_testkit::{Port, Process, Rpm, Status, wait_until};

/// The sum of a metric over all lines whose labels contain every one of `labels`.
fn sum(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let ours = |line: &&str| {
        line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label))
    };
    let values = text
        .lines()
        .filter(ours)
        .map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()));
    values
        .map(|value| value.expect("a number"))
        .reduce(|sum, value| sum + value)
}

#[test]
fn metrics_tell_of_workers_and_slots() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2").port(&port).start(&rpm);
    let _ = workers(&port, 2);
    signal(rpm.process(0).pid.expect("it runs"), "KILL");
    let replaced = |p: &Process| p.restarts == 1 && p.status == Status::Online;
    wait_until("a replacement", BOUND, || rpm.process(0), replaced);
    // The usage of a process that was just executed is cached for a moment.
    let scrape = || rpm.api("GET", "/metrics", "").body;
    let memory = |text: &String, id: &str| sum(text, "rpm_worker_memory_bytes", &["app=\"hello\"", id]);
    let both = |text: &String| {
        ["id=\"0\"", "id=\"1\""]
            .iter()
            .all(|id| memory(text, id) > Some(1e6))
    };
    let text = wait_until("the memory of both", BOUND, scrape, both);
    let of = |name: &str, labels: &[&str]| sum(&text, name, labels);
    assert_eq!(
        of("rpm_workers", &["app=\"hello\"", "state=\"online\""]),
        Some(2.0),
        "{text}"
    );
    assert_eq!(
        of("rpm_restarts_total", &["app=\"hello\"", "id=\"0\""]),
        Some(1.0),
        "{text}"
    );
    assert_eq!(
        of("rpm_restarts_total", &["app=\"hello\"", "id=\"1\""]),
        Some(0.0),
        "{text}"
    );
    assert_eq!(of("rpm_accept_queue", &["app=\"hello\""]), Some(0.0), "{text}");
    // One that gets no CPU while connections wait for it is relieved of them.
    assert!(of("rpm_slot_rescued_total", &["id=\"1\""]) >= Some(0.0), "{text}");
    assert!(of("rpm_worker_cpu_percent", &["id=\"1\""]) >= Some(0.0), "{text}");
    assert!(text.contains("rpm_rescued_connections_total "), "{text}");
    if rpm.describe("hello").listeners[0].steering == "ebpf" {
        assert!(
            of("rpm_steered_connections_total", &["app=\"hello\""]) >= Some(4.0),
            "{text}"
        );
    }
}
