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
            .any(|id| steered(&id) && self.is_stayed_at(id))
    }

    /// True if no other worker stays on any address of `worker`.
    pub(crate) fn is_abandoned(&self, instance: InstanceId, worker: WorkerId) -> bool {
        let mut slots = self.slots_of(instance, worker).peekable();
        slots.peek().is_some() && !slots.any(|id| self.is_stayed_at(id))
    }

    /// True if there is another slot beside this one whose worker stays.
    fn is_stayed_at(&self, id: SlotId) -> bool {
        let group = self.slots.get(&id).and_then(|slot| self.groups.get(&slot.group));
        let stays = |id: &SlotId| self.slots.get(id).is_some_and(|slot| !slot.tenant.is_last());
        group.is_some_and(|group| group.slots.iter().any(stays))
    }
}
