//! Going on after the death of the shell.

use crate::core::Core;
use crate::{SlotId, Tick, Ticket};

/// Of the commands whose askers went with the shell.
pub(crate) const NOBODY: Ticket = Ticket(u64::MAX);

impl Core {
    /// Goes on from what was stored by a shell that is no more; `lost`: slots whose socket is gone. Nobody waits for
    /// an outcome any more: what was begun goes on, and what comes of a reload is told to `Ticket(u64::MAX)`.
    ///
    /// The shell then reports what has happened meanwhile: which workers have ended, and which were never started.
    pub fn take_up(&mut self, now: Tick, lost: &[SlotId]) {
        self.now = self.now.max(now);
        self.closing = false;
        for rollout in self.apps.values_mut().filter_map(|app| app.rollout.as_mut()) {
            rollout.ticket = NOBODY;
        }
        for slot in lost {
            self.steering.close(*slot);
        }
        self.settle();
    }
}
