//! Frozen workers: what the accept queues show, and what follows.
//!
//! Only a queue that is not empty and does not shrink is evidence. Such a slot leaves steering once another one has a shorter queue, and
//! returns when its own shrinks. If it does not shrink, the queue is moved. An empty queue then proves nothing, so the worker has to answer
//! a probe, or pass a trial if it does not understand probes.
//!
//! If clients belong to workers ([`Affinity`]), the queue of a serving worker is never moved, because no other worker can answer its
//! connections. If the address decides which worker that is, the slot does not leave steering, either.

use core::mem;
use core::time::Duration;

use crate::protocol::{Affinity, Notice, Output};
use crate::restart::grown;
use crate::steering::Steering;
use crate::steering::flow::{Flow, Rescued};
use crate::steering::slot::{Role, Tenant};
use crate::{SlotId, Tick, WorkerId};

/// A queue that did not move for this long, and up to 5 ms between its first connection and the first sample, make the 20 ms after which a
/// frozen worker gets no new connections.
const STALL_AFTER: Duration = Duration::from_millis(15);
/// Moving a queue briefly stops the worker. This is longer than most garbage collections, and half of the 100 ms that no client must wait.
const RESCUE_AFTER: Duration = Duration::from_millis(50);
/// The same if no worker is idle: the queue goes to busy workers that are seen to accept.
const RESCUE_TO_BUSY_AFTER: Duration = Duration::from_millis(70);
/// First interval between probes: about the time until a worker counts as frozen.
const PROBE_FIRST: Duration = Duration::from_millis(20);
/// Longest interval between probes. It bounds how late a worker that wakes up returns, and the cost of one that never does.
const PROBE_CAP: Duration = Duration::from_millis(500);
/// First time until a worker that has never answered a probe is tried with connections.
const TRIAL_FIRST: Duration = Duration::from_secs(1);
/// Longest such time, and the only one for a worker that has answered before. A trial costs a few clients some 70 ms.
const TRIAL_CAP: Duration = Duration::from_secs(32);

/// Two consecutive samples of one slot.
#[derive(Clone, Copy)]
struct Sample {
    slot: SlotId,
    last: u32,
    len: u32,
    now: Tick,
}

impl Sample {
    fn is_progress(self) -> bool {
        self.len == 0 || self.len < self.last
    }

    /// Since when the queue is not empty and has not moved.
    fn watch(self, since: Option<Tick>) -> Option<Tick> {
        match (self.len, self.is_progress()) {
            (0, _) => None,
            (_, true) => Some(self.now),
            (_, false) => since.or(Some(self.now)),
        }
    }
}

