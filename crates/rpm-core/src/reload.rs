//! Reload: a new generation starts beside the old one, and replaces it when all of it is proved.
//!
//! Every instance gets a *candidate*. A proved one takes over at once, and its predecessor becomes *standby*: out of steering as long as
//! another worker serves, and otherwise unchanged. When the last candidate is proved, and `watch_after` has passed since, the standbys
//! drain. If a new worker fails before, the standbys serve again and the new workers drain. Any other command for the app first undoes the
//! reload, or ends its watch, so an app is never left with half a generation.
//!
//! Without room for two generations, old workers drain before all is proved (`room`). Undoing then starts them again, by a reload in the
//! opposite direction (`Aim::Return`). If that fails, too, the last of the new workers drain, and their instances get workers of the old
//! generation as after any crash.

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
    /// Replaces the workers of some instances.
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

    /// Starts a reload, now or after the current one.
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

    /// Ends a reload that yields, if no serving worker is lost. If all its new workers serve they stay; otherwise the standbys serve again.
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

    /// Ends the current reload of an app, because a later command is about to change its instances. If all new workers serve and are only
    /// being watched, they stay.
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

    /// Undoes the current reload by command.
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

    /// Starts as many candidates as may be starting and have room. If none is left to start, the reload is watched.
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

    /// Every new worker is proved. The reload is complete when they have lasted.
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

    /// Starts the candidate of an instance that has left the queue.
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

    /// For an instance without a worker that is about to get one: if it waits for its turn in a reload, it gets its candidate now. Returns
    /// true if it does.
    pub(crate) fn start_candidate_early(&mut self, id: InstanceId) -> bool {
        let queued = self.rollout_of(id).is_some_and(|it| it.take_queued(id));
        if queued {
            self.await_candidate(id, AfterExit::Restart);
            self.start_candidate(id);
        }
        queued
    }

    /// The instance has no worker of its own; its candidate will be the next.
    pub(crate) fn await_candidate(&mut self, id: InstanceId, then: AfterExit) {
        self.enter_instance(id, State::Awaiting { then });
    }

    /// The candidate of an instance has taken over. A reload that returns to the previous generation is never undone, so there the
    /// predecessor drains at once.
    pub(crate) fn succeeded(&mut self, id: AppId, instance: InstanceId, proved: Proved) {
        let confirmed = self.rollout_mut(id).and_then(|it| it.succeeded(instance, proved));
        if let Some(proved) = confirmed {
            self.confirm(instance, proved);
        }
    }

    /// Makes the new generation permanent.
    pub(crate) fn complete(&mut self, id: AppId, why: Completion) {
        self.timers.clear(Timer::WatchEnds(id));
        let Some(app) = self.apps.get_mut(id) else { return };
        let generation = app.generation();
        let Some(mut rollout) = app.take_rollout() else {
            return;
        };
        // Replacing workers by others of the same revision does not change the target of a rollback.
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

    /// Makes the new worker of an instance permanent. Returns true if it is silent.
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
        // After an undone reload there may be slots that a worker of its generation has left.
        self.await_claims(own);
        let (Some(worker), Some(instance)) = (self.workers.get(own), self.instances.get_mut(id)) else {
            return false;
        };
        instance.set_early_addresses(worker.early_addresses.clone());
        matches!(worker.state(), WorkerState::Ready { silent: true, .. })
    }

    /// A standby is not needed any more.
    fn drain_standby(&mut self, predecessor: Predecessor) {
        match predecessor {
            Predecessor::Standby(worker) => self.drain(worker),
            Predecessor::Gone(_) => {}
        }
    }

    /// An instance has lost its standby: it ended, or did not get ready in time.
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

    /// The standby of this instance.
    pub(crate) fn standby_of(&self, id: InstanceId) -> Option<(WorkerId, &Worker)> {
        match self.rollout(id)?.proved().get(&id)?.predecessor {
            Predecessor::Standby(worker) => Some((worker, self.workers.get(worker)?)),
            Predecessor::Gone(_) => None,
        }
    }

    /// True if the new worker of a reload that may still be undone serves this instance.
    pub(crate) fn is_proved(&self, id: InstanceId) -> bool {
        self.rollout(id).is_some_and(|it| it.proved().contains_key(&id))
    }

    /// True if the instance waits for a worker of the previous generation.
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
