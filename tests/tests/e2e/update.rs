//! `update`: another binary takes over from the running daemon, or fails to, and no client notices either. `kill --keep-apps`: the next daemon does.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::clients::{Clients, beside};
use rpm_e2e::outside::has_ended;
use rpm_e2e::steering::Path;
use rpm_testkit::{Kind, Load, Phase, Port, Process, Rpm, wait_until};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(20);
/// Clients of each kind.
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;

fn web(name: &str, port: &Port) -> App {
    App::cluster(name, "2").args(["--name", "web"]).port(port)
}

/// Clients of each kind that the proxy serves.
fn of_the_proxy(port: &Port) -> Clients {
    let load = |kind| Load {
        kind,
        ..beside(port, CLIENTS)
    };
    Clients::of(&[Kind::KeepAlive, Kind::NewConnection, Kind::Http2].map(load))
}

/// The facts that must not change.
fn facts(rpm: &Rpm) -> Vec<(u32, Option<u32>, u32)> {
    let facts = |it: &Process| (it.id, it.pid, it.restarts);
    rpm.list().iter().map(facts).collect()
}

/// An executable file in the daemon's directory.
fn program(rpm: &Rpm, name: &str, text: &str) -> PathBuf {
    let path = rpm.home().join(name);
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

fn updated_under_load(rpm: &Rpm) {
    let port = Port::reserve();
    web("hello.js", &port).start(rpm);
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    let before = facts(rpm);
    let daemon = rpm.daemon_pid();
    for _ in 0..3 {
        let said = rpm.ok(["update"]);
        assert!(said.contains("updated: "), "{said}");
        assert_eq!(facts(rpm), before, "{}", rpm.log());
        assert_eq!(rpm.daemon_pid(), daemon, "in its place");
        clients.wait_ok(SOME);
    }
    rpm.ok(["reload", "web", "--wait"]);
    clients.wait_ok(SOME);
    clients.finish_clean(rpm);
    rpm.ok(["kill"]);
    assert!(!rpm.home().join("rpm.sock").exists(), "the last one cleans up");
}

/// Their connections belong to the daemon: clients are asked to leave before it executes the other program, and new ones wait.
#[test]
fn clients_of_the_proxy_notice_nothing_either() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).args(["--balance", "proxy"]).start(&rpm);
    let clients = of_the_proxy(&port);
    clients.wait_ok(SOME);
    let before = facts(&rpm);
    for _ in 0..3 {
        let said = rpm.ok(["update"]);
        assert!(said.contains("updated: "), "{said}");
        assert_eq!(facts(&rpm), before, "{}", rpm.log());
        clients.wait_ok(SOME);
    }
    rpm.ok(["reload", "web", "--wait"]);
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
}

#[test]
fn the_workers_are_handed_on_under_load() {
    updated_under_load(&Rpm::new());
}

#[test]
fn the_workers_are_handed_on_without_privileges() {
    if let Some(rpm) = Path::Classic.rpm("the_workers_are_handed_on_without_privileges") {
        updated_under_load(&rpm);
    }
}

#[test]
fn clients_of_the_daemon_wait_meanwhile() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).start(&rpm);
    let listing: Vec<_> = (0..4)
        .map(|_| {
            let mut command = rpm.command(["list", "--json"]);
            std::thread::spawn(move || (0..20).all(|_| command.output().is_ok_and(|it| it.status.success())))
        })
        .collect();
    for _ in 0..3 {
        rpm.ok(["update"]);
    }
    for listed in listing {
        assert!(listed.join().expect("it ends"), "{}", rpm.log());
    }
}

