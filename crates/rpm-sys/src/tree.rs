//! Process trees: descendants of a worker, signals to all of them, and orphans.
//!
//! The view is a snapshot of `/proc`. A process that ends in the meantime is never an error.

mod census;
mod freeze;

use std::collections::HashSet;
use std::io;

use rustix::process::{WaitId, WaitIdOptions, waitid};

pub use self::census::Census;
pub use self::freeze::{FREEZE_DEADLINE, Frozen, Hold, freeze, freeze_within};

use crate::pidfd::{PidFd, Signal, is_gone, raw_pid};
use crate::proc::{Stat, numbers_in};

/// Bound for following parents: no real tree is deeper, and because `/proc` is not an atomic snapshot, it could show a cycle.
const DEPTH: usize = 1000;

/// Living processes that descend from `pid`, belong to the process group `pid`, or descend from a member of it. Parents come before
/// children; `pid` itself is not included.
#[must_use]
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut members = members(pid);
    members.retain(|member| member.pid != pid);
    members.into_iter().map(|member| member.pid).collect()
}

/// A process and everything that descends from it, held by pidfds.
#[derive(Debug)]
pub struct Tree {
    /// Parents before children.
    members: Vec<PidFd>,
}

impl Tree {
    /// The living members of the tree below `pid`, `pid` included.
    ///
    /// # Errors
    /// `EMFILE` and `ENFILE`. A process that has ended is left out.
    pub fn snapshot(pid: u32) -> io::Result<Tree> {
        Tree::of(members(pid))
    }

    /// As [`Tree::snapshot`], from a census that was taken a moment ago.
    ///
    /// # Errors
    /// As [`Tree::snapshot`].
    pub fn within(census: &Census, pid: u32) -> io::Result<Tree> {
        Tree::of(census.members(pid))
    }

    fn of(members: Vec<Member>) -> io::Result<Tree> {
        let mut held = Vec::new();
        for member in members {
            match PidFd::open(member.pid) {
                // Between the census and the open, the pid may have been reused.
                Ok(pidfd) if started(member.pid) == Some(member.start_ticks) => held.push(pidfd),
                Ok(_) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Tree { members: held })
    }

    /// The members, parents before children.
    #[must_use]
    pub fn members(&self) -> &[PidFd] {
        &self.members
    }

    /// Signals every member, deepest first, so that no parent sees a child die before it gets the signal itself.
    ///
    /// # Errors
    /// The first refusal (`EPERM` for a setuid program); the others are signalled nevertheless.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let mut outcome = Ok(());
        for member in self.members.iter().rev() {
            match member.send_signal(signal) {
                Err(error) if !is_gone(&error) && outcome.is_ok() => outcome = Err(error),
                _ => {}
            }
        }
        outcome
    }

    /// The members that have not ended.
    #[must_use]
    pub fn alive(&self) -> Vec<u32> {
        let running = self
            .members
            .iter()
            .filter(|member| !member.peek().unwrap_or(false));
        running.map(PidFd::pid).collect()
    }
}

/// Signals a process group; false if it has no members.
///
/// # Errors
/// `EPERM` if no member may be signalled; `InvalidInput` for groups 0 and 1, which mean the caller's own group and all processes to
/// kill(2).
pub fn kill_group(pgid: u32, signal: Signal) -> io::Result<bool> {
    if pgid <= 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    match rustix::process::kill_process_group(raw_pid(pgid)?, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes orphans below this process its children rather than those of init.
///
/// # Errors
/// prctl(2) failed.
pub fn set_child_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(
        rustix::process::getpid(),
    ))?)
}

/// Living children of this process that have a variable in their environment, with its value. With [`set_child_subreaper`], these are what
/// is left of a tree that carried it, besides its leader. Skips those for which `is_known` is true.
#[must_use]
pub fn orphans_with(key: &str, is_known: impl Fn(u32) -> bool) -> Vec<(u32, String)> {
    let unknown = own_children().into_iter().filter(|pid| !is_known(*pid));
    let alive = unknown.filter(|pid| Stat::of(*pid).is_ok_and(|stat| !stat.is_dead()));
    alive.filter_map(|pid| Some((pid, variable(pid, key)?))).collect()
}

