//! Reload: every worker is replaced under load and nothing is lost; a version that does not work never affects the running one.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Child;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::clients::{Clients, beside};
use rpm_e2e::outside::kill;
use rpm_e2e::place::Place;
use rpm_e2e::site::{Site, hello};
use rpm_e2e::steering::Path;
use rpm_testkit::{Outcome, Port, Process, Rpm, Status, Traffic, get, wait_until};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(20);
/// Clients of each kind.
const CLIENTS: usize = 6;
/// Responses between two events.
const SOME: u64 = 50;

/// Reloads into `body` with these options under load, and checks that the old workers keep serving.
fn reload_fails(site: &Site, body: &str, options: &[&str], says: &str) {
    let before = site.rpm.pids("site");
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    site.write(body);
    let error = site.rpm.fails([&["reload", "site"], options].concat());
    assert!(error.contains(says), "{error}");
    clients.wait_ok(SOME);
    assert_eq!(site.rpm.pids("site"), before, "the old workers serve: {error}");
    clients.finish_clean(&site.rpm);
    site.rpm.wait_status("site", Status::Online);
}

/// Checks that every process was replaced, in the same place.
fn assert_replaced(before: &[Process], after: &[Process]) {
    assert_eq!(before.len(), after.len());
    for (old, new) in before.iter().zip(after) {
        assert_eq!((old.id, old.instance), (new.id, new.instance));
        assert_ne!(old.pid, new.pid, "{after:#?}");
        assert_eq!(new.restarts, old.restarts + 1);
        assert_eq!(new.generation, old.generation + 1);
    }
}

fn wait_drained(rpm: &Rpm) {
    let none = |list: &Vec<Process>| list.iter().all(|process| process.others.is_empty());
    wait_until("the old workers are gone", BOUND, || rpm.list(), none);
}

/// Three reloads of an unmodified app, under both kinds of clients.
fn reloads_lose_nothing(rpm: &Rpm, app: &App, port: &Port, path: &str) {
    app.start(rpm);
    // In fork mode a process is online when it runs, and may not listen yet.
    wait_until(
        "it serves",
        BOUND,
        || get(port.number(), "/").is_ok(),
        |serves| *serves,
    );
    let clients = Clients::begin(port, path, CLIENTS);
    clients.wait_ok(SOME);
    for _ in 0..3 {
        let before = rpm.list();
        rpm.ok(["reload", "web"]);
        assert_replaced(&before, &rpm.list());
        clients.wait_ok(SOME);
    }
    clients.finish_clean(rpm);
}

fn web(name: &str, port: &Port) -> App {
    App::cluster(name, "2")
        .args(["--name", "web", "--drain-timeout", "10000"])
        .port(port)
}

#[test]
fn an_unmodified_app_loses_nothing() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    reloads_lose_nothing(&rpm, &web("hello.js", &port), &port, "/");
    wait_drained(&rpm);
}

#[test]
fn an_unmodified_app_loses_nothing_without_privileges() {
    let Some(rpm) = Path::Classic.rpm("an_unmodified_app_loses_nothing_without_privileges") else {
        return;
    };
    let port = Port::reserve();
    reloads_lose_nothing(&rpm, &web("hello.js", &port), &port, "/");
}

#[test]
fn slow_requests_are_finished() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    reloads_lose_nothing(&rpm, &web("slow.js", &port), &port, "/?ms=150");
}

#[test]
fn an_app_with_a_signal_handler_loses_nothing() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    reloads_lose_nothing(&rpm, &web("sigint.js", &port), &port, "/");
}

#[test]
fn every_supported_node_loses_nothing() {
    for major in [18, 20, 24, 26] {
        let (rpm, port) = (Rpm::new(), Port::reserve());
        reloads_lose_nothing(&rpm, &web("hello.js", &port).node(major), &port, "/");
    }
}

