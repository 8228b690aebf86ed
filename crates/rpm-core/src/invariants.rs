//! What must hold between any two inputs, checked by the simulation and by fuzzing.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::core::{Core, Timer};
use crate::instance::{App, State};
use crate::reload::Rollout;
use crate::slot::{Role, Slot, Tenant};
use crate::tickets::Goal;
use crate::workers::{Part, Worker};
use crate::{AppId, Generation, GroupId, InstanceId, SlotId, WorkerId};

/// An invariant that does not hold: a bug of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// App and instances disagree.
    #[error("app {0} has no instance, or its instances or their numbers do not belong to it alone")]
    App(AppId),
    /// A worker is not the one its instance refers to.
    #[error("worker {0} and its instance do not agree")]
    Stray(WorkerId),
    /// An instance refers to a worker that is not there, or in another phase.
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
    /// Steering is not what the slots call for.
    #[error("group {0} is steered to other slots than the rules say, or to none")]
    Eligible(GroupId),
    /// A goal that nothing pursues.
    #[error("a ticket waits for instance {0}, which is not on its way there")]
    Ticket(InstanceId),
    /// A reload is not what its parts say, or goes too fast.
    #[error("the reload of app {0} is inconsistent")]
    Reload(AppId),
    /// An index is wrong, or work was left undone.
    #[error("an index is inconsistent, or an input was not handled to its end")]
    Bookkeeping,
}

