//! Reload: a new generation beside the old one, which it replaces when all of it is proved.
//!
//! Every instance gets a *candidate*. One that is proved takes over at once, and its predecessor becomes a *standby*: out of
//! steering as long as another worker serves, and otherwise untouched. When the last candidate is proved, and `watch_after` has
//! passed since, the standbys drain; if a new worker fails before that, the standbys serve again and the new workers drain.
//! Any other command for the app undoes the reload first (or ends its watch), so an app is never left with
//! half a generation.
//!
//! Where there is not room for two generations old workers drain before all is proved (`room`). Undoing then
//! starts them again, by a reload in the opposite direction (`Aim::Return`). If that fails too the last of the new
//! workers drain, and their instances get workers of the old generation as after any crash.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::apps::{App, State};
use crate::core::{Core, Timer};
use crate::protocol::{Failure, Notice, UndoCause};
use crate::restart::AfterExit;
use crate::rollout::{Aim, Completion, Predecessor, Proved, ReloadRequest, Rollout};
use crate::workers::{Worker, WorkerState};
use crate::{AppId, InstanceId, Ticket, WorkerId};

impl Core {
    /// New workers for some instances.
    pub(crate) fn replace_some(&mut self, ticket: Ticket, id: AppId, instances: Vec<InstanceId>) {
        let request = ReloadRequest {
            ticket,
            config: None,
            only: Some(instances),
            yields: false,
            then_scale: None,
        };
        self.request_reload(id, request);
    }

    /// A reload that starts now, or after the one that is going on.
    pub(crate) fn request_reload(&mut self, id: AppId, request: ReloadRequest) {
        self.end_yielding_reload(id);
        let ticket = request.ticket;
        let Some(app) = self.apps.get_mut(id) else {
            return self.tickets.reject(ticket, Failure::NoSuchApp);
        };
        let Some(rollout) = app.rollout_mut() else {
            return self.roll_out(id, request);
        };
        if let Some(rejected) = rollout.follow_by(request) {
            self.tickets.reject(rejected.ticket, Failure::Superseded);
        }
    }

    /// Ends a reload that yields, if nothing that serves is lost by that: if all its workers serve they stay, or else those that
    /// stand by serve again.
    fn end_yielding_reload(&mut self, id: AppId) {
        let rollout = self.apps.get(id).and_then(App::rollout);
        let Some(rollout) = rollout.filter(|rollout| rollout.yields()) else {
            return;
        };
        let serves_again = |proved: &Proved| match proved.predecessor {
            Predecessor::Standby(worker) => self.workers.is_ready(worker),
            Predecessor::Gone(_) => false,
        };
        if rollout.watched_until().is_some() {
            self.complete(id, Completion::CutShort);
        } else if rollout.proved().values().all(serves_again) {
            self.undo(id, UndoCause::Unwanted);
        }
    }

    /// Ends the reload of an app, if there is one: a later command is about to change its instances. If all new workers
    /// serve and are merely watched they stay.
    pub(crate) fn supersede_reload(&mut self, id: AppId) {
        let rollout = self.rollout_mut(id);
        match rollout.filter(|rollout| rollout.watched_until().is_some()) {
            Some(watched) => {
                if let Some(next) = watched.take_following() {
                    self.tickets.reject(next.ticket, Failure::Superseded);
                }
                self.complete(id, Completion::CutShort);
            }
            None => self.undo(id, UndoCause::Superseded),
        }
    }

    /// A command undoes the reload that is going on.
    pub(crate) fn undo_by_command(&mut self, ticket: Ticket, id: AppId) {
        if self
            .rollout_mut(id)
            .is_some_and(|rollout| rollout.aim() == Aim::Renew)
        {
            self.undo(id, UndoCause::Unwanted);
        }
        match self.apps.get(id) {
            Some(app) => {
                let instances = app.instances().iter().copied().collect();
                self.tickets.succeed(ticket, instances, Vec::new());
            }
            None => self.tickets.reject(ticket, Failure::NoSuchApp),
        }
    }

