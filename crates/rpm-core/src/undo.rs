//! Undoing a reload: the old generation serves again.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use crate::apps::State;
use crate::core::{Core, Timer};
use crate::protocol::{Failure, Notice, UndoCause};
use crate::restart::AfterExit;
use crate::rollout::{Aim, Predecessor, ReloadRequest, Rollout};
use crate::workers::Post;
use crate::{AppId, Generation, InstanceId, Ticket, WorkerId};

impl Core {
    /// Lets the old generation serve again.
    pub(crate) fn undo(&mut self, id: AppId, cause: UndoCause) {
        self.timers.clear(Timer::WatchEnds(id));
        let Some(app) = self.apps.get_mut(id) else { return };
        let Some(mut rollout) = app.take_rollout() else {
            return;
        };
        let removed = app.generation();
        app.go_back(rollout.former());
        let generation = app.generation();
        self.note(Notice::ReloadUndone {
            app: id,
            generation: removed,
            cause,
        });
        let mut without_predecessor = BTreeSet::new();
        for (&instance, proved) in rollout.proved() {
            if self.lost_predecessor(instance, proved.predecessor) {
                without_predecessor.insert(instance);
            } else {
                self.reinstate(instance, proved.predecessor);
                self.steering.close_outdated_slots(instance, generation);
            }
        }
        let launching = rollout.launching().keys().copied();
        let pending: Vec<_> = launching.chain(rollout.queued().iter().copied()).collect();
        for (&instance, &candidate) in rollout.launching() {
            self.drain(candidate);
            if let Some(State::Awaiting { then }) = self.instances.state(instance) {
                self.proceed(instance, then);
            }
        }
        let lost = match (rollout.aim(), cause) {
            (Aim::Return, _) => pending,
            (Aim::Renew, UndoCause::Superseded) => mem::take(&mut without_predecessor).into_iter().collect(),
            (Aim::Renew, UndoCause::Failed { .. } | UndoCause::Unwanted) => Vec::new(),
        };
        for instance in lost {
            self.replace_outdated(instance, generation);
        }
        let next = self.undone(rollout.ticket(), rollout.take_following(), cause);
        if !without_predecessor.is_empty() {
            self.return_to_former(id, without_predecessor, next);
        } else if let Some(next) = next {
            self.roll_out(id, next);
        }
    }

    /// Settles the tickets of an undone reload. Returns the reload that follows, if it still does.
    fn undone(
        &mut self,
        ticket: Ticket,
        next: Option<ReloadRequest>,
        cause: UndoCause,
    ) -> Option<ReloadRequest> {
        let follows = match cause {
            UndoCause::Failed {
                instance,
                worker,
                failure,
            } => {
                self.tickets.reject_for_worker(ticket, instance, worker, failure);
                return next;
            }
            UndoCause::Superseded | UndoCause::Unwanted => next.map(|next| next.ticket),
        };
        for ticket in [Some(ticket), follows].into_iter().flatten() {
            self.tickets.reject(ticket, Failure::Superseded);
        }
        None
    }

    /// True if an instance has lost its predecessor, and its successor serves.
    fn lost_predecessor(&self, id: InstanceId, predecessor: Predecessor) -> bool {
        predecessor == Predecessor::Gone(AfterExit::Restart) && self.is_served(id)
    }

    /// Starts a reload back to the previous generation for these instances, which are served by new workers until then.
    fn return_to_former(&mut self, id: AppId, instances: BTreeSet<InstanceId>, next: Option<ReloadRequest>) {
        let Some(app) = self.apps.get_mut(id) else { return };
        let present = (app.generation(), Arc::clone(app.config()));
        app.start_rollout(Rollout::back(present, instances, app.room(), next));
        self.advance(id);
    }

    /// Replaces an instance's worker in the ordinary way if it is not of this generation.
    fn replace_outdated(&mut self, id: InstanceId, generation: Generation) {
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        if let State::Running { worker } = instance.state()
            && instance.generation() != generation
        {
            self.enter_instance(id, State::Stopped);
            self.drain(worker);
            self.steering.close_outdated_slots(id, generation);
            self.spawn(id);
        }
    }

    /// Lets the predecessor serve again, or the instance continue without one.
    fn reinstate(&mut self, id: InstanceId, predecessor: Predecessor) {
        let Some(State::Running { worker: successor }) = self.instances.state(id) else {
            return;
        };
        match predecessor {
            Predecessor::Standby(worker) => {
                self.enter_instance(id, State::Running { worker });
                self.drain(successor);
                self.resume(id, worker);
            }
            Predecessor::Gone(then) => {
                self.enter_instance(id, State::Awaiting { then });
                self.drain(successor);
                self.proceed(id, then);
            }
        }
    }

    fn resume(&mut self, of: InstanceId, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let (state, generation) = (worker.state().at_post(Post::Own), worker.generation);
        self.enter(id, state);
        if let Some(instance) = self.instances.get_mut(of) {
            instance.set_generation(generation);
        }
        if let Some(role) = state.role() {
            self.steering.serve(of, id, role);
        }
        self.await_claims(id);
    }

    /// A new worker ended, or did not get ready in time, before the reload was complete.
    pub(crate) fn candidate_failed(&mut self, instance: InstanceId, worker: WorkerId, failure: Failure) {
        let Some(app) = self.instances.app_of(instance) else {
            return;
        };
        let cause = UndoCause::Failed {
            instance,
            worker,
            failure,
        };
        self.undo(app, cause);
    }
}
