//! `metrics_path`: the metrics that an app has itself, of each worker and added up.

use std::sync::atomic::{AtomicBool, Ordering};

use rpm_e2e::app::App;
use rpm_e2e::ask::BOUND;
use rpm_e2e::clients::Clients;
use rpm_testkit::{Port, Rpm, get, metrics_app, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::observe::check_page;
use crate::observing::{page, turn_on};

/// Clients of each kind, and responses between two events.
const CLIENTS: usize = 4;
const SOME: u64 = 50;

/// An app that counts with prom-client, on two workers.
fn counting(web: &Port) -> App {
    App::of([metrics_app()])
        .args(["--name", "web", "-i", "2", "--metrics-path", "/metrics"])
        .node(22)
        .port(web)
}

/// The same in Python.
fn counting_in_python(web: &Port, instances: &str) -> App {
    App::cluster("counts.py", instances)
        .args(["--name", "web", "--metrics-path", "/metrics"])
        .port(web)
}

/// The value of a series on the page.
fn value(page: &str, series: &str) -> Option<f64> {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().expect("a number"))
}

const BY_METHOD: &str = r#"answers_total{app="web",method="GET"}"#;
const ALL: &str = r#"answers_total{app="web"}"#;

/// Ends the clients. None of their requests failed, and the sum is their number.
fn compare(rpm: &Rpm, port: &Port, clients: Clients, series: &str) {
    let reports = clients.finish();
    let mut answered = 0;
    for (kind, report) in &reports {
        assert!(
            report.check_clean().is_ok(),
            "{}: {report}\n{}",
            kind.as_str(),
            rpm.log()
        );
        answered += report.outcomes.ok();
    }
    let sum = || value(&page(port), series);
    wait_until("the sum is what clients saw", BOUND, sum, |sum| {
        *sum == Some(answered as f64)
    });
}

/// Scrapes while something happens: no sum goes backwards meanwhile.
fn while_scraped<T>(port: &Port, series: &str, act: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut before = 0.0;
            while !done.load(Ordering::Relaxed) {
                let sum = value(&page(port), series).unwrap_or_default();
                assert!(sum >= before, "{before} became {sum}");
                before = sum;
            }
        });
        let made = act();
        done.store(true, Ordering::Relaxed);
        scraper.join().expect("no sum goes backwards");
        made
    })
}

#[test]
fn the_sum_is_what_clients_saw_over_a_reload_and_a_crash() {
    let (rpm, web, port) = (Rpm::new(), Port::reserve(), Port::reserve());
    turn_on(&rpm, &port);
    counting(&web).start(&rpm);
    let clients = Clients::begin(&web, "/", CLIENTS);
    clients.wait_ok(SOME);
    while_scraped(&port, BY_METHOD, || {
        rpm.ok(["reload", "web", "--wait"]);
        clients.wait_ok(SOME);
    });
    compare(&rpm, &port, clients, BY_METHOD);
    let shown = page(&port);
    check_page(&shown);
    let total = value(&shown, BY_METHOD).expect("it is there");
    let of_histogram = [
        r#"answer_seconds_count{app="web"}"#,
        r#"answer_seconds_bucket{app="web",le="+Inf"}"#,
    ];
    assert_eq!(
        of_histogram.map(|series| value(&shown, series)),
        [Some(total); 2],
        "{shown}"
    );
    for id in [0, 1] {
        let gauge = format!(r#"process_number{{app="web",id="{id}"}}"#);
        assert_eq!(value(&shown, &gauge), Some(f64::from(id)), "{shown}");
    }
    assert_eq!(
        value(&shown, r#"rpm_app_scrape_errors_total{app="web"}"#),
        Some(0.0),
        "{shown}"
    );
    let before = rpm.pids("web");
    let pid = i32::try_from(before[0])
        .ok()
        .and_then(Pid::from_raw)
        .expect("a pid");
    kill_process(pid, Signal::KILL).expect("it is there");
    let pids = || rpm.pids("web");
    wait_until("another worker", BOUND, pids, |pids| {
        pids.len() == 2 && !pids.contains(&before[0])
    });
    let daemon = rpm
        .daemon_pid()
        .and_then(|pid| Pid::from_raw(pid.cast_signed()))
        .expect("it runs");
    kill_process(daemon, Signal::KILL).expect("it is there");
    assert_eq!(rpm.list().len(), 2);
    let sum = || {
        get(port.number(), "/metrics")
            .ok()
            .and_then(|answer| value(&answer.body, BY_METHOD))
    };
    let same = wait_until("the next daemon is asked", BOUND, sum, Option::is_some);
    assert_eq!(same, Some(total), "what was counted stays");
}

#[test]
fn behind_the_proxy_any_program_is_asked_alone() {
    let (rpm, web, port) = (Rpm::new(), Port::reserve(), Port::reserve());
    turn_on(&rpm, &port);
    counting_in_python(&web, "2")
        .args(["--balance", "proxy"])
        .start(&rpm);
    let clients = Clients::begin(&web, "/", CLIENTS);
    clients.wait_ok(SOME);
    while_scraped(&port, ALL, || {
        rpm.ok(["reload", "web", "--wait"]);
        clients.wait_ok(SOME);
    });
    compare(&rpm, &port, clients, ALL);
}

#[test]
fn at_the_public_address_each_worker_is_found() {
    let (rpm, web, port) = (Rpm::new(), Port::reserve(), Port::reserve());
    turn_on(&rpm, &port);
    counting_in_python(&web, "3").start(&rpm);
    for _ in 0..30 {
        assert_eq!(get(web.number(), "/").expect("it answers").status, 200);
    }
    let sum = || value(&page(&port), ALL);
    wait_until("all are counted", BOUND, sum, |sum| *sum == Some(30.0));
}

#[test]
fn a_bad_page_costs_that_worker_alone() {
    for bad in ["html", "large", "slow"] {
        let (rpm, web, port) = (Rpm::new(), Port::reserve(), Port::reserve());
        turn_on(&rpm, &port);
        let app = counting_in_python(&web, "2").args(["--balance", "proxy"]);
        app.env("BAD_1", bad).start(&rpm);
        assert_eq!(get(web.number(), "/").expect("it answers").status, 200);
        let shown = page(&port);
        assert!(
            value(&shown, ALL).is_some(),
            "{bad}: the other one is there: {shown}"
        );
        let errors = value(&shown, r#"rpm_app_scrape_errors_total{app="web"}"#);
        assert!(errors.is_some_and(|errors| errors >= 1.0), "{bad}: {shown}");
        check_page(&shown);
        let logs = rpm.ok(["logs", "rpm-observe", "--nostream"]);
        assert!(logs.contains("no metrics of web 1"), "{bad}: {logs}");
    }
}

#[test]
fn a_path_that_is_none_is_refused() {
    let (rpm, web) = (Rpm::new(), Port::reserve());
    let app = App::cluster("counts.py", "1").args(["--metrics-path", "metrics"]);
    let refused = app.port(&web).try_start(&rpm);
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(
        refused.stderr.contains("cannot be the path of metrics"),
        "{refused:#?}"
    );
}
