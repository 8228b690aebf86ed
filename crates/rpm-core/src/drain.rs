//! Draining: how a worker leaves that is not needed any more.
//!
//! It goes out of steering, but keeps its slots and goes on accepting: a connection may be on its way to it. When it has
//! nothing left to do, cannot drain, or takes too long, it is terminated; its slots are closed when it is gone.

use alloc::vec::Vec;

use crate::apps::{App, Instance, State};
use crate::core::{Core, Timer};
use crate::protocol::{Exit, Notice, Output};
use crate::restart::AfterExit;
use crate::steering::Role;
use crate::workers::{Intake, Place, Worker, WorkerState};
use crate::{AppId, InstanceId, WorkerId};

impl Core {
    /// A worker leaves for good. One that is ready drains; one that is not has nothing to finish, and is terminated.
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

    /// A worker has nothing left to do. While no other worker accepts where clients are about to come back it
    /// goes on, to the end of its time.
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

    /// Terminates the workers that have drained and are needed no more.
    pub(crate) fn terminate_unneeded(&mut self) {
        let unneeded = |id: &&WorkerId| {
            let worker = self.workers.get(**id);
            !worker.is_some_and(|worker| self.steering.is_needed(worker.instance, **id))
        };
        let drained = self.drained_but_needed.iter();
        for id in drained.filter(unneeded).copied().collect::<Vec<_>>() {
            self.finish_drain(id);
        }
    }

    /// Terminates a draining worker: it has no more time, or nothing left to do.
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

    /// Terminates the workers of an instance that drain.
    pub(crate) fn finish_drains(&mut self, id: InstanceId) {
        let leaving = self.instances.get(id).map(|instance| instance.leaving().clone());
        for worker in leaving.into_iter().flatten() {
            self.finish_drain(worker);
        }
    }

    /// The instance gets no worker any more: those that serve drain, and refuse new clients, if no other worker
    /// serves those (`refuse_new`). `then` is `Stopped` or `Forgotten`.
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

    /// A draining worker closes its listeners; it `keeps` the clients that it has until they would go anyway.
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
            self.drained_but_needed.remove(&id);
            self.staged.push(Output::RefuseNew { worker: id, keeps });
        }
    }

    /// A worker was replaced by one that serves other addresses. If clients are steered to its own address and no other worker
    /// stays there, they would go on coming to it, and it would end with some of them: it refuses new ones.
    pub(crate) fn refuse_new_if_abandoned(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let is_draining = matches!(worker.state(), WorkerState::Draining { .. });
        if is_draining && self.steering.is_abandoned(worker.instance, id) {
            self.refuse_new(id, true);
        }
    }

    /// The instance's own worker leaves: one that is ready drains, another one is terminated.
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

    /// The workers of an app that leave.
    pub(crate) fn leaving_workers(&self, app: AppId) -> impl Iterator<Item = (WorkerId, &Worker)> + '_ {
        let instances = self.apps.get(app).into_iter().flat_map(App::instances);
        instances
            .filter_map(|id| self.instances.get(*id))
            .flat_map(Instance::leaving)
            .filter_map(|id| Some((*id, self.workers.get(*id)?)))
    }
}
