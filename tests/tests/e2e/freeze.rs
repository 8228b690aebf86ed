//! Frozen workers: stopped from outside, or in a handler that spins.
//!
//! What a frozen worker had accepted waits for it; everything else is served by others within 100 ms. The bound is exact: a stopped process
//! accepts nothing, so the connections among its descriptors are those that may be slow.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rpm_e2e::app::App;
use rpm_e2e::machine::Machine;
use rpm_e2e::outside::{freeze, kill, sockets, thaw, voluntary_switches};
use rpm_e2e::steering::Path;
use rpm_testkit::{Load, Outcome, Port, Report, Rpm, Status, Traffic, get, wait_for, wait_until};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(15);
/// No client may wait longer than this.
const SLOW: Duration = Duration::from_millis(100);
/// Clients with a new connection per request.
const CLIENTS: usize = 16;
/// Attempts until one was not disturbed.
const ATTEMPTS: u32 = 8;
/// CPUs that other programs may use before a failed attempt is repeated.
const DISTURBED: f64 = 0.15;
/// How long a worker is stopped.
const STOPPED: Duration = Duration::from_secs(2);
/// A worker that stands still for this long is certainly passed over; garbage collection, or another program's turn on the CPU, takes tens
/// of milliseconds.
const CLEARLY: Duration = Duration::from_millis(500);

/// One test at a time, because all of this is about milliseconds.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn app(script: &str, port: &Port, instances: &str) -> App {
    App::cluster(script, instances).args(["--name", "web"]).port(port)
}

fn load(port: &Port) -> Load {
    Load {
        clients: CLIENTS,
        // What is slow is counted, and no stop of a worker lasts so long, even if this process gets no CPU for seconds.
        timeout: Duration::from_secs(30),
        ..Load::local(port.number())
    }
}

/// Waits until one worker answers nothing while the other keeps answering.
fn wait_for_standstill(traffic: &Traffic) {
    let (mut base, mut since) = (traffic.so_far().responders, Instant::now());
    wait_until(
        "one of two workers stands still",
        BOUND,
        || {
            let now = traffic.so_far().responders;
            let grown = grown(&base, &now);
            if grown.values().all(|count| *count > 0) {
                (base, since) = (now, Instant::now());
            }
            (since.elapsed(), grown)
        },
        |(still, _)| *still >= CLEARLY,
    );
}

fn grown(base: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    now.iter()
        .map(|(worker, count)| (worker.clone(), count - base.get(worker).unwrap_or(&0)))
        .collect()
}

/// The pid in the fixtures' `x-worker` field.
fn pid_of(worker: &str) -> u32 {
    worker
        .trim()
        .rsplit(' ')
        .next()
        .and_then(|pid| pid.parse().ok())
        .expect("`instance pid`")
}

fn wait_answers_again(traffic: &Traffic, worker: &str) {
    let count = || {
        traffic
            .so_far()
            .responders
            .get(worker)
            .copied()
            .unwrap_or_default()
    };
    let before = count();
    wait_until(
        "the worker that moves again gets connections",
        BOUND,
        count,
        |now| *now > before + 20,
    );
}

/// Freezes a worker under load and checks that only requests that it had accepted were slow. If an attempt fails, the CPU time of other
/// programs decides: on a quiet machine the test has failed; on a busy one the attempt proves nothing and is repeated. On one that is always
/// busy, no other request has waited until the worker went on.
fn only_accepted_wait(rpm: &Rpm, freeze: impl Fn() -> (Report, u64)) {
    let mut waited = Vec::new();
    for _ in 0..ATTEMPTS {
        let machine = Machine::watch(rpm.pids("web").into_iter().chain(rpm.daemon_pid()));
        let (report, accepted) = freeze();
        let others = machine.others();
        let slow = report.latency.slower_than(SLOW);
        println!("{accepted} accepted, {slow} slow, others took {others:.2} CPUs\n{report}");
        report.check_clean().expect("every request is answered");
        if slow <= accepted {
            return;
        }
        assert!(
            others > DISTURBED,
            "{slow} requests took more than {SLOW:?}, {accepted} had been accepted\n{report}\n{}",
            rpm.log()
        );
        waited.push((report.latency.slower_than(STOPPED / 2), accepted));
    }
    assert!(
        waited.iter().any(|(slow, accepted)| slow <= accepted),
        "requests that took more than {:?}, and how many had been accepted: {waited:?}\n{}",
        STOPPED / 2,
        rpm.log()
    );
}

