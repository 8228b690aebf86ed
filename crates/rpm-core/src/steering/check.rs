//! Invariants of steering.

use alloc::vec::Vec;

use crate::steering::{Slot, Steering, Tenant};
use crate::{GroupId, SlotId};

impl Steering {
    /// Checks that every group is steered to its slots of the best rank, at least to one.
    ///
    /// # Errors
    /// A group for which this does not hold.
    pub(crate) fn check_groups(&self) -> Result<(), GroupId> {
        for (&id, group) in &self.groups {
            // A group with slots must be steered somewhere.
            let Some((rank, slots)) = self.choose(group) else {
                return Err(id);
            };
            let lengths = || slots.iter().filter_map(|slot| self.slots.get(slot));
            let queues = group
                .queues
                .iter()
                .copied()
                .eq(sorted(lengths().map(|slot| slot.len), &slots));
            let right = group.eligible == slots && !slots.is_empty();
            let indexed = if rank.accepts() {
                queues
            } else {
                group.queues.is_empty()
            };
            if !(right && indexed) {
                return Err(id);
            }
        }
        Ok(())
    }

    /// True if this slot is in the indexes.
    pub(crate) fn is_indexed(&self, id: SlotId, slot: &Slot) -> bool {
        let group = self.groups.get(&slot.group);
        self.of_instance(slot.instance).any(|other| other == id)
            && group.is_some_and(|group| group.slots.contains(&id))
    }

    /// True if this slot has exactly the deadline that its tenant needs.
    pub(crate) fn has_right_deadline(&self, id: SlotId, slot: &Slot) -> bool {
        let wanted = match slot.tenant {
            Tenant::Serving { flow, .. } => flow.deadline(),
            Tenant::Vacant | Tenant::Idle { .. } | Tenant::Leaving { .. } => None,
        };
        self.timers.get(id) == wanted
    }

    /// A deadline of a slot that no longer exists.
    pub(crate) fn dangling_deadline(&self) -> Option<SlotId> {
        self.timers.keys().find(|slot| !self.slots.contains_key(slot))
    }
}

fn sorted(lengths: impl Iterator<Item = u32>, slots: &[SlotId]) -> impl Iterator<Item = (u32, SlotId)> {
    let mut pairs: Vec<_> = lengths.zip(slots.iter().copied()).collect();
    pairs.sort_unstable();
    pairs.into_iter()
}
