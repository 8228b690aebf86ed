//! The contract of node:cluster and of PM2's cluster mode as a worker sees it, and its numbers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::available_parallelism;

use rpm_e2e::app::App;
use rpm_e2e::ask::{BOUND, different, json, refused, workers};
use rpm_e2e::clients::{Clients, beside};
use rpm_e2e::place::Place;
use rpm_e2e::process::signal;
use rpm_testkit::{Outcome, Port, Process, Rpm, Status, Traffic, fixture, get, node, skip, wait_until};
use rpm_wire::api::ExecMode;
use serde_json::Value;

/// `cluster.worker.id` of all workers that answer, at least `count`.
fn worker_ids(port: &Port, count: usize) -> BTreeSet<u64> {
    different(count, || {
        let seen = json(port, "/");
        assert_eq!(
            (&seen["isWorker"], &seen["isPrimary"]),
            (&Value::Bool(true), &Value::Bool(false)),
            "{seen}"
        );
        seen["id"].as_u64().expect("cluster.worker.id is a number")
    })
}

/// `NODE_APP_INSTANCE pid` of every process of the list.
fn listed(rpm: &Rpm) -> BTreeSet<String> {
    rpm.list()
        .iter()
        .map(|p| format!("{} {}", p.instance, p.pid.expect("it runs")))
        .collect()
}

/// Kills one process and waits for its replacement.
fn crash(rpm: &Rpm, victim: &Process) -> Process {
    signal(victim.pid.expect("it runs"), "KILL");
    let replaced = |now: &Process| now.status == Status::Online && now.pid.is_some() && now.pid != victim.pid;
    wait_until("a replacement", BOUND, || rpm.process(victim.id), replaced)
}

fn is_a_cluster_on(major: u32) {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("ipc.js", "2").node(major).port(&port).start(&rpm);
    let before = worker_ids(&port, 2);
    assert_eq!(before.len(), 2, "both serve: {before:?}");
    assert!(before.iter().all(|id| *id >= 1), "{before:?}");
    let replacement = crash(&rpm, &rpm.process(0));
    assert_eq!(replacement.restarts, 1);
    let after = worker_ids(&port, 2);
    let new: Vec<_> = after.difference(&before).collect();
    assert_eq!(
        (after.len(), new.len()),
        (2, 1),
        "one id is kept and one is new: {before:?} {after:?}"
    );
    assert!(
        new[0] > before.last().expect("two"),
        "ids are never used again: {before:?} {after:?}"
    );
}

#[test]
fn an_unmodified_app_is_a_cluster_on_node_18() {
    is_a_cluster_on(18);
}

#[test]
fn an_unmodified_app_is_a_cluster_on_node_20() {
    is_a_cluster_on(20);
}

#[test]
fn an_unmodified_app_is_a_cluster_on_node_22() {
    is_a_cluster_on(22);
}

#[test]
fn an_unmodified_app_is_a_cluster_on_node_24() {
    is_a_cluster_on(24);
}

#[test]
fn an_unmodified_app_is_a_cluster_on_node_26() {
    is_a_cluster_on(26);
}

#[test]
fn the_environment_says_who_is_who() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("env.js", "2")
        .port(&port)
        .args(["--name", "web"])
        .start(&rpm);
    let text = |env: &Value, name: &str| env[name].as_str().unwrap_or_default().to_owned();
    let seen = different(2, || {
        let env = json(&port, "/");
        ["NODE_APP_INSTANCE", "pm_id", "name", "exec_mode"].map(|name| text(&env, name))
    });
    let expected = [["0", "0"], ["1", "1"]]
        .map(|[instance, id]| [instance, id, "web", "cluster_mode"].map(String::from));
    assert_eq!(seen, BTreeSet::from(expected));
}

#[test]
fn any_number_of_instances_is_a_cluster() {
    let cpus = available_parallelism().expect("CPUs").get();
    let fewer = cpus.saturating_sub(1).max(1);
    for (instances, expected) in [("1", 1), ("max", cpus), ("0", cpus), ("-1", fewer)] {
        let (rpm, port) = (Rpm::new(), Port::reserve());
        App::cluster("ipc.js", instances).port(&port).start(&rpm);
        let list = rpm.list();
        assert_eq!(list.len(), expected, "-i {instances}");
        for process in &list {
            assert_eq!(
                (process.exec_mode, process.plane.as_str()),
                (ExecMode::Cluster, "direct"),
                "-i {instances}"
            );
        }
        assert_eq!(worker_ids(&port, expected).len(), expected, "-i {instances}");
    }
}

