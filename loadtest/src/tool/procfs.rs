//! What /proc says of processes (proc(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// The fields of /proc/pid/stat in use; times in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    ticks: u64,
}

/// The processes of these roots and all their descendants, as far as they are alive.
pub(crate) fn trees(roots: &[u32]) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, parent) in all().into_iter().filter_map(|pid| Some((pid, stat(pid)?.parent))) {
        children.entry(parent).or_default().push(pid);
    }
    let mut found = BTreeSet::new();
    let mut open = roots.to_vec();
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

/// CPU time these processes have used so far, all threads, user and system.
pub(crate) fn cpu(pids: &BTreeSet<u32>) -> Duration {
    let ticks: u64 = pids
        .iter()
        .filter_map(|pid| stat(*pid))
        .map(|stat| stat.ticks)
        .sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The parent of a process.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    stat(pid).map(|stat| stat.parent)
}

/// The program a process executes.
pub(crate) fn program(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Resident memory in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let kib = status_field(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS")?;
    Some(kib * 1024)
}

/// How often all threads of a process went to sleep by themselves: each is a wake-up later.
pub(crate) fn voluntary_switches(pid: u32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let status = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    Some(
        status
            .filter_map(|status| status_field(&status, "voluntary_ctxt_switches"))
            .sum(),
    )
}

fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command name may hold anything, parentheses included: fields count from its last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let user: u64 = fields.nth(9)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Stat {
        parent,
        ticks: user + system,
    })
}

fn status_field(status: &str, name: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_with_a_hostile_name() {
        let line = "42 (a ) R 7 b) S 17 42 42 0 -1 4194560 900 0 0 0 120 30 5 6 20 0 1 0 100 1 2";
        assert_eq!(
            parse_stat(line),
            Some(Stat {
                parent: 17,
                ticks: 150
            })
        );
        assert_eq!(parse_stat("42 (x) S"), None);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status =
            "VmRSSx:\t1 kB\nVmRSS:\t  512 kB\nnonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t4\n";
        assert_eq!(status_field(status, "VmRSS"), Some(512));
        assert_eq!(status_field(status, "voluntary_ctxt_switches"), Some(4));
        assert_eq!(status_field(status, "Threads"), None);
    }

    #[test]
    fn a_child_is_in_the_tree_of_this_process() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep");
        let tree = trees(&[std::process::id()]);
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert!(
            tree.contains(&child.id()) && tree.contains(&std::process::id()),
            "{tree:?}"
        );
        assert!(!trees(&[child.id()]).contains(&std::process::id()));
    }

    #[test]
    fn this_process_has_memory_and_a_parent() {
        let me = std::process::id();
        assert!(resident_bytes(me).is_some_and(|bytes| bytes > 100_000));
        assert!(parent(me).is_some() && program(me).is_some() && voluntary_switches(me).is_some());
    }
}
