//! Supervision: the life of a worker, and what its end means for its instance.

use alloc::sync::Arc;
use core::time::Duration;

use crate::apps::State;
use crate::core::{Core, Timer};
use crate::crash::failure;
use crate::protocol::{CrashVerdict, Exit, Failure, Notice, Output, Readiness};
use crate::restart::AfterExit;
use crate::workers::{Candidate, Health, Part, Post, Worker, WorkerState};
use crate::{InstanceId, Tick, WorkerId};

/// How long the shell may take to answer a spawn. Spawning takes milliseconds, and a thousand workers may be queued before this one.
const SPAWN_TIMEOUT: Duration = Duration::from_secs(30);

impl Core {
    /// Spawns a worker for an instance that has none.
    pub(crate) fn spawn(&mut self, id: InstanceId) {
        if self.start_candidate_early(id) {
            return;
        }
        let own = |give_up| WorkerState::Spawning {
            post: Post::Own,
            give_up,
        };
        let Some(worker) = self.launch(id, own) else {
            return;
        };
        let generation = self.workers.get(worker).map(|worker| worker.generation);
        self.enter_instance(id, State::Running { worker });
        if let (Some(instance), Some(generation)) = (self.instances.get_mut(id), generation) {
            instance.set_generation(generation);
        }
    }

    /// Spawns a worker for an instance, in the state that `state` builds from the shell's deadline.
    pub(crate) fn launch(&mut self, id: InstanceId, state: fn(Tick) -> WorkerState) -> Option<WorkerId> {
        let instance = self.instances.get(id)?;
        let app = self.apps.get(instance.app())?;
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        self.staged.push(Output::Spawn {
            worker,
            app: instance.app(),
            generation: app.generation(),
            revision: app.config().revision,
            instance: id,
            number: instance.number(),
        });
        let state = state(self.now + SPAWN_TIMEOUT);
        let new = Worker::new(id, app.generation(), Arc::clone(app.config()), state);
        self.workers.insert(worker, new);
        self.enter(worker, state);
        Some(worker)
    }

    /// The process of a worker runs.
    pub(crate) fn spawned(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let spawned = self.now;
        match worker.state() {
            WorkerState::Spawning { post, .. } => {
                let silent = self.is_known_to_be_silent(worker.instance);
                let ready_by = spawned + worker.time_to_be_ready(silent);
                let is_ready = worker.config.readiness == Readiness::Executed;
                let starting = WorkerState::Starting {
                    post,
                    spawned,
                    ready_by,
                };
                self.enter(id, starting);
                if is_ready {
                    self.online(id, false);
                }
            }
            WorkerState::CandidateSpawning { .. } => {
                let candidate = Candidate {
                    spawned,
                    review_at: spawned,
                    signalled: false,
                    health: Health::Unasked,
                };
                self.enter(id, WorkerState::Candidate(candidate));
                self.review(id);
            }
            WorkerState::Cancelled { place, .. } => self.send_terminate(id, spawned, place),
            WorkerState::Starting { .. }
            | WorkerState::Ready { .. }
            | WorkerState::Candidate { .. }
            | WorkerState::Draining { .. }
            | WorkerState::Terminating { .. } => {}
        }
    }

    /// The deadline of a worker's state has passed.
    pub(crate) fn state_expired(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let (within, readiness) = (worker.config.policy.start_timeout, worker.config.readiness);
        match worker.state() {
            WorkerState::Spawning { .. } | WorkerState::CandidateSpawning { .. } => {
                self.not_ready(id, SPAWN_TIMEOUT);
            }
            WorkerState::Candidate { .. } => self.review(id),
            WorkerState::Starting { .. } => match readiness {
                Readiness::Announces => self.not_ready(id, within),
                Readiness::Listens | Readiness::Executed | Readiness::Runs => {
                    self.online(id, self.is_silent(id));
                }
            },
            WorkerState::Draining { .. } => self.finish_drain(id),
            WorkerState::Cancelled { place, kill } => {
                let kill = self.kill(id, kill);
                self.enter(id, WorkerState::Cancelled { place, kill });
            }
            WorkerState::Terminating { spawned, place, kill } => {
                let kill = self.kill(id, kill);
                let terminating = WorkerState::Terminating { spawned, place, kill };
                self.enter(id, terminating);
            }
            WorkerState::Ready { .. } => {}
        }
    }

