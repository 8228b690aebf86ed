//! Readiness: what makes a worker ready, and what follows when it is, or is not in time.

use core::time::Duration;

use crate::core::{Core, Timer};
use crate::footprint::Footprint;
use crate::protocol::{Failure, Notice, Readiness};
use crate::restart::AfterExit;
use crate::restart::Verdict;
use crate::tickets::Reached;
use crate::workers::{Candidate, Part, Post, Worker, WorkerState};
use crate::{InstanceId, WorkerId};

/// A worker that has had no CPU is looked at again after this.
const STARVED_PAUSE: Duration = Duration::from_millis(100);

impl Core {
    pub(crate) fn listening(&mut self, id: WorkerId) {
        if self.becomes_ready_by(id, Readiness::Listens) {
            self.signalled(id);
        }
        self.opened(id, None);
    }

    /// A worker is as ready as it can be before the cut-over.
    pub(crate) fn withheld(&mut self, id: WorkerId) {
        // What does not run has asked for nothing.
        if self.workers.state(id).and_then(WorkerState::spawned).is_none() {
            return;
        }
        self.becomes_ready_by(id, Readiness::Listens);
        self.opened(id, None);
        self.signalled(id);
    }

    /// More is known of a candidate, or it is reviewed at another time.
    pub(crate) fn update_candidate(&mut self, id: WorkerId, change: impl FnOnce(&mut Candidate)) {
        if let Some(WorkerState::Candidate(mut candidate)) = self.workers.state(id) {
            change(&mut candidate);
            self.enter(id, WorkerState::Candidate(candidate));
        }
    }

    pub(crate) fn ready(&mut self, id: WorkerId) {
        if self.becomes_ready_by(id, Readiness::Announces) {
            self.signalled(id);
        }
    }

    /// A worker gave the signal that its readiness waits for.
    fn signalled(&mut self, id: WorkerId) {
        let Some(state) = self.workers.state(id) else {
            return;
        };
        match state {
            WorkerState::Candidate(_) => {
                self.update_candidate(id, |candidate| candidate.signalled = true);
                self.review(id);
            }
            WorkerState::Starting { .. } | WorkerState::Ready { .. } => self.online(id, false),
            WorkerState::Spawning { .. }
            | WorkerState::CandidateSpawning { .. }
            | WorkerState::Draining { .. }
            | WorkerState::Cancelled { .. }
            | WorkerState::Terminating { .. } => {}
        }
    }

    /// Is this what the worker's readiness waits for? A word from its process also says that it runs.
    fn becomes_ready_by(&mut self, id: WorkerId, readiness: Readiness) -> bool {
        let Some(worker) = self.workers.get(id) else {
            return false;
        };
        let listens = (worker.config.readiness, readiness) == (Readiness::Runs, Readiness::Listens);
        let matches = worker.config.readiness == readiness || listens;
        match worker.state() {
            WorkerState::Spawning { .. } | WorkerState::CandidateSpawning { .. } => self.spawned(id),
            WorkerState::Starting { .. }
            | WorkerState::Ready { .. }
            | WorkerState::Candidate { .. }
            | WorkerState::Draining { .. }
            | WorkerState::Cancelled { .. }
            | WorkerState::Terminating { .. } => {}
        }
        matches
    }

    /// A worker that is ready if it lives has had little of the CPU.
    pub(crate) fn starved(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(id).filter(|worker| worker.is_ready_by_living()) else {
            return;
        };
        let WorkerState::Starting {
            post,
            spawned,
            ready_by: due,
        } = worker.state()
        else {
            return;
        };
        let latest = spawned + worker.config.policy.listen_timeout;
        let ready_by = latest.min(self.now + STARVED_PAUSE);
        if due < ready_by {
            let starting = WorkerState::Starting {
                post,
                spawned,
                ready_by,
            };
            self.enter(id, starting);
        }
    }

    /// A worker that should listen does nothing any more.
    pub(crate) fn rests(&mut self, id: WorkerId) {
        if self.workers.get(id).is_some_and(Worker::should_listen) {
            self.online(id, self.is_silent(id));
        }
    }

