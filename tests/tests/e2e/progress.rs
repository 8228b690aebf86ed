//! What the client that requested a reload is told, and what happens to the reload if that client goes away.

use std::process::{Child, Stdio};
use std::time::Duration;

use rpm_e2e::clients::Clients;
use rpm_e2e::place::Place;
use rpm_e2e::site::{Site, hello};
use rpm_testkit::{Phase, Process, Rpm, wait_until};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(20);
/// Clients of each kind.
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;

/// An app that is slow to listen.
fn slow_start() -> String {
    format!("setTimeout(() => {{ {} }}, 1500);", hello())
}

fn generation(rpm: &Rpm) -> u32 {
    rpm.process(0).generation
}

fn all_gone(list: &[Process]) -> bool {
    list.iter().all(|process| process.others.is_empty())
}

/// A reload whose new workers are starting, or have started if nobody looked in time, and the command that waits for it.
fn begun(site: &Site) -> Child {
    let before = generation(&site.rpm);
    let mut command = site.rpm.command(["reload", "site"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let starting = |list: &Vec<Process>| {
        let mut others = list.iter().flat_map(|process| &process.others);
        let starts = others.any(|other| other.phase == Phase::Launching);
        starts || list.iter().any(|process| process.generation > before)
    };
    wait_until("the new workers start", BOUND, || site.rpm.list(), starting);
    child.expect("rpm runs")
}

fn interrupted(site: &Site) {
    let mut reload = begun(site);
    reload.kill().expect("it runs");
    reload.wait().expect("it is ours");
}

#[test]
fn every_step_of_every_worker_is_told() {
    let site = Site::start(Rpm::new(), &hello(), &[]);
    let old = site.rpm.pids("site");
    let ran = site.rpm.run(["reload", "site", "--wait"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(all_gone(&site.rpm.list()), "--wait waits for the old workers");
    for (id, (old, new)) in old.iter().zip(site.rpm.pids("site")).enumerate() {
        let told = |what: &str, pid: u32| {
            let line = format!("site ({id}) {what}, pid {pid}");
            let at = ran.stderr.lines().position(|told| told == line);
            at.unwrap_or_else(|| panic!("{line}\n{}", ran.stderr))
        };
        let course = [
            told("starting", new),
            told("ready", new),
            told("draining", *old),
            told("stopping", *old),
            told("gone", *old),
        ];
        assert!(course.is_sorted(), "{}", ran.stderr);
    }
}

#[test]
fn a_worker_that_fails_is_told_of() {
    let site = Site::start(Rpm::new(), &hello(), &[]);
    site.write("process.exit(3)");
    let error = site.rpm.fails(["reload", "site"]);
    assert!(error.contains(") failed, pid "), "{error}");
    assert!(error.contains("exited with code 3"), "{error}");
}

#[test]
fn every_app_that_fails_is_named_and_all_are_shown() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write(
        "app.js",
        "require('http').createServer(() => {}).listen(0, '127.0.0.1');",
    );
    place.write("crash.js", "process.exit(1);");
    place.write("done.js", "");
    place.ok(&rpm, ["start", "app.js", "-i", "1"]);
    // A Node that takes seconds to come to its end counts neither as one that runs nor as one that ran for long.
    let times = ["--listen-timeout", "30s", "--min-uptime", "1m"];
    for script in ["crash.js", "done.js"] {
        let start = ["start", script, "--max-restarts", "0"];
        let ran = place.run(&rpm, start.into_iter().chain(times));
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let once = "then `";
        assert_eq!(ran.stderr.contains(once), script == "done.js", "{ran:?}");
    }
    let ran = place.run(&rpm, ["restart", "all"]);
    let error =
        "error: 2 of 3 apps failed: crash (exited with code 1), done (exited with code 0); app is ready";
    assert!(ran.code == Some(1) && ran.stderr.contains(error), "{ran:?}");
    assert!(
        ["app", "crash", "done"]
            .iter()
            .all(|name| ran.stdout.contains(name)),
        "{ran:?}"
    );
    let ran = place.ok(&rpm, ["restart", "app", "-i", "2"]);
    assert!(ran.stderr.contains("app: from 1 to 2 instances"), "{ran:?}");
    assert_eq!(ran.stdout.matches(" app ").count(), 2, "{ran:?}");
}

#[test]
fn a_reload_goes_on_without_who_asked_and_the_next_one_takes_its_turn() {
    let site = Site::start(Rpm::new(), &slow_start(), &[]);
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    interrupted(&site);
    let ran = site.rpm.run(["reload", "site"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains(") ready, pid "), "{ran:?}");
    assert_eq!(
        generation(&site.rpm),
        3,
        "what is on the disk now may have come since the first began"
    );
    clients.wait_ok(SOME);
    clients.finish_clean(&site.rpm);
}

#[test]
fn another_reload_takes_its_turn() {
    let site = Site::start(Rpm::new(), &slow_start(), &[]);
    interrupted(&site);
    let other = site
        .rpm
        .command(["reload", "site", "--update-env"])
        .env("COLOR", "red")
        .output();
    assert!(other.expect("rpm runs").status.success());
    assert_eq!(generation(&site.rpm), 3, "of other variables");
    let mut first = begun(&site);
    site.rpm.ok(["reload", "site"]);
    assert_eq!(generation(&site.rpm), 5, "somebody waited for the other");
    assert!(first.wait().expect("it is ours").success());
}
