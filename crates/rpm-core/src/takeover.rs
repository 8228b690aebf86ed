//! Taking over after the death of a shell.

use crate::core::Core;
use crate::{SlotId, Tick};

impl Core {
    /// Continues from the state that a dead shell stored. `lost` are the slots whose socket is gone. No command waits for an outcome any
    /// more: what was started continues, and the outcome of a reload, or of a command that has a second half, is that of
    /// `Ticket(u64::MAX)`.
    ///
    /// The shell then reports what has happened since: which workers have ended, and which were never started.
    pub fn take_over(&mut self, now: Tick, lost: &[SlotId]) {
        self.now = self.now.max(now);
        self.closing = false;
        // The shell looks at all that drain from the beginning.
        self.drained_but_needed.clear();
        for rollout in self.apps.rollouts_mut() {
            rollout.lose_requester();
        }
        for slot in lost {
            self.steering.close_slot(*slot);
        }
        self.settle();
    }
}
