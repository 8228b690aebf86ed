//! `watch_after`: a version that gets ready and crashes soon after is replaced by the previous one.

use std::time::Duration;

use rpm_e2e::clients::Clients;
use rpm_e2e::site::{Site, hello};
use rpm_testkit::{Phase, Rpm, Status, get, wait_until};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(20);
/// Clients of each kind.
const CLIENTS: usize = 6;
/// Responses between two events.
const SOME: u64 = 50;

fn release(name: &str) -> String {
    format!("require('http').createServer((_, res) => res.end('{name}')).listen(process.env.PORT);\n")
}

fn answer(site: &Site) -> String {
    get(site.port.number(), "/").expect("an answer").body
}

/// Standby workers.
fn warm(rpm: &Rpm) -> usize {
    let list = rpm.list();
    let others = list.iter().flat_map(|process| &process.others);
    others.filter(|other| other.phase == Phase::Standby).count()
}

/// Reloads into `body`, until its workers serve and are being watched.
fn begin_watched(site: &Site, body: &str) {
    site.write(body);
    site.rpm.ok(["reload", "site", "--no-wait"]);
    wait_until(
        "the new workers serve",
        BOUND,
        || warm(&site.rpm),
        |&warm| warm == 2,
    );
}

#[test]
fn a_version_that_crashes_a_second_after_it_was_ready_is_swapped_back() {
    let site = Site::start(Rpm::new(), &hello(), &["--watch-after", "5s"]);
    let before = site.rpm.pids("site");
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    site.write(&format!("{}setTimeout(() => process.exit(7), 1000);", hello()));
    let error = site.rpm.fails(["reload", "site"]);
    assert!(
        error.contains("was ready, then exited with code 7 before the reload was complete"),
        "{error}"
    );
    assert_eq!(site.rpm.pids("site"), before, "the old workers serve again");
    site.rpm.wait_status("site", Status::Online);
    clients.wait_ok(SOME);
    let lost = clients.failures();
    assert!(
        lost.iter().all(|&lost| lost <= CLIENTS as u64),
        "at most one request of each client was in flight: {lost:?}"
    );
    clients.wait_ok(SOME);
    assert_eq!(clients.failures(), lost, "nothing is lost once they serve");
}

#[test]
fn one_that_lasts_takes_over_when_the_time_has_passed() {
    let site = Site::start(Rpm::new(), &hello(), &[]);
    let before = site.rpm.pids("site");
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    site.rpm.ok(["reload", "site", "--watch-after", "500ms"]);
    assert_eq!(warm(&site.rpm), 0, "the time has passed");
    assert!(site.rpm.pids("site").iter().all(|pid| !before.contains(pid)));
    clients.wait_ok(SOME);
    clients.finish_clean(&site.rpm);
}

#[test]
fn a_rollback_meanwhile_brings_the_old_workers_back() {
    let site = Site::start(Rpm::new(), &release("one"), &["--watch-after", "1h"]);
    let before = site.rpm.pids("site");
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    begin_watched(&site, &release("two"));
    assert_eq!(answer(&site), "two");
    clients.wait_ok(SOME);
    site.rpm.ok(["rollback", "site"]);
    assert_eq!((answer(&site), site.rpm.pids("site")), ("one".to_owned(), before));
    clients.wait_ok(SOME);
    clients.finish_clean(&site.rpm);
}

#[test]
fn another_command_meanwhile_accepts_the_new_workers() {
    let site = Site::start(Rpm::new(), &release("one"), &["--watch-after", "1h"]);
    begin_watched(&site, &release("two"));
    let serving = site.rpm.pids("site");
    site.rpm.ok(["scale", "site", "3"]);
    assert_eq!(site.rpm.pids("site")[..2], serving);
    assert_eq!((answer(&site), warm(&site.rpm)), ("two".to_owned(), 0));
}
