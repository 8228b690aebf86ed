//! Workers: supervised processes, from the request to spawn one to the end of its whole tree.
//!
//! Workers have their own table, apart from instances, because during a reload an instance has more than one.

mod state;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use core::time::Duration;

pub(crate) use self::state::Part;
pub use self::state::{Candidate, Health, Intake, Kill, Place, Post, WorkerState};

use crate::early_addresses::EarlyAddresses;
use crate::protocol::{AppConfig, Readiness};
use crate::restart::Lifetime;
use crate::{Generation, GroupId, InstanceId, Tick, WorkerId};

/// One supervised process.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) instance: InstanceId,
    pub(crate) generation: Generation,
    /// The configuration it was started with.
    pub(crate) config: Arc<AppConfig>,
    /// It has answered a probe, so it will answer again unless it is frozen.
    pub(crate) answers: bool,
    /// What it opened early in its life.
    pub(crate) early_addresses: EarlyAddresses,
    /// The shared sockets that it uses.
    pub(crate) shared: BTreeSet<GroupId>,
    state: WorkerState,
}

/// A program that may have no port counts as ready if it lives for this long without one. Programs that cannot start end sooner (a syntax
/// error, a missing module or variable, a port in use).
const LIVES: Duration = Duration::from_secs(1);

impl Worker {
    /// A worker whose process the shell is asked for.
    pub(crate) fn new(
        instance: InstanceId,
        generation: Generation,
        config: Arc<AppConfig>,
        state: WorkerState,
    ) -> Worker {
        Worker {
            instance,
            generation,
            config,
            answers: false,
            early_addresses: EarlyAddresses::default(),
            shared: BTreeSet::new(),
            state,
        }
    }

    pub(crate) fn state(&self) -> WorkerState {
        self.state
    }

    /// Time from spawn to readiness, after which it is ready because it lives, or has failed. `silent`: the worker before it was ready and
    /// listened on nothing.
    pub(crate) fn time_to_be_ready(&self, silent: bool) -> Duration {
        let policy = &self.config.policy;
        match self.config.readiness {
            Readiness::Runs => policy.listen_timeout.min(LIVES),
            Readiness::Executed => policy.listen_timeout,
            Readiness::Listens if silent => policy.listen_timeout,
            Readiness::Listens | Readiness::Announces => policy.start_timeout,
        }
    }

    /// True if it is then ready because it lives.
    pub(crate) fn is_ready_by_living(&self) -> bool {
        matches!(self.state, WorkerState::Starting { .. }) && self.config.readiness == Readiness::Runs
    }

    /// True if it is expected to listen.
    pub(crate) fn should_listen(&self) -> bool {
        matches!(self.state, WorkerState::Starting { .. }) && self.config.readiness == Readiness::Listens
    }

    /// It has opened an address; `None` if the program did not choose it.
    fn opened(&mut self, group: Option<GroupId>, now: Tick) {
        let policy = &self.config.policy;
        let age = self
            .state
            .spawned()
            .map_or(Duration::ZERO, |spawned| now - spawned);
        self.early_addresses
            .opened(group, now, age, policy.listen_timeout, policy.reload_timeout);
    }

    /// True if it has lived longer than programs usually need to listen.
    fn is_late(&self, now: Tick) -> bool {
        let spawned = self.state.spawned();
        spawned.is_some_and(|spawned| now - spawned >= self.config.policy.listen_timeout)
    }

    /// Its life, if it ended now.
    pub(crate) fn lifetime(&self, now: Tick) -> Lifetime {
        match self.state {
            WorkerState::Ready { spawned, since, .. } => Lifetime::Ready {
                uptime: now - spawned,
                online: now - since,
            },
            // It may be one that never listens.
            WorkerState::Starting { spawned, .. }
                if self.config.readiness == Readiness::Listens && self.is_late(now) =>
            {
                let uptime = now - spawned;
                Lifetime::Ready {
                    uptime,
                    online: uptime.saturating_sub(self.config.policy.listen_timeout),
                }
            }
            // Living was all that was expected of it, and it has lived for this long.
            WorkerState::Starting { spawned, .. } if self.config.readiness == Readiness::Runs => {
                let uptime = now - spawned;
                Lifetime::Ready {
                    uptime,
                    online: uptime,
                }
            }
            WorkerState::Spawning { .. }
            | WorkerState::Starting { .. }
            | WorkerState::CandidateSpawning { .. }
            | WorkerState::Candidate { .. }
            | WorkerState::Draining { .. }
            | WorkerState::Cancelled { .. }
            | WorkerState::Terminating { .. } => Lifetime::NeverReady,
        }
    }
}

/// All workers. They change only through these functions.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    all: BTreeMap<WorkerId, Worker>,
}

impl Workers {
    pub(crate) fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.all.get(&id)
    }

    /// `None` if there is no such worker.
    pub(crate) fn state(&self, id: WorkerId) -> Option<WorkerState> {
        self.get(id).map(|worker| worker.state)
    }

    pub(crate) fn is_ready(&self, id: WorkerId) -> bool {
        self.state(id).is_some_and(WorkerState::is_ready)
    }

    pub(crate) fn contains(&self, id: WorkerId) -> bool {
        self.all.contains_key(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// In ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Worker)> + '_ {
        self.all.iter().map(|(&id, worker)| (id, worker))
    }

    pub(crate) fn insert(&mut self, id: WorkerId, worker: Worker) {
        self.all.insert(id, worker);
    }

    /// Forgets a worker whose process tree is gone.
    pub(crate) fn forget(&mut self, id: WorkerId) -> Option<Worker> {
        self.all.remove(&id)
    }

    /// For `Core::enter`, which sets the state's deadline.
    pub(crate) fn set_state(&mut self, id: WorkerId, state: WorkerState) {
        if let Some(worker) = self.all.get_mut(&id) {
            worker.state = state;
        }
    }

    /// It has answered a probe.
    pub(crate) fn answered(&mut self, id: WorkerId) {
        if let Some(worker) = self.all.get_mut(&id) {
            worker.answers = true;
        }
    }

    /// It has opened an address; `None` if the program did not choose it.
    pub(crate) fn opened(&mut self, id: WorkerId, group: Option<GroupId>, now: Tick) {
        if let Some(worker) = self.all.get_mut(&id) {
            worker.opened(group, now);
        }
    }

    /// It has closed an address by itself.
    pub(crate) fn closed(&mut self, id: WorkerId, group: GroupId) {
        if let Some(worker) = self.all.get_mut(&id) {
            worker.early_addresses.closed(group);
        }
    }

    /// It uses a shared socket.
    pub(crate) fn shares(&mut self, id: WorkerId, group: GroupId) {
        if let Some(worker) = self.all.get_mut(&id) {
            worker.shared.insert(group);
        }
    }

    /// It no longer uses a shared socket.
    pub(crate) fn unshares(&mut self, id: WorkerId, group: GroupId) {
        if let Some(worker) = self.all.get_mut(&id) {
            worker.shared.remove(&group);
        }
    }
}
