//! `--balance handoff`: the daemon accepts connections and hands them to Node workers one by one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rpm_e2e::app::App;
use rpm_e2e::ask::{V4, who, workers};
use rpm_e2e::clients::Clients;
use rpm_e2e::complaint::assert_says;
use rpm_e2e::machine::Machine;
use rpm_e2e::outside::{freeze, kill, kill_daemon, thaw};
use rpm_e2e::place::Place;
use rpm_e2e::process::descriptors;
use rpm_e2e::steering::{Path, talkative, undisturbed};
use rpm_testkit::{Load, Outcome, Port, Process, Rpm, Status, wait_until};

const BOUND: Duration = Duration::from_secs(20);
/// Clients of each kind.
const CLIENTS: usize = 8;
/// Responses between two events.
const SOME: u64 = 100;
/// CPUs that other programs may use before the bound is relaxed.
const DISTURBED: f64 = 0.15;
/// The most connections that the daemon sends to a worker ahead of its acknowledgements.
const WINDOW: u64 = 8;
/// How long a worker is frozen at least: far longer than another program's turn on the CPU.
const FROZEN: Duration = Duration::from_secs(3);

fn web(instances: &str, port: &Port) -> App {
    App::cluster("hello.js", instances)
        .args(["--name", "web", "--balance", "handoff"])
        .port(port)
}

fn replaced(rpm: &Rpm, id: u32, victim: u32) {
    let now = |now: &Process| now.status == Status::Online && now.pid.is_some_and(|pid| pid != victim);
    wait_until("a replacement", BOUND, || rpm.process(id), now);
}

/// How many of these requests each instance answered.
fn served(port: &Port, requests: usize) -> BTreeMap<String, usize> {
    let mut served = BTreeMap::new();
    for _ in 0..requests {
        let answer = who(V4, port);
        let instance = answer.split(' ').next().unwrap_or_default().to_owned();
        *served.entry(instance).or_insert(0) += 1;
    }
    served
}

#[test]
fn the_rotation_is_exact_whatever_the_kernel_permits() {
    for path in [Path::Ebpf, Path::Classic] {
        let test = "the_rotation_is_exact_whatever_the_kernel_permits";
        let Some(rpm) = path.rpm(test).map(talkative) else {
            return;
        };
        let port = Port::reserve();
        web("3", &port).start(&rpm);
        let app = rpm.describe("web");
        assert_eq!(
            (app.plane.as_str(), app.listeners[0].steering.as_str()),
            ("handoff", "handoff")
        );
        let served = undisturbed(&rpm, || served(&port, 300));
        assert!(
            served.len() == 3 && served.values().all(|count| *count == 100),
            "{served:?}"
        );
        rpm.ok(["delete", "web"]);
        assert!(
            TcpStream::connect(("127.0.0.1", port.number())).is_err(),
            "nobody accepts"
        );
    }
}

#[test]
fn weights_and_addresses_decide_here_too() {
    let rpm = talkative(Rpm::new());
    let port = Port::reserve();
    web("2", &port)
        .args(["--policy", "weighted", "--weights", "3,1"])
        .start(&rpm);
    let by_weight = undisturbed(&rpm, || served(&port, 80));
    assert_eq!(
        by_weight.values().copied().collect::<Vec<_>>(),
        [60, 20],
        "{by_weight:?}"
    );
    rpm.ok(["delete", "web"]);
    let port = Port::reserve();
    web("3", &port).args(["--policy", "ip-hash"]).start(&rpm);
    let by_address = undisturbed(&rpm, || served(&port, 30));
    assert_eq!(by_address.len(), 1, "one client, one worker: {by_address:?}");
}

#[test]
fn reloads_and_updates_lose_nothing() {
    for path in [Path::Ebpf, Path::Classic] {
        let test = "reloads_and_updates_lose_nothing";
        let Some(rpm) = path.rpm(test) else { return };
        let port = Port::reserve();
        web("2", &port).start(&rpm);
        let clients = Clients::begin(&port, "/", CLIENTS);
        clients.wait_ok(SOME);
        for _ in 0..3 {
            rpm.ok(["reload", "web", "--wait"]);
            clients.wait_ok(SOME);
        }
        rpm.ok(["scale", "web", "4"]);
        rpm.ok(["scale", "web", "2"]);
        clients.wait_ok(SOME);
        if path == Path::Ebpf {
            rpm.ok(["update"]);
            clients.wait_ok(SOME);
            rpm.ok(["reload", "web", "--wait"]);
            clients.wait_ok(SOME);
        }
        clients.finish_clean(&rpm);
    }
}