/// The number of connections that were moved out of any worker's queue so far.
fn all_rescued(rpm: &Rpm) -> u64 {
    let listeners = rpm.describe("web").listeners;
    let slots = listeners.iter().flat_map(|listener| &listener.slots);
    slots.map(|slot| slot.rescued).sum()
}

/// The number of connections that were moved out of this worker's queue so far.
fn rescued(rpm: &Rpm, pid: u32) -> u64 {
    let info = rpm.describe("web");
    let process = info.processes.iter().find(|process| process.pid == Some(pid));
    let id = process.expect("the worker is listed").id;
    let slots = info.listeners.iter().flat_map(|listener| &listener.slots);
    slots
        .filter(|slot| slot.instance == id)
        .map(|slot| slot.rescued)
        .sum()
}

/// Whatever a frozen worker gets has to be moved away: connections from before it was seen to be frozen, and those of each trial (after 1
/// s, 2 s more, 4 s more). If it stayed in steering, it would get all 16 every 50 ms.
fn assert_hardly_steered_to(rescued: u64) {
    let most = 4 * CLIENTS as u64;
    assert!(rescued <= most, "{rescued} connections came to a frozen worker");
}

fn stopped_from_outside(test: &str, path: Path) {
    let _alone = alone();
    let Some(rpm) = path.rpm(test) else { return };
    let port = Port::reserve();
    app("hello.js", &port, "2").start(&rpm);
    if !path.is_used(&rpm, "web", test) {
        return;
    }
    let victim = rpm.process(0).pid.expect("the worker runs");
    let idle = sockets(victim);
    only_accepted_wait(&rpm, || {
        let traffic = Traffic::start(&load(&port));
        traffic.wait_ok(500);
        let before = rescued(&rpm, victim);
        freeze(victim);
        let held = sockets(victim) - idle;
        // tidy: sleep because how long the worker stands still is the input of the test
        thread::sleep(STOPPED);
        assert_hardly_steered_to(rescued(&rpm, victim) - before);
        thaw(victim);
        wait_answers_again(&traffic, &format!("0 {victim}"));
        (traffic.finish(), held)
    });
}

#[test]
fn a_stopped_worker_delays_only_what_it_had_accepted() {
    stopped_from_outside("a_stopped_worker_delays_only_what_it_had_accepted", Path::Ebpf);
}

#[test]
fn so_it_is_under_an_unprivileged_daemon() {
    stopped_from_outside("so_it_is_under_an_unprivileged_daemon", Path::Classic);
}

fn spinning(test: &str, path: Path) {
    let _alone = alone();
    let Some(rpm) = path.rpm(test) else { return };
    let port = Port::reserve();
    app("spin.js", &port, "2").start(&rpm);
    if !path.is_used(&rpm, "web", test) {
        return;
    }
    let sockets_of_all = || -> BTreeMap<u32, u64> {
        let workers = rpm.pids("web").into_iter();
        workers.map(|pid| (pid, sockets(pid))).collect()
    };
    let idle = sockets_of_all();
    only_accepted_wait(&rpm, || {
        let traffic = Traffic::start(&load(&port));
        traffic.wait_ok(500);
        let number = port.number();
        let before: BTreeMap<u32, u64> = idle.keys().map(|pid| (*pid, rescued(&rpm, *pid))).collect();
        let spin = thread::spawn(move || get(number, "/spin"));
        wait_for_standstill(&traffic);
        let then = sockets_of_all();
        assert!(!spin.is_finished(), "it was seen while it spun");
        let answer = spin.join().expect("it is asked").expect("it is answered");
        let spinner = pid_of(&answer.body);
        assert_hardly_steered_to(rescued(&rpm, spinner) - before[&spinner]);
        // The request that spins has one of these connections, which is not one of the load's.
        let held = (then[&spinner] - idle[&spinner]).saturating_sub(1);
        wait_answers_again(&traffic, answer.body.trim());
        (traffic.finish(), held)
    });
}

#[test]
fn a_spinning_worker_delays_only_what_it_had_accepted() {
    spinning("a_spinning_worker_delays_only_what_it_had_accepted", Path::Ebpf);
}

