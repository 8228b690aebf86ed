//! Supervision: the life of a worker, and what its end means for its instance.

use alloc::sync::Arc;
use core::time::Duration;

use crate::core::{Core, Timer};
use crate::instance::{State, Then};
use crate::protocol::{Exit, Failure, Notice, Output, Readiness};
use crate::restart::Verdict;
use crate::tickets::Reached;
use crate::worker::{Killing, Phase, Worker};
use crate::{InstanceId, WorkerId};

/// How long the shell may take to answer a spawn. Spawning takes milliseconds, and a thousand
/// workers may be queued before this one.
const SPAWN_TIMEOUT: Duration = Duration::from_secs(30);
/// Least and most time between two SIGKILLs: a tree that one does not end is stuck in the kernel.
const KILL_AGAIN_MIN: Duration = Duration::from_millis(100);
const KILL_AGAIN_MAX: Duration = Duration::from_secs(30);

impl Core {
    /// Another worker for an instance that has none.
    pub(crate) fn spawn(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let Some(app) = self.apps.get(&instance.app) else {
            return;
        };
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        instance.state = State::Running { worker };
        instance.generation = app.generation;
        self.staged.push(Output::Spawn {
            worker,
            app: instance.app,
            generation: app.generation,
            instance: id,
            number: instance.number,
        });
        let give_up = self.now + SPAWN_TIMEOUT;
        self.timers.set(Timer::Phase(worker), give_up);
        let new = Worker {
            instance: id,
            generation: app.generation,
            config: Arc::clone(&app.config),
            spawned: None,
            answers: false,
            phase: Phase::Spawning { give_up },
        };
        self.workers.insert(worker, new);
    }

    /// The process of a worker runs.
    pub(crate) fn spawned(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        match worker.phase {
            Phase::Spawning { .. } => {
                worker.spawned = Some(self.now);
                let ready_by = self.now + worker.config.policy.listen_timeout;
                let readiness = worker.config.readiness;
                self.enter(id, Phase::Launching { ready_by });
                match readiness {
                    Readiness::Executed => self.online(id, false),
                    Readiness::Listens | Readiness::Announces => {}
                }
            }
            Phase::Cancelled(_) => {
                worker.spawned = Some(self.now);
                self.terminate(id);
            }
            Phase::Launching { .. } | Phase::Online { .. } | Phase::Stopping(_) => {}
        }
    }

    pub(crate) fn listening(&mut self, id: WorkerId) {
        if self.becomes_ready_by(id, Readiness::Listens) {
            self.online(id, false);
        }
    }

    pub(crate) fn ready(&mut self, id: WorkerId) {
        if self.becomes_ready_by(id, Readiness::Announces) {
            self.online(id, false);
        }
    }

    /// The end of a worker's phase has come.
    pub(crate) fn phase_ended(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let within = worker.config.policy.listen_timeout;
        match (worker.phase, worker.config.readiness) {
            (Phase::Spawning { .. }, _) => self.not_ready(id, SPAWN_TIMEOUT),
            (Phase::Launching { .. }, Readiness::Announces) => self.not_ready(id, within),
            (Phase::Launching { .. }, Readiness::Listens | Readiness::Executed) => {
                let silent = !self.steering.is_holder(worker.instance, id);
                self.online(id, silent);
            }
            (Phase::Cancelled(killing), _) => self.kill(id, killing, Phase::Cancelled),
            (Phase::Stopping(killing), _) => self.kill(id, killing, Phase::Stopping),
            (Phase::Online { .. }, _) => {}
        }
    }

    /// A worker did not take over these slots in time, so it never will.
    pub(crate) fn close_unclaimed(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get(&id) {
            self.steering.close_unclaimed(worker.instance);
        }
    }

    /// The back-off of an instance is over.
    pub(crate) fn respawn(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        if let State::Waiting { .. } = instance.state {
            instance.record.count_restart();
            self.spawn(id);
        }
    }