#[test]
fn a_program_that_was_passed_its_socket_loses_nothing() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let listen = format!("127.0.0.1:{port}");
    let app = App::new("listen-fds.py").args(["-i", "2", "--name", "web", "--listen", &listen]);
    app.start(&rpm);
    // Python's server closes each connection, so there is one kind of client.
    let clients = Traffic::start(&beside(&port, CLIENTS));
    clients.wait_ok(SOME);
    for _ in 0..3 {
        let before = rpm.list();
        rpm.ok(["reload", "web"]);
        assert_replaced(&before, &rpm.list());
        clients.wait_ok(SOME);
    }
    let report = clients.finish();
    assert!(report.check_clean().is_ok(), "{report}\n{}", rpm.log());
}

#[test]
fn restarting_a_whole_cluster_is_a_reload_unless_hard() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).start(&rpm);
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    let before = rpm.list();
    rpm.ok(["restart", "web"]);
    let gentle = rpm.list();
    assert_replaced(&before, &gentle);
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
    rpm.ok(["restart", "web", "--hard"]);
    let hard = rpm.list();
    assert!(
        hard.iter()
            .zip(&gentle)
            .all(|(new, old)| new.pid != old.pid && new.generation == old.generation)
    );
}

#[test]
fn scaling_up_and_down_loses_nothing() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).start(&rpm);
    let clients = Clients::begin(&port, "/", CLIENTS);
    for count in ["4", "1", "3"] {
        clients.wait_ok(SOME);
        rpm.ok(["scale", "web", count]);
    }
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
}

/// A request that is not answered before the test is over.
fn asked_for_ever(port: &Port) -> TcpStream {
    let mut client = TcpStream::connect(("127.0.0.1", port.number())).expect("a connection");
    let request = b"GET /?ms=3600000 HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(request).expect("it is sent");
    client
}

/// Those that are being deleted are not counted any more.
#[test]
fn a_number_is_of_the_instances_that_stay() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("slow.js", "4")
        .args(["--name", "web", "--drain-timeout", "60s"])
        .port(&port)
        .start(&rpm);
    let mut clients = Vec::new();
    let busy = || {
        clients.extend((0..4).map(|_| asked_for_ever(&port)));
        let list = rpm.list();
        let has_one = |process: &&Process| process.connections.is_some_and(|count| count > 0);
        list.iter().filter(has_one).count()
    };
    // One that gets no CPU for a while is steered around.
    wait_until("each has a request", BOUND, busy, |count| *count == 4);
    let fewer = rpm.spawn(["scale", "web", "2"]);
    let leaving = |list: &Vec<Process>| {
        let stopping = list.iter().filter(|process| process.status == Status::Stopping);
        stopping.count() == 2
    };
    wait_until("two drain", BOUND, || rpm.list(), leaving);
    rpm.ok(["scale", "web", "+1", "--no-wait"]);
    let staying = |list: &Vec<Process>| {
        let online = list.iter().filter(|process| process.status == Status::Online);
        online.count() == 3
    };
    let list = wait_until("three stay", BOUND, || rpm.list(), staying);
    assert_eq!(list.len(), 5, "{list:#?}");
    drop(clients);
    fewer.wait_with_output().expect("the command ends");
}

#[test]
fn a_version_that_does_not_work_never_serves() {
    let site = Site::start(Rpm::new(), &hello(), &["--drain-timeout", "10s"]);
    reload_fails(&site, "throw new Error('no such luck')", &[], "no such luck");
    reload_fails(&site, "process.exit(0)", &[], "exited with code 0");
    // Only what never listens may have so little time: the others would be late on a busy machine.
    reload_fails(
        &site,
        "setInterval(() => {}, 1000)",
        &["--reload-timeout", "2000"],
        " within 2 s, where the version before it does\n",
    );
    // After all that, a good version is accepted.
    let before = site.rpm.list();
    site.write(&hello());
    site.rpm.ok(["reload", "site", "--reload-timeout", "30s"]);
    let after = site.rpm.list();
    for (old, new) in before.iter().zip(&after) {
        assert_ne!(old.pid, new.pid);
    }
}

/// It has listened by the time that it has, on a machine that is busy too.
#[test]
fn a_version_that_listens_elsewhere_never_serves() {
    let site = Site::start(Rpm::new(), &hello(), &["--drain-timeout", "10s"]);
    let elsewhere = format!("process.env.PORT = 0\n{}", hello());
    let moved = "where the version before it does (it listens on 127.0.0.1:";
    reload_fails(&site, &elsewhere, &["--reload-timeout", "15s"], moved);
}

