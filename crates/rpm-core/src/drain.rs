//! Draining: how a worker leaves that is no longer needed.
//!
//! It goes out of steering, but keeps its slots and accepts, because a connection may be on its way to it. When it has nothing left to do,
//! cannot drain, or takes too long, it is terminated. Its slots are closed when it is gone.

use alloc::vec::Vec;

use crate::apps::{App, Instance, State};
use crate::core::{Core, Timer};
use crate::protocol::{Exit, Notice, Output};
use crate::restart::AfterExit;
use crate::steering::Role;
use crate::workers::{Intake, Place, Worker, WorkerState};
use crate::{AppId, InstanceId, WorkerId};

impl Core {
    /// Makes a worker leave for good. If it is ready, it drains; otherwise it has nothing to finish, and is terminated.
    pub(crate) fn drain(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let (instance, state, since) = (worker.instance, worker.state(), self.now);
        let until = since + worker.config.policy.drain_timeout;
        if let Some(instance) = self.instances.get_mut(instance) {
            instance.add_leaving(id);
        }
        self.timers.clear(Timer::Unclaimed(id));
        match state {
            WorkerState::Ready { spawned, .. } => {
                self.steering.serve(instance, id, Role::Draining);
                let draining = WorkerState::Draining {
                    spawned,
                    since,
                    until,
                    intake: Intake::Open,
                };
                self.enter(id, draining);
                self.note(Notice::Draining { worker: id });
                self.staged.push(Output::Drain { worker: id });
            }
            WorkerState::Spawning { .. }
            | WorkerState::Starting { .. }
            | WorkerState::CandidateSpawning { .. }
            | WorkerState::Candidate { .. }
            | WorkerState::Draining { .. }
            | WorkerState::Cancelled { .. }
            | WorkerState::Terminating { .. } => {
                self.steering.let_slots_end(instance, id);
                self.terminate(id, Place::Left { since });
            }
        }
    }

    /// A worker has nothing left to do. It keeps serving, up to its deadline, while no other worker accepts at an address that clients may
    /// return to.
    pub(crate) fn drained(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let WorkerState::Draining { intake, .. } = worker.state() else {
            return;
        };
        if intake == Intake::Open && self.steering.is_needed(worker.instance, id) {
            self.drained_but_needed.insert(id);
        } else {
            self.finish_drain(id);
        }
    }

    /// Has workers that had drained and then served, because nobody else did, drain once more when they are not needed any more: what they
    /// were given meanwhile they finish.
    pub(crate) fn drain_unneeded(&mut self) {
        let unneeded = |id: &&WorkerId| {
            let worker = self.workers.get(**id);
            !worker.is_some_and(|worker| self.steering.is_needed(worker.instance, **id))
        };
        let drained = self.drained_but_needed.iter();
        for id in drained.filter(unneeded).copied().collect::<Vec<_>>() {
            self.drain_again(id);
        }
    }

    /// Nobody looks at what a worker has left after it has drained.
    fn drain_again(&mut self, id: WorkerId) {
        let drains = matches!(self.workers.state(id), Some(WorkerState::Draining { .. }));
        if self.drained_but_needed.remove(&id) && drains {
            self.staged.push(Output::Drain { worker: id });
        }
    }

    /// Terminates a draining worker that has finished or run out of time.
    pub(crate) fn finish_drain(&mut self, id: WorkerId) {
        self.drained_but_needed.remove(&id);
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        if let WorkerState::Draining { since, intake, .. } = worker.state() {
            match intake {
                Intake::Refusing { .. } => self.steering.close_slots_of(worker.instance, id),
                Intake::Open => self.steering.let_slots_end(worker.instance, id),
            }
            self.terminate(id, Place::Left { since });
        }
    }

    /// Terminates the draining workers of an instance.
    pub(crate) fn finish_drains(&mut self, id: InstanceId) {
        let leaving = self.instances.get(id).map(|instance| instance.leaving().clone());
        for worker in leaving.into_iter().flatten() {
            self.finish_drain(worker);
        }
    }

