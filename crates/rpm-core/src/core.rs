//! The state machine as a whole: what it consists of, and how an input passes through it.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use crate::apps::{Apps, Instances, State};
use crate::deadlines::Deadlines;
use crate::protocol::{Input, Output};
use crate::rng::Rng;
use crate::rollout::Completion;
use crate::steering::{Claim, Steering};
use crate::tickets::Tickets;
use crate::workers::{Part, Worker, Workers};
use crate::{AppId, GroupId, InstanceId, SlotId, Tick, WorkerId};

/// Instances that one command may ask for; more are not created. Far above what a machine
/// can run, and low enough that a slip of a finger is no denial of service.
pub const MAX_INSTANCES: u32 = 10_000;

/// A check of the invariants costs time in proportion to the number of workers and slots. With thousands of them and hundreds of
/// queue samples per second it would be most of what a debug build does.
const CHECKED_AT_ONCE: usize = 64;

/// The decisions of the daemon: supervision, restart policy, tickets, steering.
///
/// After every [`Core::handle`] or [`Core::handle_timeout`] the shell carries out what
/// [`Core::poll_output`] gives, until it gives nothing, in that order.
///
/// What of it outlives its shell is a [`Snapshot`](crate::snapshot::Snapshot).
#[derive(Debug)]
pub struct Core {
    pub(crate) now: Tick,
    pub(crate) rng: Rng,
    pub(crate) apps: Apps,
    pub(crate) instances: Instances,
    pub(crate) workers: Workers,
    pub(crate) next_instance: u32,
    pub(crate) next_worker: u64,
    pub(crate) timers: Deadlines<Timer>,
    pub(crate) steering: Steering,
    pub(crate) tickets: Tickets,
    /// Workers that have drained, and are terminated when another one accepts where clients are about to come back.
    pub(crate) drained_but_needed: BTreeSet<WorkerId>,
    /// A shutdown was asked for: no command is accepted any more.
    pub(crate) closing: bool,
    /// Follows what steering has to say, in this order: no signal before its slots are closed.
    pub(crate) staged: Vec<Output>,
    outputs: VecDeque<Output>,
    /// Inputs since the invariants were checked (debug builds).
    unchecked: usize,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The end of a worker's state.
    State(WorkerId),
    /// The slots that this worker did not take over from its predecessor are closed.
    Unclaimed(WorkerId),
    /// The next worker of a waiting instance.
    Respawn(InstanceId),
    /// The new workers of a reload have lasted.
    WatchEnds(AppId),
}

