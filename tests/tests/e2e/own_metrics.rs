//! `metrics_path` and `prom_client`: the metrics that an app has itself, of each worker and added up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::ask::BOUND;
use rpm_e2e::clients::Clients;
use rpm_e2e::outside::kill_daemon;
use rpm_testkit::{Port, Rpm, get, metrics_app, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::observe::check_page;
use crate::observing::{page, turn_on};

/// Clients of each kind, and responses between two events.
const CLIENTS: usize = 4;
const SOME: u64 = 50;
/// Time for a reload with traffic.
const LONG: Duration = Duration::from_secs(100);

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
const ERRORS: &str = r#"rpm_app_scrape_errors_total{app="web"}"#;

/// No worker's page was wrong. One that is too late, because its worker gets no CPU for two seconds, is left out and counted, which is right.
fn check_errors(rpm: &Rpm, shown: &str) {
    let errors = value(shown, ERRORS);
    let logs = rpm.ok(["logs", "rpm-observe", "--nostream", "--lines", "1000"]);
    let said = || logs.lines().filter(|line| line.contains("no metrics of web "));
    let is_late = |line: &str| line.contains("no answer within") || line.contains("does not answer");
    assert!(
        errors == Some(0.0) || (errors.is_some() && said().next().is_some() && said().all(is_late)),
        "{errors:?}: {logs}"
    );
}

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
            let scraped = || {
                let shown = page(port);
                // The page of a daemon that has not answered in time has no sums.
                if shown.contains("rpm_up 1\n") {
                    let sum = value(&shown, series).unwrap_or_default();
                    assert!(sum >= before, "{before} became {sum}");
                    before = sum;
                }
                done.load(Ordering::Relaxed)
            };
            wait_until("the end of what is observed", LONG, scraped, |done| *done);
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
    let numbers = |shown: &String| {
        let gauge = |id: u32| value(shown, &format!(r#"process_number{{app="web",id="{id}"}}"#));
        [0, 1].map(gauge) == [Some(0.0), Some(1.0)]
    };
    let shown = wait_until("a page of both workers", BOUND, || page(&port), numbers);
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
    check_errors(&rpm, &shown);
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
    kill_daemon(&rpm);
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

/// Has an app answer requests, whose sum is on the page then.
fn each_is_asked(rpm: &Rpm, app: &App, web: &Port, series: &str) {
    let port = Port::reserve();
    turn_on(rpm, &port);
    app.start(rpm);
    for _ in 0..30 {
        assert_eq!(get(web.number(), "/").expect("it answers").status, 200);
    }
    let sum = || value(&page(&port), series);
    wait_until("all are counted", BOUND, sum, |sum| *sum == Some(30.0));
    check_errors(rpm, &page(&port));
}

#[test]
fn at_the_public_address_each_worker_is_found() {
    let web = Port::reserve();
    each_is_asked(&Rpm::new(), &counting_in_python(&web, "3"), &web, ALL);
}

#[test]
fn without_ebpf_each_worker_is_found() {
    let Some(rpm) = Rpm::unprivileged("without_ebpf_each_worker_is_found") else {
        return;
    };
    let web = Port::reserve();
    each_is_asked(&rpm, &counting_in_python(&web, "3"), &web, ALL);
    assert!(rpm.ok(["describe", "web"]).contains("classic BPF"));
}

#[test]
fn where_the_daemon_accepts_each_worker_is_asked() {
    let web = Port::reserve();
    let app = counting(&web).args(["--balance", "handoff"]);
    each_is_asked(&Rpm::new(), &app, &web, BY_METHOD);
}

/// The example of prom-client for clusters, as it is.
fn example(web: &Port) -> App {
    let example = metrics_app().with_file_name("example").join("cluster.js");
    let app = App::of([example]).args(["--name", "web", "-i", "2", "--prom-client"]);
    app.node(22).port(web)
}

#[test]
fn the_example_of_prom_client_is_asked_over_the_channel() {
    let (rpm, web, port) = (Rpm::new(), Port::reserve(), Port::reserve());
    turn_on(&rpm, &port);
    example(&web).start(&rpm);
    // Each of its workers observes one.
    const OBSERVED: &str = r#"test_histogram_count{app="web",code="200"}"#;
    let sum = || value(&page(&port), OBSERVED);
    wait_until("both workers", BOUND, sum, |sum| *sum == Some(2.0));
    let heaps = |shown: &String| {
        let heap = |id: u32| {
            value(
                shown,
                &format!(r#"nodejs_heap_size_used_bytes{{app="web",id="{id}"}}"#),
            )
        };
        [0, 1].map(heap).iter().all(|heap| *heap > Some(1e6))
    };
    wait_until("a page of both workers", BOUND, || page(&port), heaps);
    rpm.ok(["reload", "web", "--wait"]);
    wait_until("and both that were replaced", BOUND, sum, |sum| *sum == Some(4.0));
    check_errors(&rpm, &page(&port));
    let _ = rpm.ok(["delete", "web"]);
    // An app that makes no AggregatorRegistry.
    let app = App::of([metrics_app()]).args(["--name", "web", "-i", "1", "--prom-client"]);
    app.node(22).port(&web).start(&rpm);
    let logs = || {
        page(&port);
        rpm.ok(["logs", "rpm-observe", "--nostream"])
    };
    let why = "no metrics of web 0: prom-client in it does not answer (2000 ms): does the app make an AggregatorRegistry?";
    wait_until("the reason", BOUND, logs, |logs| logs.contains(why));
}

#[test]
fn a_bad_page_costs_that_worker_alone() {
    for bad in ["html", "large", "slow"] {
        let (rpm, web, port) = (Rpm::new(), Port::reserve(), Port::reserve());
        turn_on(&rpm, &port);
        let app = counting_in_python(&web, "2").args(["--balance", "proxy"]);
        app.env("BAD_1", bad).start(&rpm);
        assert_eq!(get(web.number(), "/").expect("it answers").status, 200);
        let other = |shown: &String| value(shown, ALL).is_some() && value(shown, ERRORS) >= Some(1.0);
        let what = format!("the page of the other one, with {bad}");
        let shown = wait_until(&what, BOUND, || page(&port), other);
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
    let app = App::new("hello.js").args(["--prom-client"]);
    let refused = app.port(&web).try_start(&rpm);
    assert!(
        refused.stderr.contains("prom_client is for Node in cluster mode"),
        "{refused:#?}"
    );
}
