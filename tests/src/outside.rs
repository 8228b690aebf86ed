//! Acting on workers, and observing them, from outside.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use rpm_testkit::{Rpm, wait_until};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

/// Long enough for the kernel to deliver a signal on a loaded machine.
const BOUND: Duration = Duration::from_secs(30);

/// `kill -9`.
///
/// # Panics
/// There is no such process.
pub fn kill(pid: u32) {
    send(pid, Signal::KILL);
}

/// `kill -STOP`; returns once the process has stopped.
///
/// # Panics
/// There is no such process, or it does not stop.
pub fn freeze(pid: u32) {
    send(pid, Signal::STOP);
    wait_until(
        "the process is stopped",
        BOUND,
        || state(pid),
        |state| *state == Some('T'),
    );
}

/// `kill -TERM`.
///
/// # Panics
/// There is no such process.
pub fn terminate(pid: u32) {
    send(pid, Signal::TERM);
}

/// `kill -CONT`.
///
/// # Panics
/// There is no such process.
pub fn thaw(pid: u32) {
    send(pid, Signal::CONT);
}

fn send(pid: u32, signal: Signal) {
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(target, signal).expect("the process is there");
}

/// Sets a resource limit of a process. `None`: that of this process.
///
/// # Panics
/// There is no such process, or it belongs to another user.
pub fn limit(pid: u32, what: Resource, most: Option<u64>) {
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let maximum = getrlimit(what).maximum;
    let new = Rlimit {
        current: most.or(maximum),
        maximum,
    };
    prlimit(Some(target.expect("a pid")), what, new).expect("the process is there");
}

/// The state letter of a process; `None` if there is no such process.
#[must_use]
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// The number of sockets that the process holds. Those beyond the number before the first client are accepted connections; for a stopped
/// process this is exact.
///
/// # Panics
/// There is no such process.
#[must_use]
pub fn sockets(pid: u32) -> u64 {
    let held = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the process runs")
        .flatten();
    let targets = held.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count() as u64
}

/// How often each thread of a process has gone to sleep, by thread id.
///
/// # Panics
/// There is no such process.
#[must_use]
pub fn voluntary_switches(pid: u32) -> BTreeMap<OsString, u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .expect("the threads")
        .flatten();
    let count = |thread: fs::DirEntry| {
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        Some((thread.file_name(), switches(&status)))
    };
    threads.filter_map(count).collect()
}

fn switches(status: &str) -> u64 {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok())
        .expect("a count of switches")
}

/// Kills the daemon, and waits until it has ended.
///
/// # Panics
/// None runs, or it does not end.
pub fn kill_daemon(rpm: &Rpm) {
    let daemon = rpm.daemon_pid().expect("a daemon runs");
    kill(daemon);
    wait_until("the daemon is gone", BOUND, || has_ended(daemon), |ended| *ended);
}

/// Kills the daemon and its keeper, and waits until both have ended.
///
/// # Panics
/// There are none, or they do not end.
pub fn kill_both(rpm: &Rpm) {
    let both = [rpm.daemon_pid(), rpm.keeper_pid()].map(|pid| pid.expect("both run"));
    both.into_iter().for_each(kill);
    let gone = || both.into_iter().all(has_ended);
    wait_until("daemon and keeper are gone", BOUND, gone, |gone| *gone);
}

/// True if a process has ended, reaped or not.
#[must_use]
pub fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty()
        || stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'))
}
