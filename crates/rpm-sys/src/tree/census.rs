//! All processes in one pass, for questions about many trees: finding one tree takes as long as finding all of them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::{Member, processes};
use crate::proc::Stat;
use crate::usage::cpu_time;

/// The processes of this machine at one moment.
#[derive(Debug)]
pub struct Census {
    taken: Instant,
    stats: HashMap<u32, Stat>,
    /// Living processes, by parent.
    children: HashMap<u32, Vec<u32>>,
    /// Members of process groups without their leaders, by group.
    groups: HashMap<u32, Vec<u32>>,
}

impl Census {
    /// Lists all processes.
    #[must_use]
    pub fn take() -> Census {
        let taken = Instant::now();
        let stats: HashMap<u32, Stat> = processes().collect();
        let (mut children, mut groups) = (HashMap::<u32, Vec<u32>>::new(), HashMap::<u32, Vec<u32>>::new());
        for (&pid, stat) in &stats {
            if !stat.is_dead() {
                children.entry(stat.parent).or_default().push(pid);
            }
            if stat.group != pid {
                groups.entry(stat.group).or_default().push(pid);
            }
        }
        Census {
            taken,
            stats,
            children,
            groups,
        }
    }

    /// Living processes that descended from `pid`, belonged to the process group `pid`, or descended from a member of it. Parents come
    /// before children; `pid` itself is not included.
    #[must_use]
    pub fn descendants(&self, pid: u32) -> Vec<u32> {
        let members = self.members(pid).into_iter().map(|member| member.pid);
        members.filter(|member| *member != pid).collect()
    }

    /// When the census was taken.
    #[must_use]
    pub fn taken(&self) -> Instant {
        self.taken
    }

    /// User and system time of all threads of a process; `None` if it did not exist.
    #[must_use]
    pub fn cpu(&self, pid: u32) -> Option<Duration> {
        Some(cpu_time(self.stats.get(&pid)?.cpu_ticks))
    }

    /// Members in breadth-first order from `pid`. Members of its group whose parents have ended come last, each with its descendants.
    pub(super) fn members(&self, pid: u32) -> Vec<Member> {
        let mut group = self.groups.get(&pid).cloned().unwrap_or_default();
        let mut seen = HashSet::from([pid]);
        let mut found = vec![pid];
        let mut next = 0;
        loop {
            while let Some(&parent) = found.get(next) {
                next += 1;
                let children = self.children.get(&parent).into_iter().flatten();
                found.extend(children.filter(|child| seen.insert(**child)));
            }
            let Some(member) = group.pop() else { break };
            if seen.insert(member) {
                found.push(member);
            }
        }
        let living = found.into_iter().filter_map(|pid| {
            let stat = self.stats.get(&pid).filter(|stat| !stat.is_dead())?;
            let start_ticks = stat.start_ticks;
            Some(Member { pid, start_ticks })
        });
        living.collect()
    }
}