impl Core {
    /// Checks the whole state. Costs time in proportion to it: for tests and fuzzing.
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
        self.check_groups()?;
        self.check_tickets()?;
        ensure(
            !self.is_unsettled() && !self.tickets.is_inconsistent(),
            Violation::Bookkeeping,
        )
    }

    fn check_apps(&self) -> Result<(), Violation> {
        for (&id, app) in &self.apps {
            let own = |instance: &&InstanceId| {
                self.instances
                    .get(instance)
                    .is_some_and(|instance| instance.app == id && app.numbers.contains(&instance.number))
            };
            let all_own = app.instances.iter().filter(own).count() == app.instances.len();
            let one_number_each = app.numbers.len() == app.instances.len();
            ensure(
                all_own && one_number_each && !app.instances.is_empty(),
                Violation::App(id),
            )?;
        }
        let listed: usize = self.apps.values().map(|app| app.instances.len()).sum();
        ensure(listed == self.instances.len(), Violation::Bookkeeping)
    }

    fn check_instances(&self) -> Result<(), Violation> {
        for (&id, instance) in &self.instances {
            let ends = |worker| {
                let worker = self.workers.get(&worker);
                worker.map(|worker| worker.state.is_leaving() || worker.state.is_terminated())
            };
            let fits = match instance.state {
                State::Running { worker } => ends(worker) == Some(false),
                State::Stopping { worker, .. } => ends(worker) == Some(true),
                State::Awaiting { .. } => self.candidate(id).is_some(),
                State::Waiting { .. } | State::Stopped | State::Errored => true,
            };
            ensure(fits && id.0 < self.next_instance, Violation::NoWorker(id))?;
            let wanted = match instance.state {
                State::Waiting { until } => Some(until),
                State::Running { .. }
                | State::Stopping { .. }
                | State::Awaiting { .. }
                | State::Stopped
                | State::Errored => None,
            };
            let actual = self.timers.get(Timer::Respawn(id));
            ensure(wanted == actual, Violation::InstanceDeadline(id))?;
        }
        Ok(())
    }

    fn check_workers(&self) -> Result<(), Violation> {
        for (&id, worker) in &self.workers {
            let referred = self.is_referred(id, worker);
            ensure(referred && id.0 < self.next_worker, Violation::Stray(id))?;
            let deadline = self.timers.get(Timer::State(id));
            ensure(deadline == worker.state.deadline(), Violation::WorkerDeadline(id))?;
        }
        Ok(())
    }

    /// Does what it is there for agree with who knows it?
    fn is_referred(&self, id: WorkerId, worker: &Worker) -> bool {
        let Some(instance) = self.instances.get(&worker.instance) else {
            return false;
        };
        let own = match instance.state {
            State::Running { worker } | State::Stopping { worker, .. } => worker == id,
            State::Waiting { .. } | State::Awaiting { .. } | State::Stopped | State::Errored => false,
        };
        let stands_by = || self.standbys(instance.app).any(|(other, _)| other == id);
        match worker.state.part() {
            Part::Own => own && !instance.leaving.contains(&id),
            Part::Candidate => self.candidate(worker.instance) == Some(id),
            Part::Standby { .. } => !own && stands_by(),
            Part::Leaving { .. } => instance.leaving.contains(&id),
        }
    }

    fn check_reloads(&self) -> Result<(), Violation> {
        for (&id, app) in &self.apps {
            let consistent = app
                .rollout
                .as_ref()
                .is_none_or(|rollout| self.is_consistent(app, rollout));
            let verdict = app.rollout.as_ref().and_then(|rollout| rollout.watched_until);
            ensure(
                self.timers.get(Timer::Verdict(id)) == verdict,
                Violation::Reload(id),
            )?;
            ensure(consistent && app.generation <= app.newest, Violation::Reload(id))?;
        }
        let idle = |id: &WorkerId| {
            let worker = self.workers.get(id);
            !worker.is_some_and(|worker| self.steering.is_needed(worker.instance, *id))
        };
        ensure(!self.drained_but_needed.iter().any(idle), Violation::Bookkeeping)?;
        let dangling = |worker: &WorkerId| !self.workers.contains_key(worker);
        let mut leaving = self.instances.values().flat_map(|instance| &instance.leaving);
        ensure(!leaving.any(dangling), Violation::Bookkeeping)
    }

    fn is_consistent(&self, app: &App, rollout: &Rollout) -> bool {
        let Rollout {
            queued,
            launching,
            proved,
            watched_until,
            ..
        } = rollout;
        let members: BTreeSet<_> = queued
            .iter()
            .chain(launching.keys())
            .chain(proved.keys())
            .collect();
        let disjoint = members.len() == queued.len() + launching.len() + proved.len();
        let going_on = watched_until.is_none() != (queued.is_empty() && launching.is_empty());
        let state = |id: &InstanceId| self.instances.get(id).map(|instance| instance.state);
        let serves = |id: &InstanceId| match state(id) {
            Some(State::Running { worker }) => self
                .workers
                .get(&worker)
                .is_some_and(|it| it.generation == app.generation && it.state.is_ready()),
            Some(_) | None => false,
        };
        let beside = |id: &InstanceId| !matches!(state(id), Some(State::Awaiting { .. }));
        let at_once = launching.keys().filter(|id| beside(id)).count();
        let limit = app.config.parallel as usize;
        disjoint
            && going_on
            && members.is_subset(&app.instances.iter().collect())
            && launching
                .values()
                .all(|id| self.is_candidate(*id, app.generation))
            && (limit == 0 || at_once <= limit)
            && proved.keys().all(serves)
    }

    fn is_candidate(&self, id: WorkerId, of: Generation) -> bool {
        self.workers
            .get(&id)
            .is_some_and(|worker| worker.state.part() == Part::Candidate && worker.generation == of)
    }

    fn check_timers(&self) -> Result<(), Violation> {
        let next = self.poll_timeout();
        for timer in self.timers.keys() {
            let alive = match timer {
                Timer::State(worker) => self.workers.contains_key(&worker),
                Timer::Unclaimed(worker) => self
                    .workers
                    .get(&worker)
                    .is_some_and(|worker| worker.state.is_ready()),
                Timer::Respawn(instance) => self.instances.contains_key(&instance),
                Timer::Verdict(app) => self.apps.contains_key(&app),
            };
            ensure(
                alive && next <= self.timers.get(timer) && next.is_some(),
                Violation::Bookkeeping,
            )?;
        }
        for slot in self.steering.timers.keys() {
            ensure(
                self.steering.slots.contains_key(&slot),
                Violation::SlotDeadline(slot),
            )?;
        }
        Ok(())
    }

    fn check_slots(&self) -> Result<(), Violation> {
        for (&id, slot) in &self.steering.slots {
            let tenant_fits = match slot.tenant {
                Tenant::Vacant => self.is_claimable(slot.instance),
                Tenant::Idle { worker, .. } => self.is_tenant(worker, slot, None, false),
                Tenant::Serving { worker, role, .. } => {
                    self.is_tenant(worker, slot, Some(role), role == Role::Draining)
                }
                Tenant::Leaving { worker, .. } => self.is_tenant(worker, slot, None, true),
            };
            let indexed = self.steering.of_instance(slot.instance).any(|other| other == id)
                && self
                    .steering
                    .groups
                    .get(&slot.group)
                    .is_some_and(|group| group.slots.contains(&id));
            ensure(
                tenant_fits && indexed && (slot.tenant.is_last() || self.will_run(slot.instance)),
                Violation::Slot(id),
            )?;
            let wanted = match slot.tenant {
                Tenant::Serving { flow, .. } => flow.deadline(),
                Tenant::Vacant | Tenant::Idle { .. } | Tenant::Leaving { .. } => None,
            };
            ensure(
                self.steering.timers.get(id) == wanted,
                Violation::SlotDeadline(id),
            )?;
        }
        Ok(())
    }

    /// May this instance have a vacant slot? Beside a ready worker, not for long.
    fn is_claimable(&self, id: InstanceId) -> bool {
        let reloads = self.is_proved(id) || self.candidate(id).is_some() || self.returns_to_former(id);
        match self.instances.get(&id).map(|instance| instance.state) {
            Some(State::Running { worker }) => {
                let online = self.workers.get(&worker).is_some_and(|it| it.state.is_ready());
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
        self.workers.get(&worker).is_some_and(|worker| {
            (worker.instance, worker.generation) == (slot.instance, slot.generation)
                && worker.state.role() == role
                && worker.state.is_leaving() == leaves
        })
    }

    fn check_groups(&self) -> Result<(), Violation> {
        for (&id, group) in &self.steering.groups {
            // A group that is not empty must be steered somewhere.
            let Some((rank, slots)) = self.steering.choose(group) else {
                return Err(Violation::Eligible(id));
            };
            let lengths = || slots.iter().filter_map(|slot| self.steering.slots.get(slot));
            let queues = group
                .queues
                .iter()
                .copied()
                .eq(sorted(lengths().map(|slot| slot.len), &slots));
            let right = group.eligible == slots && !slots.is_empty();
            let indexed = if rank.accepts() {
                queues
            } else {
                group.queues.is_empty()
            };
            ensure(right && indexed, Violation::Eligible(id))?;
        }
        Ok(())
    }

    fn check_tickets(&self) -> Result<(), Violation> {
        for (id, goal) in self.tickets.waits() {
            let on_its_way = match (self.instances.get(&id).map(|instance| instance.state), goal) {
                (Some(State::Running { worker }), Goal::Online) => self
                    .workers
                    .get(&worker)
                    .is_some_and(|worker| worker.state.is_starting()),
                (Some(State::Stopping { then, .. } | State::Awaiting { then }), Goal::Online) => {
                    then.will_run()
                }
                (Some(State::Stopping { then, .. }), Goal::Down) => !then.will_run(),
                (Some(state @ State::Stopping { .. }), Goal::Gone) => state.is_leaving(),
                (Some(State::Running { .. } | State::Awaiting { .. }), Goal::Down | Goal::Gone)
                | (Some(State::Waiting { .. } | State::Stopped | State::Errored) | None, _) => false,
            };
            ensure(on_its_way, Violation::Ticket(id))?;
        }
        Ok(())
    }
}

fn sorted(lengths: impl Iterator<Item = u32>, slots: &[SlotId]) -> impl Iterator<Item = (u32, SlotId)> {
    let mut pairs: Vec<_> = lengths.zip(slots.iter().copied()).collect();
    pairs.sort_unstable();
    pairs.into_iter()
}

fn ensure(holds: bool, violation: Violation) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(violation) }
}
