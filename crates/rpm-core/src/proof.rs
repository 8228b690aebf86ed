//! Proof: what shows that the new worker of a reload may take over.
//!
//! It must serve what its predecessor served. Late is too late here: a first start may end in a worker that listens
//! on nothing, a reload that did the same would take the app down.

use alloc::collections::BTreeSet;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::Readiness;
use crate::worker::Worker;
use crate::{GroupId, Tick};

/// What a worker opened early in its life, and what its successor must therefore open too: within `listen_timeout` of
/// its spawn, or of the first thing it opened if that came later but not too late for a reload (a slow start).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Footprint {
    /// When it opened the first thing, of whatever kind.
    first: Option<Tick>,
    /// Addresses of the program's choice.
    groups: BTreeSet<GroupId>,
}

/// Whether a new worker may take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// It may.
    Given,
    /// Not yet; to be looked at again then, at the latest.
    Pending { until: Tick },
    /// It was not given within this time.
    Missing { within: Duration },
}

impl Footprint {
    /// It has opened nothing.
    pub(crate) fn is_silent(&self) -> bool {
        self.first.is_none()
    }

    /// All its addresses.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.iter().copied()
    }
}

impl Worker {
    /// It has opened something: an address of its choice, or anything else (`None`).
    pub(crate) fn opened(&mut self, group: Option<GroupId>, now: Tick) {
        let policy = &self.config.policy;
        let age = self.spawned.map_or(Duration::ZERO, |spawned| now - spawned);
        let first = self.footprint.first.unwrap_or(now);
        let in_time = age <= policy.listen_timeout.max(policy.reload_timeout);
        if age <= policy.listen_timeout || (in_time && now - first <= policy.listen_timeout) {
            self.footprint.first = Some(first);
            self.footprint.groups.extend(group);
        }
    }

    /// It serves this address no more, by its own choice.
    pub(crate) fn closed(&mut self, group: GroupId) {
        self.footprint.groups.remove(&group);
    }
}

/// Is this new worker, whose process runs, proved ready? `former`: what its instance served before, if it ever had
/// a ready worker; `serves`: whether the new one serves an address now.
pub(crate) fn assess(
    worker: &Worker,
    former: Option<&Footprint>,
    serves: impl Fn(GroupId) -> bool,
    now: Tick,
) -> Proof {
    let complete = worker.config.allow_port_change || former.is_none_or(|former| former.groups().all(serves));
    if worker.heard && complete {
        return Proof::Given;
    }
    let (within, by_living) = term(worker, former);
    let until = worker.spawned.unwrap_or(now) + within;
    match (now < until, by_living) {
        (true, _) => Proof::Pending { until },
        (false, true) => Proof::Given,
        (false, false) => Proof::Missing { within },
    }
}

/// How long to wait for the worker's word, and whether being alive then will do instead.
fn term(worker: &Worker, former: Option<&Footprint>) -> (Duration, bool) {
    let policy = &worker.config.policy;
    match (worker.config.readiness, former) {
        (Readiness::Executed, _) | (Readiness::Runs, None) => (policy.min_uptime, true),
        (Readiness::Announces, _) => (policy.reload_timeout, false),
        // There is nothing to compare with: as at a first start.
        (Readiness::Listens, None) => (policy.start_timeout, true),
        (Readiness::Listens | Readiness::Runs, Some(former)) if former.is_silent() => {
            (policy.min_uptime, true)
        }
        (Readiness::Listens | Readiness::Runs, Some(_)) => (policy.reload_timeout, false),
    }
}
