//! Retiring: how a worker leaves that nobody needs any more.
//!
//! It goes out of steering, but keeps its slots and goes on accepting: a connection may be on its way to it. When it has
//! nothing left to do, cannot drain, or takes too long, it is told to end; only after its end are its slots closed.

use alloc::vec::Vec;

use crate::core::{Core, Timer};
use crate::instance::{State, Then};
use crate::protocol::{Exit, Notice, Output};
use crate::slot::Role;
use crate::steering::Steering;
use crate::worker::{Duty, Phase, Worker};
use crate::{AppId, InstanceId, SlotId, WorkerId};

impl Core {
    /// This worker leaves for good; one that serves drains first.
    pub(crate) fn retire(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let since = self.now;
        worker.duty = Duty::Retire { since };
        let (instance, phase) = (worker.instance, worker.phase);
        let until = since + worker.config.policy.drain_timeout;
        if let Some(instance) = self.instances.get_mut(&instance) {
            instance.retiring.insert(id);
        }
        self.timers.clear(Timer::Unclaimed(id));
        match phase {
            Phase::Online { .. } => {
                self.steering.serve(instance, id, Role::Draining);
                self.enter(id, Phase::Draining { until });
                self.note(Notice::Retiring { worker: id });
                self.staged.push(Output::Drain { worker: id });
            }
            Phase::Spawning { .. }
            | Phase::Launching { .. }
            | Phase::Draining { .. }
            | Phase::Cancelled(_)
            | Phase::Stopping(_) => {
                self.steering.leave(instance, id);
                self.dismiss(id);
            }
        }
    }

    /// A worker has nothing left to do. While nobody else accepts where clients are about to come back it
    /// goes on, to the end of its time.
    pub(crate) fn drained(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let Phase::Draining { .. } = worker.phase else {
            return;
        };
        if !worker.refuses && self.steering.is_needed(worker.instance, id) {
            self.lingering.insert(id);
        } else {
            self.cut(id);
        }
    }

    /// Tells those to end that lingered and are needed no more.
    pub(crate) fn release_lingering(&mut self) {
        let useless = |id: &&WorkerId| {
            let worker = self.workers.get(id);
            !worker.is_some_and(|worker| self.steering.is_needed(worker.instance, **id))
        };
        for id in self.lingering.iter().filter(useless).copied().collect::<Vec<_>>() {
            self.cut(id);
        }
    }

    /// A draining worker has no more time, or no use for it: it is told to end.
    pub(crate) fn cut(&mut self, id: WorkerId) {
        self.lingering.remove(&id);
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if let Phase::Draining { .. } = worker.phase {
            if worker.refuses {
                self.steering.close_of(worker.instance, id);
            } else {
                self.steering.leave(worker.instance, id);
            }
            self.terminate(id);
        }
    }

    /// The workers that an instance had before are told to end.
    pub(crate) fn cut_all(&mut self, id: InstanceId) {
        let retiring = self.instances.get(&id).map(|instance| instance.retiring.clone());
        for worker in retiring.into_iter().flatten() {
            self.cut(worker);
        }
    }

    /// No worker any more: those that serve finish what they have begun, and `refuse` clients if nobody else is there for
    /// them. `then` is `Stopped` or `Forgotten`.
    pub(crate) fn see_off(&mut self, id: InstanceId, then: Then, refuse: bool) {
        self.phase_out(id, then);
        let retiring = self.instances.get(&id).map(|instance| instance.retiring.clone());
        for worker in retiring.into_iter().flatten() {
            let Some(held) = self.workers.get(&worker) else {
                continue;
            };
            match held.phase {
                Phase::Draining { .. } if refuse => self.turn_away(worker, false),
                Phase::Draining { .. } => {}
                Phase::Spawning { .. }
                | Phase::Launching { .. }
                | Phase::Online { .. }
                | Phase::Cancelled(_)
                | Phase::Stopping(_) => self.steering.close_of(id, worker),
            }
        }
    }