#[test]
fn a_binary_that_cannot_take_over_leaves_the_old_one_in_charge() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).start(&rpm);
    let clients = Clients::begin(&port, "/", CLIENTS);
    let (before, daemon) = (facts(&rpm), rpm.daemon_pid());
    let cases = [
        (
            program(&rpm, "fails", "#!/bin/sh\necho no memory; exit 1\n"),
            "no memory",
        ),
        (
            program(&rpm, "crashes", "#!/bin/sh\nkill -SEGV $$\n"),
            "it said nothing",
        ),
        (
            program(&rpm, "hangs", "#!/bin/sh\nexec sleep 60\n"),
            "has not answered within 10 s",
        ),
        (program(&rpm, "text", "just some text\n"), "cannot be executed"),
        (PathBuf::from("/bin/true"), "it said nothing"),
        (PathBuf::from("/nonexistent/rpm"), "cannot be executed"),
        (
            // It reports that it can take over, and then cannot be executed.
            program(
                &rpm,
                "vanishes",
                "#!/bin/sh\nrm \"$0\"; echo 'can take over: 9.9.9'\n",
            ),
            "No such file",
        ),
    ];
    for (binary, says) in cases {
        clients.wait_ok(SOME);
        let path = binary.to_str().expect("UTF-8");
        let error = rpm.fails(["update", "--binary", path]);
        assert!(error.contains(says), "{path}: {error}");
        assert_eq!(
            (facts(&rpm), rpm.daemon_pid()),
            (before.clone(), daemon),
            "{path}"
        );
    }
    rpm.ok(["reload", "web"]);
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
}

#[test]
fn not_while_a_reload_is_under_way() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).args(["--watch-after", "1h"]).start(&rpm);
    rpm.ok(["reload", "web", "--no-wait"]);
    let others = |list: &Vec<Process>| {
        let others = list.iter().flat_map(|it| &it.others);
        others.filter(|it| it.phase == Phase::Standby).count() == 2
    };
    wait_until("the new workers serve", BOUND, || rpm.list(), others);
    let error = rpm.fails(["update"]);
    assert!(error.contains("web is being reloaded"), "{error}");
}

#[test]
fn without_a_daemon_there_is_nothing_to_update() {
    let rpm = Rpm::new();
    let ran = rpm.run(["update"]);
    assert!(
        ran.code == Some(0) && ran.stderr.contains("is not running"),
        "{ran:?}"
    );
    assert_eq!(rpm.daemon_pid(), None);
}

#[test]
fn one_that_leaves_its_apps_is_not_missed() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).start(&rpm);
    let clients = Clients::begin(&port, "/", CLIENTS);
    let before = facts(&rpm);
    for _ in 0..3 {
        clients.wait_ok(SOME);
        let daemon = rpm.daemon_pid().expect("it runs");
        let said = rpm.run(["kill", "--keep-apps"]);
        assert_eq!(said.code, Some(0), "{said:#?}");
        assert!(said.stderr.contains("the apps serve on"), "{said:#?}");
        wait_until("it has ended", BOUND, || has_ended(daemon), |ended| *ended);
        clients.wait_ok(SOME);
        assert_eq!(facts(&rpm), before, "{}", rpm.log());
        assert_ne!(rpm.daemon_pid(), Some(daemon));
    }
    rpm.ok(["reload", "web", "--wait"]);
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
}

/// New ones wait until there is a daemon again.
#[test]
fn clients_of_the_proxy_do_not_miss_it() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).args(["--balance", "proxy"]).start(&rpm);
    let clients = of_the_proxy(&port);
    let before = facts(&rpm);
    for _ in 0..3 {
        clients.wait_ok(SOME);
        rpm.ok(["kill", "--keep-apps"]);
        assert_eq!(facts(&rpm), before, "{}", rpm.log());
    }
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
}

#[test]
fn it_leaves_when_the_reload_that_is_under_way_has_ended() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    web("hello.js", &port).args(["--watch-after", "2s"]).start(&rpm);
    let clients = Clients::begin(&port, "/", CLIENTS);
    clients.wait_ok(SOME);
    rpm.ok(["reload", "web", "--no-wait"]);
    rpm.ok(["kill", "--keep-apps"]);
    let list = rpm.list();
    let done = |it: &Process| it.generation == 2 && it.others.iter().all(|it| it.phase != Phase::Standby);
    assert!(
        list.len() == 2 && list.iter().all(done),
        "{list:#?}\n{}",
        rpm.log()
    );
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
}
