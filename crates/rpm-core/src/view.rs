//! Views: what the shell may look at.

use core::time::Duration;

use crate::core::Core;
use crate::instance::{Instance, State};
use crate::protocol::{AppConfig, Exit};
use crate::reload::Aim;
use crate::worker::{Duty, Phase, Worker};
use crate::{AppId, Generation, InstanceId, Revision, Tick, WorkerId};

/// One instance as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceView {
    /// Its id.
    pub id: InstanceId,
    /// Its app.
    pub app: AppId,
    /// `NODE_APP_INSTANCE`.
    pub number: u32,
    /// Generation of its own worker, or of the last it had.
    pub generation: Generation,
    /// What it is doing.
    pub state: StateView,
    /// The worker that a reload has started for it, until it is proved ready.
    pub candidate: Option<WorkerId>,
    /// Automatic restarts, and asked-for ones of a worker that was online.
    pub restarts: u32,
    /// Consecutive failures to start.
    pub unstable_restarts: u32,
    /// How its last process ended; `None` if none has.
    pub last_exit: Option<Exit>,
    /// With a growing delay before restarts ([`crate::protocol::Policy::exp_backoff`]): the last one, its jitter excepted.
    pub backed_off: Option<Duration>,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateView {
    /// Its worker is not ready yet.
    Launching {
        /// The worker.
        worker: WorkerId,
    },
    /// Its worker is ready.
    Online {
        /// The worker.
        worker: WorkerId,
        /// When it became ready.
        since: Tick,
        /// It listens on nothing.
        silent: bool,
    },
    /// Its worker was asked to end.
    Stopping {
        /// The worker.
        worker: WorkerId,
    },
    /// No worker, by wish or by policy.
    Stopped,
    /// No worker until then.
    WaitingRestart {
        /// When the next one is spawned.
        until: Tick,
    },
    /// No worker: it failed too often.
    Errored,
}

impl InstanceView {
    /// The worker that runs, starts or ends.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerId> {
        match self.state {
            StateView::Launching { worker }
            | StateView::Online { worker, .. }
            | StateView::Stopping { worker } => Some(worker),
            StateView::Stopped | StateView::WaitingRestart { .. } | StateView::Errored => None,
        }
    }
}

/// One worker as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Its id.
    pub id: WorkerId,
    /// The instance it works for.
    pub instance: InstanceId,
    /// Whose configuration it was started with.
    pub generation: Generation,
    /// What it was started from.
    pub revision: Revision,
    /// When its process began to run; `None`: not yet.
    pub spawned: Option<Tick>,
    /// It is ready.
    pub online: bool,
    /// It is not ready, and nobody has told it to end.
    pub launching: bool,
    /// It was told to end.
    pub ending: bool,
    /// When its phase ends at the latest.
    pub until: Option<Tick>,
}

/// A worker that its instance has replaced, or is about to do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetiringView {
    /// Its id.
    pub worker: WorkerId,
    /// The instance it worked for.
    pub instance: InstanceId,
    /// Whose configuration it was started with.
    pub generation: Generation,
    /// When it was replaced.
    pub since: Tick,
    /// When its phase ends at the latest (draining: it is told to end; ending: SIGKILL); `None`: with the reload.
    pub until: Option<Tick>,
    /// How far it is.
    pub phase: RetiringPhase,
    /// It was told to take no client any more ([`crate::protocol::Output::Refuse`]).
    pub refuses: bool,
    /// But keeps those that it has.
    pub keeps: bool,
}

/// How far a worker is that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetiringPhase {
    /// It would serve again if the reload were undone.
    Warm,
    /// It finishes what it has begun.
    Draining,
    /// It was told to end.
    Ending,
}

/// How far a reload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadView {
    /// The generation that it starts.
    pub generation: Generation,
    /// What the app goes back to if it is undone.
    pub former: Revision,
    /// A reload that was undone could not keep all old workers: those that are missing are being started again.
    pub returns: bool,
    /// The next reload ends it instead of waiting for it.
    pub yields: bool,
    /// How many workers it may have, for memory; `None`: that limits nothing.
    pub room: Option<u32>,
    /// Instances whose turn has not come.
    pub queued: usize,
    /// Instances whose new worker is starting.
    pub launching: usize,
    /// Instances whose new worker serves.
    pub proved: usize,
    /// Every new worker serves, and until then the old ones stand by ([`crate::protocol::Policy::watch_after`]).
    pub watched_until: Option<Tick>,
}

/// One app as it is now.
#[derive(Clone, Copy, Debug)]
pub struct AppView<'a> {
    /// Its id.
    pub id: AppId,
    /// The generation that new workers are started with.
    pub generation: Generation,
    /// The configuration that new workers are started with.
    pub config: &'a AppConfig,
    /// What the generation before the present one was started from. One that a reload could not complete is none.
    pub previous: Option<Revision>,
    /// The reload that is going on.
    pub reload: Option<ReloadView>,
    instances: &'a alloc::collections::BTreeSet<InstanceId>,
}

impl AppView<'_> {
    /// Its instances, ascending.
    pub fn instances(&self) -> impl ExactSizeIterator<Item = InstanceId> + '_ {
        self.instances.iter().copied()
    }
}

