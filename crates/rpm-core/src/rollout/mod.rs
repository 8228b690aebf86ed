//! The current reload of an app: the progress of each instance. `reload` and `undo` decide what follows.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use crate::protocol::AppConfig;
use crate::restart::AfterExit;
use crate::snapshot::{Configs, Reload, RestoreError, Snapshot};
use crate::tickets::NO_REQUESTER;
use crate::{Generation, InstanceId, Revision, Tick, Ticket, WorkerId};

/// A current reload. Each instance that takes part is queued, launching or proved.
#[derive(Debug)]
pub(crate) struct Rollout {
    ticket: Ticket,
    aim: Aim,
    /// What the app returns to if this is undone.
    former: (Generation, Arc<AppConfig>),
    /// Instances whose turn has not come.
    queued: BTreeSet<InstanceId>,
    /// Instances whose candidate is not proved yet.
    launching: BTreeMap<InstanceId, WorkerId>,
    /// Instances that their new worker serves.
    proved: BTreeMap<InstanceId, Proved>,
    /// All are proved, and are watched until then.
    watched_until: Option<Tick>,
    /// How many workers it may have, limited by memory.
    room: Option<u32>,
    /// The next reload ends it instead of waiting for it.
    yields: bool,
    /// The number of instances to scale to when it is complete; `None` for no change.
    then_scale: Option<u32>,
    /// The reload that follows.
    next: Option<ReloadRequest>,
}

/// Where a reload leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// To a new generation.
    Renew,
    /// Back to the previous one, some of whose workers are gone. No command waits for it.
    Return,
}

/// An instance whose candidate took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proved {
    /// The worker that was replaced.
    pub predecessor: Predecessor,
    /// It is one of the instance's restarts.
    pub counts: bool,
}

/// The worker that was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predecessor {
    /// It stands by.
    Standby(WorkerId),
    /// There is none; what becomes of the instance if the reload is undone.
    Gone(AfterExit),
}

/// Why a reload is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completion {
    /// Its new workers have lasted.
    Lasted,
    /// All new workers serve, and another command for the app does not wait until they have lasted.
    CutShort,
}

/// A requested reload.
#[derive(Debug)]
pub(crate) struct ReloadRequest {
    pub(crate) ticket: Ticket,
    /// `None` for the current configuration.
    pub(crate) config: Option<AppConfig>,
    /// Only these instances.
    pub(crate) only: Option<Vec<InstanceId>>,
    /// The next reload ends it instead of waiting for it.
    pub(crate) yields: bool,
    /// The number of instances to scale to when it is complete.
    pub(crate) then_scale: Option<u32>,
}

impl Rollout {
    /// A reload of these instances to a new generation.
    pub(crate) fn renew(
        ticket: Ticket,
        former: (Generation, Arc<AppConfig>),
        queued: BTreeSet<InstanceId>,
        room: Option<u32>,
        yields: bool,
    ) -> Rollout {
        Rollout {
            ticket,
            aim: Aim::Renew,
            former,
            queued,
            launching: BTreeMap::new(),
            proved: BTreeMap::new(),
            watched_until: None,
            room,
            yields,
            then_scale: None,
            next: None,
        }
    }

    /// A reload of these instances back to the current generation; `next` follows.
    pub(crate) fn back(
        present: (Generation, Arc<AppConfig>),
        queued: BTreeSet<InstanceId>,
        room: Option<u32>,
        next: Option<ReloadRequest>,
    ) -> Rollout {
        Rollout {
            aim: Aim::Return,
            next,
            ..Rollout::renew(NO_REQUESTER, present, queued, room, false)
        }
    }

    /// What outlives the shell: not who waits for it, nor the reload that follows.
    pub(crate) fn snapshot(&self, configs: &mut Configs) -> Reload {
        Reload {
            aim: self.aim,
            former_generation: self.former.0,
            former_config: configs.name(&self.former.1),
            queued: self.queued.clone(),
            launching: self.launching.clone(),
            proved: self.proved.clone(),
            watched_until: self.watched_until,
            room: self.room,
            yields: self.yields,
            then_scale: self.then_scale,
        }
    }

