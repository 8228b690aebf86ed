//! Promotion: how a proved candidate takes over, and what becomes of its predecessor.

use crate::apps::{Instance, State};
use crate::core::Core;
use crate::proof::{Evidence, Proof, assess};
use crate::protocol::{Failure, Notice, Output};
use crate::restart::AfterExit;
use crate::rollout::{Predecessor, Proved};
use crate::steering::Role;
use crate::tickets::Reached;
use crate::workers::{Candidate, Health, Part, Post, WorkerState};
use crate::{InstanceId, Tick, WorkerId};

impl Core {
    /// Checks whether a candidate is proved by now, or no longer can be.
    pub(crate) fn review(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let WorkerState::Candidate(candidate) = worker.state() else {
            return;
        };
        let evidence = Evidence {
            config: &worker.config,
            spawned: candidate.spawned,
            signalled: candidate.signalled,
        };
        let instance = self.instances.get(worker.instance);
        let former = instance.and_then(Instance::early_addresses);
        let serves = |group| {
            let slots = self.steering.slots_of(worker.instance, id);
            let in_group = |slot| self.steering.group_of(slot) == Some(group);
            worker.shared.contains(&group) || slots.into_iter().any(in_group)
        };
        match assess(evidence, former, serves, self.now) {
            Proof::Given => self.promote_if_healthy(id),
            Proof::Pending { until } => self.review_again(id, until),
            Proof::Missing { within, unserved } => {
                let failure = match unserved {
                    Some(group) => Failure::Unserved { within, group },
                    None => Failure::NotReady { within },
                };
                self.candidate_failed(worker.instance, id, failure);
            }
        }
    }

    /// Promotes a candidate that is proved but for its health, if that is good or not asked for.
    fn promote_if_healthy(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let (within, is_checked) = (worker.config.policy.reload_timeout, worker.config.health_check);
        let WorkerState::Candidate(Candidate { spawned, health, .. }) = worker.state() else {
            return;
        };
        let review_at = spawned + within;
        match health {
            _ if !is_checked => self.promote(id),
            Health::Good => self.promote(id),
            Health::Asked if self.now >= review_at => self.not_ready(id, within),
            Health::Asked => self.review_again(id, review_at),
            Health::Unasked => {
                self.staged.push(Output::CheckHealth { worker: id });
                self.update_candidate(id, |candidate| {
                    candidate.health = Health::Asked;
                    candidate.review_at = review_at;
                });
            }
        }
    }

    /// Reviews a candidate again at this time, or when more is known of it.
    fn review_again(&mut self, id: WorkerId, at: Tick) {
        self.update_candidate(id, |candidate| candidate.review_at = at);
    }

    /// A worker passes its health check.
    pub(crate) fn healthy(&mut self, id: WorkerId) {
        if let Some(WorkerState::Candidate(candidate)) = self.workers.state(id)
            && candidate.health == Health::Asked
        {
            self.update_candidate(id, |candidate| candidate.health = Health::Good);
            self.review(id);
        }
    }

    /// Makes a proved candidate its instance's own worker.
    fn promote(&mut self, id: WorkerId) {
        let silent = self.is_silent(id);
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let WorkerState::Candidate(Candidate { spawned, .. }) = worker.state() else {
            return;
        };
        let (of, generation) = (worker.instance, worker.generation);
        let Some(instance) = self.instances.get_mut(of) else {
            return;
        };
        let (app, state) = (instance.app(), instance.state());
        instance.set_generation(generation);
        self.enter_instance(of, State::Running { worker: id });
        let ready = WorkerState::Ready {
            post: Post::Own,
            spawned,
            since: self.now,
            silent,
        };
        self.enter(id, ready);
        self.steering.serve(of, id, Role::Active);
        let proved = self.replace(of, state);
        self.succeeded(app, of, proved);
        self.note(Notice::Online { worker: id, silent });
        self.note(Notice::CandidateReady { worker: id });
        self.tickets.reached(of, Reached::Online { silent });
        self.advance(app);
    }

    /// Decides what becomes of the worker that an instance had when it was in `state`.
    fn replace(&mut self, of: InstanceId, state: State) -> Proved {
        let (predecessor, counts) = match state {
            State::Running { worker } => (Predecessor::Standby(worker), self.stand_by(worker)),
            State::Stopping { worker, then } => {
                // It was terminated already, and its successor has its own slots.
                self.drain(worker);
                (Predecessor::Gone(then), false)
            }
            State::Awaiting { then } => {
                let automatic = matches!(then, AfterExit::Retry { .. });
                (Predecessor::Gone(then), automatic)
            }
            State::Waiting { .. } | State::Stopped | State::Errored => {
                debug_assert!(false, "instance {of} had a candidate and was in no state for one");
                (Predecessor::Gone(AfterExit::Restart), false)
            }
        };
        Proved { predecessor, counts }
    }

    /// Returns true if the worker was ready. Otherwise it continues to start.
    fn stand_by(&mut self, id: WorkerId) -> bool {
        let since = self.now;
        let Some(worker) = self.workers.get(id) else {
            return false;
        };
        let (of, state) = (worker.instance, worker.state().at_post(Post::Standby { since }));
        debug_assert!(
            matches!(state.part(), Part::Standby { .. }),
            "worker {id} is replaced and leaves already"
        );
        self.enter(id, state);
        if let Some(role) = state.role() {
            self.steering.serve(of, id, role);
        }
        state.is_ready()
    }
}