    /// The back-off of an instance is over.
    pub(crate) fn respawn(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        if let State::Waiting { .. } = instance.state() {
            instance.record_mut().count_restart();
            self.spawn(id);
        }
    }

    /// Forgets a worker that has no process any more. `exit` is how it ended; `None` if it never had one.
    pub(crate) fn worker_exited(&mut self, id: WorkerId, exit: Option<Exit>) {
        let Some(worker) = self.workers.forget(id) else {
            return;
        };
        self.timers.clear(Timer::State(id));
        self.timers.clear(Timer::Unclaimed(id));
        let of = worker.instance;
        // Its instance may be forgotten with it.
        let app = self.instances.app_of(of);
        if let Some(instance) = self.instances.get_mut(of) {
            instance.note_exit(exit);
        }
        match worker.state().part() {
            Part::Own => {
                self.steering.vacate_slots_of(of, id);
                self.own_worker_exited(id, &worker, exit);
            }
            Part::Standby { .. } => {
                self.steering.vacate_slots_of(of, id);
                self.note_crash((id, of), exit, AfterExit::Stopped, CrashVerdict::Reload);
                self.standby_lost(of);
            }
            Part::Candidate => {
                self.steering.close_slots_of(of, id);
                self.note_crash((id, of), exit, AfterExit::Stopped, CrashVerdict::Reload);
                self.candidate_failed(of, id, failure(exit));
            }
            Part::Leaving { .. } => {
                self.steering.close_slots_of(of, id);
                self.leaving_worker_exited(id, of, exit);
            }
        }
        self.advance_reload(app);
    }

    /// As [`Core::worker_exited`], for an instance's own worker.
    fn own_worker_exited(&mut self, id: WorkerId, worker: &Worker, exit: Option<Exit>) {
        let of = worker.instance;
        match self.instances.state(of) {
            Some(State::Running { .. }) if self.is_proved(of) => {
                self.note_crash((id, of), exit, AfterExit::Stopped, CrashVerdict::Reload);
                self.candidate_failed(of, id, exit.map_or(Failure::SpawnFailed, Failure::Crashed));
            }
            Some(State::Running { .. }) => self.crashed(id, worker, exit),
            Some(State::Stopping { then, .. }) => self.terminated(id, of, then, exit),
            Some(State::Waiting { .. } | State::Awaiting { .. } | State::Stopped | State::Errored) | None => {
            }
        }
    }

    pub(crate) fn note(&mut self, notice: Notice) {
        self.staged.push(Output::Notice(notice));
    }

    /// Decides what an instance without a worker does.
    pub(crate) fn proceed(&mut self, id: InstanceId, then: AfterExit) {
        if self.candidate(id).is_some() {
            return self.await_candidate(id, then);
        }
        match then {
            AfterExit::Restart => self.spawn(id),
            AfterExit::Retry { delay } => {
                let until = self.now + delay;
                self.enter_instance(id, State::Waiting { until });
            }
            AfterExit::Stopped | AfterExit::Errored | AfterExit::Forgotten => self.stop_instance(id, then),
        }
    }

    /// Puts a worker into a state and sets the state's deadline.
    pub(crate) fn enter(&mut self, id: WorkerId, state: WorkerState) {
        if !self.workers.contains(id) {
            return;
        }
        self.workers.set_state(id, state);
        match state.deadline() {
            Some(at) => self.timers.set(Timer::State(id), at),
            None => self.timers.clear(Timer::State(id)),
        }
    }

    /// Puts an instance into a state and sets the state's deadline.
    pub(crate) fn enter_instance(&mut self, id: InstanceId, state: State) {
        if !self.instances.contains(id) {
            return;
        }
        self.instances.set_state(id, state);
        match state.deadline() {
            Some(at) => self.timers.set(Timer::Respawn(id), at),
            None => self.timers.clear(Timer::Respawn(id)),
        }
    }
}