/// A control group of this machine, with the version of the hierarchy that has its CPUs. It is removed when dropped.
struct Group(PathBuf);

impl Group {
    /// `None` where none can be made.
    fn new() -> Option<Group> {
        let top = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"].map(Path::new);
        let has_cpus = |top: &&Path| {
            ["cpu.shares", "cgroup.controllers"]
                .iter()
                .any(|it| top.join(it).exists())
        };
        let path = top
            .into_iter()
            .find(has_cpus)?
            .join(format!("rpm-test-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        Some(Group(path))
    }

    /// Lets its processes use so many hundredths of a CPU.
    fn limit(&self, percent: u32) {
        let quota = percent * 1000;
        let written = match self.0.join("cpu.max") {
            file if file.exists() => std::fs::write(file, format!("{quota} 100000")),
            _ => std::fs::write(self.0.join("cpu.cfs_quota_us"), quota.to_string()),
        };
        written.expect("the group has a quota");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let processes = || std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        wait_until("the group is empty", BOUND, processes, String::is_empty);
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn max_is_what_the_daemon_may_use() {
    let test = "max_is_what_the_daemon_may_use";
    let cpus = available_parallelism().expect("CPUs").get();
    if cpus < 2 {
        return skip(test, "there is only one CPU");
    }
    let Some(group) = Group::new() else {
        return skip(test, "only root can make a control group with a quota");
    };
    let bound = "exec taskset --cpu-list $(taskset --cpu-list --pid $$ | sed 's/.*: //; s/[-,].*//') \"$@\"";
    let limited = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", group.0.display());
    group.limit(150);
    for (line, by) in [(bound, "the affinity mask"), (&limited, "the quota")] {
        let rpm = Rpm::new();
        let start = App::cluster("ipc.js", "max").port(&Port::reserve()).command(&rpm);
        let mut wrapped = Command::new("sh");
        wrapped
            .args(["-c", line, "sh"])
            .arg(start.get_program())
            .args(start.get_args());
        wrapped.envs(start.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let ran = wrapped.stdin(Stdio::null()).output().expect("sh runs");
        assert!(ran.status.success(), "{ran:?}");
        assert_eq!(rpm.list().len(), 1, "by {by}");
        if by == "the quota" {
            group.limit(200);
            rpm.ok(["scale", "ipc", "max"]);
            assert_eq!(rpm.list().len(), 2, "the quota has grown");
        }
    }
}

#[test]
fn without_instances_one_process_owns_its_port() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::new("ipc.js").port(&port).start(&rpm);
    let seen = wait_until(
        "the app serves",
        BOUND,
        || get(port.number(), "/").ok(),
        Option::is_some,
    )
    .expect("it is");
    let seen: Value = serde_json::from_str(&seen.body).expect("JSON");
    assert_eq!(
        (&seen["isWorker"], &seen["isPrimary"]),
        (&Value::Bool(false), &Value::Bool(true)),
        "{seen}"
    );
    assert_eq!(seen["send"], "function", "{seen}");
    let info = rpm.describe("ipc");
    assert_eq!((info.plane.as_str(), info.processes.len()), ("direct", 1));
    assert_eq!(info.processes[0].exec_mode, ExecMode::Fork);
    let own: Vec<_> = info
        .listeners
        .iter()
        .map(|l| (l.address.clone(), l.steering.as_str()))
        .collect();
    assert_eq!(own.len(), 1, "{own:?}");
    assert_eq!(own[0].0, format!("tcp 127.0.0.1:{port}"));
}

#[test]
fn an_app_in_fork_mode_is_scaled_and_its_processes_share_its_port() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::new("hello.js").port(&port).start(&rpm);
    let serves = || get(port.number(), "/").ok();
    wait_until("the app serves", BOUND, serves, Option::is_some);
    let first = rpm.pids("hello");
    let clients = Clients::begin(&port, "/", 4);
    clients.wait_ok(50);
    rpm.ok(["scale", "hello", "+2"]);
    let list = rpm.list();
    assert_eq!(list.len(), 3);
    assert!(
        list.iter().all(|process| process.exec_mode == ExecMode::Fork),
        "{list:?}"
    );
    assert!(rpm.pids("hello").contains(&first[0]), "{list:?}");
    assert_eq!(workers(&port, 3), listed(&rpm));
    rpm.ok(["reload", "hello"]);
    rpm.ok(["scale", "hello", "1"]);
    assert_eq!(rpm.pids("hello").len(), 1);
    clients.wait_ok(50);
    clients.finish_clean(&rpm);
}

/// `pm_id` and `NODE_APP_INSTANCE` of every process.
fn numbers(rpm: &Rpm) -> Vec<(u32, u32)> {
    rpm.list()
        .iter()
        .map(|process| (process.id, process.instance))
        .collect()
}

#[test]
fn scaling_removes_the_lowest_id_and_gives_its_number_again() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2").port(&port).start(&rpm);
    for (count, expected) in [
        ("3", vec![(0, 0), (1, 1), (2, 2)]),
        ("-1", vec![(1, 1), (2, 2)]),
        ("+1", vec![(1, 1), (2, 2), (3, 0)]),
        ("1", vec![(3, 0)]),
    ] {
        rpm.ok(["scale", "hello", count]);
        assert_eq!(numbers(&rpm), expected, "scale {count}");
        assert_eq!(workers(&port, expected.len()), listed(&rpm), "scale {count}");
    }
}

#[test]
fn ids_begin_again_when_nothing_is_left() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let app = App::cluster("hello.js", "2").port(&port);
    app.start(&rpm);
    let first: BTreeSet<u32> = rpm.pids("hello").into_iter().collect();
    rpm.ok(["delete", "all"]);
    assert!(refused(&port) && rpm.list().is_empty());
    app.start(&rpm);
    assert_eq!(numbers(&rpm), [(0, 0), (1, 1)]);
    assert!(first.is_disjoint(&rpm.pids("hello").into_iter().collect()));
}

#[test]
fn a_program_that_knows_listen_fds_takes_its_slot_and_its_heir_inherits_it() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let address = format!("127.0.0.1:{port}");
    App::cluster("listen-fds.py", "2")
        .args(["--listen", &address])
        .start(&rpm);
    assert_eq!(workers(&port, 2), listed(&rpm));
    assert_eq!(
        get(port.number(), "/passed").expect("an answer").body,
        "1 blocking True"
    );
    let traffic = Traffic::start(&beside(&port, 4));
    traffic.wait_ok(50);
    crash(&rpm, &rpm.process(0));
    traffic.wait_ok(50);
    let report = traffic.finish();
    report
        .check_allowing(&[Outcome::ResetFresh, Outcome::Truncated])
        .expect("only what was in flight is lost");
    let listener = rpm.describe("listen-fds").listeners.remove(0);
    assert_eq!(listener.address, format!("tcp {address}"));
    let holders: Vec<u32> = listener.slots.iter().map(|slot| slot.instance).collect();
    assert_eq!(
        holders,
        [0, 1],
        "the slot was inherited, no other was made: {listener:?}"
    );
    assert_eq!(workers(&port, 2), listed(&rpm));
}

