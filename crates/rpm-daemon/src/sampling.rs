//! Figures about processes: CPU, memory, connections, listeners of their own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use rpm_core::protocol::Input;
use rpm_core::{AppId, InstanceId, WorkerId};
use rpm_sys::{sock_diag, tree, usage};

use crate::supervisor::Supervisor;
use crate::worker::UsageSample;

/// Connection counts are not taken more often than this: each costs a pass over the kernel's table.
const CONNECTIONS_INTERVAL: Duration = Duration::from_millis(500);
/// A CPU share over less than this is noise.
const USAGE_MINIMUM: Duration = Duration::from_millis(200);

/// Of the memory that is available the part that a reload leaves: for what its new workers use later, and for others.
const MEMORY_SPARE: u64 = 5;

/// Who descends from whom is not looked up more often than this: it takes a pass over all processes.
const FAMILIES_INTERVAL: Duration = Duration::from_millis(500);

/// Established connections by worker, as last counted.
#[derive(Default)]
pub(crate) struct Connections {
    counted: Option<Instant>,
    by_worker: BTreeMap<WorkerId, u32>,
    families: Families,
}

/// The processes of each worker, by its leader, as last looked up.
#[derive(Default)]
struct Families {
    seen: Option<Instant>,
    by_leader: HashMap<u32, Vec<u32>>,
}

/// So many workers that use `largest` bytes each fit into so much memory, with a part left for everything else; `None`: nobody knows.
fn room(available: u64, largest: u64) -> Option<u32> {
    let fitting = (available - available / MEMORY_SPARE).checked_div(largest)?;
    Some(u32::try_from(fitting).unwrap_or(u32::MAX))
}

/// CPU time and memory of a worker: all its processes together.
pub(crate) fn usage_of(family: impl IntoIterator<Item = u32>) -> (Duration, u64) {
    let used = family.into_iter().filter_map(|pid| usage::usage(pid).ok());
    used.fold((Duration::ZERO, 0), |(cpu, rss), one| {
        (cpu + one.cpu, rss + one.rss_bytes)
    })
}

impl Supervisor {
    /// Looks up the processes of every worker.
    fn meet_families(&mut self) {
        let families = &mut self.connections.families;
        if families.seen.is_some_and(|at| at.elapsed() < FAMILIES_INTERVAL) {
            return;
        }
        families.seen = Some(Instant::now());
        families.by_leader.clear();
        let running = self.workers.values().filter_map(|held| held.process());
        let leaders: HashSet<u32> = running.map(|process| process.pid).collect();
        for (leader, pid) in tree::below(&leaders) {
            families.by_leader.entry(leader).or_default().push(pid);
        }
        for held in self.workers.values_mut() {
            let members = held
                .process()
                .and_then(|process| families.by_leader.get(&process.pid));
            // A number that is not in the family any more may be somebody else's by now.
            let members = members.cloned().unwrap_or_default();
            held.listeners.retain(|pid| members.contains(pid));
        }
    }

    /// Takes a sample of CPU and memory of every worker, and waits for orphans that have ended.
    pub(crate) fn sample_usage(&mut self) {
        self.meet_families();
        let now = Instant::now();
        let families = &self.connections.families.by_leader;
        for process in self
            .workers
            .values_mut()
            .filter_map(|worker| worker.process_mut())
        {
            let since = now.saturating_duration_since(process.usage.at);
            if since < USAGE_MINIMUM && process.usage.rss_bytes > 0 {
                continue;
            }
            let family = families.get(&process.pid).cloned();
            let (cpu, rss_bytes) = usage_of(family.unwrap_or_else(|| vec![process.pid]));
            // A process that has just ended keeps its last figures.
            if rss_bytes > 0 {
                let used = cpu.saturating_sub(process.usage.cpu);
                let cpu_percent = 100.0 * used.as_secs_f64() / since.as_secs_f64();
                process.usage = UsageSample {
                    at: now,
                    cpu,
                    cpu_percent,
                    rss_bytes,
                };
            }
        }
        let known: HashSet<u32> = self
            .workers
            .values()
            .filter_map(|w| w.process())
            .map(|p| p.pid)
            .collect();
        tree::reap_orphans(|pid| known.contains(&pid));
    }

