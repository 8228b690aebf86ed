//! Invariants that hold between any two inputs, checked by the simulation and by fuzzing.

use crate::apps::{App, Instance, State};
use crate::core::{Core, Timer};
use crate::rollout::Rollout;
use crate::steering::{Role, Slot, Tenant};
use crate::tickets::{Goal, Wait};
use crate::workers::{Part, Worker, WorkerState};
use crate::{AppId, Generation, GroupId, InstanceId, SlotId, WorkerId};

/// A violated invariant: a bug in this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An app and its instances disagree.
    #[error("app {0} has no instance, or its instances or their numbers do not belong to it alone")]
    App(AppId),
    /// A worker is not the one that its instance refers to.
    #[error("worker {0} and its instance do not agree")]
    Stray(WorkerId),
    /// An instance refers to a worker that does not exist, or is in another phase.
    #[error("instance {0} does not have the worker its state needs")]
    NoWorker(InstanceId),
    /// A wait without its deadline.
    #[error("worker {0} has not the deadline its phase needs")]
    WorkerDeadline(WorkerId),
    /// A wait without its deadline.
    #[error("instance {0} has not the deadline its state needs")]
    InstanceDeadline(InstanceId),
    /// A slot with a wrong owner or tenant.
    #[error("slot {0} has an owner or a tenant that it cannot have")]
    Slot(SlotId),
    /// A slot's probes do not fit its state.
    #[error("slot {0} has not the deadline its state needs")]
    SlotDeadline(SlotId),
    /// Steering does not match the slots.
    #[error("group {0} is steered to other slots than the rules say, or to none")]
    Eligible(GroupId),
    /// No instance pursues a goal.
    #[error("a ticket waits for instance {0}, which is not on its way there")]
    Ticket(InstanceId),
    /// A reload contradicts its parts, or exceeds its limits.
    #[error("the reload of app {0} is inconsistent")]
    Reload(AppId),
    /// An index is wrong, or work was left undone.
    #[error("an index is inconsistent, or an input was not handled to its end")]
    Bookkeeping,
}

