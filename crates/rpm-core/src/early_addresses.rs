//! The addresses that a worker opens early in its life. Its successor must open them, too.

use alloc::collections::BTreeSet;
use core::time::Duration;

use crate::{GroupId, Tick};

/// What a worker opened within `listen_timeout` of its spawn, or of the first thing it opened if that came later but not too late
/// for a reload (a slow start).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EarlyAddresses {
    /// When it opened the first thing, of whatever kind.
    pub first: Option<Tick>,
    /// Addresses of the program's choice.
    pub groups: BTreeSet<GroupId>,
}

impl EarlyAddresses {
    /// True if it has opened nothing.
    pub(crate) fn is_silent(&self) -> bool {
        self.first.is_none()
    }

    /// All its addresses.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.iter().copied()
    }

    /// The worker has opened an address at this `age`; `None` if the program did not choose it.
    pub(crate) fn opened(
        &mut self,
        group: Option<GroupId>,
        now: Tick,
        age: Duration,
        listen_timeout: Duration,
        reload_timeout: Duration,
    ) {
        let first = self.first.unwrap_or(now);
        let in_time = age <= listen_timeout.max(reload_timeout);
        if age <= listen_timeout || (in_time && now - first <= listen_timeout) {
            self.first = Some(first);
            self.groups.extend(group);
        }
    }

    /// The worker has closed this address by itself.
    pub(crate) fn closed(&mut self, group: GroupId) {
        self.groups.remove(&group);
    }
}