    /// A worker is ready. One that was taken for silent may become so a second time.
    pub(crate) fn online(&mut self, id: WorkerId, silent: bool) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let instance = worker.instance;
        let (post, spawned, since) = match worker.state() {
            WorkerState::Ready {
                post,
                spawned,
                since,
                silent: true,
            } => (post, spawned, since),
            WorkerState::Starting { post, spawned, .. } => (post, spawned, self.now),
            WorkerState::Ready { silent: false, .. }
            | WorkerState::Spawning { .. }
            | WorkerState::CandidateSpawning { .. }
            | WorkerState::Candidate { .. }
            | WorkerState::Draining { .. }
            | WorkerState::Cancelled { .. }
            | WorkerState::Terminating { .. } => return,
        };
        let ready = WorkerState::Ready {
            post,
            spawned,
            since,
            silent,
        };
        self.enter(id, ready);
        if let Some(role) = ready.role() {
            self.steering.serve(instance, id, role);
        }
        self.footprint_changed(id);
        if post == Post::Own {
            self.await_claims(id);
        }
        self.note(Notice::Online { worker: id, silent });
        self.tickets.reached(instance, Reached::Online { silent });
        let app = self.instances.app_of(instance);
        self.advance_reload(app);
    }

    /// A worker did not take over these slots in time, so it never will.
    pub(crate) fn close_unclaimed(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get(id) {
            self.steering.close_vacant_slots(worker.instance);
        }
    }

    /// What a worker that is ready has not taken over yet, it must take soon.
    pub(crate) fn await_claims(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get(id)
            && worker.state().is_ready()
            && self.steering.unclaimed(worker.instance).next().is_some()
        {
            let until = self.now + worker.config.policy.listen_timeout;
            self.timers.set(Timer::Unclaimed(id), until);
        }
    }

    /// Does a worker that is ready, or taken to be, listen on nothing?
    pub(crate) fn is_silent(&self, id: WorkerId) -> bool {
        self.workers
            .get(id)
            .is_some_and(|worker| match worker.config.readiness {
                Readiness::Executed | Readiness::Runs | Readiness::Announces => false,
                Readiness::Listens => {
                    let signalled = matches!(
                        worker.state(),
                        WorkerState::Candidate(Candidate { signalled: true, .. })
                    );
                    !signalled && !self.steering.is_holder(worker.instance, id)
                }
            })
    }

    /// What a worker serves has changed: if it is what a candidate is measured by, so has the measure.
    pub(crate) fn footprint_changed(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let of = worker.instance;
        let is_measure = match worker.state().part() {
            Part::Candidate => return self.review(id),
            Part::Own => worker.state().is_ready() && !self.is_proved(of),
            Part::Standby { .. } => worker.state().is_ready(),
            Part::Leaving { .. } => false,
        };
        if !is_measure {
            return;
        }
        let footprint = worker.footprint.clone();
        if let Some(instance) = self.instances.get_mut(of) {
            instance.set_footprint(footprint);
        }
        if let Some(candidate) = self.candidate(of) {
            self.review(candidate);
        }
    }

    /// A worker failed to become ready: it ends, as if it had failed young.
    pub(crate) fn not_ready(&mut self, id: WorkerId, within: Duration) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let of = worker.instance;
        match worker.state().part() {
            Part::Own => self.own_not_ready(id, within),
            Part::Candidate => self.candidate_failed(of, id, Failure::NotReady { within }),
            Part::Standby { .. } => {
                self.drain(id);
                self.standby_lost(of);
            }
            Part::Leaving { .. } => {}
        }
    }

    fn own_not_ready(&mut self, id: WorkerId, within: Duration) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let (id_of_instance, life) = (worker.instance, worker.life(self.now));
        let Some(instance) = self.instances.get_mut(id_of_instance) else {
            return;
        };
        let then = match instance
            .record_mut()
            .judge(life, &worker.config.policy, &mut self.rng)
        {
            Verdict::Now => AfterExit::Retry {
                delay: Duration::ZERO,
            },
            Verdict::After(delay) => AfterExit::Retry { delay },
            Verdict::Errored => AfterExit::Errored,
            Verdict::Stopped => AfterExit::Stopped,
        };
        self.tickets
            .failed(id_of_instance, id, Failure::NotReady { within });
        self.terminate_running(id_of_instance, id, then);
    }

    /// Has an instance's last ready worker listened on nothing? Where it had none: those of the other instances of the app?
    pub(crate) fn is_known_to_be_silent(&self, id: InstanceId) -> bool {
        let Some(instance) = self.instances.get(id) else {
            return false;
        };
        if let Some(own) = instance.footprint() {
            return own.is_silent();
        }
        let others = self
            .instances
            .values()
            .filter(|other| other.app() == instance.app());
        let mut known = others.filter_map(|other| other.footprint()).peekable();
        known.peek().is_some() && known.all(Footprint::is_silent)
    }
}