    pub(crate) fn roll_out(&mut self, id: AppId, request: ReloadRequest) {
        let ReloadRequest {
            ticket,
            config,
            only,
            yields,
            then_scale,
        } = request;
        let Some(app) = self.apps.get_mut(id) else {
            return self.tickets.reject(ticket, Failure::NoSuchApp);
        };
        let takes_part = |id: &&InstanceId| {
            let meant = only.as_ref().is_none_or(|only| only.contains(id));
            let state = self.instances.state(**id);
            meant && state.is_some_and(State::is_reloaded)
        };
        let queued: BTreeSet<InstanceId> = app.instances().iter().filter(takes_part).copied().collect();
        let config = config.map_or_else(|| Arc::clone(app.config()), Arc::new);
        let former = app.renew(config);
        let (room, generation) = (app.room(), app.generation());
        let instances = u32::try_from(queued.len()).unwrap_or(u32::MAX);
        let mut rollout = Rollout::renew(ticket, former, queued, room, yields);
        rollout.set_then_scale(then_scale);
        app.start_rollout(rollout);
        self.note(Notice::ReloadBegun {
            app: id,
            generation,
            instances,
        });
        self.advance(id);
    }

    /// Starts as many candidates as may be starting and there is room for. When there is none left to start they are
    /// watched.
    pub(crate) fn advance(&mut self, id: AppId) {
        while let Some(app) = self.apps.get(id) {
            let Some(rollout) = app.rollout() else { return };
            if rollout.is_all_proved() {
                return self.watch(id);
            }
            let at_once = match app.config().parallel {
                0 => usize::MAX,
                limit => limit as usize,
            };
            if rollout.launching().len() >= at_once {
                return;
            }
            if !self.has_room(id) {
                return self.make_room(id);
            }
            let next = self.rollout_mut(id).and_then(Rollout::take_next);
            let Some(instance) = next else { return };
            self.start_candidate(instance);
        }
    }

    /// Every new worker is proved: the reload is complete when they have lasted.
    fn watch(&mut self, id: AppId) {
        let Some(app) = self.apps.get_mut(id) else { return };
        let time = app.config().policy.watch_after;
        let Some(rollout) = app.rollout_mut() else { return };
        if rollout.watched_until().is_some() {
            return;
        }
        if time.is_zero() || rollout.proved().is_empty() {
            return self.complete(id, Completion::Lasted);
        }
        let until = self.now + time;
        rollout.watch_until(until);
        self.timers.set(Timer::WatchEnds(id), until);
    }

    /// Starts the candidate of an instance, which has left the queue.
    fn start_candidate(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        let (app, state) = (instance.app(), instance.state());
        if !state.is_reloaded() {
            return;
        }
        match state {
            State::Waiting { until } => {
                let delay = until - self.now;
                self.await_candidate(id, AfterExit::Retry { delay });
            }
            State::Errored => self.await_candidate(id, AfterExit::Errored),
            State::Running { .. } | State::Stopping { .. } | State::Awaiting { .. } | State::Stopped => {}
        }
        let spawning = |give_up| WorkerState::CandidateSpawning { give_up };
        let Some(candidate) = self.launch(id, spawning) else {
            return;
        };
        if let Some(rollout) = self.rollout_mut(app) {
            rollout.launched(id, candidate);
        }
    }

    /// An instance that has no worker is about to get one of its own: if it waits for its turn in a reload, it
    /// gets its candidate now. Says whether it does.
    pub(crate) fn start_candidate_early(&mut self, id: InstanceId) -> bool {
        let queued = self.rollout_of(id).is_some_and(|it| it.take_queued(id));
        if queued {
            self.await_candidate(id, AfterExit::Restart);
            self.start_candidate(id);
        }
        queued
    }

    /// The instance has no worker of its own, and its candidate is to be its next.
    pub(crate) fn await_candidate(&mut self, id: InstanceId, then: AfterExit) {
        self.enter_instance(id, State::Awaiting { then });
    }

    /// The candidate of an instance has taken over. A reload that returns to the former generation is not undone, so there the
    /// predecessor drains at once.
    pub(crate) fn succeeded(&mut self, id: AppId, instance: InstanceId, proved: Proved) {
        let confirmed = self.rollout_mut(id).and_then(|it| it.succeeded(instance, proved));
        if let Some(proved) = confirmed {
            self.confirm(instance, proved);
        }
    }

