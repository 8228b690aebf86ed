//! Supervision: the life of a worker, and what its end means for its instance.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use core::time::Duration;

use crate::core::{Core, Timer};
use crate::crash::failure;
use crate::instance::{Instance, State, Then};
use crate::proof::Footprint;
use crate::protocol::{Exit, Failure, Notice, Output, Readiness};
use crate::restart::Verdict;
use crate::tickets::Reached;
use crate::worker::{Duty, Health, Killing, Phase, Worker};
use crate::{InstanceId, WorkerId};

/// A worker that has had no CPU is looked at again after this.
const STARVED_PAUSE: Duration = Duration::from_millis(100);

/// How long the shell may take to answer a spawn. Spawning takes milliseconds, and a thousand
/// workers may be queued before this one.
const SPAWN_TIMEOUT: Duration = Duration::from_secs(30);
/// Least and most time between two SIGKILLs: a tree that one does not end is stuck in the kernel.
const KILL_AGAIN_MIN: Duration = Duration::from_millis(100);
const KILL_AGAIN_MAX: Duration = Duration::from_secs(30);

impl Core {
    /// Another worker for an instance that has none.
    pub(crate) fn spawn(&mut self, id: InstanceId) {
        if self.begin_early(id) {
            return;
        }
        let Some(worker) = self.launch(id, Duty::Serve) else {
            return;
        };
        let generation = self.workers.get(&worker).map(|worker| worker.generation);
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.state = State::Running { worker };
            instance.generation = generation.unwrap_or(instance.generation);
        }
    }

    /// A new worker for an instance.
    pub(crate) fn launch(&mut self, id: InstanceId, duty: Duty) -> Option<WorkerId> {
        let instance = self.instances.get(&id)?;
        let app = self.apps.get(&instance.app)?;
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        self.staged.push(Output::Spawn {
            worker,
            app: instance.app,
            generation: app.generation,
            revision: app.config.revision,
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
            heard: false,
            footprint: Footprint::default(),
            shared: BTreeSet::new(),
            refuses: false,
            keeps: false,
            health: Health::Unasked,
            duty,
            phase: Phase::Spawning { give_up },
        };
        self.workers.insert(worker, new);
        Some(worker)
    }

    /// The process of a worker runs.
    pub(crate) fn spawned(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        match worker.phase {
            Phase::Spawning { .. } => {
                worker.spawned = Some(self.now);
                let ready_by = self.now
                    + worker.time_to_be_ready(is_known_to_be_silent(&self.instances, worker.instance));
                let (duty, readiness) = (worker.duty, worker.config.readiness);
                self.enter(id, Phase::Launching { ready_by });
                match (duty, readiness) {
                    (Duty::Prove, _) => self.review(id),
                    (Duty::Serve | Duty::StandBy { .. }, Readiness::Executed) => self.online(id, false),
                    (
                        Duty::Serve | Duty::StandBy { .. } | Duty::Retire { .. },
                        Readiness::Executed | Readiness::Runs | Readiness::Listens | Readiness::Announces,
                    ) => {}
                }
            }
            Phase::Cancelled(_) => {
                worker.spawned = Some(self.now);
                self.terminate(id);
            }
            Phase::Launching { .. } | Phase::Online { .. } | Phase::Draining { .. } | Phase::Stopping(_) => {}
        }
    }

    pub(crate) fn listening(&mut self, id: WorkerId) {
        if self.becomes_ready_by(id, Readiness::Listens) {
            self.heard(id);
        }
        self.opened(id, None);
    }

    /// A worker is as ready as it can be before the cut-over.
    pub(crate) fn withheld(&mut self, id: WorkerId) {
        // What does not run has asked for nothing.
        if self
            .workers
            .get(&id)
            .is_none_or(|worker| worker.spawned.is_none())
        {
            return;
        }
        self.becomes_ready_by(id, Readiness::Listens);
        self.opened(id, None);
        self.heard(id);
    }

    pub(crate) fn ready(&mut self, id: WorkerId) {
        if self.becomes_ready_by(id, Readiness::Announces) {
            self.heard(id);
        }
    }

    /// A worker gave the word that its readiness waits for.
    fn heard(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.heard = true;
        match worker.duty {
            Duty::Prove => self.review(id),
            Duty::Serve | Duty::StandBy { .. } => self.online(id, false),
            Duty::Retire { .. } => {}
        }
    }

    /// The end of a worker's phase has come.
    pub(crate) fn phase_ended(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let within = worker.config.policy.start_timeout;
        match (worker.phase, worker.config.readiness) {
            (Phase::Spawning { .. }, _) => self.not_ready(id, SPAWN_TIMEOUT),
            (Phase::Launching { .. }, _) if worker.duty == Duty::Prove => self.review(id),
            (Phase::Launching { .. }, Readiness::Announces) => self.not_ready(id, within),
            (Phase::Launching { .. }, Readiness::Listens | Readiness::Executed | Readiness::Runs) => {
                self.online(id, self.is_silent(id));
            }
            (Phase::Draining { .. }, _) => self.cut(id),
            (Phase::Cancelled(killing), _) => self.kill(id, killing, Phase::Cancelled),
            (Phase::Stopping(killing), _) => self.kill(id, killing, Phase::Stopping),
            (Phase::Online { .. }, _) => {}
        }
    }

    /// A worker that is ready if it lives has had little of the CPU.
    pub(crate) fn starved(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.is_ready_by_living()) else {
            return;
        };
        let latest = worker.spawned.unwrap_or(self.now) + worker.config.policy.listen_timeout;
        let ready_by = latest.min(self.now + STARVED_PAUSE);
        if worker.phase.deadline().is_some_and(|due| due < ready_by) {
            self.enter(id, Phase::Launching { ready_by });
        }
    }

    /// A worker that should listen does nothing any more.
    pub(crate) fn rests(&mut self, id: WorkerId) {
        if self.workers.get(&id).is_some_and(Worker::should_listen) {
            self.online(id, self.is_silent(id));
        }
    }

    /// A worker did not take over these slots in time, so it never will.
    pub(crate) fn close_unclaimed(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get(&id) {
            self.steering.close_vacant(worker.instance);
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
            self.steering.close_own(id);
        }
        self.timers.clear(Timer::Unclaimed(worker));
        self.dismiss(worker);
    }

    /// A worker shall end, as soon as it has a process that can be told to.
    pub(crate) fn dismiss(&mut self, worker: WorkerId) {
        match self.workers.get(&worker).map(|worker| worker.phase) {
            Some(Phase::Spawning { give_up }) => {
                let killing = Killing {
                    at: give_up.max(self.now + KILL_AGAIN_MIN),
                    again: KILL_AGAIN_MIN,
                };
                self.enter(worker, Phase::Cancelled(killing));
            }
            Some(Phase::Launching { .. } | Phase::Online { .. } | Phase::Draining { .. }) => {
                self.terminate(worker);
            }
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
        let of = worker.instance;
        // Its instance may be forgotten with it.
        let app = self.instances.get(&of).map(|instance| instance.app);
        if let Some(instance) = self.instances.get_mut(&of) {
            instance.last_exit = exit.or(instance.last_exit);
        }
        match worker.duty {
            Duty::Serve => {
                self.steering.vacate(of, id);
                self.own_gone(id, &worker, exit);
            }
            Duty::StandBy { .. } => {
                self.steering.vacate(of, id);
                self.note_crash(id, exit, Then::Stopped);
                self.stand_by_lost(of);
            }
            Duty::Prove => {
                self.steering.close_of(of, id);
                self.note_crash(id, exit, Then::Stopped);
                self.candidate_failed(of, id, failure(exit));
            }
            Duty::Retire { .. } => {
                self.steering.close_of(of, id);
                self.retired(id, of, exit);
            }
        }
        self.reconsider(app);
    }

    /// The same, for an instance's own worker.
    fn own_gone(&mut self, id: WorkerId, worker: &Worker, exit: Option<Exit>) {
        let of = worker.instance;
        match self.instances.get(&of).map(|instance| instance.state) {
            Some(State::Running { .. }) if self.is_proved(of) => {
                self.note_crash(id, exit, Then::Stopped);
                self.candidate_failed(of, id, exit.map_or(Failure::SpawnFailed, Failure::Crashed));
            }
            Some(State::Running { .. }) => self.crashed(id, worker, exit),
            Some(State::Stopping { then, .. }) => self.ended(id, of, then, exit),
            Some(State::Waiting { .. } | State::Awaiting { .. } | State::Stopped | State::Errored) | None => {
            }
        }
    }

    pub(crate) fn note(&mut self, notice: Notice) {
        self.staged.push(Output::Notice(notice));
    }

    /// The instance has no worker: what now?
    pub(crate) fn follow(&mut self, id: InstanceId, then: Then) {
        if self.candidate(id).is_some() {
            return self.await_candidate(id, then);
        }
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
        let (instance, duty) = (worker.instance, worker.duty);
        let since = match worker.phase {
            Phase::Online { silent: false, .. } => return,
            Phase::Online { since, silent: true } => since,
            Phase::Spawning { .. } | Phase::Launching { .. } => self.now,
            Phase::Draining { .. } | Phase::Cancelled(_) | Phase::Stopping(_) => return,
        };
        self.enter(id, Phase::Online { since, silent });
        if let Some(role) = self.workers.get(&id).and_then(Worker::role) {
            self.steering.serve(instance, id, role);
        }
        self.compare(id);
        if duty == Duty::Serve {
            self.await_claims(id);
        }
        self.note(Notice::Online { worker: id, silent });
        self.tickets.reached(instance, Reached::Online { silent });
        let app = self.instances.get(&instance).map(|instance| instance.app);
        self.reconsider(app);
    }

    /// What a worker that is ready has not taken over yet, it must take soon.
    pub(crate) fn await_claims(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get(&id)
            && worker.phase.is_online()
            && self.steering.unclaimed(worker.instance).next().is_some()
        {
            let until = self.now + worker.config.policy.listen_timeout;
            self.timers.set(Timer::Unclaimed(id), until);
        }
    }

    /// Does a worker that is ready, or taken to be, listen on nothing?
    pub(crate) fn is_silent(&self, id: WorkerId) -> bool {
        self.workers
            .get(&id)
            .is_some_and(|worker| match worker.config.readiness {
                Readiness::Executed | Readiness::Runs | Readiness::Announces => false,
                Readiness::Listens => !worker.heard && !self.steering.is_holder(worker.instance, id),
            })
    }

    /// What a worker serves has changed: if it is what a candidate is measured by, so has the measure.
    pub(crate) fn compare(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let of = worker.instance;
        let is_measure = match worker.duty {
            Duty::Prove => return self.review(id),
            Duty::Serve => worker.phase.is_online() && !self.is_proved(of),
            Duty::StandBy { .. } => worker.phase.is_online(),
            Duty::Retire { .. } => false,
        };
        if !is_measure {
            return;
        }
        let footprint = worker.footprint.clone();
        if let Some(instance) = self.instances.get_mut(&of) {
            instance.footprint = Some(footprint);
        }
        if let Some(candidate) = self.candidate(of) {
            self.review(candidate);
        }
    }

    /// A worker failed to become ready: it ends, as if it had failed young.
    pub(crate) fn not_ready(&mut self, id: WorkerId, within: Duration) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let of = worker.instance;
        match worker.duty {
            Duty::Serve => self.own_not_ready(id, within),
            Duty::Prove => self.candidate_failed(of, id, Failure::NotReady { within }),
            Duty::StandBy { .. } => {
                self.retire(id);
                self.stand_by_lost(of);
            }
            Duty::Retire { .. } => {}
        }
    }

    fn own_not_ready(&mut self, id: WorkerId, within: Duration) {
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

    pub(crate) fn terminate(&mut self, id: WorkerId) {
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
        let listens = (worker.config.readiness, readiness) == (Readiness::Runs, Readiness::Listens);
        let matches = worker.config.readiness == readiness || listens;
        if let Phase::Spawning { .. } = worker.phase {
            self.spawned(id);
        }
        matches
    }

    pub(crate) fn enter(&mut self, id: WorkerId, phase: Phase) {
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

/// Has an instance's last ready worker listened on nothing? Where it had none: those of the other instances of the app?
fn is_known_to_be_silent(instances: &BTreeMap<InstanceId, Instance>, id: InstanceId) -> bool {
    let Some(instance) = instances.get(&id) else {
        return false;
    };
    if let Some(own) = &instance.footprint {
        return own.is_silent();
    }
    let others = instances.values().filter(|other| other.app == instance.app);
    let mut known = others.filter_map(|other| other.footprint.as_ref()).peekable();
    known.peek().is_some() && known.all(Footprint::is_silent)
}
