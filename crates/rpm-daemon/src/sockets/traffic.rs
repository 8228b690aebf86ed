//! Traffic: the connection that wakes the daemon, and looks at the accept queues while there are more.

use std::collections::BTreeMap;

use rpm_core::SlotId;
use rpm_core::protocol::Input;

use crate::supervisor::Supervisor;

impl Supervisor {
    pub(crate) fn on_traffic(&mut self) {
        let fired = self.listeners.traffic().fired().unwrap_or_else(|error| {
            tracing::warn!(%error, "the traffic detector fails");
            true
        });
        if fired {
            self.sampler.traffic(self.now());
            self.sample_queues();
        }
    }

    /// The next connection wakes the daemon.
    pub(crate) fn await_traffic(&self) {
        if let Err(error) = self.listeners.arm() {
            tracing::warn!(%error, "the traffic detector fails");
        }
    }

    /// Tells the core the length of every accept queue that is not empty, or was not the last time; `true` if anything waits anywhere.
    pub(crate) fn sample_queues(&mut self) -> bool {
        let now = self.now();
        let handed = self
            .handoffs
            .queues(&self.listeners)
            .into_iter()
            .filter(|(_, len)| *len > 0);
        let waiting: BTreeMap<SlotId, u32> = self.listeners.waiting().chain(handed).collect();
        let before = std::mem::replace(&mut self.filled, waiting.keys().copied().collect());
        let emptied = before.difference(&self.filled).map(|slot| (*slot, 0));
        let busy = !waiting.is_empty();
        for (slot, len) in waiting.into_iter().chain(emptied) {
            self.core.handle(Input::Queue { slot, len }, now);
        }
        busy
    }
}
