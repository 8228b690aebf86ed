//! What the kernel says of the workers that drain, found out once for all that are looked at together: each answer takes a walk through all
//! connections or all processes of the machine.

use std::collections::{BTreeMap, HashSet};

use rpm_core::WorkerId;
use rpm_listen::{Holding, Listeners};
use rpm_sys::sock_diag;
use rpm_sys::tree::{self, Census};

use crate::os::FEW_TREES;
use crate::workers::worker::Process;

/// One look at all draining workers.
pub(crate) struct Look {
    found: BTreeMap<WorkerId, Found>,
    /// The ports with half-open handshakes; `None`: the kernel does not say it, or was not asked.
    half_open: Option<HashSet<u16>>,
}

/// What was found of one worker.
#[derive(Default)]
pub(crate) struct Found {
    holding: Holding,
    /// Connections that wait in its slots.
    pub(crate) queued: u32,
    /// Connections of the worker and what it started on the ports of its slots, if that was asked; `None`: the kernel does not say it, which does
    /// not mean that there are none. One whose client has sent everything and shut down its side is among them: it waits for the answer.
    pub(crate) open: Option<usize>,
}

impl Look {
    /// At these workers; connections of those that have a process are counted, and half-open handshakes looked for if `unsettled`.
    ///
    /// The order counts. The queues come first: what has left them by then is accepted, so it is among the connections that the kernel tells of
    /// afterwards, and a process holds it.
    pub(crate) fn at(
        workers: &[(WorkerId, Option<&Process>)],
        unsettled: bool,
        listeners: &Listeners,
    ) -> Look {
        let mut holdings = listeners.by_worker();
        let found = |&(worker, _): &(WorkerId, Option<&Process>)| {
            let holding = holdings.remove(&worker).unwrap_or_default();
            let queued = listeners.waiting_in(&holding.slots);
            let found = Found {
                holding,
                queued,
                open: Some(0),
            };
            (worker, found)
        };
        let mut found: BTreeMap<WorkerId, Found> = workers.iter().map(found).collect();
        let ports = |found: &BTreeMap<WorkerId, Found>| {
            let addresses = found.values().flat_map(|found| &found.holding.addresses);
            let ports: HashSet<u16> = addresses.map(|addr| addr.port()).collect();
            ports.into_iter().collect::<Vec<u16>>()
        };
        let half_open = || sock_diag::half_open(&ports(&found)).ok();
        let half_open = unsettled.then(half_open).flatten();
        let has_slot = |worker| {
            found
                .get(&worker)
                .is_some_and(|found| !found.holding.addresses.is_empty())
        };
        let asked = workers.iter().filter(|(worker, _)| has_slot(*worker));
        let asked: Vec<(WorkerId, &Process)> = asked
            .filter_map(|(worker, process)| Some((*worker, (*process)?)))
            .collect();
        if !asked.is_empty() {
            let open = open(&ports(&found));
            for (worker, count) in count(&asked, open.as_ref()) {
                found.entry(worker).or_default().open = count;
            }
        }
        Look { found, half_open }
    }

    /// What was found of a worker.
    pub(crate) fn of(&self, worker: WorkerId) -> Option<&Found> {
        self.found.get(&worker)
    }

    /// Is no handshake half-open on any port of the worker?
    pub(crate) fn handshakes_are_over(&self, found: &Found) -> bool {
        let mut ports = found.holding.addresses.iter().map(|addr| addr.port());
        let half_open = self.half_open.as_ref();
        ports.all(|port| half_open.is_some_and(|half_open| !half_open.contains(&port)))
    }
}

/// By inode.
fn open(ports: &[u16]) -> Option<HashSet<u64>> {
    let mut open = sock_diag::open(ports).ok()?;
    // What nobody has accepted yet has no inode.
    open.remove(&0);
    Some(open)
}

fn count(workers: &[(WorkerId, &Process)], open: Option<&HashSet<u64>>) -> Vec<(WorkerId, Option<usize>)> {
    let nothing_to_find = open.is_none_or(HashSet::is_empty);
    let held = |pids: &[u32]| {
        let of = |pid: &u32| Some(sock_diag::sockets_seen_of(*pid)?.intersection(open?).count());
        pids.iter().map(of).sum::<Option<usize>>()
    };
    let family = |process: &Process, mut below: Vec<u32>| {
        below.push(process.pid);
        below
    };
    let adopted = workers.iter().any(|(_, process)| process.adopted);
    if nothing_to_find {
        let none = open.map(HashSet::len);
        return workers.iter().map(|(worker, _)| (*worker, none)).collect();
    }
    if workers.len() <= FEW_TREES && !adopted {
        let each = workers.iter().map(|(worker, process)| {
            let family = family(process, tree::descendants(process.pid));
            (*worker, held(&family))
        });
        return each.collect();
    }
    let families = |census: &Census| -> Vec<Vec<u32>> {
        let each = workers.iter();
        each.map(|(_, process)| family(process, census.descendants(process.pid)))
            .collect()
    };
    let before = families(&Census::take());
    let counts: Vec<Option<usize>> = before.iter().map(|family| held(family)).collect();
    // A child that was started meanwhile may have what its parent had.
    let after = families(&Census::take());
    let each = workers.iter().zip(counts).zip(before.iter().zip(&after));
    each.map(|(((worker, _), count), (before, after))| {
        let same = before.iter().collect::<HashSet<_>>() == after.iter().collect();
        (*worker, count.filter(|_| same))
    })
    .collect()
}
