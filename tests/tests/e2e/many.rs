//! Many workers: with more than 128, the daemon stores and samples all of them together.

use std::collections::BTreeSet;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::clients::Clients;
use rpm_e2e::outside::kill_daemon;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Process, Rpm, Status, wait_until};

/// Workers of one app.
const WORKERS: usize = 150;
/// For that many to start and end, on a loaded machine.
const BOUND: Duration = Duration::from_secs(60);

fn pids(list: &[Process]) -> BTreeSet<u32> {
    list.iter().filter_map(|process| process.pid).collect()
}

fn are_online(count: usize) -> impl Fn(&Vec<Process>) -> bool {
    move |list| {
        list.len() == count
            && list
                .iter()
                .all(|process| process.status == Status::Online && process.others.is_empty())
    }
}

/// No process of a worker is left but these. They are looked for by their environment: other programs may have got the pids of those that
/// have ended.
fn nothing_else_runs(rpm: &Rpm, list: &[Process]) {
    let known = pids(list);
    let strays = || -> Vec<u32> {
        let all = rpm.processes_of_workers();
        all.into_iter().filter(|pid| !known.contains(pid)).collect()
    };
    wait_until("nothing else runs", BOUND, strays, Vec::is_empty);
}

#[test]
fn a_hundred_and_fifty_workers_are_reloaded_taken_back_and_scaled_without_a_loss() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let count = WORKERS.to_string();
    let app = App::of([place.small_server()]).args(["--name", "many", "-i", &count]);
    app.port(&port).start(&rpm);
    let first = rpm.list();
    assert!(are_online(WORKERS)(&first), "{first:#?}");
    let clients = Clients::fresh(&port, 4);
    clients.wait_ok(500);
    rpm.ok(["reload", "many"]);
    let second = wait_until("the old ones are gone", BOUND, || rpm.list(), are_online(WORKERS));
    assert!(pids(&first).is_disjoint(&pids(&second)));
    clients.wait_ok(200);
    kill_daemon(&rpm);
    clients.wait_ok(200);
    assert_eq!(pids(&rpm.list()), pids(&second), "the same are taken back");
    rpm.ok(["reload", "many"]);
    let third = wait_until("the adopted are gone", BOUND, || rpm.list(), are_online(WORKERS));
    assert!(pids(&second).is_disjoint(&pids(&third)));
    rpm.ok(["scale", "many", "3"]);
    let left = wait_until("three are left", BOUND, || rpm.list(), are_online(3));
    clients.wait_ok(200);
    clients.finish_clean(&rpm);
    assert!(pids(&left).is_subset(&pids(&third)));
    nothing_else_runs(&rpm, &left);
}

#[test]
fn a_daemon_that_dies_during_a_reload_of_many_loses_nothing_and_none_of_them() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let count = WORKERS.to_string();
    let app = App::of([place.small_server()]).args(["--name", "many", "-i", &count]);
    app.port(&port).start(&rpm);
    let clients = Clients::fresh(&port, 4);
    clients.wait_ok(200);
    let mut reload = rpm.spawn(["reload", "many"]);
    // New ones are starting, and their starts are not stored one by one.
    let begun = |list: &Vec<Process>| list.iter().filter(|process| !process.others.is_empty()).count() > 10;
    wait_until("some are new", BOUND, || rpm.list(), begun);
    kill_daemon(&rpm);
    let _ = reload.kill();
    let _ = reload.wait();
    let list = wait_until("it is undone, or done", BOUND, || rpm.list(), are_online(WORKERS));
    clients.wait_ok(200);
    clients.finish_clean(&rpm);
    nothing_else_runs(&rpm, &list);
}
