//! What must hold between any two inputs, checked by the simulation and by fuzzing.

use alloc::vec::Vec;

use crate::core::{Core, Timer};
use crate::instance::State;
use crate::steering::{Rank, Slot, Tenant};
use crate::tickets::Goal;
use crate::worker::{Phase, Worker};
use crate::{AppId, GroupId, InstanceId, SlotId, WorkerId};

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
            let phase = |worker| self.workers.get(&worker).map(|worker| worker.phase.is_ending());
            let fits = match instance.state {
                State::Running { worker } => phase(worker) == Some(false),
                State::Stopping { worker, .. } => phase(worker) == Some(true),
                State::Waiting { .. } | State::Stopped | State::Errored => true,
            };
            ensure(fits && id.0 < self.next_instance, Violation::NoWorker(id))?;
            let wanted = match instance.state {
                State::Waiting { until } => Some(until),
                State::Running { .. } | State::Stopping { .. } | State::Stopped | State::Errored => None,
            };
            let actual = self.timers.get(Timer::Respawn(id));
            ensure(wanted == actual, Violation::InstanceDeadline(id))?;
        }
        Ok(())
    }

    fn check_workers(&self) -> Result<(), Violation> {
        for (&id, worker) in &self.workers {
            let referred = match self
                .instances
                .get(&worker.instance)
                .map(|instance| instance.state)
            {
                Some(State::Running { worker } | State::Stopping { worker, .. }) => worker == id,
                Some(State::Waiting { .. } | State::Stopped | State::Errored) | None => false,
            };
            ensure(referred && id.0 < self.next_worker, Violation::Stray(id))?;
            let deadline = self.timers.get(Timer::Phase(id));
            ensure(deadline == worker.phase.deadline(), Violation::WorkerDeadline(id))?;
        }
        Ok(())
    }

    fn check_timers(&self) -> Result<(), Violation> {
        let next = self.poll_timeout();
        for timer in self.timers.keys() {
            let alive = match timer {
                Timer::Phase(worker) => self.workers.contains_key(&worker),
                Timer::Unclaimed(worker) => self
                    .workers
                    .get(&worker)
                    .is_some_and(|worker| worker.phase.is_online()),
                Timer::Respawn(instance) => self.instances.contains_key(&instance),
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
                Tenant::Vacant => true,
                Tenant::Idle { worker, .. } => self.is_tenant(worker, slot, false),
                Tenant::Serving { worker, .. } => self.is_tenant(worker, slot, true),
            };
            let indexed = self.steering.of_instance(slot.instance).any(|other| other == id)
                && self
                    .steering
                    .groups
                    .get(&slot.group)
                    .is_some_and(|group| group.slots.contains(&id));
            ensure(
                tenant_fits && indexed && self.returns(slot.instance),
                Violation::Slot(id),
            )?;
            let wanted = match slot.tenant {
                Tenant::Serving { flow, .. } => flow.deadline(),
                Tenant::Vacant | Tenant::Idle { .. } => None,
            };
            ensure(
                self.steering.timers.get(id) == wanted,
                Violation::SlotDeadline(id),
            )?;
        }
        Ok(())
    }

    fn is_tenant(&self, worker: WorkerId, slot: &Slot, online: bool) -> bool {
        self.workers.get(&worker).is_some_and(
            |Worker {
                 instance,
                 generation,
                 phase,
                 ..
             }| {
                (*instance, *generation) == (slot.instance, slot.generation) && phase.is_online() == online
            },
        )
    }

    fn check_groups(&self) -> Result<(), Violation> {
        for (&id, group) in &self.steering.groups {
            // Every slot here belongs to an instance that runs or will (checked with the slots), so
            // a group that is not empty must be steered somewhere.
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
            let indexed = if rank == Rank::Healthy {
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
                (Some(State::Running { worker }), Goal::Online) => {
                    self.workers
                        .get(&worker)
                        .is_some_and(|worker| match worker.phase {
                            Phase::Spawning { .. } | Phase::Launching { .. } => true,
                            Phase::Online { .. } | Phase::Cancelled(_) | Phase::Stopping(_) => false,
                        })
                }
                (Some(State::Stopping { then, .. }), Goal::Online) => then.returns(),
                (Some(State::Stopping { then, .. }), Goal::Down) => !then.returns(),
                (Some(state @ State::Stopping { .. }), Goal::Gone) => state.is_leaving(),
                (Some(State::Running { .. }), Goal::Down | Goal::Gone)
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
