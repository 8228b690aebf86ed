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

/// CPU time that all threads of a process have used, to the nanosecond (`schedstat`); of those that have ended nothing is known.
pub(crate) fn exact_cpu(pid: u32) -> Option<Duration> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    let nanos = texts.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok());
    Some(Duration::from_nanos(nanos.sum()))
}

/// The parent of a process.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    stat(pid).map(|stat| stat.parent)
}

/// The program a process executes.
pub(crate) fn program(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// The memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// `VmRSS`, which is what `ps` shows: with the pages of the program's file and of libraries, which are the system's cache.
    pub(crate) resident: u64,
    /// `RssAnon`, what it has written: that is its own.
    pub(crate) own: u64,
}

/// What a process has in memory now.
pub(crate) fn memory(pid: u32) -> Option<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bytes = |field| Some(status_field(&status, field)? * 1024);
    Some(Memory {
        resident: bytes("VmRSS")?,
        own: bytes("RssAnon")?,
    })
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

/// CPU time of the whole machine since its boot, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    total: u64,
    stolen: u64,
}

impl Machine {
    /// As of now; `None` where /proc/stat does not say.
    pub(crate) fn now() -> Option<Self> {
        parse_machine(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// The share of the time since `earlier` that a hypervisor gave to others, 0 to 1.
    pub(crate) fn stolen_since(&self, earlier: &Machine) -> f64 {
        let total = self.total.saturating_sub(earlier.total).max(1);
        self.stolen.saturating_sub(earlier.stolen) as f64 / total as f64
    }
}

fn parse_machine(stat: &str) -> Option<Machine> {
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in user already.
    let fields = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .take(8);
    let ticks = fields
        .map(|field| field.parse().ok())
        .collect::<Option<Vec<u64>>>()?;
    Some(Machine {
        total: ticks.iter().sum(),
        stolen: *ticks.get(7)?,
    })
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
    fn stolen_time_is_a_share_of_all_time() {
        let before = parse_machine("cpu  10 0 10 70 0 0 0 10 5 0\ncpu0 1").expect("stat");
        let after = parse_machine("cpu  20 0 20 120 0 0 0 40 9 0\n").expect("stat");
        assert!((after.stolen_since(&before) - 0.3).abs() < 1e-9);
        assert_eq!(parse_machine("cpu  1 2 3"), None);
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
        assert!(memory(me).is_some_and(|memory| 100_000 < memory.own && memory.own < memory.resident));
        assert!(parent(me).is_some() && program(me).is_some() && voluntary_switches(me).is_some());
    }
}
