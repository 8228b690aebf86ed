//! What outlives the daemon is held by the keeper, and by no worker.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::clients::Clients;
use rpm_e2e::dice::Dice;
use rpm_e2e::outside::{freeze, has_ended, kill, kill_both, kill_daemon};
use rpm_e2e::place::Place;
use rpm_e2e::steering::Path;
use rpm_testkit::{Port, Process, Rpm, Status, get, wait_until};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(30);
/// Clients of each kind.
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;

fn keeper(rpm: &Rpm) -> u32 {
    rpm.keeper_pid().expect("it has a keeper")
}

fn pids(rpm: &Rpm) -> Vec<Option<u32>> {
    rpm.list().iter().map(|process| process.pid).collect()
}

/// Kills the keeper, and waits until the daemon has another one.
fn replaced_keeper(rpm: &Rpm) {
    let before = keeper(rpm);
    kill(before);
    let other = |pid: &Option<u32>| pid.is_some_and(|pid| pid != before);
    wait_until("another keeper", BOUND, || rpm.keeper_pid(), other);
}

/// True if all workers were replaced, and no previous one is left.
fn all_replaced(rpm: &Rpm, before: &[Option<u32>]) {
    let new = |list: &Vec<Process>| {
        let is_new =
            |it: &Process| it.status == Status::Online && it.others.is_empty() && !before.contains(&it.pid);
        list.iter().all(is_new)
    };
    wait_until("all are replaced", BOUND, || rpm.list(), new);
}

/// Waits until the app answers. A program in fork mode, or one that may have no port, counts as started after a second.
fn wait_serves(port: &Port) {
    let serves = || get(port.number(), "/").is_ok();
    wait_until("it serves", BOUND, serves, |serves| *serves);
}

/// What a process holds besides its standard streams: the kernel's names, without numbers, of open files that it does not share with
/// itself. A runtime holds both ends of the pipes and sockets by which it wakes itself.
fn foreign(pid: u32) -> BTreeMap<String, u32> {
    let mut held: BTreeMap<String, u32> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs") {
        let entry = entry.expect("an entry").path();
        let number: u32 = entry
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok())
            .expect("a number");
        if let (Ok(link), true) = (fs::read_link(&entry), number > 2) {
            *held.entry(link.to_string_lossy().into_owned()).or_default() += 1;
        }
    }
    let mut kinds = BTreeMap::new();
    for (name, count) in held {
        let kind = name.split(':').next().unwrap_or_default();
        if kind != "pipe" || count != 2 {
            *kinds.entry(kind.to_owned()).or_insert(0) += count;
        }
    }
    kinds.remove("/dev/null");
    kinds
}

/// Names of descriptors without inode. An epoll set is the process's own affair; interception and BPF are not.
fn anonymous(pid: u32) -> Vec<String> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let links = links.map(|link| link.to_string_lossy().into_owned());
    links
        .filter(|link| link.starts_with("anon_inode:") && (link.contains("seccomp") || link.contains("bpf")))
        .collect()
}

#[test]
fn a_worker_holds_what_is_its_own_and_nothing_else() {
    let place = Place::new();
    let small = place.small_server();
    let node = |name: &str| App::cluster(name, "2");
    // Node: its channel, its agent's connection, and its listener.
    let (channel, agent, listener) = (1, 1, 1);
    for (app, sockets) in [
        (node("hello.js"), channel + agent + listener),
        (
            node("hello.js").args(["--policy", "least-connections"]),
            channel + agent + listener,
        ),
        (
            node("hello.js").args(["--balance", "proxy"]),
            channel + agent + listener,
        ),
        // The daemon accepts for it.
        (node("hello.js").args(["--balance", "handoff"]), channel + agent),
        (App::new("hello.js"), channel + agent + listener),
        (App::of([&small]).args(["-i", "2"]), listener),
        (
            App::of([&small]).args(["-i", "2", "--balance", "proxy"]),
            listener,
        ),
        (App::of([&small]), listener),
    ] {
        let (rpm, port) = (Rpm::new(), Port::reserve());
        app.clone().args(["--name", "web"]).port(&port).start(&rpm);
        for pid in pids(&rpm).into_iter().flatten() {
            // A program in fork mode may not listen yet, and a runtime may be about to close what it started with.
            let held = || (foreign(pid), anonymous(pid));
            let what = format!("{sockets} sockets and no pipe: {app:?}");
            wait_until(&what, BOUND, held, |(held, anonymous)| {
                held.get("socket") == Some(&sockets) && !held.contains_key("pipe") && anonymous.is_empty()
            });
        }
    }
}