#[test]
fn a_killed_worker_costs_what_it_had_accepted() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("2", &port).start(&rpm);
    let clients = Clients::fresh(&port, CLIENTS);
    clients.wait_ok(SOME);
    for round in 0..6 {
        let before = clients.failures();
        let victim = rpm.process(round % 2).pid.expect("it runs");
        kill(victim);
        replaced(&rpm, round % 2, victim);
        clients.wait_ok(SOME);
        let lost = clients.failures()[0] - before[0];
        assert!(lost <= CLIENTS as u64, "{lost} requests failed by kill {round}");
    }
    let report = clients.finish().swap_remove(0).1;
    report
        .check_allowing(&[Outcome::ResetFresh, Outcome::Truncated])
        .expect("no refusal, nothing hangs");
}

/// A worker reads a request, and dies before its acknowledgement of the connection is sent, which is queued behind much other output. No
/// other worker would ever see that request.
#[test]
fn whoever_was_read_by_a_worker_that_dies_does_not_wait_for_another() {
    let (rpm, port, place) = (Rpm::new(), Port::reserve(), Place::new());
    let app = place.write(
        "app.js",
        "const act = {
           '/talk': () => { for (let i = 0; i < 5000; i++) process.send({ said: 'x'.repeat(4000) }); },
           '/die': () => process.kill(process.pid, 'SIGKILL'),
         };
         require('node:http').createServer((req, res) => {
           act[req.url]?.();
           res.end('ok');
         }).listen(process.env.PORT);",
    );
    App::of([app])
        .args(["-i", "1", "--name", "web", "--balance", "handoff"])
        .port(&port)
        .start(&rpm);
    for round in 0..3 {
        let victim = rpm.process(0).pid.expect("it runs");
        let talks = rpm_testkit::get(port.number(), "/talk").expect("it answers");
        assert_eq!(talks.status, 200);
        let answer = rpm_testkit::get(port.number(), "/die");
        let error = answer.expect_err("nobody answers it").kind();
        let hung = matches!(error, ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(
            !hung,
            "the replacement got what was read already, in round {round}\n{}",
            rpm.log()
        );
        replaced(&rpm, 0, victim);
    }
    assert_eq!(
        rpm_testkit::get(port.number(), "/").expect("it answers").status,
        200
    );
}

#[test]
fn with_one_worker_connections_wait_for_its_replacement() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("1", &port).start(&rpm);
    let victim = rpm.process(0).pid.expect("it runs");
    freeze(victim);
    let asked: Vec<_> = (0..40)
        .map(|_| {
            let number = port.number();
            std::thread::spawn(move || rpm_testkit::get(number, "/").map(|answer| answer.status).ok())
        })
        .collect();
    kill(victim);
    replaced(&rpm, 0, victim);
    let answered = asked
        .into_iter()
        .filter_map(|it| it.join().expect("no panic"))
        .count();
    assert_eq!(answered, 40, "none of them had been accepted");
}

#[test]
fn a_frozen_worker_keeps_few_and_the_others_serve() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("3", &port).start(&rpm);
    let machine = Machine::watch(rpm.pids("web").into_iter().chain(rpm.daemon_pid()));
    let clients = Clients::of(&[Load {
        clients: 24,
        timeout: Duration::from_secs(60),
        ..Load::local(port.number())
    }]);
    clients.wait_ok(SOME);
    let frozen = rpm.process(0).pid.expect("it runs");
    freeze(frozen);
    let since = Instant::now();
    // Connections of the frozen worker wait; the others continue.
    clients.wait_ok(2000);
    while since.elapsed() < FROZEN {
        clients.wait_ok(SOME);
    }
    let stood = since.elapsed();
    thaw(frozen);
    clients.wait_ok(SOME);
    let report = clients.finish().swap_remove(0).1;
    let others = machine.others();
    report.check_allowing(&[]).expect("all were served in the end");
    // On a busy machine only those have waited for it to continue; on a quiet one no client has waited for long.
    let bound = if others > DISTURBED {
        stood / 2
    } else {
        Duration::from_millis(100)
    };
    assert!(
        report.latency.slower_than(bound) <= 2 * WINDOW,
        "others {others:.2}, {bound:?}\n{report}"
    );
}