/// A script without extension whose first line names Node, behind a link, as npm creates them for installed programs.
#[test]
fn a_script_whose_first_line_names_node_is_a_node_program() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let script = format!(
        "#!/usr/bin/env -S node --title=first-line\nprocess.title === 'first-line' && require({:?});\n",
        fixture("ipc.js").display().to_string()
    );
    place.write("lib/cli", &script);
    let bin = place.path().join("node_modules/.bin");
    std::fs::create_dir_all(&bin).expect("a directory");
    std::os::unix::fs::symlink("../../lib/cli", bin.join("web")).expect("a link");
    let path = format!(
        "{}:{}",
        node(22).parent().expect("a directory").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    App::of([bin.join("web")])
        .args(["-i", "2", "--name", "web"])
        .port(&port)
        .env("PATH", path)
        .start(&rpm);
    // node:cluster's channel exists, so these are cluster workers.
    assert_eq!(worker_ids(&port, 2).len(), 2);
    let app = rpm.describe("web");
    assert!(app.plane_reason.contains("node:cluster"), "{app:#?}");
    let clients = Clients::begin(&port, "/", 2);
    clients.wait_ok(20);
    rpm.ok(["reload", "web"]);
    clients.wait_ok(20);
    clients.finish_clean(&rpm);
}
