//! Taking over after the death of the shell.

use crate::core::Core;
use crate::{SlotId, Tick};

impl Core {
    /// Goes on from what was stored by a shell that has died; `lost`: slots whose socket is gone. No command waits for
    /// an outcome any more: what was started goes on, and the outcome of a reload is that of `Ticket(u64::MAX)`.
    ///
    /// The shell then reports what has happened meanwhile: which workers have ended, and which were never started.
    pub fn take_over(&mut self, now: Tick, lost: &[SlotId]) {
        self.now = self.now.max(now);
        self.closing = false;
        for rollout in self.apps.rollouts_mut() {
            rollout.lose_requester();
        }
        for slot in lost {
            self.steering.close_slot(*slot);
        }
        self.settle();
    }
}