    pub(crate) fn restore(from: &Reload, whole: &Snapshot) -> Result<Rollout, RestoreError> {
        let former = (from.former_generation, whole.config(from.former_config)?);
        Ok(Rollout {
            aim: from.aim,
            launching: from.launching.clone(),
            proved: from.proved.clone(),
            watched_until: from.watched_until,
            then_scale: from.then_scale,
            ..Rollout::renew(NO_REQUESTER, former, from.queued.clone(), from.room, from.yields)
        })
    }

    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    pub(crate) fn aim(&self) -> Aim {
        self.aim
    }

    /// What the app returns to if this is undone.
    pub(crate) fn former(&self) -> (Generation, Arc<AppConfig>) {
        (self.former.0, Arc::clone(&self.former.1))
    }

    /// The revision that it returns to.
    pub(crate) fn former_revision(&self) -> Revision {
        self.former.1.revision
    }

    pub(crate) fn room(&self) -> Option<u32> {
        self.room
    }

    pub(crate) fn yields(&self) -> bool {
        self.yields
    }

    pub(crate) fn then_scale(&self) -> Option<u32> {
        self.then_scale
    }

    /// Sets the number of instances to scale to when it is complete.
    pub(crate) fn set_then_scale(&mut self, count: Option<u32>) {
        self.then_scale = count;
    }

    pub(crate) fn watched_until(&self) -> Option<Tick> {
        self.watched_until
    }

    pub(crate) fn queued(&self) -> &BTreeSet<InstanceId> {
        &self.queued
    }

    pub(crate) fn launching(&self) -> &BTreeMap<InstanceId, WorkerId> {
        &self.launching
    }

    pub(crate) fn proved(&self) -> &BTreeMap<InstanceId, Proved> {
        &self.proved
    }

    /// True if the new worker of every instance serves.
    pub(crate) fn is_all_proved(&self) -> bool {
        self.queued.is_empty() && self.launching.is_empty()
    }

    /// Takes the next instance from the queue.
    pub(crate) fn take_next(&mut self) -> Option<InstanceId> {
        self.queued.pop_first()
    }

    /// Takes this instance from the queue. Returns false if it is not queued.
    pub(crate) fn take_queued(&mut self, id: InstanceId) -> bool {
        self.queued.remove(&id)
    }

    pub(crate) fn launched(&mut self, id: InstanceId, candidate: WorkerId) {
        self.launching.insert(id, candidate);
    }

    /// The candidate of an instance serves. Returns what is to be confirmed at once, because a reload that goes back is never undone.
    pub(crate) fn succeeded(&mut self, id: InstanceId, proved: Proved) -> Option<Proved> {
        self.launching.remove(&id);
        match self.aim {
            Aim::Renew => {
                self.proved.insert(id, proved);
                None
            }
            Aim::Return => Some(proved),
        }
    }

    /// An instance has lost its standby.
    pub(crate) fn standby_lost(&mut self, id: InstanceId) {
        if let Some(proved) = self.proved.get_mut(&id) {
            proved.predecessor = Predecessor::Gone(AfterExit::Restart);
        }
    }

    pub(crate) fn watch_until(&mut self, until: Tick) {
        self.watched_until = Some(until);
    }

    /// The shell that knew which command waits for it has died.
    pub(crate) fn lose_requester(&mut self) {
        self.ticket = NO_REQUESTER;
    }

    /// Sets the reload that follows. Returns the one that therefore never starts.
    pub(crate) fn follow_by(&mut self, request: ReloadRequest) -> Option<ReloadRequest> {
        match &self.next {
            // The waiting one will start from the configuration of its time anyway, and a client waits for it.
            Some(next) if request.yields && !next.yields => Some(request),
            _ => self.next.replace(request),
        }
    }

    pub(crate) fn take_following(&mut self) -> Option<ReloadRequest> {
        mem::take(&mut self.next)
    }

    /// Checks that each instance is in one place, and that it is watched exactly when all are proved.
    pub(crate) fn is_consistent(&self) -> bool {
        let disjoint = self.members().len() == self.queued.len() + self.launching.len() + self.proved.len();
        disjoint && self.watched_until.is_some() == self.is_all_proved()
    }

    /// All instances that take part.
    pub(crate) fn members(&self) -> BTreeSet<InstanceId> {
        let proving = self.launching.keys().chain(self.proved.keys());
        self.queued.iter().chain(proving).copied().collect()
    }
}