    /// Ends an instance: its ready workers drain and, with `refuse_new`, refuse new clients, because no other worker serves them. `then` is
    /// `Stopped` or `Forgotten`.
    pub(crate) fn drain_all(&mut self, id: InstanceId, then: AfterExit, refuse_new: bool) {
        self.drain_own(id, then);
        let leaving = self.instances.get(id).map(|instance| instance.leaving().clone());
        for worker in leaving.into_iter().flatten() {
            let Some(held) = self.workers.get(worker) else {
                continue;
            };
            match held.state() {
                WorkerState::Draining { .. } if refuse_new => self.refuse_new(worker, false),
                WorkerState::Draining { .. } => {}
                WorkerState::Spawning { .. }
                | WorkerState::Starting { .. }
                | WorkerState::Ready { .. }
                | WorkerState::CandidateSpawning { .. }
                | WorkerState::Candidate { .. }
                | WorkerState::Cancelled { .. }
                | WorkerState::Terminating { .. } => self.steering.close_slots_of(id, worker),
            }
        }
    }

    /// Makes a draining worker close its listeners. With `keeps`, existing clients stay as long as they otherwise would.
    fn refuse_new(&mut self, id: WorkerId, keeps: bool) {
        let Some(WorkerState::Draining {
            spawned,
            since,
            until,
            intake,
        }) = self.workers.state(id)
        else {
            return;
        };
        let changes = match intake {
            Intake::Open => true,
            Intake::Refusing { keeps: kept } => kept && !keeps,
        };
        if changes {
            let refusing = WorkerState::Draining {
                spawned,
                since,
                until,
                intake: Intake::Refusing { keeps },
            };
            self.enter(id, refusing);
            self.drain_again(id);
            self.staged.push(Output::RefuseNew { worker: id, keeps });
        }
    }

    /// For a worker that was replaced by one that serves other addresses. If no other worker stays at an address that clients are steered
    /// to, they would keep coming to it, and it would end with some of them; so it refuses new ones.
    pub(crate) fn refuse_new_if_abandoned(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let is_draining = matches!(worker.state(), WorkerState::Draining { .. });
        if is_draining && self.steering.is_abandoned(worker.instance, id) {
            self.refuse_new(id, true);
        }
    }

    /// Makes the instance's own worker leave: if it is ready it drains, otherwise it is terminated.
    pub(crate) fn drain_own(&mut self, id: InstanceId, then: AfterExit) {
        let Some(state) = self.instances.state(id) else {
            return;
        };
        match state {
            State::Running { worker } if self.workers.is_ready(worker) => {
                self.enter_instance(id, State::Stopping { worker, then });
                self.steering.close_vacant_slots(id);
                self.drain(worker);
            }
            State::Running { .. }
            | State::Stopping { .. }
            | State::Waiting { .. }
            | State::Awaiting { .. }
            | State::Stopped
            | State::Errored => self.terminate_own(id, then),
        }
    }

    /// The process tree of a leaving worker is gone.
    pub(crate) fn leaving_worker_exited(&mut self, id: WorkerId, of: InstanceId, exit: Option<Exit>) {
        let Some(instance) = self.instances.get_mut(of) else {
            return;
        };
        instance.remove_leaving(id);
        let state = instance.state();
        self.drained_but_needed.remove(&id);
        match state {
            State::Stopping { worker, then } if worker == id => self.terminated(id, of, then, exit),
            State::Stopping { .. }
            | State::Running { .. }
            | State::Waiting { .. }
            | State::Awaiting { .. }
            | State::Stopped
            | State::Errored => {}
        }
    }

    /// The leaving workers of an app.
    pub(crate) fn leaving_workers(&self, app: AppId) -> impl Iterator<Item = (WorkerId, &Worker)> + '_ {
        let instances = self.apps.get(app).into_iter().flat_map(App::instances);
        instances
            .filter_map(|id| self.instances.get(*id))
            .flat_map(Instance::leaving)
            .filter_map(|id| Some((*id, self.workers.get(*id)?)))
    }
}
