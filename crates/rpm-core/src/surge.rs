//! How many workers a reload may have beside those that serve (`max_surge`), on a machine that may not have memory for two generations of an app.
//!
//! Every worker counts, including draining ones, because memory is what is scarce: each drains for its own time, so reloads in quick
//! succession add up. Room is made at the lowest cost first: standbys drain, and cannot serve again; then, as far as allowed, old workers
//! without a successor drain. A draining worker makes room when it is gone, at its deadline at the latest.

use alloc::vec::Vec;

use crate::apps::State;
use crate::core::Core;
use crate::restart::AfterExit;
use crate::rollout::Rollout;
use crate::workers::Worker;
use crate::{AppId, InstanceId, WorkerId};

impl Core {
    /// True if a reload of this app may start one more worker.
    pub(crate) fn has_room(&self, id: AppId) -> bool {
        self.limit(id).is_none_or(|limit| self.population(id) < limit)
    }

    /// How many workers a reload of this app may have, by its configuration and by memory. One more than instances is always allowed,
    /// unless the configuration forbids it.
    pub(crate) fn limit(&self, id: AppId) -> Option<usize> {
        let app = self.apps.get(id)?;
        let with = |surge: u32| app.instances().len().saturating_add(surge as usize);
        let wanted = match (app.config().max_surge, app.config().max_unavailable) {
            (Some(0), 0) => Some(with(1)),
            (Some(surge), _) => Some(with(surge)),
            (None, _) => None,
        };
        let room = app.rollout().and_then(Rollout::room);
        let fitting = room.map(|room| with(1).max(room as usize));
        [wanted, fitting].into_iter().flatten().min()
    }

    /// Sets how many workers of an app fit into memory. Reloads that start from now on respect it.
    pub(crate) fn set_room(&mut self, id: AppId, workers: Option<u32>) {
        if let Some(app) = self.apps.get_mut(id) {
            app.set_room(workers);
        }
    }

    /// The number of workers of an app, in any state.
    pub(crate) fn population(&self, id: AppId) -> usize {
        let ours = |worker: &Worker| self.instances.app_of(worker.instance) == Some(id);
        self.workers.iter().filter(|(_, worker)| ours(worker)).count()
    }

    /// Drains as many workers as there are candidates to start, if that many can be spared.
    pub(crate) fn make_room(&mut self, id: AppId) {
        let Some(app) = self.apps.get(id) else { return };
        let Some(rollout) = app.rollout() else { return };
        let leaving = self.leaving_workers(id).count();
        let needed = rollout.queued().len().saturating_sub(leaving);
        let standbys: Vec<WorkerId> = self.standbys(id).map(|(worker, _)| worker).take(needed).collect();
        let needed = needed.saturating_sub(standbys.len());
        for worker in standbys {
            self.drain(worker);
            if let Some(worker) = self.workers.get(worker) {
                let instance = worker.instance;
                self.standby_lost(instance);
            }
        }
        for id in self.expendable(id).into_iter().take(needed) {
            if let Some(instance) = self.instances.get_mut(id) {
                instance.record_mut().count_restart();
            }
            self.drain_own(id, AfterExit::Restart);
        }
    }

    /// Instances that wait for their turn, and whose worker may leave before it has a successor. Those that do not serve come first.
    fn expendable(&self, id: AppId) -> Vec<InstanceId> {
        let Some(app) = self.apps.get(id) else {
            return Vec::new();
        };
        let queued = app.rollout().into_iter().flat_map(Rollout::queued).copied();
        let runs = |id: &InstanceId| {
            let state = self.instances.state(*id);
            matches!(state, Some(State::Running { .. }))
        };
        let (serving, idle): (Vec<_>, Vec<_>) = queued.filter(runs).partition(|id| self.is_served(*id));
        let unserved = app.instances().iter().filter(|id| !self.is_served(**id)).count();
        let spare = (app.config().max_unavailable as usize).saturating_sub(unserved);
        idle.into_iter().chain(serving.into_iter().take(spare)).collect()
    }

    /// True if its own worker is online.
    pub(crate) fn is_served(&self, id: InstanceId) -> bool {
        match self.instances.state(id) {
            Some(State::Running { worker }) => self.workers.is_ready(worker),
            Some(
                State::Stopping { .. }
                | State::Waiting { .. }
                | State::Awaiting { .. }
                | State::Stopped
                | State::Errored,
            )
            | None => false,
        }
    }

    /// A worker is gone, or serves: a reload may have waited for that.
    pub(crate) fn advance_reload(&mut self, app: Option<AppId>) {
        if let Some(app) = app {
            self.advance(app);
        }
    }
}
