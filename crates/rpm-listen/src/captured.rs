//! Sockets that workers opened themselves, and that became slots when they listened.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rpm_core::{AppId, SlotId, WorkerId};
use rpm_sys::socket;

use crate::group::Tenure;
use crate::listeners::Listeners;
use crate::open_error::OpenError;

/// Prefix of the keys of groups of captured sockets. Other keys are addresses, or begin with `listen:`.
const PREFIX: &str = "captured:";

/// A socket that a worker has bound and is about to listen on.
#[derive(Debug)]
pub struct Captured {
    /// The address it is bound to.
    pub addr: SocketAddr,
    /// `IPV6_V6ONLY`: an IPv6 wildcard that does not accept IPv4.
    pub v6only: bool,
    /// The backlog that the worker asked for.
    pub backlog: u32,
    /// The socket.
    pub fd: OwnedFd,
}

/// The key of the group for an address at which workers listen by themselves.
#[must_use]
pub fn captured_key(addr: SocketAddr, v6only: bool) -> String {
    let only = if v6only { ",ipv6only" } else { "" };
    format!("{PREFIX}{addr}{only}")
}

impl Listeners {
    /// Checks that a socket of the app may join the group at this address. With `beside` it may also overlap another address of the same
    /// app.
    ///
    /// # Errors
    /// The listener that occupies the address.
    pub fn may_capture(
        &self,
        app: AppId,
        addr: SocketAddr,
        v6only: bool,
        beside: bool,
    ) -> Result<(), OpenError> {
        let key = captured_key(addr, v6only);
        let known = self.group(app, &key).is_some();
        if known || (beside && self.overlaps_own(app, &key, addr, v6only)) {
            return Ok(());
        }
        self.refuse_overlap(addr, v6only)
    }

    /// The slot that this socket is, if it is one.
    #[must_use]
    pub fn slot_of(&self, socket: impl AsFd) -> Option<SlotId> {
        let cookie = socket::cookie(socket).ok()?;
        let mut slots = self.groups.values().flat_map(|group| &group.slots);
        slots.find(|(_, slot)| slot.cookie == cookie).map(|(id, _)| *id)
    }

    /// The socket of a slot.
    #[must_use]
    pub fn socket(&self, slot: SlotId) -> Option<BorrowedFd<'_>> {
        let group = self.groups.get(self.group_of.get(&slot)?)?;
        group.slots.get(&slot).map(|slot| slot.fd.as_fd())
    }

    /// True if the worker opened the slot's socket itself, at the public address.
    #[must_use]
    pub fn is_captured(&self, slot: SlotId) -> bool {
        let group = self.group_of.get(&slot).and_then(|group| self.groups.get(group));
        group.is_some_and(|group| group.key.starts_with(PREFIX) && !group.is_private(slot))
    }

    /// True if the worker opened the slot's socket itself, at the public address or at a private one.
    #[must_use]
    pub fn is_own(&self, slot: SlotId) -> bool {
        let group = self.group_of.get(&slot).and_then(|group| self.groups.get(group));
        group.is_some_and(|group| group.key.starts_with(PREFIX))
    }

    /// Gives up the daemon's share of a captured socket: the worker alone holds it, and closes it when it likes.
    pub fn leave_to(&mut self, slot: SlotId, worker: WorkerId) {
        let group = self
            .group_of
            .remove(&slot)
            .and_then(|id| self.groups.get_mut(&id));
        if let Some(group) = group
            && let Some(left) = group.slots.remove(&slot)
        {
            // This fails only for a socket that is not watched.
            let _ = self.traffic.remove(left.fd.as_fd());
            group.eligible.retain(|other| *other != slot);
            group.foreign.insert(slot, worker);
        }
    }

    /// Copies what the core has decided about who holds a slot: the keeper and each connection that is handed over go by it. A slot that
    /// the core has closed stays with its holder, until that has ended.
    pub fn set_holder(&mut self, slot: SlotId, holder: Option<WorkerId>) {
        if let Some(held) = self.slot_mut(slot).filter(|held| !held.is_retiring()) {
            held.set_tenure(holder.map_or(Tenure::Vacant, Tenure::Held));
        }
    }

    /// The slots of a worker.
    #[must_use]
    pub fn slots_of(&self, worker: WorkerId) -> Vec<SlotId> {
        let slots = self.groups.values().flat_map(|group| &group.slots);
        slots
            .filter(|(_, slot)| slot.holder() == Some(worker))
            .map(|(id, _)| *id)
            .collect()
    }

    /// The number of slots that a worker holds.
    #[must_use]
    pub fn count_of(&self, worker: WorkerId) -> usize {
        self.slots_of(worker).len()
    }

    /// The number of listeners of a worker, including sockets that it shares with others of its app.
    #[must_use]
    pub fn opened_by(&self, worker: WorkerId) -> usize {
        let shared = self
            .shared
            .iter()
            .filter(|shared| shared.holders.contains(&worker));
        self.count_of(worker) + shared.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_addresses_apart() {
        let key = |addr: &str, v6only| captured_key(addr.parse().unwrap(), v6only);
        assert_eq!(key("127.0.0.1:80", false), "captured:127.0.0.1:80");
        assert_ne!(key("[::]:80", false), key("[::]:80", true));
    }
}