    /// The new generation is there to stay.
    pub(crate) fn complete(&mut self, id: AppId, why: Completion) {
        self.timers.clear(Timer::WatchEnds(id));
        let Some(app) = self.apps.get_mut(id) else { return };
        let generation = app.generation();
        let Some(mut rollout) = app.take_rollout() else {
            return;
        };
        // New workers of what was there before leave what a rollback goes back to.
        let former = rollout.former_revision();
        if rollout.aim() == Aim::Renew && (former != app.config().revision || app.previous().is_none()) {
            app.set_previous(former);
        }
        self.note(Notice::ReloadDone {
            app: id,
            generation,
            returned: rollout.aim() == Aim::Return,
        });
        let mut silent = Vec::new();
        for (&instance, &proved) in rollout.proved() {
            silent.extend(self.confirm(instance, proved).then_some(instance));
            self.steering.close_outdated_slots(instance, generation);
        }
        for proved in rollout.proved().values() {
            match proved.predecessor {
                Predecessor::Standby(worker) => self.refuse_new_if_abandoned(worker),
                Predecessor::Gone(_) => {}
            }
        }
        let instances = rollout.proved().keys().copied().collect();
        match (rollout.then_scale(), why) {
            (None, _) => self.tickets.succeed(rollout.ticket(), instances, silent),
            (Some(count), Completion::Lasted) => self.scale(rollout.ticket(), id, count),
            (Some(_), Completion::CutShort) => self.tickets.reject(rollout.ticket(), Failure::Superseded),
        }
        if let Some(next) = rollout.take_following() {
            self.roll_out(id, next);
        }
    }

    /// The new worker of an instance is there to stay. Says whether it is silent.
    fn confirm(&mut self, id: InstanceId, proved: Proved) -> bool {
        self.drain_standby(proved.predecessor);
        let Some(instance) = self.instances.get_mut(id) else {
            return false;
        };
        instance.record_mut().forgive();
        if proved.counts {
            instance.record_mut().count_restart();
        }
        let State::Running { worker: own } = instance.state() else {
            return false;
        };
        // After a reload that was undone there may be slots which a worker of its generation has left.
        self.await_claims(own);
        let (Some(worker), Some(instance)) = (self.workers.get(own), self.instances.get_mut(id)) else {
            return false;
        };
        instance.set_footprint(worker.footprint.clone());
        matches!(worker.state(), WorkerState::Ready { silent: true, .. })
    }

    /// A standby is not needed any more.
    fn drain_standby(&mut self, predecessor: Predecessor) {
        match predecessor {
            Predecessor::Standby(worker) => self.drain(worker),
            Predecessor::Gone(_) => {}
        }
    }

    /// An instance has no standby any more: it ended, or it was not ready in time.
    pub(crate) fn standby_lost(&mut self, instance: InstanceId) {
        if let Some(rollout) = self.rollout_of(instance) {
            rollout.standby_lost(instance);
        }
    }

    /// The standbys of an app.
    pub(crate) fn standbys(&self, app: AppId) -> impl Iterator<Item = (WorkerId, &Worker)> + '_ {
        let rollout = self.apps.get(app).and_then(App::rollout);
        let proved = rollout.into_iter().flat_map(|rollout| rollout.proved().keys());
        proved.filter_map(|id| self.standby_of(*id))
    }

    /// The one of this instance.
    pub(crate) fn standby_of(&self, id: InstanceId) -> Option<(WorkerId, &Worker)> {
        match self.rollout(id)?.proved().get(&id)?.predecessor {
            Predecessor::Standby(worker) => Some((worker, self.workers.get(worker)?)),
            Predecessor::Gone(_) => None,
        }
    }

    /// Does the new worker of a reload that may still be undone serve this instance?
    pub(crate) fn is_proved(&self, id: InstanceId) -> bool {
        self.rollout(id).is_some_and(|it| it.proved().contains_key(&id))
    }

    /// Is the instance to have a worker of the generation before again, and waits for its turn?
    pub(crate) fn returns_to_former(&self, id: InstanceId) -> bool {
        let rollout = self.rollout(id);
        rollout.is_some_and(|it| it.aim() == Aim::Return && it.queued().contains(&id))
    }

    /// The candidate of an instance.
    pub(crate) fn candidate(&self, id: InstanceId) -> Option<WorkerId> {
        self.rollout(id)?.launching().get(&id).copied()
    }

    fn rollout(&self, id: InstanceId) -> Option<&Rollout> {
        self.apps.get(self.instances.app_of(id)?)?.rollout()
    }

    fn rollout_of(&mut self, id: InstanceId) -> Option<&mut Rollout> {
        let app = self.instances.app_of(id)?;
        self.rollout_mut(app)
    }

    pub(crate) fn rollout_mut(&mut self, id: AppId) -> Option<&mut Rollout> {
        self.apps.get_mut(id)?.rollout_mut()
    }
}
