//! Whether clients still come to workers that leave.

use crate::steering::Steering;
use crate::{InstanceId, SlotId, WorkerId};

impl Steering {
    /// True if connections go to `worker`, which leaves, only because the workers that stay are not ready.
    pub(crate) fn is_needed(&self, instance: InstanceId, worker: WorkerId) -> bool {
        let steered = |id: &SlotId| {
            let group = self.slots.get(id).and_then(|slot| self.groups.get(&slot.group));
            group.is_some_and(|group| group.eligible.contains(id))
        };
        self.slots_of(instance, worker)
            .any(|id| steered(&id) && self.has_staying_slot(id))
    }

    /// True if no other worker stays on any address of `worker`.
    pub(crate) fn is_abandoned(&self, instance: InstanceId, worker: WorkerId) -> bool {
        let mut slots = self.slots_of(instance, worker).peekable();
        slots.peek().is_some() && !slots.any(|id| self.has_staying_slot(id))
    }

    /// True if some slot of the group is not closed with its tenant. The slot itself never counts: its worker drains.
    fn has_staying_slot(&self, id: SlotId) -> bool {
        let group = self.slots.get(&id).and_then(|slot| self.groups.get(&slot.group));
        let stays = |id: &SlotId| self.slots.get(id).is_some_and(|slot| !slot.tenant.is_last());
        group.is_some_and(|group| group.slots.iter().any(stays))
    }
}
