//! Readiness: what makes a worker ready, and what follows when it is, or is not in time.

use core::time::Duration;

use crate::core::{Core, Timer};
use crate::early_addresses::EarlyAddresses;
use crate::protocol::{Failure, Notice, Readiness};
use crate::restart::AfterExit;
use crate::restart::Verdict;
use crate::tickets::Reached;
use crate::workers::{Candidate, Part, Post, Worker, WorkerState};
use crate::{InstanceId, WorkerId};

/// Pause before a worker without CPU time is checked again.
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
        // A worker without a process cannot have asked for anything.
        if self.workers.state(id).and_then(WorkerState::spawned).is_none() {
            return;
        }
        self.becomes_ready_by(id, Readiness::Listens);
        self.opened(id, None);
        self.signalled(id);
    }

    /// Updates what is known of a candidate, or when it is reviewed.
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

    /// True if this is what the worker's readiness waits for. A message from its process also shows that it runs.
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

    /// A worker that is ready if it lives has had little CPU time.
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

    /// A worker that is expected to listen is at rest.
    pub(crate) fn rests(&mut self, id: WorkerId) {
        if self.workers.get(id).is_some_and(Worker::should_listen) {
            self.online(id, self.is_silent(id));
        }
    }

    /// A worker is ready. A worker reported as silent may come online again once it listens.
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
        self.early_addresses_changed(id);
        if post == Post::Own {
            self.await_claims(id);
        }
        self.note(Notice::Online { worker: id, silent });
        self.tickets.reached(instance, Reached::Online { silent });
        let app = self.instances.app_of(instance);
        self.advance_reload(app);
    }

    /// Closes slots that a worker did not take over in time.
    pub(crate) fn close_unclaimed(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get(id) {
            self.steering.close_vacant_slots(worker.instance);
        }
    }

    /// Sets a deadline by which a ready worker must take over its slots.
    pub(crate) fn await_claims(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get(id)
            && worker.state().is_ready()
            && self.steering.unclaimed(worker.instance).next().is_some()
        {
            let until = self.now + worker.config.policy.listen_timeout;
            self.timers.set(Timer::Unclaimed(id), until);
        }
    }

    /// True if a worker that is ready, or treated as ready, listens on nothing.
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

    /// The addresses of a worker have changed. If a candidate is compared with it, it is reviewed.
    pub(crate) fn early_addresses_changed(&mut self, id: WorkerId) {
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
        let early_addresses = worker.early_addresses.clone();
        if let Some(instance) = self.instances.get_mut(of) {
            instance.set_early_addresses(early_addresses);
        }
        if let Some(candidate) = self.candidate(of) {
            self.review(candidate);
        }
    }

    /// A worker did not get ready in time: it is terminated, like one that failed young.
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
        let (id_of_instance, life) = (worker.instance, worker.lifetime(self.now));
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
        let failure = Failure::NotReady { within };
        self.tickets.failed(id_of_instance, id, failure, !then.will_run());
        self.terminate_running(id_of_instance, id, then);
    }

    /// True if the last ready worker of an instance listened on nothing; if it had none, those of the app's other instances.
    pub(crate) fn is_known_to_be_silent(&self, id: InstanceId) -> bool {
        let Some(instance) = self.instances.get(id) else {
            return false;
        };
        if let Some(own) = instance.early_addresses() {
            return own.is_silent();
        }
        let others = self
            .instances
            .values()
            .filter(|other| other.app() == instance.app());
        let mut known = others.filter_map(|other| other.early_addresses()).peekable();
        known.peek().is_some() && known.all(EarlyAddresses::is_silent)
    }
}
