//! The state machine: its parts, and how it handles an input.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use crate::apps::{Apps, Instances, State};
use crate::deadlines::Deadlines;
use crate::protocol::{Input, Output};
use crate::rng::Rng;
use crate::rollout::Completion;
use crate::steering::{Claim, Steering};
use crate::tickets::{Scaling, Tickets};
use crate::workers::{Part, Worker, Workers};
use crate::{AppId, GroupId, InstanceId, SlotId, Tick, WorkerId};

/// The most instances of a command; more are not created. Far above what a machine can run, and low enough that a typing error is not a
/// denial of service.
pub const MAX_INSTANCES: u32 = 10_000;

/// Checking invariants costs time in proportion to the number of workers and slots. With thousands of them, and hundreds of queue samples
/// per second, it would take most of a debug build's time.
const CHECKED_AT_ONCE: usize = 64;

/// The decisions of the daemon: supervision, restart policy, tickets, steering.
///
/// After every [`Core::handle`] or [`Core::handle_timeout`], the shell carries out what [`Core::poll_output`] returns, in that order, until
/// it returns nothing.
///
/// It can be stored at any time, and taken over by another shell ([`Core::take_over`]). Everything is stored except which commands wait for
/// an outcome, and reloads that wait for their turn. The second half of a command is stored
/// ([`RestartAndScale`](crate::protocol::Command::RestartAndScale)).
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
    /// Workers that have drained, and are terminated once another one accepts at the addresses that clients may return to.
    pub(crate) drained_but_needed: BTreeSet<WorkerId>,
    /// A shutdown was requested: no more commands are accepted.
    pub(crate) closing: bool,
    /// Put out after steering's outputs, so that no signal is sent before slots are closed.
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
    /// Slots that this worker did not take over from its predecessor are closed.
    Unclaimed(WorkerId),
    /// A waiting instance gets its next worker.
    Respawn(InstanceId),
    /// The new workers of a reload have lasted.
    WatchEnds(AppId),
}

impl Core {
    /// An empty core. The seed determines the jitter of delays, and nothing else.
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

    /// Handles an event. One that refers to unknown ids, or contradicts the state, changes nothing. A `now` before an earlier one counts as
    /// the earlier one.
    pub fn handle(&mut self, input: Input, now: Tick) {
        self.now = self.now.max(now);
        self.dispatch(input);
        self.settle();
        self.assert_invariants();
    }

    /// Handles what is due at `now`. Call this at [`Core::poll_timeout`] or later.
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

    /// Workers that [`Core::handle_timeout`] would treat as ready at `now` because they are alive. The shell decides whether they had the
    /// CPU time in which they could have failed ([`Input::Starved`]).
    pub fn ready_by_living(&self, now: Tick) -> impl Iterator<Item = WorkerId> + '_ {
        self.timers.due(now).filter_map(|timer| match timer {
            Timer::State(id) => self.workers.get(id)?.is_ready_by_living().then_some(id),
            Timer::Unclaimed(_) | Timer::Respawn(_) | Timer::WatchEnds(_) => None,
        })
    }

    /// Workers that are expected to listen, each with the time at rest after which they are not any more ([`Input::Rests`]).
    pub fn should_listen(&self) -> impl Iterator<Item = (WorkerId, Duration)> + '_ {
        let waits = self.workers.iter().filter(|(_, worker)| worker.should_listen());
        waits.map(|(id, worker)| (id, worker.config.policy.listen_timeout))
    }

    /// When [`Core::handle_timeout`] is due; `None` if only an input changes anything.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        [self.timers.next(), self.steering.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The slot of `group` that `worker` inherits: a vacant one of the same instance and generation. `None`: it needs a new one, if there is
    /// no [`Core::slot_of_former`] either. Report what it gets by [`Input::SlotHeld`]; a slot that a leaving worker opens is closed again.
    #[must_use]
    pub fn slot_for(&self, worker: WorkerId, group: GroupId) -> Option<SlotId> {
        let worker = self.workers.get(worker).filter(|it| !it.state().is_leaving())?;
        self.steering.vacant((worker.instance, worker.generation), group)
    }

    /// The slot of `group` that was left by workers of another generation of the worker's instance, which was restarted with another
    /// configuration. Its clients wait there, so the worker should take it if the configuration permits. While a reload runs there is none:
    /// slots of another generation may be needed again.
    #[must_use]
    pub fn slot_of_former(&self, worker: WorkerId, group: GroupId) -> Option<SlotId> {
        let worker = self.workers.get(worker).filter(|worker| self.succeeds(worker))?;
        self.steering.left_behind(worker.instance, group)
    }

    /// True if a worker may take slots of other generations of its instance.
    fn succeeds(&self, worker: &Worker) -> bool {
        let app = self.instances.app_of(worker.instance);
        let app = app.and_then(|app| self.apps.get(app));
        worker.state().part() == Part::Own
            && !worker.state().is_leaving()
            && app.is_some_and(|app| app.rollout().is_none())
    }

    /// The slots to which new connections of `group` are steered, ascending.
    #[must_use]
    pub fn eligible(&self, group: GroupId) -> &[SlotId] {
        self.steering.eligible(group)
    }

    /// True if this slot is open.
    #[must_use]
    pub fn has_slot(&self, slot: SlotId) -> bool {
        self.steering.has_slot(slot)
    }

    /// True if this slot has left steering, while clients of its worker ([`Affinity`](crate::protocol::Affinity)) still go there.
    #[must_use]
    pub fn is_reserved(&self, slot: SlotId) -> bool {
        self.steering.is_reserved(slot)
    }

    /// True if this slot is out of steering because its worker does not accept.
    #[must_use]
    pub fn is_stalled(&self, slot: SlotId) -> bool {
        self.steering.is_stalled(slot)
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
            succeeds: self.succeeds(worker),
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

    /// A worker has opened an address.
    pub(crate) fn opened(&mut self, id: WorkerId, group: Option<GroupId>) {
        self.workers.opened(id, group, self.now);
        self.early_addresses_changed(id);
    }

    /// A worker has closed an address. If it is ending, that means nothing.
    fn closed(&mut self, id: WorkerId, group: GroupId) {
        let state = self.workers.state(id);
        if state.is_some_and(|state| !state.is_terminated()) {
            self.workers.closed(id, group);
            self.early_addresses_changed(id);
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

    /// True if the instance runs or will run.
    pub(crate) fn will_run(&self, instance: InstanceId) -> bool {
        self.instances.state(instance).is_some_and(State::will_run)
    }

    pub(crate) fn settle(&mut self) {
        while let Some((ticket, Scaling { app, count })) = self.tickets.take_due() {
            self.scale(ticket, app, count);
        }
        self.steering.settle(&mut self.outputs);
        self.drain_unneeded();
        self.steering.settle(&mut self.outputs);
        self.outputs.extend(self.staged.drain(..));
        self.outputs.extend(self.tickets.take_settled());
    }

    /// In debug builds, checks the invariants after every input; with more than [`CHECKED_AT_ONCE`] workers and slots, less often, so that
    /// the cost per input stays the same.
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

    /// True if there is work that [`Core::settle`] should have put out.
    pub(crate) fn is_unsettled(&self) -> bool {
        !self.staged.is_empty() || self.steering.is_unsettled()
    }
}
