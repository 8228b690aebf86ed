//! Handoff: listeners from which the daemon accepts, passing each connection to a worker. This file decides which worker is next.

use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rpm_core::{GroupId, SlotId};
use rpm_sys::epoll::Oneshot;
use rpm_sys::socket;

use crate::listeners::Listeners;
use crate::policy::{SteeringPolicy, bucket_of};

/// The state of the rotation.
#[derive(Default)]
pub(crate) struct Deal {
    /// The eligible slots as the policy orders them: by weight, or by bucket.
    pub(crate) list: Vec<SlotId>,
    next: usize,
}

impl Listeners {
    /// Readable when a connection arrives at a slot under handoff. The tokens are slot ids; an event disarms its slot.
    #[must_use]
    pub fn arrivals(&self) -> &Oneshot {
        &self.arrivals
    }

    /// True if the daemon accepts the connections of this slot.
    #[must_use]
    pub fn is_handoff(&self, slot: SlotId) -> bool {
        let group = self.group_of.get(&slot).and_then(|group| self.groups.get(group));
        group.is_some_and(|group| group.deal.is_some())
    }

    /// The group of a slot.
    #[must_use]
    pub fn group_with(&self, slot: SlotId) -> Option<GroupId> {
        self.group_of.get(&slot).copied()
    }

    /// Any slot of the group.
    #[must_use]
    pub fn a_slot_of(&self, group: GroupId) -> Option<SlotId> {
        self.groups.get(&group)?.slots.keys().next().copied()
    }

    /// The slots from which the daemon accepts.
    pub fn handed_over(&self) -> impl Iterator<Item = SlotId> {
        let groups = self.groups.values().filter(|group| group.deal.is_some());
        groups.flat_map(|group| group.slots.keys().copied())
    }

    /// The slots that may get the connections of this one.
    #[must_use]
    pub fn eligible_with(&self, slot: SlotId) -> &[SlotId] {
        let group = self.group_of.get(&slot).and_then(|group| self.groups.get(group));
        group.map_or(&[], |group| &group.eligible)
    }

    /// Accepts one connection that waits at the slot. If there is none, arms the slot again.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`: the connection stays in the queue.
    pub fn take_one(&self, slot: SlotId) -> io::Result<Option<OwnedFd>> {
        let Some(fd) = self.socket(slot) else {
            return Ok(None);
        };
        let taken = socket::accept(fd)?;
        if taken.is_none() {
            self.arrivals.rearm(fd, u64::from(slot.0))?;
        }
        Ok(taken)
    }

    /// The policy of the slot's group.
    #[must_use]
    pub fn policy_of(&self, slot: SlotId) -> SteeringPolicy {
        let group = self.group_of.get(&slot).and_then(|group| self.groups.get(group));
        group.map(|group| group.policy).unwrap_or_default()
    }

    /// The eligible slots, best first, for this connection. `load` returns the number of connections of a slot.
    pub fn candidates(
        &mut self,
        slot: SlotId,
        connection: BorrowedFd<'_>,
        load: impl Fn(SlotId) -> u64,
    ) -> Vec<SlotId> {
        let group = self.group_of.get(&slot).and_then(|id| self.groups.get_mut(id));
        let Some(group) = group else {
            return Vec::new();
        };
        let Some(deal) = &mut group.deal else {
            return Vec::new();
        };
        let mut all = group.eligible.clone();
        if all.is_empty() {
            return all;
        }
        let turn = deal.next;
        deal.next = deal.next.wrapping_add(1);
        let first = match group.policy {
            SteeringPolicy::RoundRobin | SteeringPolicy::LeastConnections => all.get(turn % all.len()),
            SteeringPolicy::Weighted => deal.list.get(turn % deal.list.len().max(1)),
            SteeringPolicy::IpHash => peer(connection).and_then(|ip| deal.list.get(bucket_of(ip))),
        };
        let first = first.and_then(|first| all.iter().position(|slot| slot == first));
        all.rotate_left(first.unwrap_or(0));
        if group.policy == SteeringPolicy::LeastConnections {
            // The sort is stable, so slots with equal load stay in rotation.
            all.sort_by_key(|slot| load(*slot));
        }
        all
    }
}

fn peer(connection: BorrowedFd<'_>) -> Option<IpAddr> {
    let peer = rustix::net::getpeername(connection).ok()??;
    let peer = std::net::SocketAddr::try_from(peer).ok()?;
    Some(peer.ip().to_canonical())
}