#[test]
fn so_does_one_of_an_unprivileged_daemon() {
    spinning("so_does_one_of_an_unprivileged_daemon", Path::Classic);
}

/// Workers that are merely busy: their queues are never empty, and no request may be lost by that.
fn saturated(test: &str, path: Path) {
    let _alone = alone();
    let Some(rpm) = path.rpm(test) else { return };
    let port = Port::reserve();
    app("cpu.js", &port, "2").start(&rpm);
    if !path.is_used(&rpm, "web", test) {
        return;
    }
    let load = Load {
        clients: 64,
        lasting: Some(Duration::from_secs(3)),
        ..Load::local(port.number())
    };
    let report = Traffic::start(&load).wait();
    println!("{report}");
    report.check_clean().expect("every request is answered");
    assert_eq!(report.responders.len(), 2, "both serve");
}

#[test]
fn saturated_workers_lose_nothing() {
    saturated("saturated_workers_lose_nothing", Path::Ebpf);
}

#[test]
fn saturated_workers_of_an_unprivileged_daemon_lose_nothing() {
    saturated(
        "saturated_workers_of_an_unprivileged_daemon_lose_nothing",
        Path::Classic,
    );
}

fn queued(rpm: &Rpm) -> u32 {
    rpm.describe("web")
        .listeners
        .iter()
        .flat_map(|listener| &listener.slots)
        .map(|slot| slot.queued)
        .sum()
}

fn all_stopped(test: &str, path: Path, instances: &str) {
    let _alone = alone();
    let Some(rpm) = path.rpm(test) else { return };
    let port = Port::reserve();
    app("hello.js", &port, instances).start(&rpm);
    if !path.is_used(&rpm, "web", test) {
        return;
    }
    let workers = rpm.pids("web");
    workers.iter().copied().for_each(freeze);
    let few = Load {
        requests: Some(CLIENTS as u64),
        ..load(&port)
    };
    let traffic = Traffic::start(&few);
    // If the clients begin slowly, one worker counts as frozen before the other has a connection, and what it had is moved to the other. With
    // classic BPF that is no queue any more.
    let handed = || match path {
        Path::Classic => all_rescued(&rpm),
        Path::Ebpf | Path::Capable => 0,
    };
    wait_until(
        "every connection waits",
        BOUND,
        || (u64::from(queued(&rpm)), handed()),
        |(queued, handed)| *queued == CLIENTS as u64 || queued + handed == CLIENTS as u64,
    );
    assert_eq!(traffic.so_far().outcomes.total(), 0, "nobody is there to answer");
    workers.into_iter().for_each(thaw);
    let report = traffic.wait();
    report.check_clean().expect("what waited is served");
    assert_eq!(report.outcomes.ok(), CLIENTS as u64);
}

#[test]
fn connections_wait_while_both_workers_are_stopped() {
    all_stopped("connections_wait_while_both_workers_are_stopped", Path::Ebpf, "2");
}

#[test]
fn connections_wait_while_both_workers_of_an_unprivileged_daemon_are_stopped() {
    let test = "connections_wait_while_both_workers_of_an_unprivileged_daemon_are_stopped";
    all_stopped(test, Path::Classic, "2");
}

#[test]
fn connections_wait_while_the_only_worker_is_stopped() {
    all_stopped(
        "connections_wait_while_the_only_worker_is_stopped",
        Path::Ebpf,
        "1",
    );
}

fn killed_while_stopped(test: &str, path: Path) {
    let _alone = alone();
    let Some(rpm) = path.rpm(test) else { return };
    let port = Port::reserve();
    app("hello.js", &port, "2").start(&rpm);
    if !path.is_used(&rpm, "web", test) {
        return;
    }
    let victim = rpm.process(0).pid.expect("the worker runs");
    let idle = sockets(victim);
    let traffic = Traffic::start(&load(&port));
    traffic.wait_ok(500);
    freeze(victim);
    let held = sockets(victim) - idle;
    traffic.wait_ok(500);
    kill(victim);
    let successor = || rpm.process(0).pid.filter(|pid| *pid != victim);
    let successor = wait_for("the killed worker is replaced", BOUND, successor);
    rpm.wait_status("web", Status::Online);
    wait_answers_again(&traffic, &format!("0 {successor}"));
    let report = traffic.finish();
    report
        .check_allowing(&[Outcome::ResetFresh, Outcome::Truncated])
        .expect("nothing is refused or hangs");
    assert!(
        report.outcomes.failures() <= held,
        "{held} requests had been accepted\n{report}"
    );
}

