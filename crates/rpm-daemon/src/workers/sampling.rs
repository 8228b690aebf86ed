//! Figures about processes: CPU, memory, connections, listeners of their own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rpm_core::{AppId, InstanceId, InstanceView, WorkerId};
use rpm_listen::Listeners;
use rpm_sys::tree::{self, Census};
use rpm_sys::{sock_diag, usage};

use crate::os::pace::pause;
use crate::workers::worker::{Process, UsageSample, Workers};

/// Connection counts are not taken more often than this: each costs a pass over the kernel's table.
const CONNECTIONS_INTERVAL: Duration = Duration::from_millis(500);
/// A CPU share over less than this is noise: the kernel counts in hundredths of a second.
const USAGE_MINIMUM: Duration = Duration::from_millis(800);

/// Between two samples of CPU and memory while anything runs.
const USAGE_INTERVAL: Duration = Duration::from_secs(5);
/// The pause before the next sample is at least this many times as long as the last one took.
const USAGE_SHARE: u32 = 1000;
const LONGEST_USAGE_INTERVAL: Duration = Duration::from_secs(60);
/// The same while an app has a limit of memory.
const LIMITS_INTERVAL: Duration = Duration::from_secs(1);
const LIMITS_SHARE: u32 = 100;
const LONGEST_LIMITS_INTERVAL: Duration = Duration::from_secs(5);

/// Of the memory that is available the part that a reload leaves: for what its new workers use later, and for others.
const MEMORY_SPARE: u64 = 5;

/// What was found out about the processes of all workers, and when.
#[derive(Default)]
pub(crate) struct Sampling {
    /// When CPU and memory were sampled.
    sampled: Option<Instant>,
    /// The processes of each worker then, by its leader.
    families: HashMap<u32, Vec<u32>>,
    /// When connections were counted.
    counted: Option<Instant>,
    /// Established connections by worker.
    connections: BTreeMap<WorkerId, u32>,
}

/// How long after a sample that took so long the next one is taken. `limits`: an app has a limit of memory.
pub(crate) fn interval(took: Duration, limits: bool) -> Duration {
    match limits {
        true => pause(took, LIMITS_SHARE, LIMITS_INTERVAL..=LONGEST_LIMITS_INTERVAL),
        false => pause(took, USAGE_SHARE, USAGE_INTERVAL..=LONGEST_USAGE_INTERVAL),
    }
}

/// So many workers that use `largest` bytes each fit into so much memory, with a part left for everything else; `None`: nobody knows.
fn room(available: u64, largest: u64) -> Option<u32> {
    let fitting = (available - available / MEMORY_SPARE).checked_div(largest)?;
    Some(u32::try_from(fitting).unwrap_or(u32::MAX))
}

/// CPU time and memory of a worker: all its processes together.
fn usage_of(family: &[u32], census: &Census) -> (Duration, u64) {
    let cpu = family.iter().filter_map(|pid| census.cpu(*pid)).sum();
    let memory = family.iter().filter_map(|pid| usage::resident_bytes(*pid).ok());
    (cpu, memory.sum())
}

/// CPU time of a worker that was taken back: all its processes together.
pub(crate) fn cpu_of(leader: u32, census: &Census) -> Duration {
    let family = census.descendants(leader).into_iter().chain([leader]);
    family.filter_map(|pid| census.cpu(pid)).sum()
}

impl Sampling {
    /// Looks up the processes of every worker.
    fn find_families(&mut self, workers: &mut Workers, census: &Census) {
        let by_leader = &mut self.families;
        by_leader.clear();
        for held in workers.values_mut() {
            let Some(leader) = held.process().map(|process| process.pid) else {
                continue;
            };
            let mut family = census.descendants(leader);
            family.push(leader);
            // A number that is not in the family any more may be somebody else's by now.
            held.listeners.retain(|pid| family.contains(pid));
            by_leader.insert(leader, family);
        }
    }

