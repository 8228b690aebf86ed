//! Taking workers back where the system does not let the next daemon copy their descriptors. While the keeper lives this is not needed; if
//! it has died, too, the workers are replaced, and no client notices. Also what is reported of them right after it.

use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::clients::Clients;
use rpm_e2e::denied::Denied;
use rpm_e2e::outside::{kill_both, kill_daemon};
use rpm_e2e::place::Place;
use rpm_e2e::steering::Path;
use rpm_testkit::{Port, Process, Rpm, Status, wait_until};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(30);
/// Clients of each kind.
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;

/// Kills the daemon, perhaps also the keeper, and lets a daemon take over that may not copy descriptors of other processes.
fn taken_over_by_one_that_is_denied(rpm: &Rpm, keeper_dies: bool) {
    let port = Port::reserve();
    App::cluster("hello.js", "2")
        .args(["--name", "web", "--drain-timeout", "5s"])
        .port(&port)
        .start(rpm);
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    let before = rpm.pids("web");
    if keeper_dies {
        kill_both(rpm);
    } else {
        kill_daemon(rpm);
    }
    clients.wait_ok(SOME);
    let listed = Denied::Getfd
        .to(&rpm.command(["list"]))
        .output()
        .expect("python3 runs");
    assert!(listed.status.success(), "{listed:?}\n{}", rpm.log());
    if keeper_dies {
        let others = |list: &Vec<Process>| {
            list.iter().all(|process| {
                process.status == Status::Online
                    && process.others.is_empty()
                    && process.pid.is_some_and(|pid| !before.contains(&pid))
            })
        };
        wait_until("all workers are others", BOUND, || rpm.list(), others);
    } else {
        assert_eq!(rpm.pids("web"), before, "{}", rpm.log());
    }
    clients.wait_ok(SOME);
    rpm.ok(["reload", "web", "--wait"]);
    clients.wait_ok(SOME);
    clients.finish_clean(rpm);
    let replaced = rpm.log().contains("and a reload replaces them");
    assert_eq!(replaced, keeper_dies, "{}", rpm.log());
}

#[test]
fn a_daemon_that_may_not_trace_takes_workers_back() {
    taken_over_by_one_that_is_denied(&Rpm::new(), false);
}

#[test]
fn a_daemon_that_may_not_trace_takes_workers_back_without_privileges() {
    if let Some(rpm) = Path::Classic.rpm("a_daemon_that_may_not_trace_takes_workers_back_without_privileges")
    {
        taken_over_by_one_that_is_denied(&rpm, false);
    }
}

#[test]
fn workers_that_cannot_be_taken_back_are_replaced() {
    taken_over_by_one_that_is_denied(&Rpm::new(), true);
}

#[test]
fn workers_that_cannot_be_taken_back_are_replaced_without_privileges() {
    let test = "workers_that_cannot_be_taken_back_are_replaced_without_privileges";
    if let Some(rpm) = Path::Classic.rpm(test) {
        taken_over_by_one_that_is_denied(&rpm, true);
    }
}

#[test]
fn a_worker_that_was_just_taken_back_uses_no_more_than_there_is_of_the_cpu() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let script = place.write("spin.sh", "while :; do :; done");
    rpm.ok([
        "start",
        &script.display().to_string(),
        "--interpreter",
        "sh",
        "--name",
        "spin",
    ]);
    for _ in 0..5 {
        kill_daemon(&rpm);
        let used = || rpm.process(0).cpu_percent;
        let used = wait_until("its share is known", BOUND, used, |used| *used > 0.0);
        // It has one thread. A sample covers at least 800 ms, and the daemon may get no CPU between two looks at clock and process. Where
        // all that it has ever used counted, that would be several times as much.
        assert!(used <= 200.0, "{used} %");
    }
}