#[test]
fn it_belongs_to_the_daemons_user_and_ends_with_the_daemon() {
    let rpm = Rpm::new();
    rpm.ok(["ping"]);
    let (keeper, daemon) = (keeper(&rpm), rpm.daemon_pid().expect("it runs"));
    let name = fs::read_to_string(format!("/proc/{keeper}/comm")).expect("it runs");
    assert_eq!(name.trim(), "rpm-keeper");
    let owner = |pid: u32| fs::metadata(format!("/proc/{pid}")).expect("it runs").uid();
    assert_eq!(owner(keeper), owner(daemon));
    assert_eq!(
        fs::read(format!("/proc/{keeper}/environ")).unwrap_or_default(),
        b""
    );
    for name in ["keep.sock", "keep.pid"] {
        let its = fs::metadata(rpm.home().join(name)).expect("it is there");
        assert_eq!(its.mode() & 0o777, 0o600, "{name}");
    }
    rpm.ok(["kill"]);
    wait_until("it has ended", BOUND, || has_ended(keeper), |ended| *ended);
    assert!(!rpm.home().join("keep.sock").exists() && !rpm.home().join("keep.pid").exists());
}

#[test]
fn its_death_is_mended_and_the_next_daemon_has_everything() {
    let place = Place::new();
    let small = place.small_server();
    // Connections that are in the daemon's hands for handoff end with it: at most one of each client.
    for (app, ends) in [
        (App::cluster("hello.js", "2"), 0),
        (
            App::cluster("hello.js", "2").args(["--balance", "handoff"]),
            CLIENTS as u64,
        ),
        (App::of([&small]).args(["-i", "2"]), 0),
        (App::new("hello.js"), 0),
    ] {
        let (rpm, port) = (Rpm::new(), Port::reserve());
        app.args(["--name", "web"]).port(&port).start(&rpm);
        wait_serves(&port);
        let before = pids(&rpm);
        let clients = Clients::fresh(&port, CLIENTS);
        let failures = || clients.failures().iter().sum::<u64>();
        for _ in 0..3 {
            let failed = failures();
            replaced_keeper(&rpm);
            clients.wait_ok(SOME);
            assert_eq!(
                failures(),
                failed,
                "the keeper's death is nobody's business\n{}",
                rpm.log()
            );
            kill_daemon(&rpm);
            assert_eq!(pids(&rpm), before, "{}", rpm.log());
            clients.wait_ok(SOME);
            assert!(failures() <= failed + ends, "{}\n{}", failures(), rpm.log());
        }
        let failed = failures();
        rpm.ok(["reload", "web", "--wait"]);
        clients.wait_ok(SOME);
        assert_eq!(failures(), failed, "{}", rpm.log());
        drop(clients.finish());
    }
}

#[test]
fn where_both_die_at_once_the_workers_serve_on_and_are_replaced() {
    let place = Place::new();
    let small = place.small_server();
    for app in [
        App::cluster("hello.js", "2"),
        App::of([&small]).args(["-i", "2"]),
        App::new("hello.js"),
    ] {
        let (rpm, port) = (Rpm::new(), Port::reserve());
        app.args(["--name", "web"]).port(&port).start(&rpm);
        wait_serves(&port);
        let before = pids(&rpm);
        let clients = Clients::fresh(&port, CLIENTS);
        clients.wait_ok(SOME);
        kill_both(&rpm);
        clients.wait_ok(SOME);
        all_replaced(&rpm, &before);
        clients.wait_ok(SOME);
        clients.finish_clean(&rpm);
    }
}

/// Their connections come from the daemon. Without daemon and keeper these wait for nothing, and the next daemon starts over.
#[test]
fn where_both_die_workers_that_depend_on_the_daemon_are_restarted() {
    for balance in ["handoff", "proxy"] {
        let (rpm, port) = (Rpm::new(), Port::reserve());
        let app = App::cluster("hello.js", "2").args(["--name", "web", "--balance", balance]);
        app.port(&port).start(&rpm);
        let before = pids(&rpm);
        kill_both(&rpm);
        all_replaced(&rpm, &before);
        let clients = Clients::begin(&port, "/", CLIENTS);
        clients.wait_ok(SOME);
        clients.finish_clean(&rpm);
    }
}

#[test]
fn one_that_is_stopped_holds_nobody_up() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2")
        .args(["--name", "web"])
        .port(&port)
        .start(&rpm);
    let clients = Clients::begin(&port, "/", CLIENTS);
    freeze(keeper(&rpm));
    rpm.ok(["scale", "web", "4"]);
    rpm.ok(["reload", "web", "--wait"]);
    let before = pids(&rpm);
    kill_daemon(&rpm);
    assert_eq!(pids(&rpm), before, "{}", rpm.log());
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
}

/// Then only the kernel decides which worker gets a connection, and a socket that stayed open would get its share.
#[test]
fn without_a_daemon_a_dead_workers_clients_go_to_the_others() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "3")
        .args(["--name", "web"])
        .port(&port)
        .start(&rpm);
    let pids = pids(&rpm);
    kill_daemon(&rpm);
    kill(pids[1].expect("it runs"));
    wait_until(
        "its socket is closed",
        BOUND,
        || port.listeners(),
        |count| *count == 2,
    );
    let clients = Clients::fresh(&port, CLIENTS);
    clients.wait_ok(4 * SOME);
    clients.finish_clean(&rpm);
}

