//! Steering by classic BPF: the program selects by position, so the daemon mirrors the kernel's order of the group's sockets.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;

use rpm_core::SlotId;
use rpm_sys::cbpf;

use crate::policy::{SteeringPolicy, buckets, mixed, weighed};

/// The kernel's order of the group's sockets, which the result of a classic program indexes. Sockets are in the order of `listen()`; when
/// one leaves, the last takes its place.
pub(crate) struct GroupOrder {
    policy: SteeringPolicy,
    pub(crate) weights: BTreeMap<SlotId, u32>,
    pub(crate) slots: Vec<SlotId>,
    eligible: Vec<SlotId>,
    /// Sockets left while no daemon ran, so the order is unknown and every slot is eligible.
    pub(crate) lost: bool,
    why_not_ebpf: String,
}

impl GroupOrder {
    /// An order without sockets.
    pub(crate) fn new(policy: SteeringPolicy, why_not_ebpf: String) -> GroupOrder {
        GroupOrder {
            policy,
            weights: BTreeMap::new(),
            slots: Vec::new(),
            eligible: Vec::new(),
            lost: false,
            why_not_ebpf,
        }
    }

    /// Starts from sockets that listen already. `order` is the last known order of the kernel; it may contain sockets that have left since.
    pub(crate) fn take_over(&mut self, order: &[SlotId], left: &BTreeMap<SlotId, BorrowedFd<'_>>) {
        (self.slots, self.lost) = survivors(order, left);
    }

    /// Steers new connections to `eligible`.
    pub(crate) fn steer<'a>(
        &mut self,
        eligible: &[SlotId],
        fd_of: impl Fn(SlotId) -> Option<BorrowedFd<'a>>,
    ) -> io::Result<()> {
        self.eligible = eligible.to_vec();
        self.attach(&self.positions(eligible), fd_of)
    }

    /// How connections are steered, as shown to users.
    pub(crate) fn reason(&self) -> String {
        let how = match self.policy {
            SteeringPolicy::RoundRobin | SteeringPolicy::LeastConnections => "random",
            SteeringPolicy::IpHash => "by the client's address (ip-hash)",
            SteeringPolicy::Weighted => "random by weight",
        };
        let whom = if self.lost { "all" } else { "eligible" };
        format!(
            "{how} among {whom} workers by classic BPF; no eBPF: {}",
            self.why_not_ebpf
        )
    }

    fn positions(&self, slots: &[SlotId]) -> Vec<u32> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, s)| self.lost || slots.contains(s))
            .map(|(i, _)| i as u32)
            .collect()
    }

    fn attach<'a>(
        &self,
        indexes: &[u32],
        fd_of: impl Fn(SlotId) -> Option<BorrowedFd<'a>>,
    ) -> io::Result<()> {
        // Every slot in the order listens, so the program can be attached through any of them.
        let Some(fd) = self.slots.iter().find_map(|slot| fd_of(*slot)) else {
            return Ok(());
        };
        match self.policy {
            _ if indexes.is_empty() => Ok(()),
            SteeringPolicy::RoundRobin | SteeringPolicy::LeastConnections => cbpf::attach_random(fd, indexes),
            SteeringPolicy::IpHash => {
                cbpf::attach_by_address(fd, &self.positions_of(&buckets(&self.at(indexes))))
            }
            SteeringPolicy::Weighted => {
                let mixed = mixed(&weighed(&self.at(indexes), &self.weights));
                cbpf::attach_random(fd, &self.positions_of(&mixed))
            }
        }
    }

    /// The slots at these positions.
    fn at(&self, indexes: &[u32]) -> Vec<SlotId> {
        let at = |index: &u32| self.slots.get(*index as usize).copied();
        indexes.iter().filter_map(at).collect()
    }

    /// The positions of these slots, in the same order.
    fn positions_of(&self, slots: &[SlotId]) -> Vec<u32> {
        let position = |slot: &SlotId| self.slots.iter().position(|other| other == slot);
        let positions = slots.iter().filter_map(position);
        positions.filter_map(|at| u32::try_from(at).ok()).collect()
    }

    /// Removes a slot; the last one takes its position. Meanwhile the program picks only positions whose meaning does not change.
    pub(crate) fn remove<'a>(
        &mut self,
        slot: SlotId,
        fd_of: impl Fn(SlotId) -> Option<BorrowedFd<'a>>,
        leave: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(at) = self.slots.iter().position(|s| *s == slot) else {
            return leave();
        };
        let last = self.slots.len() - 1;
        let mut steady = self.positions(&self.eligible);
        steady.retain(|i| (self.lost || *i as usize != at) && (*i as usize) < last);
        self.attach(&steady, &fd_of)?;
        leave()?;
        self.weights.remove(&slot);
        self.slots.swap_remove(at);
        self.lost &= self.slots.len() > 1;
        self.eligible.retain(|s| *s != slot);
        self.attach(&self.positions(&self.eligible), fd_of)
    }
}

/// The order of the remaining sockets, and whether it is unknown. When a socket leaves, the last takes its position, so the result depends
/// on which left first.
fn survivors(order: &[SlotId], left: &BTreeMap<SlotId, BorrowedFd<'_>>) -> (Vec<SlotId>, bool) {
    let mut slots = order.to_vec();
    let gone: Vec<usize> = (0..slots.len())
        .filter(|at| !left.contains_key(&slots[*at]))
        .collect();
    let unknown = left.keys().any(|slot| !order.contains(slot));
    match gone[..] {
        [] if !unknown => (slots, false),
        [at] if !unknown => {
            slots.swap_remove(at);
            (slots, false)
        }
        _ => (left.keys().copied().collect(), left.len() > 1),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn the_order_is_known_if_at_most_one_has_left() {
        let null = std::fs::File::open("/dev/null").expect("it is there");
        let ids = |ids: &[u32]| ids.iter().copied().map(SlotId).collect::<Vec<_>>();
        let order = ids(&[4, 7, 5, 6]);
        let left = |left: &[u32]| {
            let slots = ids(left).into_iter().map(|slot| (slot, null.as_fd()));
            survivors(&order, &slots.collect())
        };
        assert_eq!(left(&[4, 5, 6, 7]), (order.clone(), false));
        assert_eq!(
            left(&[4, 5, 6]),
            (ids(&[4, 6, 5]), false),
            "the last takes its place"
        );
        assert_eq!(left(&[4, 5]), (ids(&[4, 5]), true));
        assert_eq!(left(&[5]), (ids(&[5]), false), "there is one way to order one");
        assert!(left(&[4, 5, 6, 7, 9]).1, "one that the order does not know");
    }
}