/// All living processes that have this entry (`KEY=value`) in their environment.
#[must_use]
pub fn marked(entry: &str) -> Vec<u32> {
    let alive = processes().filter(|(_, stat)| !stat.is_dead());
    alive
        .map(|(pid, _)| pid)
        .filter(|pid| has_entry(*pid, entry))
        .collect()
}

/// As [`marked`], of those that also have another variable, with its value.
#[must_use]
pub fn marked_with(entry: &str, key: &str) -> Vec<(u32, String)> {
    let alive = processes().filter(|(_, stat)| !stat.is_dead());
    let marked = alive.filter_map(|(pid, _)| {
        let environment = environment(pid)?;
        let is_marked = entries(&environment).any(|other| other == entry.as_bytes());
        is_marked
            .then(|| value(&environment, key))
            .flatten()
            .map(|value| (pid, value))
    });
    marked.collect()
}

/// True if the process descends from `root`, belongs to its process group, or descends from a member of it.
#[must_use]
pub fn is_below(pid: u32, root: u32) -> bool {
    let mut at = pid;
    for _ in 0..DEPTH {
        let Ok(stat) = Stat::of(at) else { return false };
        if at == root || stat.parent == root || stat.group == root {
            return true;
        }
        at = stat.parent;
    }
    false
}

/// The value of a variable in the environment that a process was started with.
#[must_use]
pub fn variable(pid: u32, key: &str) -> Option<String> {
    value(&environment(pid)?, key)
}

/// Reaps orphans that have ended: dead children of this process for which `is_known` is false. A known one is reaped through its own
/// [`PidFd`]. Returns their number.
pub fn reap_orphans(is_known: impl Fn(u32) -> bool) -> usize {
    let unknown = own_children().into_iter().filter(|pid| !is_known(*pid));
    let dead = unknown.filter(|pid| Stat::of(*pid).is_ok_and(|stat| stat.is_dead()));
    dead.filter(|pid| {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        raw_pid(*pid).is_ok_and(|pid| matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_))))
    })
    .count()
}

#[derive(Clone, Copy, Debug)]
struct Member {
    pid: u32,
    start_ticks: u64,
}

/// Members in breadth-first order from `pid` and its process group.
fn members(pid: u32) -> Vec<Member> {
    members_of_child(pid).unwrap_or_else(|| Census::take().members(pid))
}

/// As [`members`], for a child of this process, at a cost that depends only on its tree. Orphans of the tree are children of this process,
/// too. `None` if it is not a child, or the kernel does not list children.
fn members_of_child(pid: u32) -> Option<Vec<Member>> {
    let leader = Stat::of(pid).ok()?;
    let adopts = rustix::process::child_subreaper().is_ok_and(|adopter| adopter.is_some());
    if leader.parent != std::process::id() || !adopts {
        return None;
    }
    let group = children_of(std::process::id())?;
    let in_group = |child: &u32| {
        let group = raw_pid(*child).and_then(|child| Ok(rustix::process::getpgid(Some(child))?));
        *child != pid && group.is_ok_and(|group| group.as_raw_nonzero().get().cast_unsigned() == pid)
    };
    let mut group: Vec<u32> = group.into_iter().filter(in_group).collect();
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut next = 0;
    let mut queue = vec![pid];
    loop {
        while let Some(at) = queue.get(next).copied() {
            next += 1;
            let Some(stat) = Stat::of(at).ok().filter(|_| seen.insert(at)) else {
                continue;
            };
            if stat.is_dead() {
                continue;
            }
            found.push(Member {
                pid: at,
                start_ticks: stat.start_ticks,
            });
            queue.extend(children_of(at).unwrap_or_default());
        }
        // Members of the group whose parents have ended come last, each with its descendants.
        let Some(orphan) = group.pop() else { break };
        queue.push(orphan);
    }
    Some(found)
}

