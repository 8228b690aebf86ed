//! `--policy ip-hash`: a client always gets the same worker while it lives.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::ask::{V4, who, workers};
use rpm_e2e::outside::kill;
use rpm_e2e::steering::{Path, talkative, undisturbed};
use rpm_testkit::{Port, Process, Rpm, Status, get, wait_until};

const BOUND: Duration = Duration::from_secs(20);
/// The number of clients, each with its own address, and of connections of each.
const CLIENTS: u8 = 24;
const EACH: usize = 4;
const WORKERS: usize = 3;

/// The instance that answers a client with this address.
fn instance_for(client: u8, port: &Port) -> u32 {
    let ran = Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "10",
            "--interface",
            &format!("127.0.7.{client}"),
        ])
        .arg(format!("http://127.0.0.1:{port}/"))
        .output()
        .expect("curl runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    let instance = said.split(' ').next().and_then(|text| text.parse().ok());
    instance.unwrap_or_else(|| panic!("{ran:?}"))
}

/// The worker of each client.
fn homes(rpm: &Rpm, port: &Port) -> BTreeMap<u8, u32> {
    let came_to = |client| {
        let instances: BTreeSet<u32> = (0..EACH).map(|_| instance_for(client, port)).collect();
        (client, instances)
    };
    let all: BTreeMap<u8, BTreeSet<u32>> = undisturbed(rpm, || (1..=CLIENTS).map(came_to).collect());
    assert!(all.values().all(|instances| instances.len() == 1), "{all:?}");
    let home = |(client, instances): (u8, BTreeSet<u32>)| Some((client, *instances.first()?));
    all.into_iter().filter_map(home).collect()
}

fn stick(test: &str, path: Path) {
    let Some(rpm) = path.rpm(test).map(talkative) else {
        return;
    };
    let port = Port::reserve();
    App::cluster("hello.js", &WORKERS.to_string())
        .args(["--name", "web", "--policy", "ip-hash"])
        .port(&port)
        .start(&rpm);
    if !path.is_used(&rpm, "web", test) {
        return;
    }
    assert!(rpm.describe("web").listeners[0].reason.contains("ip-hash"));
    let before = homes(&rpm, &port);
    let used: BTreeSet<u32> = before.values().copied().collect();
    assert_eq!(used.len(), WORKERS, "{before:?}");
    // Its replacement inherits its slot, and so its clients.
    let victim = rpm.process(1).pid.expect("it runs");
    kill(victim);
    let replaced = |now: &Process| now.status == Status::Online && now.pid.is_some_and(|pid| pid != victim);
    wait_until("a replacement", BOUND, || rpm.process(1), replaced);
    assert_eq!(homes(&rpm, &port), before);
    // The clients of the others stay when one is gone for good.
    rpm.ok(["stop", "1"]);
    for (client, home) in homes(&rpm, &port) {
        let then = before[&client];
        assert!(
            home == then || then == 1,
            "client {client} went from {then} to {home}"
        );
        assert_ne!(home, 1);
    }
}

#[test]
fn clients_stick_to_their_worker() {
    stick("clients_stick_to_their_worker", Path::Ebpf);
}

#[test]
fn so_they_do_without_privileges() {
    stick("so_they_do_without_privileges", Path::Classic);
}

/// How long a worker is busy: far longer than it takes to count as frozen and lose its queue.
const BUSY_MS: u64 = 400;

/// A worker that is busy for some time keeps its clients, and new ones wait for it.
fn busy_workers_keep_clients(test: &str, path: Path, balance: &str) {
    let Some(rpm) = path.rpm(test) else { return };
    let port = Port::reserve();
    App::cluster("slow.js", &WORKERS.to_string())
        .args(["--name", "web", "--policy", "ip-hash", "--balance", balance])
        .port(&port)
        .start(&rpm);
    let home = who(V4, &port);
    for _ in 0..3 {
        let number = port.number();
        let busy = std::thread::spawn(move || get(number, &format!("/?block={BUSY_MS}")));
        for _ in 0..10 {
            assert_eq!(who(V4, &port), home, "{}", rpm.log());
        }
        let answer = busy
            .join()
            .expect("the client runs to its end")
            .expect("an answer");
        assert_eq!(answer.body.trim(), home);
    }
}

#[test]
fn busy_workers_keep_their_clients() {
    for balance in ["direct", "handoff", "proxy"] {
        busy_workers_keep_clients("busy_workers_keep_their_clients", Path::Ebpf, balance);
    }
}

#[test]
fn so_they_do_with_classic_bpf() {
    busy_workers_keep_clients("so_they_do_with_classic_bpf", Path::Classic, "direct");
}

/// Three quarters go to the first.
fn by_weight(test: &str, path: Path) -> Option<BTreeMap<String, usize>> {
    let rpm = talkative(path.rpm(test)?);
    let port = Port::reserve();
    App::cluster("hello.js", "2")
        .args(["--name", "web", "--policy", "weighted", "--weights", "3,1"])
        .port(&port)
        .start(&rpm);
    if !path.is_used(&rpm, "web", test) {
        return None;
    }
    assert_eq!(workers(&port, 2).len(), 2);
    let served = undisturbed(&rpm, || {
        let mut served = BTreeMap::new();
        for _ in 0..400 {
            let answer = who(V4, &port);
            let instance = answer.split(' ').next().unwrap_or_default().to_owned();
            *served.entry(instance).or_insert(0) += 1;
        }
        served
    });
    Some(served)
}

#[test]
fn the_heavy_get_more() {
    if let Some(served) = by_weight("the_heavy_get_more", Path::Ebpf) {
        assert_eq!(
            served,
            BTreeMap::from([("0".to_owned(), 300), ("1".to_owned(), 100)])
        );
    }
}

#[test]
fn so_they_do_at_random() {
    if let Some(served) = by_weight("so_they_do_at_random", Path::Classic) {
        // Six standard deviations of 400 draws at 3 to 1.
        assert!((248..=352).contains(&served["0"]), "{served:?}");
    }
}

#[test]
fn weights_and_their_policy_belong_together() {
    let rpm = Rpm::new();
    for wrong in [
        &["--policy", "weighted"][..],
        &["--weights", "1,2"],
        &["--policy", "nonsense"],
    ] {
        let error = rpm.fails([&["start", "/bin/cat", "-i", "2"], wrong].concat());
        assert!(
            error.contains("--weights") || error.contains("possible values: round-robin"),
            "{error}"
        );
    }
}