/// For [`slow_reload`], on any number of CPUs.
const TWO_AT_ONCE: [&str; 4] = ["--drain-timeout", "10s", "--parallel", "2"];

/// Reloads into a version that starts up until there is a file `go`. Returns the command and the pids of the new workers.
fn slow_reload(site: &Site, place: &Place) -> (Child, Vec<u32>) {
    let go = place.path().join("go");
    site.write(&format!(
        "const looking = setInterval(() => {{ if (require('fs').existsSync({go:?})) {{ clearInterval(looking); {} }} }}, 20)",
        hello()
    ));
    let reload = site.rpm.spawn(["reload", "site"]);
    let old = site.rpm.pids("site");
    let booting = || {
        let mut workers = children_of(site.rpm.daemon_pid().expect("a daemon runs"));
        workers.retain(|pid| Some(*pid) != site.rpm.keeper_pid());
        workers
    };
    let new = |all: &Vec<u32>| all.iter().filter(|pid| !old.contains(pid)).count() == 2;
    let all = wait_until("two new workers boot", BOUND, booting, new);
    (reload, all.into_iter().filter(|pid| !old.contains(pid)).collect())
}

fn children_of(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

#[test]
fn a_new_worker_that_is_killed_undoes_the_reload() {
    let site = Site::start(Rpm::new(), &hello(), &TWO_AT_ONCE);
    let before = site.rpm.pids("site");
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    let (reload, new) = slow_reload(&site, &Place::new());
    kill(new[0]);
    let done = reload.wait_with_output().expect("the command ends");
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    clients.wait_ok(SOME);
    // It had no clients yet.
    clients.finish_clean(&site.rpm);
    assert_eq!(site.rpm.pids("site"), before);
}

#[test]
fn an_old_worker_that_is_killed_does_not_stop_the_reload() {
    let site = Site::start(Rpm::new(), &hello(), &TWO_AT_ONCE);
    let before = site.rpm.pids("site");
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    let place = Place::new();
    let (reload, mut new) = slow_reload(&site, &place);
    kill(before[0]);
    place.write("go", "");
    let done = reload.wait_with_output().expect("the command ends");
    assert_eq!(done.status.code(), Some(0), "{done:?}\n{}", site.rpm.log());
    clients.wait_ok(SOME);
    let mut now = site.rpm.pids("site");
    now.sort_unstable();
    new.sort_unstable();
    assert_eq!(now, new);
    // What the killed worker was answering is lost: at most one request per client.
    for (_, report) in clients.finish() {
        let lost = [Outcome::ResetFresh, Outcome::ResetReused, Outcome::Truncated];
        assert!(report.check_allowing(&lost).is_ok(), "{report}");
        assert!(report.outcomes.failures() <= CLIENTS as u64, "{report}");
    }
}

#[test]
fn a_fork_mode_app_loses_nothing() {
    fork_mode_loses_nothing("hello.js");
}

#[test]
fn nor_does_one_that_is_a_cluster_by_itself() {
    fork_mode_loses_nothing("forks.js");
}

fn fork_mode_loses_nothing(name: &str) {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let app = App::new(name).args(["--name", "web", "--drain-timeout", "10000"]);
    reloads_lose_nothing(&rpm, &app.port(&port), &port, "/");
}

#[test]
fn a_fork_mode_app_that_listens_on_nothing_is_restarted_and_says_so() {
    let rpm = Rpm::new();
    App::new("no-listen.js").args(["--name", "job"]).start(&rpm);
    let before = rpm.pids("job");
    let ran = rpm.run(["reload", "job"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.stderr.contains("it is restarted"), "{ran:#?}");
    assert_ne!(rpm.pids("job"), before);
}

#[test]
fn reload_of_nothing_is_an_error() {
    let rpm = Rpm::new();
    assert!(rpm.fails(["reload", "nobody"]).contains("nobody"));
}
