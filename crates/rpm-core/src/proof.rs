//! Proof: what a new worker of a reload must show before it takes over.
//!
//! It must serve what its predecessor served. Being late is a failure here: a first start may result in a worker that listens on nothing,
//! but the same in a reload would take the app down.

use core::time::Duration;

use crate::early_addresses::EarlyAddresses;
use crate::protocol::{AppConfig, Readiness};
use crate::{GroupId, Tick};

/// Whether a new worker may take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// It may take over.
    Given,
    /// It may not yet; check again by then.
    Pending { until: Tick },
    /// It did not show enough within this time; `unserved`: it does not serve this address.
    Missing {
        within: Duration,
        unserved: Option<GroupId>,
    },
}

/// What a running candidate has shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence<'a> {
    pub(crate) config: &'a AppConfig,
    pub(crate) spawned: Tick,
    /// It gave the signal that its readiness waits for.
    pub(crate) signalled: bool,
}

/// Decides whether this candidate is proved. `former` is what its instance served before, if it ever had a ready worker; `serves` tells
/// whether the candidate serves an address now.
pub(crate) fn assess(
    evidence: Evidence<'_>,
    former: Option<&EarlyAddresses>,
    serves: impl Fn(GroupId) -> bool,
    now: Tick,
) -> Proof {
    let config = evidence.config;
    let wanted = former.filter(|_| !config.allow_port_change);
    let unserved = wanted.and_then(|former| former.groups().find(|group| !serves(*group)));
    if evidence.signalled && unserved.is_none() {
        return Proof::Given;
    }
    let (within, by_living) = term(config, former);
    let until = evidence.spawned + within;
    match (now < until, by_living) {
        (true, _) => Proof::Pending { until },
        (false, true) => Proof::Given,
        (false, false) => Proof::Missing { within, unserved },
    }
}

/// How long to wait for the worker's signal, and whether being alive is then enough.
fn term(config: &AppConfig, former: Option<&EarlyAddresses>) -> (Duration, bool) {
    let policy = &config.policy;
    match (config.readiness, former) {
        (Readiness::Executed, _) | (Readiness::Runs, None) => (policy.min_uptime, true),
        (Readiness::Announces, _) => (policy.reload_timeout, false),
        // There is nothing to compare with, as at a first start.
        (Readiness::Listens, None) => (policy.start_timeout, true),
        (Readiness::Listens | Readiness::Runs, Some(former)) if former.is_silent() => {
            (policy.min_uptime, true)
        }
        (Readiness::Listens | Readiness::Runs, Some(_)) => (policy.reload_timeout, false),
    }
}