    /// A draining worker takes no client any more; it `keeps` those that it has until they would go anyway.
    fn turn_away(&mut self, id: WorkerId, keeps: bool) {
        if let Some(worker) = self.workers.get_mut(&id)
            && (!worker.refuses || (worker.keeps && !keeps))
        {
            worker.refuses = true;
            worker.keeps = keeps;
            self.lingering.remove(&id);
            self.staged.push(Output::Refuse { worker: id, keeps });
        }
    }

    /// A worker was replaced by one that serves other addresses: if nobody else is steered to where it serves, clients go on
    /// coming to it, and it would end with some of them.
    pub(crate) fn turn_away_if_abandoned(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let Phase::Draining { .. } = worker.phase else {
            return;
        };
        if self.steering.is_abandoned(worker.instance, id) {
            self.turn_away(id, true);
        }
    }

    /// An instance that serves is to rest, when its worker has finished what it has begun.
    pub(crate) fn phase_out(&mut self, id: InstanceId, then: Then) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        match instance.state {
            State::Running { worker } if self.workers.get(&worker).is_some_and(|it| it.phase.is_online()) => {
                instance.state = State::Stopping { worker, then };
                self.steering.close_vacant(id);
                self.retire(worker);
            }
            State::Running { .. }
            | State::Stopping { .. }
            | State::Waiting { .. }
            | State::Awaiting { .. }
            | State::Stopped
            | State::Errored => self.lay_down(id, then),
        }
    }

    /// A worker that was leaving has left.
    pub(crate) fn retired(&mut self, id: WorkerId, of: InstanceId, exit: Option<Exit>) {
        let Some(instance) = self.instances.get_mut(&of) else {
            return;
        };
        instance.retiring.remove(&id);
        self.lingering.remove(&id);
        match instance.state {
            State::Stopping { worker, then } if worker == id => self.ended(id, of, then, exit),
            State::Stopping { .. }
            | State::Running { .. }
            | State::Waiting { .. }
            | State::Awaiting { .. }
            | State::Stopped
            | State::Errored => {}
        }
    }

    /// The workers of an app that leave.
    pub(crate) fn retirees(&self, app: AppId) -> impl Iterator<Item = (WorkerId, &Worker)> + '_ {
        let instances = self.apps.get(&app).into_iter().flat_map(|app| &app.instances);
        instances
            .filter_map(|id| self.instances.get(id))
            .flat_map(|instance| &instance.retiring)
            .filter_map(|id| Some((*id, self.workers.get(id)?)))
    }
}

/// Who goes on coming to those that leave.
impl Steering {
    /// Do connections go to `worker`, which leaves, only because those who are to serve are not ready?
    pub(crate) fn is_needed(&self, instance: InstanceId, worker: WorkerId) -> bool {
        let steered = |id: &SlotId| {
            let group = self.slots.get(id).and_then(|slot| self.groups.get(&slot.group));
            group.is_some_and(|group| group.eligible.contains(id))
        };
        self.slots_of(instance, worker)
            .any(|id| steered(&id) && self.is_stayed_at(id))
    }

    /// Does nobody stay at any of the addresses that `worker` serves?
    pub(crate) fn is_abandoned(&self, instance: InstanceId, worker: WorkerId) -> bool {
        let mut slots = self.slots_of(instance, worker).peekable();
        slots.peek().is_some() && !slots.any(|id| self.is_stayed_at(id))
    }

    /// Is there a slot beside this one whose worker stays?
    fn is_stayed_at(&self, id: SlotId) -> bool {
        let group = self.slots.get(&id).and_then(|slot| self.groups.get(&slot.group));
        let stays = |id: &SlotId| self.slots.get(id).is_some_and(|slot| !slot.tenant.is_last());
        group.is_some_and(|group| group.slots.iter().any(stays))
    }
}