/// The kernel keeps the same program and table: its counters are still there.
#[test]
fn the_next_daemon_goes_on_with_the_steering_program() {
    let test = "the_next_daemon_goes_on_with_the_steering_program";
    let Some(rpm) = Path::Ebpf.rpm(test) else { return };
    let port = Port::reserve();
    for policy in ["round-robin", "least-connections"] {
        let app = App::cluster("hello.js", "2").args(["--name", policy, "--policy", policy]);
        app.port(&port).start(&rpm);
        let steered = || {
            let listeners = rpm.describe(policy).listeners;
            listeners
                .iter()
                .flat_map(|it| &it.slots)
                .map(|slot| slot.steered.unwrap_or(0))
                .sum::<u64>()
        };
        let clients = Clients::fresh(&port, CLIENTS);
        for _ in 0..3 {
            clients.wait_ok(SOME);
            let before = steered();
            assert!(before >= SOME);
            kill_daemon(&rpm);
            clients.wait_ok(SOME);
            let after = steered();
            // What was in flight had been steered before.
            let least = before + SOME - CLIENTS as u64;
            assert!(after >= least, "{before}, and then {after}");
            rpm.ok(["scale", policy, "4"]);
            rpm.ok(["scale", policy, "2"]);
        }
        clients.finish_clean(&rpm);
        rpm.ok(["delete", policy]);
    }
}

/// Rounds of the next test, unless `RPM_KILLS` is set.
const ROUNDS: u64 = 24;

/// Kills daemon, keeper or both, in any order and at any moment, with commands in between. `RPM_KILL_SEED=N` replays a failure.
#[test]
fn whoever_of_the_two_dies_and_when_no_client_notices() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rounds = number("RPM_KILLS").unwrap_or(ROUNDS);
    let seed = number("RPM_KILL_SEED").unwrap_or(1);
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let app = App::cluster("hello.js", "2").args(["--name", "web", "--drain-timeout", "5s"]);
    app.port(&port).start(&rpm);
    let clients = Clients::fresh(&port, CLIENTS);
    let mut dice = Dice::new(seed);
    let mut history = Vec::new();
    for round in 0..rounds {
        let (daemon, keeper) = (rpm.daemon_pid(), rpm.keeper_pid());
        let (first, second) = match dice.roll(12) {
            0..5 => (daemon, None),
            5..10 => (keeper, None),
            10 => (daemon, keeper),
            _ => (keeper, daemon),
        };
        let waits = [dice.roll(60), dice.roll(20)].map(Duration::from_millis);
        history.push((round, first == daemon, second.is_some(), waits));
        for (victim, wait) in [first, second].into_iter().zip(waits) {
            // tidy: sleep because the moment of the kill is what the test is about
            std::thread::sleep(wait);
            if let Some(victim) = victim.filter(|pid| !has_ended(*pid)) {
                kill(victim);
            }
        }
        match dice.roll(6) {
            0 => drop(rpm.run(["reload", "web"])),
            1 => drop(rpm.run(["scale", "web", ["2", "3"][dice.roll(2) as usize]])),
            _ => drop(rpm.list()),
        }
        clients.wait_ok(SOME / 5);
        let failures = clients.failures();
        assert!(
            failures.iter().all(|count| *count == 0),
            "seed {seed}: {failures:?} after {history:#?}"
        );
    }
    clients.finish_clean(&rpm);
}

/// A daemon that fails to start leaves everything to the next one.
#[test]
fn a_daemon_that_fails_to_start_lets_go_of_nothing() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let app = App::cluster("hello.js", "2").args(["--name", "web"]);
    app.port(&port).start(&rpm);
    let before = pids(&rpm);
    let clients = Clients::fresh(&port, CLIENTS);
    kill_daemon(&rpm);
    let socket = rpm.home().join("rpm.sock");
    let _ = fs::remove_file(&socket);
    fs::create_dir(&socket).expect("a directory in the place of the socket");
    let failed = rpm.command(["daemon"]).output().expect("rpm runs");
    assert!(!failed.status.success(), "{failed:?}");
    fs::remove_dir(&socket).expect("it is empty");
    clients.wait_ok(SOME);
    assert_eq!(pids(&rpm), before, "{}", rpm.log());
    assert!(!rpm.log().contains("a reload replaces them"), "{}", rpm.log());
    rpm.ok(["reload", "web", "--wait"]);
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
}

/// A worker that has closed its output needs no reader for it.
#[test]
fn a_worker_that_has_closed_its_output_is_taken_back_as_it_is() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let small = place.small_server();
    let script = place.write(
        "quiet.sh",
        &format!("exec >/dev/null 2>&1\nexec {} \"$@\"", small.display()),
    );
    let app = App::of([script]).args(["--name", "web", "-i", "2", "--interpreter", "sh"]);
    app.port(&port).start(&rpm);
    // By then each has closed it.
    wait_until("both listen", BOUND, || port.listeners(), |count| *count >= 2);
    let before = pids(&rpm);
    for _ in 0..2 {
        kill_daemon(&rpm);
        assert_eq!(pids(&rpm), before, "{}", rpm.log());
    }
    rpm.ok(["update"]);
    assert_eq!(pids(&rpm), before, "{}", rpm.log());
    assert!(!rpm.log().contains("a reload replaces them"), "{}", rpm.log());
}