impl Core {
    /// Checks the whole state. The cost is proportional to its size: for tests and fuzzing.
    ///
    /// # Errors
    /// The first violation found.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        self.check_apps()?;
        self.check_instances()?;
        self.check_workers()?;
        self.check_reloads()?;
        self.check_timers()?;
        self.check_slots()?;
        self.steering.check_groups().map_err(Violation::Eligible)?;
        self.check_tickets()?;
        ensure(
            !self.is_unsettled() && !self.tickets.is_inconsistent(),
            Violation::Bookkeeping,
        )
    }

    fn check_apps(&self) -> Result<(), Violation> {
        let mut listed = 0;
        for (id, app) in self.apps.iter() {
            let number_of = |instance| {
                let instance = self.instances.get(instance)?;
                (instance.app() == id).then_some(instance.number())
            };
            ensure(app.is_consistent(number_of), Violation::App(id))?;
            listed += app.instances().len();
        }
        ensure(listed == self.instances.len(), Violation::Bookkeeping)
    }

    fn check_instances(&self) -> Result<(), Violation> {
        for (id, instance) in self.instances.iter() {
            let ends = |worker| {
                let state = self.workers.state(worker);
                state.map(|state| state.is_leaving() || state.is_terminated())
            };
            let fits = match instance.state() {
                State::Running { worker } => ends(worker) == Some(false),
                State::Stopping { worker, .. } => ends(worker) == Some(true),
                State::Awaiting { .. } => self.candidate(id).is_some(),
                State::Waiting { .. } | State::Stopped | State::Errored => true,
            };
            let counted = match instance.app().is_hidden() {
                true => id.is_hidden(),
                false => id.0 < self.next_instance,
            };
            ensure(fits && counted, Violation::NoWorker(id))?;
            let deadline = self.timers.get(Timer::Respawn(id));
            ensure(
                deadline == instance.state().deadline(),
                Violation::InstanceDeadline(id),
            )?;
        }
        Ok(())
    }

    fn check_workers(&self) -> Result<(), Violation> {
        for (id, worker) in self.workers.iter() {
            let referred = self.is_referred(id, worker);
            ensure(referred && id.0 < self.next_worker, Violation::Stray(id))?;
            let deadline = self.timers.get(Timer::State(id));
            ensure(
                deadline == worker.state().deadline(),
                Violation::WorkerDeadline(id),
            )?;
        }
        Ok(())
    }

    /// True if the worker's part agrees with what refers to it.
    fn is_referred(&self, id: WorkerId, worker: &Worker) -> bool {
        let Some(instance) = self.instances.get(worker.instance) else {
            return false;
        };
        let own = match instance.state() {
            State::Running { worker } | State::Stopping { worker, .. } => worker == id,
            State::Waiting { .. } | State::Awaiting { .. } | State::Stopped | State::Errored => false,
        };
        let stands_by = || self.standbys(instance.app()).any(|(other, _)| other == id);
        match worker.state().part() {
            Part::Own => own && !instance.leaving().contains(&id),
            Part::Candidate => self.candidate(worker.instance) == Some(id),
            Part::Standby { .. } => !own && stands_by(),
            Part::Leaving { .. } => instance.leaving().contains(&id),
        }
    }

    fn check_reloads(&self) -> Result<(), Violation> {
        for (id, app) in self.apps.iter() {
            let consistent = app
                .rollout()
                .is_none_or(|rollout| self.is_consistent(app, rollout));
            let verdict = app.rollout().and_then(Rollout::watched_until);
            let deadline = self.timers.get(Timer::WatchEnds(id));
            ensure(consistent && deadline == verdict, Violation::Reload(id))?;
        }
        let idle = |id: &WorkerId| {
            let worker = self.workers.get(*id);
            !worker.is_some_and(|worker| self.steering.is_needed(worker.instance, *id))
        };
        ensure(!self.drained_but_needed.iter().any(idle), Violation::Bookkeeping)?;
        let dangling = |worker: &WorkerId| !self.workers.contains(*worker);
        let mut leaving = self.instances.values().flat_map(Instance::leaving);
        ensure(!leaving.any(dangling), Violation::Bookkeeping)
    }

    fn is_consistent(&self, app: &App, rollout: &Rollout) -> bool {
        let serves = |id: &InstanceId| match self.instances.state(*id) {
            Some(State::Running { worker }) => {
                let generation = self.workers.get(worker).map(|worker| worker.generation);
                generation == Some(app.generation()) && self.workers.is_ready(worker)
            }
            Some(_) | None => false,
        };
        let beside = |id: &&InstanceId| !matches!(self.instances.state(**id), Some(State::Awaiting { .. }));
        let at_once = rollout.launching().keys().filter(beside).count();
        let limit = app.config().parallel as usize;
        let mut candidates = rollout.launching().values();
        rollout.is_consistent()
            && rollout.members().is_subset(app.instances())
            && candidates.all(|id| self.is_candidate(*id, app.generation()))
            && (limit == 0 || at_once <= limit)
            && rollout.proved().keys().all(serves)
    }

    fn is_candidate(&self, id: WorkerId, of: Generation) -> bool {
        self.workers
            .get(id)
            .is_some_and(|worker| worker.state().part() == Part::Candidate && worker.generation == of)
    }

    fn check_timers(&self) -> Result<(), Violation> {
        let next = self.poll_timeout();
        for timer in self.timers.keys() {
            let alive = match timer {
                Timer::State(worker) => self.workers.contains(worker),
                Timer::Unclaimed(worker) => self.workers.is_ready(worker),
                Timer::Respawn(instance) => self.instances.contains(instance),
                Timer::WatchEnds(app) => self.apps.contains(app),
            };
            ensure(
                alive && next <= self.timers.get(timer) && next.is_some(),
                Violation::Bookkeeping,
            )?;
        }
        match self.steering.dangling_deadline() {
            Some(slot) => Err(Violation::SlotDeadline(slot)),
            None => Ok(()),
        }
    }

    fn check_slots(&self) -> Result<(), Violation> {
        for (id, slot) in self.steering.slots() {
            let tenant_fits = match slot.tenant {
                Tenant::Vacant => self.is_claimable(slot.instance),
                Tenant::Idle { worker, .. } => self.is_tenant(worker, slot, None, false),
                Tenant::Serving { worker, role, .. } => {
                    self.is_tenant(worker, slot, Some(role), role == Role::Draining)
                }
                Tenant::Leaving { worker, .. } => self.is_tenant(worker, slot, None, true),
            };
            let indexed = self.steering.is_indexed(id, slot);
            ensure(
                tenant_fits && indexed && (slot.tenant.is_last() || self.will_run(slot.instance)),
                Violation::Slot(id),
            )?;
            ensure(
                self.steering.has_right_deadline(id, slot),
                Violation::SlotDeadline(id),
            )?;
        }
        Ok(())
    }

    /// True if this instance may have a vacant slot: for a short time beside a ready worker.
    fn is_claimable(&self, id: InstanceId) -> bool {
        let reloads = self.is_proved(id) || self.candidate(id).is_some() || self.returns_to_former(id);
        match self.instances.state(id) {
            Some(State::Running { worker }) => {
                let online = self.workers.is_ready(worker);
                reloads || !online || self.timers.get(Timer::Unclaimed(worker)).is_some()
            }
            Some(
                State::Stopping { .. }
                | State::Waiting { .. }
                | State::Awaiting { .. }
                | State::Stopped
                | State::Errored,
            )
            | None => true,
        }
    }

    fn is_tenant(&self, worker: WorkerId, slot: &Slot, role: Option<Role>, leaves: bool) -> bool {
        self.workers.get(worker).is_some_and(|worker| {
            (worker.instance, worker.generation) == (slot.instance, slot.generation)
                && worker.state().role() == role
                && worker.state().is_leaving() == leaves
        })
    }

    fn check_tickets(&self) -> Result<(), Violation> {
        for Wait {
            instance: id,
            goal,
            persists,
        } in self.tickets.waits()
        {
            let on_its_way = match (self.instances.state(id), goal) {
                (Some(State::Waiting { .. }), Goal::Online) => persists,
                (Some(State::Running { worker }), Goal::Online) => {
                    let state = self.workers.state(worker);
                    state.is_some_and(WorkerState::is_starting)
                }
                (Some(State::Stopping { then, .. } | State::Awaiting { then }), Goal::Online) => {
                    then.will_run()
                }
                (Some(State::Stopping { then, .. }), Goal::Down) => !then.will_run(),
                (Some(state @ State::Stopping { .. }), Goal::Gone) => state.will_be_forgotten(),
                (Some(State::Running { .. } | State::Awaiting { .. }), Goal::Down | Goal::Gone)
                | (Some(State::Waiting { .. } | State::Stopped | State::Errored) | None, _) => false,
            };
            ensure(on_its_way, Violation::Ticket(id))?;
        }
        Ok(())
    }
}

fn ensure(holds: bool, violation: Violation) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(violation) }
}
