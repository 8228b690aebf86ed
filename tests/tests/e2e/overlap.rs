//! A new version that listens on another address of the same port takes over at the cut-over, not before.

use std::net::IpAddr;
use std::time::Duration;

use rpm_e2e::ask::{V4, V6, has_ipv6, refused_by};
use rpm_e2e::clients::Clients;
use rpm_e2e::site::{Site, hello};
use rpm_testkit::{Process, Rpm, get_from, wait_until};

const BOUND: Duration = Duration::from_secs(20);
/// Clients of each kind.
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;

/// The fixture, listening on this address whatever its environment says.
fn at(host: &str) -> String {
    format!("process.env.HOST = {host:?};\n{}", hello())
}

fn start(host: &str) -> Site {
    let args = ["--allow-port-change", "--drain-timeout", "2s"];
    Site::start(Rpm::new(), &at(host), &args)
}

fn answers(site: &Site, ip: IpAddr) -> bool {
    get_from(ip, site.port.number(), "/").is_ok_and(|answer| answer.status == 200)
}

/// Reloads into a version that listens on another address. Clients of the loopback address lose nothing.
fn moves(from: &str, to: &str) -> Site {
    let site = start(from);
    let before = site.rpm.pids("site");
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    site.write(&at(to));
    site.rpm.ok(["reload", "site"]);
    assert!(site.rpm.pids("site").iter().all(|pid| !before.contains(pid)));
    let alone = |list: &Vec<Process>| list.iter().all(|process| process.others.is_empty());
    wait_until("the old workers are gone", BOUND, || site.rpm.list(), alone);
    clients.wait_ok(SOME);
    clients.finish_clean(&site.rpm);
    site
}

#[test]
fn from_every_interface_to_one() {
    if !has_ipv6("from_every_interface_to_one") {
        return;
    }
    let site = moves("::", "127.0.0.1");
    let left = || refused_by(V6, &site.port);
    wait_until("the other address is left", BOUND, left, |left| *left);
    assert!(answers(&site, V4));
}

#[test]
fn from_one_interface_to_all() {
    if !has_ipv6("from_one_interface_to_all") {
        return;
    }
    let site = moves("127.0.0.1", "::");
    assert!(answers(&site, V4) && answers(&site, V6));
}

#[test]
fn a_version_that_fails_has_taken_no_client() {
    if !has_ipv6("a_version_that_fails_has_taken_no_client") {
        return;
    }
    let site = start("::");
    let before = site.rpm.pids("site");
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    // The first worker is proved as far as possible; the second never is.
    let body = format!(
        "if (process.env.NODE_APP_INSTANCE === '1') setTimeout(() => process.exit(3), 300); else {{ {} }}",
        at("127.0.0.1")
    );
    site.write(&body);
    let error = site.rpm.fails(["reload", "site"]);
    assert!(error.contains("code 3"), "{error}");
    assert_eq!(site.rpm.pids("site"), before);
    clients.wait_ok(SOME);
    clients.finish_clean(&site.rpm);
}

#[test]
fn it_must_be_allowed_to() {
    if !has_ipv6("it_must_be_allowed_to") {
        return;
    }
    let site = Site::start(Rpm::new(), &at("::"), &[]);
    site.write(&at("127.0.0.1"));
    let error = site.rpm.fails(["reload", "site"]);
    assert!(error.contains("--allow-port-change"), "{error}");
}