    /// Counts the established connections of every worker that shares ports.
    pub(crate) fn count_connections(&mut self) {
        if self
            .connections
            .counted
            .is_some_and(|at| at.elapsed() < CONNECTIONS_INTERVAL)
        {
            return;
        }
        self.meet_families();
        let mut ports: Vec<u16> = Vec::new();
        for app in self.apps.keys() {
            ports.extend(self.listeners.groups(*app).map(|group| group.addr.port()));
        }
        ports.sort_unstable();
        ports.dedup();
        let established: HashSet<u64> = if ports.is_empty() {
            HashSet::new()
        } else {
            sock_diag::established(&ports)
                .unwrap_or_default()
                .into_iter()
                .map(|(_, inode)| inode)
                .collect()
        };
        let count = |pid: u32| {
            let held = sock_diag::sockets_of(pid);
            u32::try_from(held.intersection(&established).count()).unwrap_or(u32::MAX)
        };
        let ours = self.workers.values().filter(|held| self.shares(held.id));
        let by_leader: HashMap<u32, WorkerId> = ours
            .filter_map(|held| Some((held.process()?.pid, held.id)))
            .collect();
        let mut counts: BTreeMap<WorkerId, u32> = by_leader.values().map(|id| (*id, 0)).collect();
        if !established.is_empty() {
            for (leader, id) in &by_leader {
                let family = self.connections.families.by_leader.get(leader);
                let of = family.into_iter().flatten().map(|pid| count(*pid));
                counts.insert(*id, of.fold(0, u32::saturating_add));
            }
        }
        self.connections.by_worker = counts;
        self.connections.counted = Some(Instant::now());
    }

    /// Established connections of a worker and its children on the ports of its slots.
    pub(crate) fn established(&self, worker: WorkerId) -> Option<usize> {
        let ports = self.listeners.ports_of(worker);
        let Some(process) = self.workers.get(&worker).and_then(|held| held.process()) else {
            return Some(0);
        };
        if ports.is_empty() {
            return Some(0);
        }
        // That the kernel does not say it (no descriptor is left) does not mean that there are none.
        let table = sock_diag::established(&ports).ok()?;
        let established: HashSet<u64> = table.into_iter().map(|(_, inode)| inode).collect();
        let tree = std::iter::once(process.pid).chain(tree::descendants(process.pid));
        Some(
            tree.map(|pid| sock_diag::sockets_of(pid).intersection(&established).count())
                .sum(),
        )
    }

    /// Tells the core how many workers of an app fit into memory, before it starts more of them beside those that it has.
    pub(crate) fn measure_room(&mut self, app: AppId) {
        let ours = self.workers.values().filter(|held| held.app == app);
        let used = ours.filter_map(|held| Some(held.process()?.usage.rss_bytes));
        let (count, largest) = used.fold((0, 0), |(count, most), one| (count + 1, one.max(most)));
        // What cannot be found out limits nothing.
        let fitting = rpm_sys::memory::available()
            .ok()
            .and_then(|available| room(available, largest));
        let workers = fitting.map(|more| more.saturating_add(count));
        self.input(Input::Room { app, workers });
    }

    pub(crate) fn connections_of(&self, worker: WorkerId) -> Option<u32> {
        self.connections.by_worker.get(&worker).copied()
    }

    /// TCP listeners that the instance's process opened without the daemon.
    pub(crate) fn own_listeners(&self, id: InstanceId) -> Vec<String> {
        let Some(view) = self.core.instance(id) else {
            return Vec::new();
        };
        let worker = view.worker().and_then(|worker| self.workers.get(&worker));
        let Some(pid) = worker
            .and_then(|worker| worker.process())
            .map(|process| process.pid)
        else {
            return Vec::new();
        };
        let ours: HashSet<u64> = self.listeners.inodes(view.app).collect();
        let held = sock_diag::sockets_of(pid);
        let listening = sock_diag::listeners().unwrap_or_default();
        let own = listening
            .into_iter()
            .filter(|l| held.contains(&l.inode) && !ours.contains(&l.inode));
        own.map(|listener| listener.addr.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_memory_is_left_free() {
        let cases = [
            (1000, 100, Some(8)),
            (1000, 801, Some(0)),
            (1000, 0, None),
            (u64::MAX, 1, Some(u32::MAX)),
        ];
        for (available, largest, expected) in cases {
            assert_eq!(room(available, largest), expected, "{available} by {largest}");
        }
    }
}