impl Core {
    /// An empty core. The seed decides the jitter of delays, nothing else.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Core {
            now: Tick::default(),
            rng: Rng::new(seed),
            apps: Apps::default(),
            instances: Instances::default(),
            workers: Workers::default(),
            next_instance: 0,
            next_worker: 1,
            timers: Deadlines::new(),
            steering: Steering::new(),
            tickets: Tickets::default(),
            drained_but_needed: BTreeSet::new(),
            closing: false,
            staged: Vec::new(),
            outputs: VecDeque::new(),
            unchecked: 0,
        }
    }

    /// Takes in something that happened. What refers to unknown ids, or contradicts what is known, changes
    /// nothing. A `now` before an earlier one counts as that one.
    pub fn handle(&mut self, input: Input, now: Tick) {
        self.now = self.now.max(now);
        self.dispatch(input);
        self.settle();
        self.assert_invariants();
    }

    /// Does what is due at `now`; to be called at [`Core::poll_timeout`] or later.
    pub fn handle_timeout(&mut self, now: Tick) {
        self.now = self.now.max(now);
        while let Some(timer) = self.timers.pop_due(self.now) {
            match timer {
                Timer::State(worker) => self.state_expired(worker),
                Timer::Unclaimed(worker) => self.close_unclaimed(worker),
                Timer::Respawn(instance) => self.respawn(instance),
                Timer::WatchEnds(app) => self.complete(app, Completion::Lasted),
            }
        }
        self.steering.handle_timeout(self.now);
        self.settle();
        self.assert_invariants();
    }

    /// Workers that [`Core::handle_timeout`] would take for ready at `now` because they live: whether they have had the CPU that they would need to
    /// fail is for the shell to say ([`Input::Starved`]).
    pub fn ready_by_living(&self, now: Tick) -> impl Iterator<Item = WorkerId> + '_ {
        self.timers.due(now).filter_map(|timer| match timer {
            Timer::State(id) => self.workers.get(id)?.is_ready_by_living().then_some(id),
            Timer::Unclaimed(_) | Timer::Respawn(_) | Timer::WatchEnds(_) => None,
        })
    }

    /// Workers that are waited for because they should listen, each with the time at rest after which it is not
    /// ([`Input::Rests`]).
    pub fn should_listen(&self) -> impl Iterator<Item = (WorkerId, Duration)> + '_ {
        let waits = self.workers.iter().filter(|(_, worker)| worker.should_listen());
        waits.map(|(id, worker)| (id, worker.config.policy.listen_timeout))
    }

    /// When [`Core::handle_timeout`] is due; `None`: only an input changes anything.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        [self.timers.next(), self.steering.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The slot of `group` that `worker` inherits: a vacant one of the same instance and generation. `None`: give it a new one.
    /// Either way report it by [`Input::SlotHeld`]; what a leaving worker opens is closed again.
    #[must_use]
    pub fn slot_for(&self, worker: WorkerId, group: GroupId) -> Option<SlotId> {
        let worker = self.workers.get(worker).filter(|it| !it.state().is_leaving())?;
        self.steering.vacant((worker.instance, worker.generation), group)
    }

    /// The slots that new connections of `group` go to, ascending.
    #[must_use]
    pub fn eligible(&self, group: GroupId) -> &[SlotId] {
        self.steering.eligible(group)
    }

    /// Is this slot open?
    #[must_use]
    pub fn has_slot(&self, slot: SlotId) -> bool {
        self.steering.has_slot(slot)
    }

    /// Has this slot left steering, while clients that belong to its worker ([`Affinity`](crate::protocol::Affinity)) still go there?
    #[must_use]
    pub fn is_reserved(&self, slot: SlotId) -> bool {
        self.steering.is_reserved(slot)
    }

    fn dispatch(&mut self, input: Input) {
        match input {
            Input::Command { ticket, command } => self.command(ticket, command),
            Input::Spawned { worker } => self.spawned(worker),
            Input::SpawnFailed { worker } => self.worker_exited(worker, None),
            Input::Exited { worker, exit } => self.worker_exited(worker, Some(exit)),
            Input::Listening { worker } => self.listening(worker),
            Input::Ready { worker } => self.ready(worker),
            Input::SlotHeld {
                slot,
                group,
                worker,
                fixed,
            } => self.slot_held(slot, group, worker, fixed),
            Input::SlotReleased { slot, worker } => self.slot_released(slot, worker),
            Input::SharedHeld { group, worker, fixed } => self.shared_held(group, worker, fixed),
            Input::SharedReleased { group, worker } => self.shared_released(group, worker),
            Input::Withheld { worker } => self.withheld(worker),
            Input::Starved { worker } => self.starved(worker),
            Input::Rests { worker } => self.rests(worker),
            Input::Healthy { worker } => self.healthy(worker),
            Input::Drained { worker } | Input::DrainFailed { worker } => self.drained(worker),
            Input::Room { app, workers } => self.set_room(app, workers),
            Input::Queue { slot, len } => self.steering.sample(slot, len, self.now),
            Input::Responded { worker } => self.responded(worker),
        }
    }

    fn slot_held(&mut self, slot: SlotId, group: GroupId, id: WorkerId, fixed: bool) {
        let worker = self.workers.get(id);
        let stays = |worker: &&Worker| !worker.state().is_leaving() && self.will_run(worker.instance);
        let Some(worker) = worker.filter(stays) else {
            return self.steering.close_unknown(slot, group);
        };
        self.steering.hold(Claim {
            slot,
            group,
            instance: worker.instance,
            generation: worker.generation,
            worker: id,
            role: worker.state().role(),
            answers: worker.answers,
            affinity: worker.config.affinity,
        });
        if self.steering.holder(slot) == Some(id) {
            self.opened(id, fixed.then_some(group));
        }
    }

    fn slot_released(&mut self, slot: SlotId, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let group = self.steering.group_of(slot);
        if self.steering.holder(slot) != Some(id) {
            return;
        }
        let inherited = worker.state().is_terminated() && worker.state().part() == Part::Own;
        self.steering.listener_closed(slot, id, inherited);
        if let Some(group) = group {
            self.closed(id, group);
        }
    }

    fn shared_held(&mut self, group: GroupId, id: WorkerId, fixed: bool) {
        self.workers.shares(id, group);
        self.opened(id, fixed.then_some(group));
    }

    fn shared_released(&mut self, group: GroupId, id: WorkerId) {
        self.workers.unshares(id, group);
        self.closed(id, group);
    }

    /// A worker has opened something.
    pub(crate) fn opened(&mut self, id: WorkerId, group: Option<GroupId>) {
        self.workers.opened(id, group, self.now);
        self.footprint_changed(id);
    }

    /// A worker has closed something; one that ends does so without meaning anything by it.
    fn closed(&mut self, id: WorkerId, group: GroupId) {
        let state = self.workers.state(id);
        if state.is_some_and(|state| !state.is_terminated()) {
            self.workers.closed(id, group);
            self.footprint_changed(id);
        }
    }

    fn responded(&mut self, id: WorkerId) {
        self.workers.answered(id);
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let slots: Vec<SlotId> = self.steering.slots_of(worker.instance, id).collect();
        for slot in slots {
            self.steering.responded(slot, id);
        }
    }

    /// Does the instance run, or will it?
    pub(crate) fn will_run(&self, instance: InstanceId) -> bool {
        self.instances.state(instance).is_some_and(State::will_run)
    }

    pub(crate) fn settle(&mut self) {
        self.steering.settle(&mut self.outputs);
        self.terminate_unneeded();
        self.steering.settle(&mut self.outputs);
        self.outputs.extend(self.staged.drain(..));
        self.outputs.extend(self.tickets.take_settled());
    }

    /// In debug builds: checks the invariants after every input, or, with more than [`CHECKED_AT_ONCE`] workers and slots, so
    /// seldom that an input costs no more.
    fn assert_invariants(&mut self) {
        if !cfg!(debug_assertions) {
            return;
        }
        self.unchecked += 1;
        if self.unchecked * CHECKED_AT_ONCE < self.workers.len() + self.steering.slots().len() {
            return;
        }
        self.unchecked = 0;
        if let Err(violation) = self.check_invariants() {
            debug_assert!(false, "a bug of rpm-core: {violation}");
        }
    }

    /// Is there work that [`Core::settle`] should have put out?
    pub(crate) fn is_unsettled(&self) -> bool {
        !self.staged.is_empty() || self.steering.is_unsettled()
    }
}
