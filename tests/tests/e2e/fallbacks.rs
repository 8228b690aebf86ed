//! What works if the system does not permit interception, and how that is reported.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::ask::workers;
use rpm_e2e::clients::Clients;
use rpm_e2e::denied::Denied;
use rpm_e2e::place::Place;
use rpm_e2e::process::{name, signal};
use rpm_testkit::{Port, Ran, Rpm, get, wait_until};

const BOUND: Duration = Duration::from_secs(20);
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;

/// Starts an app under a daemon that is denied a mechanism.
fn start(denied: Denied, rpm: &Rpm, app: &App) -> Ran {
    let ran: Ran = denied
        .to(&app.command(rpm))
        .output()
        .expect("python3 runs")
        .into();
    assert_eq!(ran.code, Some(0), "{ran:#?}\n{}", rpm.log());
    ran
}

/// A program other than Node gets one instance, and the reason is reported.
fn one_instance(denied: Denied, reason: &str) {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    // Nothing shows that it listens.
    let app = App::cluster("hello.py", "3")
        .args(["--name", "web", "--listen-timeout", "1s"])
        .port(&port);
    let ran = start(denied, &rpm, &app);
    assert!(ran.stderr.contains("one instance"), "{ran:#?}");
    assert_eq!(rpm.list().len(), 1);
    wait_until(
        "it serves",
        BOUND,
        || get(port.number(), "/").is_ok(),
        |serves| *serves,
    );
    let info = rpm.describe("web");
    assert_eq!(info.plane, "none");
    assert!(info.plane_reason.contains(reason), "{}", info.plane_reason);
    // It has its own port, so it is restarted.
    let before = rpm.pids("web");
    let ran = rpm.run(["reload", "web"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.stderr.contains("it is restarted"), "{ran:#?}");
    assert_ne!(rpm.pids("web"), before);
}

#[test]
fn without_seccomp() {
    one_instance(Denied::Seccomp, "Linux 5.9");
}

#[test]
fn where_somebody_else_listens_to_a_filter() {
    one_instance(Denied::Listener, "container");
}

#[test]
fn without_the_right_to_take_descriptors() {
    one_instance(Denied::Getfd, "pidfd_getfd");
}

#[test]
fn node_is_clustered_all_the_same() {
    for denied in [Denied::Seccomp, Denied::Listener, Denied::Getfd] {
        let (rpm, port) = (Rpm::new(), Port::reserve());
        let app = App::cluster("hello.js", "3")
            .args(["--name", "web", "--drain-timeout", "5s"])
            .port(&port);
        start(denied, &rpm, &app);
        assert_eq!(workers(&port, 3).len(), 3, "{denied:?}");
        let clients = Clients::begin(&port, "/", CLIENTS);
        clients.wait_ok(SOME);
        rpm.ok(["reload", "web"]);
        clients.wait_ok(SOME);
        clients.finish_clean(&rpm);
    }
}

#[test]
fn fork_mode_is_restarted() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    start(
        Denied::Seccomp,
        &rpm,
        &App::new("hello.js").args(["--name", "web"]).port(&port),
    );
    wait_until(
        "it serves",
        BOUND,
        || get(port.number(), "/").is_ok(),
        |serves| *serves,
    );
    let ran = rpm.run(["reload", "web"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.stderr.contains("it is restarted"), "{ran:#?}");
}

/// A program with the rights of another user, such as sudo, cannot be ended by a daemon without privileges.
#[test]
fn a_worker_is_replaced_though_what_it_has_left_belongs_to_somebody_else() {
    let test = "a_worker_is_replaced_though_what_it_has_left_belongs_to_somebody_else";
    // An unprivileged one gives no program the rights of its owner.
    let Some(rpm) = Rpm::capable(test, "cap_net_bind_service+ep") else {
        return;
    };
    let place = Place::new();
    // As sudo does: it becomes root altogether.
    let becomes = place.path().join("becomes");
    std::fs::copy("/usr/bin/setpriv", &becomes).expect("it can be read");
    std::fs::set_permissions(&becomes, std::fs::Permissions::from_mode(0o4755)).expect("it is ours");
    let script = place.write(
        "crashes.sh",
        // Between the two is one that can be ended, and is found. It ends when the other one is root: until then that could be ended.
        &format!(
            "export IS=\"{0}/is-$$\"
sh -c '{1} --ruid=0 sh -c \"touch \\$IS; exec sleep 600\" & echo $! >&2; wait' &
until [ -e \"$IS\" ]; do sleep 0.05; done
if [ -e {0}/stay ]; then echo stays; sleep 1000; fi
exit 1
",
            place.path().display(),
            becomes.display()
        ),
    );
    let app = [
        "start",
        script.to_str().expect("UTF-8"),
        "--name",
        "web",
        "--interpreter",
        "sh",
    ];
    rpm.ok([&app[..], &["--no-intercept", "--no-wait", "--kill-timeout", "1s"]].concat());
    // It crashes, and then it stays and is ended.
    let restarts = || rpm.process(0).restarts;
    wait_until("it is restarted", BOUND, restarts, |restarts| *restarts >= 2);
    let log = || rpm.log();
    wait_until("it is told", BOUND, log, |log| {
        log.contains("belongs to another user")
    });
    place.write("stay", "");
    let stays = || rpm.output("web", "out", None);
    wait_until("it stays", BOUND, stays, |printed| !printed.is_empty());
    let deletion = rpm.spawn(["delete", "web"]);
    wait_until("it is gone", BOUND, || rpm.list(), Vec::is_empty);
    let done: Ran = deletion.wait_with_output().expect("it ends").into();
    assert_eq!(done.code, Some(0), "{done:#?}");
    for pid in String::from_utf8_lossy(&rpm.output("web", "error", None)).lines() {
        let pid = pid.parse().expect("a pid");
        if name(pid) == "sleep" {
            signal(pid, "KILL");
        }
    }
}