    /// Takes a sample of CPU and memory of every worker, and waits for orphans that have ended.
    pub(crate) fn sample_usage(&mut self, workers: &mut Workers) {
        let seen = self.sampled;
        let is_new = |process: &Process| process.usage.rss_bytes == 0;
        let news = workers.values().filter_map(|held| held.process()).any(is_new);
        if !news && seen.is_some_and(|at| at.elapsed() < USAGE_MINIMUM) {
            return;
        }
        let census = Census::take();
        let now = census.taken();
        self.sampled = Some(now);
        self.find_families(workers, &census);
        let families = &self.families;
        for process in workers.values_mut().filter_map(|worker| worker.process_mut()) {
            let since = now.saturating_duration_since(process.usage.at);
            if since < USAGE_MINIMUM && !is_new(process) {
                continue;
            }
            let family = families.get(&process.pid).map_or(&[][..], Vec::as_slice);
            let (cpu, rss_bytes) = usage_of(family, &census);
            // A process that has just ended keeps its last figures.
            if rss_bytes > 0 && since < USAGE_MINIMUM {
                process.usage.rss_bytes = rss_bytes;
            } else if rss_bytes > 0 {
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
        let known: HashSet<u32> = workers
            .values()
            .filter_map(|w| w.process())
            .map(|p| p.pid)
            .collect();
        tree::reap_orphans(|pid| known.contains(&pid));
    }

    /// Counts the established connections of every worker that shares ports.
    pub(crate) fn count_connections(&mut self, listeners: &Listeners, workers: &Workers) {
        if self.counted.is_some_and(|at| at.elapsed() < CONNECTIONS_INTERVAL) {
            return;
        }
        let ports = listeners.ports();
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
        let ours = workers.values().filter(|held| held.shares_ports());
        let by_leader: HashMap<u32, WorkerId> = ours
            .filter_map(|held| Some((held.process()?.pid, held.id)))
            .collect();
        let mut counts: BTreeMap<WorkerId, u32> = by_leader.values().map(|id| (*id, 0)).collect();
        if !established.is_empty() {
            for (leader, id) in &by_leader {
                let family = self.families.get(leader);
                let of = family.into_iter().flatten().map(|pid| count(*pid));
                counts.insert(*id, of.fold(0, u32::saturating_add));
            }
        }
        self.connections = counts;
        self.counted = Some(Instant::now());
    }

    /// Established connections of the worker, as last counted.
    pub(crate) fn connections_of(&self, worker: WorkerId) -> Option<u32> {
        self.connections.get(&worker).copied()
    }
}

/// How many workers of an app there may be at once, by the memory that is available and what the largest of them uses; `None`: unlimited.
pub(crate) fn room_for(app: AppId, workers: &Workers) -> Option<u32> {
    let ours = workers.values().filter(|held| held.app == app);
    let used = ours.filter_map(|held| Some(held.process()?.usage.rss_bytes));
    let (count, largest) = used.fold((0, 0), |(count, most), one| (count + 1, one.max(most)));
    // What cannot be found out limits nothing.
    let available = rpm_sys::memory::available().ok()?;
    Some(room(available, largest)?.saturating_add(count))
}

/// TCP listeners that the processes of these instances opened without the daemon.
pub(crate) fn own_listeners(
    listeners: &Listeners,
    workers: &Workers,
    app: AppId,
    instances: &[InstanceView],
) -> Vec<(InstanceId, SocketAddr)> {
    let ours: HashSet<u64> = listeners.inodes(app).collect();
    let listening = sock_diag::listeners().unwrap_or_default();
    let others: HashMap<u64, SocketAddr> = listening
        .into_iter()
        .filter(|listener| !ours.contains(&listener.inode))
        .map(|listener| (listener.inode, listener.addr))
        .collect();
    let own = instances.iter().flat_map(|view| {
        let worker = view.worker().and_then(|worker| workers.get(&worker));
        let pid = worker.and_then(|worker| Some(worker.process()?.pid));
        let held = pid.map(sock_diag::sockets_of).unwrap_or_default();
        let mut own: Vec<SocketAddr> = held
            .iter()
            .filter_map(|inode| others.get(inode).copied())
            .collect();
        own.sort_unstable();
        own.into_iter().map(|addr| (view.id, addr))
    });
    own.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_rarer_the_longer_they_take_and_more_frequent_with_a_limit() {
        let ms = Duration::from_millis;
        let cases = [
            (ms(0), true, 1),
            (ms(20), true, 2),
            (ms(900), true, 5),
            (ms(0), false, 5),
            (ms(20), false, 20),
            (ms(900), false, 60),
        ];
        for (took, limits, wanted) in cases {
            assert_eq!(
                interval(took, limits),
                Duration::from_secs(wanted),
                "{took:?} {limits}"
            );
        }
    }

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
