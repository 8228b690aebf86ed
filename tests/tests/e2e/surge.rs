//! `--max-surge` and `--max-unavailable`: a reload replaces workers one after the other, and loses nothing.

use std::process::Stdio;
use std::time::Duration;

use rpm_e2e::clients::Clients;
use rpm_e2e::site::{Site, hello};
use rpm_testkit::{Process, Rpm, wait_until};

const BOUND: Duration = Duration::from_secs(30);
/// Clients of each kind.
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;

fn workers(list: &[Process]) -> usize {
    list.iter().map(|process| 1 + process.others.len()).sum()
}

/// Reloads, and returns the most workers that were seen at a time.
fn reload(site: &Site) -> usize {
    let mut command = site.rpm.command(["reload", "site", "--wait"]);
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut reload = quiet.spawn().expect("rpm runs");
    let mut most = 0;
    let status = loop {
        most = most.max(workers(&site.rpm.list()));
        if let Some(status) = reload.try_wait().expect("the command can be waited for") {
            break status;
        }
    };
    assert!(status.success(), "{status}");
    most
}

fn start(args: &[&str]) -> Site {
    let all = [&["--drain-timeout", "5s"], args].concat();
    let site = Site::start(Rpm::new(), &hello(), &all);
    site.rpm.ok(["scale", "site", "3"]);
    site
}

fn loses_nothing(args: &[&str], limit: usize) {
    let site = start(args);
    let before = site.rpm.pids("site");
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    let most = reload(&site);
    assert!((3..=limit).contains(&most), "{most} workers");
    assert!(site.rpm.pids("site").iter().all(|pid| !before.contains(pid)));
    clients.wait_ok(SOME);
    clients.finish_clean(&site.rpm);
}

#[test]
fn with_room_for_one_more() {
    loses_nothing(&["--max-surge", "1"], 4);
}

#[test]
fn with_no_room_at_all() {
    loses_nothing(&["--max-surge", "0", "--max-unavailable", "1"], 3);
}

#[test]
fn a_version_that_fails_halfway_is_replaced_by_the_former_one() {
    let site = start(&["--max-surge", "1"]);
    let before = site.rpm.pids("site");
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    let broken = "if (process.env.NODE_APP_INSTANCE === '1') throw new Error('halfway')\n";
    site.write(&format!("{broken}{}", hello()));
    let error = site.rpm.fails(["reload", "site"]);
    assert!(error.contains("halfway"), "{error}");
    // The broken version is still on disk; instance 0 of it works.
    let settled = |list: &Vec<Process>| {
        let of = |process: &Process| process.generation == 1 && process.others.is_empty();
        list.iter().all(of)
    };
    let list = wait_until(
        "all are of the first generation",
        BOUND,
        || site.rpm.list(),
        settled,
    );
    let pids: Vec<u32> = site.rpm.pids("site");
    assert_ne!(pids[0], before[0], "it had left: {list:#?}");
    assert_eq!(pids[1..], before[1..], "these had not");
    clients.wait_ok(SOME);
    clients.finish_clean(&site.rpm);
}

#[test]
fn no_room_and_none_to_spare_is_refused() {
    let rpm = Rpm::new();
    let error = rpm.fails(["start", "/bin/cat", "-i", "2", "--max-surge", "0"]);
    assert!(error.contains("--max-unavailable"), "{error}");
}