impl Core {
    /// All instances, ascending by id.
    pub fn instances(&self) -> impl Iterator<Item = InstanceView> + '_ {
        self.instances
            .iter()
            .map(|(&id, instance)| self.view(id, instance))
    }

    /// One instance; `None`: there is none of that id.
    #[must_use]
    pub fn instance(&self, id: InstanceId) -> Option<InstanceView> {
        self.instances.get(&id).map(|instance| self.view(id, instance))
    }

    /// One worker; `None`: its process tree is gone, or it never was.
    #[must_use]
    pub fn worker(&self, id: WorkerId) -> Option<WorkerView> {
        self.workers.get(&id).map(|worker| worker_view(id, worker))
    }

    /// All workers, ascending.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> + '_ {
        self.workers.iter().map(|(&id, worker)| worker_view(id, worker))
    }

    /// One app; `None`: there is none of that id.
    #[must_use]
    pub fn app(&self, id: AppId) -> Option<AppView<'_>> {
        let app = self.apps.get(&id)?;
        Some(AppView {
            id,
            generation: app.generation,
            config: &app.config,
            previous: app.previous,
            reload: app.rollout.as_ref().map(|rollout| ReloadView {
                generation: app.generation,
                former: rollout.former(),
                returns: rollout.aim == Aim::Return,
                yields: rollout.yields,
                room: rollout.room,
                queued: rollout.queued.len(),
                launching: rollout.launching.len(),
                proved: rollout.proved.len(),
                watched_until: rollout.watched_until,
            }),
            instances: &app.instances,
        })
    }

    /// The workers of an app that stand by, drain or end after having been replaced. One that ends together with its
    /// instance by [`crate::protocol::Command::Scale`] is among them, and is its instance's worker too.
    pub fn retiring(&self, app: AppId) -> impl Iterator<Item = RetiringView> + '_ {
        self.stand_bys(app)
            .chain(self.retirees(app))
            .filter_map(|(id, worker)| retiring_view(id, worker))
    }

    /// Those of one instance.
    pub fn retiring_of(&self, id: InstanceId) -> impl Iterator<Item = RetiringView> + '_ {
        let retiring = self.instances.get(&id).map(|instance| &instance.retiring);
        let retirees = retiring
            .into_iter()
            .flatten()
            .filter_map(|id| Some((*id, self.workers.get(id)?)));
        self.stands_by_for(id)
            .into_iter()
            .chain(retirees)
            .filter_map(|(id, worker)| retiring_view(id, worker))
    }

    fn view(&self, id: InstanceId, instance: &Instance) -> InstanceView {
        InstanceView {
            id,
            app: instance.app,
            number: instance.number,
            generation: instance.generation,
            state: self.state_view(id, instance.state),
            candidate: self.candidate(id),
            restarts: instance.record.restarts,
            unstable_restarts: instance.record.unstable,
            last_exit: instance.last_exit,
            backed_off: self
                .apps
                .get(&instance.app)
                .and_then(|app| instance.record.backed_off(&app.config.policy)),
        }
    }

    fn state_view(&self, id: InstanceId, state: State) -> StateView {
        match state {
            State::Running { worker } => match self.workers.get(&worker).map(|worker| worker.phase) {
                Some(Phase::Online { since, silent }) => StateView::Online {
                    worker,
                    since,
                    silent,
                },
                Some(
                    Phase::Spawning { .. }
                    | Phase::Launching { .. }
                    | Phase::Draining { .. }
                    | Phase::Cancelled(_)
                    | Phase::Stopping(_),
                )
                | None => StateView::Launching { worker },
            },
            State::Stopping { worker, .. } => StateView::Stopping { worker },
            State::Waiting { until } => StateView::WaitingRestart { until },
            State::Awaiting { .. } => self
                .candidate(id)
                .map_or(StateView::Stopped, |worker| StateView::Launching { worker }),
            State::Stopped => StateView::Stopped,
            State::Errored => StateView::Errored,
        }
    }
}

fn worker_view(id: WorkerId, worker: &Worker) -> WorkerView {
    WorkerView {
        id,
        instance: worker.instance,
        generation: worker.generation,
        revision: worker.config.revision,
        spawned: worker.spawned,
        online: worker.phase.is_online(),
        launching: matches!(worker.phase, Phase::Spawning { .. } | Phase::Launching { .. }),
        ending: matches!(worker.phase, Phase::Stopping(_)),
        until: worker.phase.deadline(),
    }
}

fn retiring_view(id: WorkerId, worker: &Worker) -> Option<RetiringView> {
    let (since, phase) = match (worker.duty, worker.phase) {
        (Duty::StandBy { since }, _) => (since, RetiringPhase::Warm),
        (Duty::Retire { since }, Phase::Draining { .. }) => (since, RetiringPhase::Draining),
        (Duty::Retire { since }, _) => (since, RetiringPhase::Ending),
        (Duty::Serve | Duty::Prove, _) => return None,
    };
    Some(RetiringView {
        worker: id,
        instance: worker.instance,
        generation: worker.generation,
        since,
        until: worker.phase.deadline(),
        phase,
        refuses: worker.refuses,
        keeps: worker.keeps,
    })
}