    /// The running worker of an instance shall end; `then` decides what becomes of its slots.
    pub(crate) fn end(&mut self, id: InstanceId, worker: WorkerId, then: Then) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        instance.state = State::Stopping { worker, then };
        if then.returns() {
            self.steering.idle(id, worker);
        } else {
            self.steering.close_all(id);
        }
        self.timers.clear(Timer::Unclaimed(worker));
        match self.workers.get(&worker).map(|worker| worker.phase) {
            Some(Phase::Spawning { give_up }) => {
                let killing = Killing {
                    at: give_up.max(self.now + KILL_AGAIN_MIN),
                    again: KILL_AGAIN_MIN,
                };
                self.enter(worker, Phase::Cancelled(killing));
            }
            Some(Phase::Launching { .. } | Phase::Online { .. }) => self.terminate(worker),
            Some(Phase::Cancelled(_) | Phase::Stopping(_)) | None => {}
        }
    }

    /// A worker has no process any more (`exit`: how it ended; `None`: it never had one).
    pub(crate) fn gone(&mut self, id: WorkerId, exit: Option<Exit>) {
        let Some(worker) = self.workers.remove(&id) else {
            return;
        };
        self.timers.clear(Timer::Phase(id));
        self.timers.clear(Timer::Unclaimed(id));
        self.steering.vacate(worker.instance, id);
        let Some(instance) = self.instances.get_mut(&worker.instance) else {
            return;
        };
        instance.last_exit = exit.or(instance.last_exit);
        match instance.state {
            State::Running { .. } => self.crashed(id, &worker, exit),
            State::Stopping { then, .. } => self.ended(id, worker.instance, then, exit),
            State::Waiting { .. } | State::Stopped | State::Errored => {}
        }
    }

    /// A worker ended without being asked to.
    fn crashed(&mut self, id: WorkerId, worker: &Worker, exit: Option<Exit>) {
        if !worker.phase.is_online() {
            let failure = exit.map_or(Failure::SpawnFailed, Failure::Exited);
            self.tickets.failed(worker.instance, id, failure);
        }
        let Some(instance) = self.instances.get_mut(&worker.instance) else {
            return;
        };
        let life = worker.life(self.now);
        let then = match instance.record.judge(life, &worker.config.policy, &mut self.rng) {
            Verdict::Now => {
                instance.record.count_restart();
                Then::Restart
            }
            Verdict::After(delay) => Then::Retry { delay },
            Verdict::Errored => Then::Errored,
            Verdict::Stopped => Then::Stopped,
        };
        self.note_crash(id, exit, then);
        self.follow(worker.instance, then);
    }

    /// A worker that was asked to end has ended.
    fn ended(&mut self, id: WorkerId, instance: InstanceId, then: Then, exit: Option<Exit>) {
        match then {
            Then::Retry { .. } | Then::Errored => self.note_crash(id, exit, then),
            Then::Stopped | Then::Restart | Then::Forgotten => {}
        }
        self.follow(instance, then);
    }

    fn note_crash(&mut self, worker: WorkerId, exit: Option<Exit>, then: Then) {
        let retry_in = match then {
            Then::Restart => Some(Duration::ZERO),
            Then::Retry { delay } => Some(delay),
            Then::Stopped | Then::Errored | Then::Forgotten => None,
        };
        self.staged.push(Output::Notice(Notice::Crashed {
            worker,
            exit,
            retry_in,
        }));
    }

    /// The instance has no worker: what now?
    fn follow(&mut self, id: InstanceId, then: Then) {
        match then {
            Then::Restart => self.spawn(id),
            Then::Retry { delay } => {
                let until = self.now + delay;
                self.timers.set(Timer::Respawn(id), until);
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.state = State::Waiting { until };
                }
            }
            Then::Stopped | Then::Errored | Then::Forgotten => self.rest(id, then),
        }
    }

    /// A worker is ready. One that was taken for silent may become so a second time.
    fn online(&mut self, id: WorkerId, silent: bool) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let (instance, wait) = (worker.instance, worker.config.policy.listen_timeout);
        let since = match worker.phase {
            Phase::Online { silent: false, .. } => return,
            Phase::Online { since, silent: true } => since,
            Phase::Spawning { .. } | Phase::Launching { .. } => {
                self.steering.serve(instance, id);
                self.now
            }
            Phase::Cancelled(_) | Phase::Stopping(_) => return,
        };
        self.enter(id, Phase::Online { since, silent });
        if self.steering.unclaimed(instance).next().is_some() {
            self.timers.set(Timer::Unclaimed(id), self.now + wait);
        }
        self.staged
            .push(Output::Notice(Notice::Online { worker: id, silent }));
        self.tickets.reached(instance, Reached::Online { silent });
    }

    /// A worker failed to become ready: it ends, as if it had failed young.
    fn not_ready(&mut self, id: WorkerId, within: Duration) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let (id_of_instance, life) = (worker.instance, worker.life(self.now));
        let Some(instance) = self.instances.get_mut(&id_of_instance) else {
            return;
        };
        let then = match instance.record.judge(life, &worker.config.policy, &mut self.rng) {
            Verdict::Now => Then::Retry {
                delay: Duration::ZERO,
            },
            Verdict::After(delay) => Then::Retry { delay },
            Verdict::Errored => Then::Errored,
            Verdict::Stopped => Then::Stopped,
        };
        self.tickets
            .failed(id_of_instance, id, Failure::NotReady { within });
        self.end(id_of_instance, id, then);
    }

    fn terminate(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let timeout = worker.config.policy.kill_timeout;
        let again = timeout.clamp(KILL_AGAIN_MIN, KILL_AGAIN_MAX);
        self.staged.push(Output::Terminate { worker: id });
        self.enter(
            id,
            Phase::Stopping(Killing {
                at: self.now + timeout,
                again,
            }),
        );
    }

    fn kill(&mut self, id: WorkerId, killing: Killing, phase: fn(Killing) -> Phase) {
        self.staged.push(Output::Kill { worker: id });
        let again = (killing.again * 2).min(KILL_AGAIN_MAX);
        self.enter(
            id,
            phase(Killing {
                at: self.now + killing.again,
                again,
            }),
        );
    }

    /// Is this what the worker's readiness waits for? A word from its process also says that it runs.
    fn becomes_ready_by(&mut self, id: WorkerId, readiness: Readiness) -> bool {
        let Some(worker) = self.workers.get(&id) else {
            return false;
        };
        let matches = worker.config.readiness == readiness;
        if let Phase::Spawning { .. } = worker.phase {
            self.spawned(id);
        }
        matches
    }

    fn enter(&mut self, id: WorkerId, phase: Phase) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.phase = phase;
        match phase.deadline() {
            Some(at) => self.timers.set(Timer::Phase(id), at),
            None => self.timers.clear(Timer::Phase(id)),
        }
    }
}
