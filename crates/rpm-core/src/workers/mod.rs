//! Workers: supervised processes, from the request to spawn one to the end of its whole tree.
//!
//! Workers have a table of their own, apart from instances: during a reload an instance has more than one.

mod state;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use core::time::Duration;

pub(crate) use self::state::Part;
pub use self::state::{Candidate, Health, Intake, Kill, Place, Post, WorkerState};

use crate::footprint::Footprint;
use crate::protocol::{AppConfig, Readiness};
use crate::restart::Life;
use crate::{Generation, GroupId, InstanceId, Tick, WorkerId};

/// One supervised process.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) instance: InstanceId,
    pub(crate) generation: Generation,
    /// The configuration it was started with.
    pub(crate) config: Arc<AppConfig>,
    /// It has answered a probe, so it will again unless it is frozen.
    pub(crate) answers: bool,
    /// What it opened early in its life.
    pub(crate) footprint: Footprint,
    /// The shared sockets that it uses.
    pub(crate) shared: BTreeSet<GroupId>,
    state: WorkerState,
}

/// A program that may have no port at all, and has none after this time, is taken to be ready if it lives: what cannot start
/// (a syntax error, a module or a variable that is missing, a port that is taken) ends sooner.
const LIVES: Duration = Duration::from_secs(1);

impl Worker {
    /// One whose process the shell is asked for.
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
            footprint: Footprint::default(),
            shared: BTreeSet::new(),
            state,
        }
    }

    pub(crate) fn state(&self) -> WorkerState {
        self.state
    }

    /// From its spawn; at the end of that it is ready because it lives, or has failed. `silent`: the worker before it was ready and
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

    /// Is it ready at the end of that because it lives?
    pub(crate) fn is_ready_by_living(&self) -> bool {
        matches!(self.state, WorkerState::Starting { .. }) && self.config.readiness == Readiness::Runs
    }

    /// Is it waited for because it should listen?
    pub(crate) fn should_listen(&self) -> bool {
        matches!(self.state, WorkerState::Starting { .. }) && self.config.readiness == Readiness::Listens
    }

    /// It has opened something: an address of its choice, or anything else (`None`).
    fn opened(&mut self, group: Option<GroupId>, now: Tick) {
        let policy = &self.config.policy;
        let age = self
            .state
            .spawned()
            .map_or(Duration::ZERO, |spawned| now - spawned);
        self.footprint
            .opened(group, now, age, policy.listen_timeout, policy.reload_timeout);
    }

    /// It has lived longer than programs usually take to listen.
    fn is_late(&self, now: Tick) -> bool {
        let spawned = self.state.spawned();
        spawned.is_some_and(|spawned| now - spawned >= self.config.policy.listen_timeout)
    }

    /// Its life, if it ended now.
    pub(crate) fn life(&self, now: Tick) -> Life {
        match self.state {
            WorkerState::Ready { spawned, since, .. } => Life::Ready {
                uptime: now - spawned,
                online: now - since,
            },
            // It may be one that will never listen.
            WorkerState::Starting { spawned, .. }
                if self.config.readiness == Readiness::Listens && self.is_late(now) =>
            {
                let uptime = now - spawned;
                Life::Ready {
                    uptime,
                    online: uptime.saturating_sub(self.config.policy.listen_timeout),
                }
            }
            // Nothing but living was wanted of it: it has done that so long.
            WorkerState::Starting { spawned, .. } if self.config.readiness == Readiness::Runs => {
                let uptime = now - spawned;
                Life::Ready {
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
            | WorkerState::Terminating { .. } => Life::NeverReady,
        }
    }
}

/// All workers. What changes in one changes by these functions.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    all: BTreeMap<WorkerId, Worker>,
}

impl Workers {
    pub(crate) fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.all.get(&id)
    }

    /// `None`: there is no such worker.
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

    /// Ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Worker)> + '_ {
        self.all.iter().map(|(&id, worker)| (id, worker))
    }

    pub(crate) fn insert(&mut self, id: WorkerId, worker: Worker) {
        self.all.insert(id, worker);
    }

    /// Its process tree is gone.
    pub(crate) fn forget(&mut self, id: WorkerId) -> Option<Worker> {
        self.all.remove(&id)
    }

    /// For `Core::enter`, which keeps the deadline of the state.
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

    /// It has opened something: an address of its choice, or anything else (`None`).
    pub(crate) fn opened(&mut self, id: WorkerId, group: Option<GroupId>, now: Tick) {
        if let Some(worker) = self.all.get_mut(&id) {
            worker.opened(group, now);
        }
    }

    /// It has closed an address, by its own choice.
    pub(crate) fn closed(&mut self, id: WorkerId, group: GroupId) {
        if let Some(worker) = self.all.get_mut(&id) {
            worker.footprint.closed(group);
        }
    }

    /// It uses a shared socket.
    pub(crate) fn shares(&mut self, id: WorkerId, group: GroupId) {
        if let Some(worker) = self.all.get_mut(&id) {
            worker.shared.insert(group);
        }
    }

    /// It uses it no more.
    pub(crate) fn unshares(&mut self, id: WorkerId, group: GroupId) {
        if let Some(worker) = self.all.get_mut(&id) {
            worker.shared.remove(&group);
        }
    }
}