fn processes() -> impl Iterator<Item = (u32, Stat)> {
    numbers_in("/proc").filter_map(|pid| Some((pid, Stat::of(pid).ok()?)))
}

/// Children of this process, including those that have ended and were not reaped.
fn own_children() -> Vec<u32> {
    let own = std::process::id();
    children_of(own).unwrap_or_else(|| {
        let children = processes().filter(|(_, stat)| stat.parent == own);
        children.map(|(pid, _)| pid).collect()
    })
}

/// The most times that a list is read until it is stable.
const READINGS: usize = 8;

/// The children of all threads of a process; `None` if the kernel does not list them (`CONFIG_PROC_CHILDREN`).
///
/// If a list loses an entry while it is read, the reading may miss another one (proc_pid_children(5)), so it is read until two readings
/// agree. The list of this process loses entries only when this process reaps a child.
fn children_of(pid: u32) -> Option<Vec<u32>> {
    let mut before = None;
    let readings = if pid == std::process::id() { 1 } else { READINGS };
    for _ in 0..readings {
        let mut children = Vec::new();
        for thread in numbers_in(&format!("/proc/{pid}/task")) {
            match std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")) {
                Ok(list) => children.extend(
                    list.split_ascii_whitespace()
                        .filter_map(|pid| pid.parse::<u32>().ok()),
                ),
                // The thread has ended, or the kernel has no such file.
                Err(_) if thread != pid => {}
                Err(_) if Stat::of(pid).is_ok() => return None,
                Err(_) => {}
            }
        }
        if before.as_ref() == Some(&children) {
            break;
        }
        before = Some(children);
    }
    before
}

fn started(pid: u32) -> Option<u64> {
    Stat::of(pid).ok().map(|stat| stat.start_ticks)
}

fn has_entry(pid: u32, marker: &str) -> bool {
    environment(pid).is_some_and(|environment| entries(&environment).any(|entry| entry == marker.as_bytes()))
}

fn environment(pid: u32) -> Option<Vec<u8>> {
    std::fs::read(format!("/proc/{pid}/environ")).ok()
}

fn entries(environment: &[u8]) -> impl Iterator<Item = &[u8]> {
    environment.split(|&byte| byte == 0)
}

fn value(environment: &[u8], key: &str) -> Option<String> {
    let value = entries(environment).find_map(|entry| entry.strip_prefix(key.as_bytes())?.strip_prefix(b"="));
    Some(String::from_utf8_lossy(value?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    #[test]
    fn both_ways_of_looking_see_the_same_tree() {
        set_child_subreaper().unwrap();
        let mut shell = Command::new("/bin/sh")
            .args([
                "-c",
                "sleep 1000 >/dev/null & (sleep 1000 >/dev/null & sleep 1000 >/dev/null) & echo; wait",
            ])
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut output = shell.stdout.take().unwrap();
        output.read_exact(&mut [0]).unwrap();
        let pids = |members: Vec<Member>| {
            let mut pids: Vec<u32> = members.into_iter().map(|member| member.pid).collect();
            pids.sort_unstable();
            pids
        };
        // The subshell may not have started its child yet.
        let deadline = Instant::now() + Duration::from_secs(30);
        let (quick, whole) = loop {
            let whole = pids(Census::take().members(shell.id()));
            let quick = pids(members_of_child(shell.id()).expect("a child of this process"));
            if (whole.len() == 4 && quick == whole) || Instant::now() > deadline {
                break (quick, whole);
            }
            std::thread::yield_now();
        };
        kill_group(shell.id(), Signal::KILL).unwrap();
        shell.wait().unwrap();
        assert_eq!((quick.len(), &quick), (4, &whole));
    }
}