#[test]
fn who_asks_while_there_is_no_daemon_is_served_by_the_next() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("2", &port).start(&rpm);
    let before = rpm.pids("web");
    kill_daemon(&rpm);
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let number = port.number();
            std::thread::spawn(move || rpm_testkit::get(number, "/").map(|answer| answer.status).ok())
        })
        .collect();
    assert_eq!(rpm.pids("web"), before, "{}", rpm.log());
    let answered = asked
        .into_iter()
        .filter_map(|it| it.join().expect("no panic"))
        .count();
    assert_eq!(answered, 20, "{}", rpm.log());
    let clients = Clients::begin(&port, "/", CLIENTS);
    rpm.ok(["reload", "web", "--wait"]);
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
}

#[test]
fn the_fewest_decide_without_any_privilege() {
    let test = "the_fewest_decide_without_any_privilege";
    let Some(rpm) = Path::Classic.rpm(test).map(talkative) else {
        return;
    };
    let port = Port::reserve();
    web("3", &port)
        .args(["--policy", "least-connections"])
        .start(&rpm);
    let counts = || {
        let mut slots = rpm.describe("web").listeners.swap_remove(0).slots;
        slots.sort_by_key(|slot| slot.instance);
        slots
            .iter()
            .filter_map(|slot| slot.connections)
            .collect::<Vec<_>>()
    };
    let sum = || counts().iter().sum::<u64>();
    // One after the other: a worker that is slow to accept would get fewer.
    let open = |count: u64| -> Vec<TcpStream> {
        let already = sum();
        let open = |number| {
            let client = TcpStream::connect(("127.0.0.1", port.number())).expect("it is taken");
            let so_many = |counts: &Vec<u64>| counts.iter().sum::<u64>() == already + number;
            wait_until("it is counted", BOUND, counts, so_many);
            client
        };
        (1..=count).map(open).collect()
    };
    // The connections of an attempt during which a worker got no CPU for so long that it was steered around are closed again.
    let opened = |count: u64| {
        let (held, before) = (RefCell::new(Vec::new()), sum());
        let counted = undisturbed(&rpm, || {
            held.borrow_mut().clear();
            wait_until("those of the attempt before are closed", BOUND, sum, |sum| {
                *sum == before
            });
            held.borrow_mut().extend(open(count));
            counts()
        });
        (held.into_inner(), counted)
    };
    let (idle, counted) = opened(30);
    assert_eq!(counted, [10, 10, 10]);
    let victim = rpm.process(1).pid.expect("it runs");
    kill(victim);
    replaced(&rpm, 1, victim);
    wait_until("those of the dead worker are gone", BOUND, counts, |counted| {
        counted == &[10, 0, 10]
    });
    let (_more, counted) = opened(10);
    assert_eq!(counted, [10, 10, 10]);
    drop(idle);
    wait_until("they are closed", BOUND, sum, |sum| *sum == 10);
}

/// The daemon keeps no connection that a worker has.
#[test]
fn nothing_is_left_behind() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("2", &port).start(&rpm);
    assert_eq!(workers(&port, 2).len(), 2);
    let daemon = rpm.daemon_pid().expect("it runs");
    let before = descriptors(daemon);
    served(&port, 200);
    wait_until(
        "all are closed",
        BOUND,
        || descriptors(daemon),
        |now| *now <= before,
    );
}

#[test]
fn other_programs_are_told_what_they_need() {
    let rpm = Rpm::new();
    let python = rpm.run(["start", "/bin/cat", "-i", "2", "--balance", "handoff"]);
    assert_says(
        &python,
        &["cat does not support --balance handoff", "leave --balance out"],
    );
    let error = rpm.fails(["start", "/bin/cat", "--balance", "proxxy"]);
    assert!(
        error.contains("possible values: auto, direct, handoff, proxy")
            && error.contains("a similar value exists: 'proxy'"),
        "{error}"
    );
}