impl Steering {
    /// Handles a sample of a slot's accept queue.
    pub(crate) fn sample(&mut self, id: SlotId, len: u32, now: Tick) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let sample = Sample {
            slot: id,
            last: mem::replace(&mut slot.len, len),
            len,
            now,
        };
        let (tenant, affinity) = (slot.tenant, slot.affinity);
        if let Some(group) = self.groups.get_mut(&slot.group)
            && group.queues.remove(&(sample.last, id))
        {
            group.queues.insert((len, id));
        }
        match tenant {
            Tenant::Vacant => {
                if len > 0 {
                    self.abandoned.insert(id);
                }
            }
            Tenant::Idle { worker, waiting } => {
                let waiting = self.sample_idle(sample, worker, waiting);
                self.retain(id, Tenant::Idle { worker, waiting });
            }
            Tenant::Leaving { worker, waiting } => {
                let waiting = self.sample_idle(sample, worker, waiting);
                self.retain(id, Tenant::Leaving { worker, waiting });
            }
            Tenant::Serving {
                role: Role::Active,
                worker,
                ..
            } if affinity == Affinity::ByAddress => self.set_flow(id, worker, Flow::fresh()),
            Tenant::Serving { worker, flow, .. } => {
                let flow = self.sample_serving(sample, worker, flow);
                self.set_flow(id, worker, flow);
            }
        }
    }

    /// A worker answered a probe.
    pub(crate) fn responded(&mut self, id: SlotId, worker: WorkerId) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.answers = true;
        if let Tenant::Serving {
            flow: Flow::Rescued(_),
            ..
        } = slot.tenant
        {
            self.set_flow(id, worker, Flow::fresh());
        }
    }

    /// Sends the probes and trials that are due.
    pub(crate) fn handle_timeout(&mut self, now: Tick) {
        while let Some(id) = self.timers.pop_due(now) {
            let tenant = self.slots.get(&id).map(|slot| slot.tenant);
            if let Some(Tenant::Serving {
                worker,
                flow: Flow::Rescued(rescued),
                ..
            }) = tenant
            {
                let flow = self.probe_or_try(rescued, worker, now);
                self.set_flow(id, worker, flow);
            }
        }
    }

    /// For a worker that is not online and does not accept: moves what a healthy one can serve. Returns since when the rest has waited.
    fn sample_idle(&mut self, sample: Sample, worker: WorkerId, waiting: Option<Tick>) -> Option<Tick> {
        let waiting = sample.watch(waiting);
        let moved = self.rescue_if_due(sample, worker, waiting);
        waiting.filter(|_| !moved)
    }

    /// Updates what is known of a tenant.
    fn retain(&mut self, id: SlotId, tenant: Tenant) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.tenant = tenant;
        }
    }

    fn sample_serving(&mut self, sample: Sample, worker: WorkerId, flow: Flow) -> Flow {
        match flow {
            Flow::In { stuck, trials } => self.sample_in(sample, stuck, trials),
            Flow::Out { .. } if sample.is_progress() => Flow::In {
                stuck: sample.watch(None),
                trials: 0,
            },
            Flow::Out { stuck, trials } => {
                if !self.rescue_if_due(sample, worker, Some(stuck)) {
                    return flow;
                }
                self.staged.push(Output::Probe { worker });
                Flow::Rescued(self.rescued(sample, trials))
            }
            Flow::Rescued(rescued) => {
                let waiting = (sample.len > 0).then(|| rescued.waiting.unwrap_or(sample.now));
                let moved = self.rescue_if_due(sample, worker, waiting);
                Flow::Rescued(Rescued {
                    waiting: waiting.filter(|_| !moved),
                    ..rescued
                })
            }
        }
    }

    /// Slots are sampled one after the other, so the figure of another may be one tick old. It is compared with this slot's figure of that
    /// tick, so that queues that grow alike never count as shorter.
    fn sample_in(&mut self, sample: Sample, stuck: Option<Tick>, trials: u32) -> Flow {
        let trials = if sample.len < sample.last { 0 } else { trials };
        match sample.watch(stuck) {
            Some(stuck)
                if sample.now.since(stuck) >= STALL_AFTER && self.has_shorter(sample.slot, sample.last) =>
            {
                Flow::Out { stuck, trials }
            }
            stuck => Flow::In { stuck, trials },
        }
    }

    fn has_shorter(&self, id: SlotId, len: u32) -> bool {
        let group = self.slots.get(&id).and_then(|slot| self.groups.get(&slot.group));
        group.is_some_and(|group| group.has_shorter(len))
    }

    /// Moves a queue that has waited long enough, if a worker can take it.
    fn rescue_if_due(&mut self, sample: Sample, worker: WorkerId, since: Option<Tick>) -> bool {
        let waited = since.map_or(Duration::ZERO, |since| sample.now.since(since));
        if waited < RESCUE_AFTER {
            return false;
        }
        let Some(slot) = self.slots.get(&sample.slot) else {
            return false;
        };
        if slot.keeps_queue() {
            return false;
        }
        let Some(group) = self.groups.get(&slot.group) else {
            return false;
        };
        let mut to = group.drained();
        if to.is_empty() && waited >= RESCUE_TO_BUSY_AFTER {
            let accepts = |id: &SlotId| *id != sample.slot && self.accepts(*id, sample.now);
            let queues = group.queues.iter().map(|&(_, id)| id).filter(accepts);
            to = queues.collect();
            to.sort_unstable();
        }
        if to.is_empty() {
            return false;
        }
        self.staged.push(Output::Rescue {
            slot: sample.slot,
            holder: Some(worker),
            to,
        });
        true
    }

    /// True if the worker of this slot was seen to accept a moment ago.
    fn accepts(&self, id: SlotId, now: Tick) -> bool {
        let tenant = self.slots.get(&id).map(|slot| slot.tenant);
        match tenant {
            Some(Tenant::Serving {
                flow: Flow::In { stuck, .. },
                ..
            }) => stuck.is_none_or(|since| now.since(since) < STALL_AFTER),
            Some(
                Tenant::Serving {
                    flow: Flow::Out { .. } | Flow::Rescued(_),
                    ..
                }
                | Tenant::Vacant
                | Tenant::Idle { .. }
                | Tenant::Leaving { .. },
            )
            | None => false,
        }
    }

    fn rescued(&self, sample: Sample, trials: u32) -> Rescued {
        let answers = self.slots.get(&sample.slot).is_some_and(|slot| slot.answers);
        let doubled = TRIAL_FIRST * (1 << trials.min(5));
        let trial = if answers {
            TRIAL_CAP
        } else {
            doubled.min(TRIAL_CAP)
        };
        Rescued {
            waiting: None,
            probe_at: sample.now + PROBE_FIRST,
            probe_every: PROBE_FIRST,
            trial_at: sample.now + trial,
            trials,
        }
    }

    fn probe_or_try(&mut self, rescued: Rescued, worker: WorkerId, now: Tick) -> Flow {
        if now >= rescued.trial_at {
            return Flow::In {
                stuck: None,
                trials: rescued.trials.saturating_add(1),
            };
        }
        self.staged.push(Output::Probe { worker });
        let probe_every = grown(rescued.probe_every, PROBE_CAP);
        Flow::Rescued(Rescued {
            probe_at: now + probe_every,
            probe_every,
            ..rescued
        })
    }

    /// Stores a flow and its deadline, and logs that a slot left steering or returned.
    fn set_flow(&mut self, id: SlotId, worker: WorkerId, flow: Flow) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let Tenant::Serving { role, flow: last, .. } = slot.tenant else {
            return;
        };
        slot.tenant = Tenant::Serving { worker, role, flow };
        let notice = match (last.is_in(), flow.is_in()) {
            (true, false) => Some(Notice::Stalled {
                slot: id,
                queued: slot.len,
            }),
            (false, true) => Some(Notice::Recovered { slot: id }),
            (true, true) | (false, false) => None,
        };
        if let Some(notice) = notice {
            self.dirty.insert(slot.group);
            // A slow standby or draining worker is not worth a line in the log.
            let logged = (role == Role::Active).then_some(Output::Notice(notice));
            self.staged.extend(logged);
        }
        match flow.deadline() {
            Some(at) => self.timers.set(id, at),
            None => self.timers.clear(id),
        }
    }
}
