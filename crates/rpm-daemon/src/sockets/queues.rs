//! Traffic: the connection that wakes the daemon, and looks at the accept queues while there are more.

use std::collections::{BTreeMap, BTreeSet};

use rpm_core::protocol::Input;
use rpm_core::queue_sampler::{Decision, QueueSampler};
use rpm_core::{Core, SlotId, Tick};
use rpm_listen::Listeners;
use tracing::warn;

/// When the queues are looked at, and which of them the core believes not to be empty.
pub(crate) struct Queues {
    sampler: QueueSampler,
    filled: BTreeSet<SlotId>,
}

impl Queues {
    pub(crate) fn new() -> Queues {
        Queues {
            sampler: QueueSampler::new(),
            filled: BTreeSet::new(),
        }
    }

    /// When they are to be looked at.
    pub(crate) fn poll_timeout(&self) -> Option<Tick> {
        self.sampler.poll_timeout()
    }

    /// A connection was accepted.
    pub(crate) fn note_traffic(&mut self, now: Tick) {
        self.sampler.traffic(now);
    }

    /// A daemon that took over does not know which were not empty: any of these may have been.
    pub(crate) fn assume_filled(&mut self, slots: impl Iterator<Item = SlotId>) {
        self.filled = slots.collect();
    }

    /// The traffic detector has seen something: is there a new connection?
    pub(crate) fn has_fired(listeners: &Listeners) -> bool {
        listeners.traffic().fired().unwrap_or_else(|error| {
            warn!(%error, "the traffic detector fails");
            true
        })
    }

    /// It is time to look at the queues.
    pub(crate) fn on_time(&mut self, ctx: &mut Context<'_>) {
        let busy = self.look(ctx);
        match self.sampler.tick(ctx.now, busy) {
            Decision::Continue => {}
            Decision::Rearm => await_traffic(ctx.listeners),
        }
    }

    /// Tells the core the length of every accept queue that is not empty, or was not the last time; `true` if anything waits anywhere.
    pub(crate) fn look(&mut self, ctx: &mut Context<'_>) -> bool {
        let handed = ctx.handed.iter().copied().filter(|(_, len)| *len > 0);
        let waiting: BTreeMap<SlotId, u32> = ctx.listeners.waiting().chain(handed).collect();
        let before = std::mem::replace(&mut self.filled, waiting.keys().copied().collect());
        let emptied = before.difference(&self.filled).map(|slot| (*slot, 0));
        let busy = !waiting.is_empty();
        for (slot, len) in waiting.into_iter().chain(emptied) {
            ctx.core.handle(Input::Queue { slot, len }, ctx.now);
        }
        busy
    }
}

/// What a look at the queues goes by.
pub(crate) struct Context<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) now: Tick,
    pub(crate) listeners: &'a Listeners,
    /// Connections that wait at slots whose connections are handed over.
    pub(crate) handed: Vec<(SlotId, u32)>,
}

/// The next connection wakes the daemon.
pub(crate) fn await_traffic(listeners: &Listeners) {
    if let Err(error) = listeners.arm() {
        warn!(%error, "the traffic detector fails");
    }
}