#[test]
fn the_replacement_of_a_stopped_worker_takes_over() {
    killed_while_stopped("the_replacement_of_a_stopped_worker_takes_over", Path::Ebpf);
}

#[test]
fn the_replacement_takes_over_under_an_unprivileged_daemon() {
    killed_while_stopped(
        "the_replacement_takes_over_under_an_unprivileged_daemon",
        Path::Classic,
    );
}

/// Both workers are frozen, and only one is detected. Its queue is sent to the other, which dies. At that moment no worker can have these
/// connections; they are kept for the next that starts or continues.
#[test]
fn what_no_worker_can_have_is_kept_for_one_that_can() {
    let test = "what_no_worker_can_have_is_kept_for_one_that_can";
    let _alone = alone();
    // Where the kernel can migrate, they wait at the other's slot, which its replacement inherits.
    let Some(rpm) = Path::Classic.rpm(test) else {
        return;
    };
    let port = Port::reserve();
    app("hello.js", &port, "2").start(&rpm);
    let workers = [0, 1].map(|id| rpm.process(id).pid.expect("the worker runs"));
    workers.into_iter().for_each(freeze);
    let traffic = Traffic::start(&Load {
        clients: 1,
        requests: Some(1),
        ..load(&port)
    });
    let from = || workers.into_iter().find(|pid| rescued(&rpm, *pid) > 0);
    let from = wait_for("the connection is sent to the other one", BOUND, from);
    let victim = workers
        .into_iter()
        .find(|pid| *pid != from)
        .expect("there are two");
    kill(victim);
    let replaced = || {
        let list = rpm.list();
        list.iter()
            .all(|process| process.status == Status::Online && process.pid != Some(victim))
    };
    wait_until("the other one is replaced", BOUND, replaced, |replaced| *replaced);
    thaw(from);
    traffic.wait().check_clean().expect("it is answered");
    // The daemon does not keep searching for a worker that can have it.
    let daemon = rpm.daemon_pid().expect("it runs");
    let busy = || {
        let machine = Machine::watch([daemon]);
        // tidy: sleep because what is measured is that nothing happens in this time
        thread::sleep(Duration::from_millis(300));
        machine.ours()
    };
    wait_until("the daemon rests", BOUND, busy, |busy| *busy < 0.1);
}

/// The queues are sampled every 5 ms while there is traffic. Without traffic, only the sample of CPU and memory every 2 s remains. The
/// kernel counts how often the daemon went to sleep.
#[test]
fn a_daemon_without_traffic_sleeps() {
    let _alone = alone();
    let (rpm, port) = (Rpm::new(), Port::reserve());
    app("hello.js", &port, "2").start(&rpm);
    Traffic::start(&Load {
        requests: Some(1_000),
        ..load(&port)
    })
    .wait()
    .check_clean()
    .expect("answers");
    // An open connection on which nothing is sent is not traffic.
    let _silent = TcpStream::connect(("127.0.0.1", port.number())).expect("the app listens");
    let daemon = rpm.daemon_pid().expect("the daemon runs");
    let (mut last, mut since) = (voluntary_switches(daemon), Instant::now());
    let quiet = || {
        let now = voluntary_switches(daemon);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed()
    };
    wait_until("the daemon falls asleep", BOUND, quiet, |quiet| {
        *quiet > Duration::from_millis(250)
    });
    let (before, begun) = (voluntary_switches(daemon), Instant::now());
    // tidy: sleep because what is measured is that nothing happens in this time
    thread::sleep(Duration::from_secs(3));
    // A thread that has ended in the meantime does not wake up.
    let now = voluntary_switches(daemon).into_iter();
    let woken: u64 = now
        .map(|(thread, count)| count - before.get(&thread).copied().unwrap_or(0))
        .sum();
    // This process may have slept longer than that.
    let (took, most) = (begun.elapsed(), 2 * begun.elapsed().as_secs());
    assert!(woken <= most, "the idle daemon woke up {woken} times in {took:?}");
}
