//! Views: read-only state for the shell.

use core::time::Duration;

use crate::apps::{Instance, State};
use crate::core::Core;
use crate::protocol::{AppConfig, Exit};
use crate::restart::AfterExit;
use crate::rollout::Aim;
use crate::workers::{Intake, Part, Worker, WorkerState};
use crate::{AppId, Generation, GroupId, InstanceId, Revision, SlotId, Tick, WorkerId};

/// The current state of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceView {
    /// Its id.
    pub id: InstanceId,
    /// Its app.
    pub app: AppId,
    /// `NODE_APP_INSTANCE`.
    pub number: u32,
    /// Generation of its own worker, or of its last one.
    pub generation: Generation,
    /// What it is doing.
    pub state: StateView,
    /// The worker that a reload has started for it, until it is proved ready.
    pub candidate: Option<WorkerId>,
    /// How often a worker was replaced: after a crash, and by a restart or a reload of one that was online.
    pub restarts: u32,
    /// Consecutive failures to start.
    pub unstable_restarts: u32,
    /// What its worker was asked to end for, if it was.
    pub ends_for: Option<EndsFor>,
    /// How its last process ended; `None` if none has.
    pub last_exit: Option<Exit>,
    /// The last delay of a growing back-off ([`crate::protocol::RestartPolicy::exp_backoff`]), without jitter.
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
    /// It has no worker, by command or by policy.
    Stopped,
    /// It has no worker until then.
    WaitingRestart {
        /// When the next one is spawned.
        until: Tick,
    },
    /// It has no worker: it failed too often.
    Errored,
}

/// What an instance's worker was asked to end for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndsFor {
    /// The instance rests.
    Stop,
    /// Another worker takes its place.
    Restart,
    /// It was not ready in time. [`crate::protocol::Notice::Crashed`] tells of its end.
    Failure {
        /// It was the last try: the instance is errored then.
        is_last: bool,
    },
    /// The instance is forgotten.
    Delete,
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

/// The current state of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Its id.
    pub id: WorkerId,
    /// The instance it works for.
    pub instance: InstanceId,
    /// The generation whose configuration it was started with.
    pub generation: Generation,
    /// The revision it was started from.
    pub revision: Revision,
    /// When its process began to run; `None` if it does not run yet.
    pub spawned: Option<Tick>,
    /// True if it is ready.
    pub online: bool,
    /// True if it is not ready, and was not asked to end.
    pub launching: bool,
    /// True if its process was sent the signal to end.
    pub ending: bool,
    /// The deadline of its phase.
    pub until: Option<Tick>,
}

/// A worker that its instance has replaced, or will soon do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeavingView {
    /// Its id.
    pub worker: WorkerId,
    /// The instance it worked for.
    pub instance: InstanceId,
    /// The generation whose configuration it was started with.
    pub generation: Generation,
    /// When it was replaced.
    pub since: Tick,
    /// The deadline after which it is terminated (draining) or killed (terminating); `None` for a standby, which leaves with the reload.
    pub until: Option<Tick>,
    /// Its phase.
    pub phase: LeavingPhase,
}

/// The phase of a leaving worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeavingPhase {
    /// It serves again if the reload is undone.
    Standby,
    /// It finishes its requests.
    Draining {
        /// It was asked to close its listeners ([`crate::protocol::Output::RefuseNew`]).
        refuses_new: Option<RefusesNew>,
    },
    /// It was sent the signal to end, or gets it as soon as it has a process.
    Terminating,
}

/// How a draining worker refuses new clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusesNew {
    /// Existing clients stay as long as they otherwise would.
    pub keeps: bool,
}

/// The progress of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadView {
    /// The generation that it starts.
    pub generation: Generation,
    /// The revision that the app returns to if it is undone.
    pub former: Revision,
    /// A reload was undone that had not kept all old workers; the missing ones are being started again.
    pub returns: bool,
    /// The next reload ends it instead of waiting for it.
    pub yields: bool,
    /// The number of instances to scale to when it is complete; `None` for no change.
    pub then_scale: Option<u32>,
    /// How many workers it may have, limited by memory; `None` for no limit.
    pub room: Option<u32>,
    /// Instances whose turn has not come.
    pub queued: usize,
    /// Instances whose new worker is starting.
    pub launching: usize,
    /// Instances whose new worker serves.
    pub proved: usize,
    /// Every new worker serves; until then the old ones are standby ([`crate::protocol::RestartPolicy::watch_after`]).
    pub watched_until: Option<Tick>,
}

/// An open slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSlot {
    /// Its id.
    pub slot: SlotId,
    /// Its group.
    pub group: GroupId,
    /// The worker that holds it; `None` if it waits for its instance's next worker.
    pub holder: Option<WorkerId>,
}

/// The current state of an app.
#[derive(Clone, Copy, Debug)]
pub struct AppView<'a> {
    /// Its id.
    pub id: AppId,
    /// The generation that new workers are started with.
    pub generation: Generation,
    /// The configuration that new workers are started with.
    pub config: &'a AppConfig,
    /// The revision of the generation before the current one. Generations of reloads that did not complete do not count.
    pub previous: Option<Revision>,
    /// The current reload.
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
            .map(|(id, instance)| self.view(id, instance))
    }

    /// An instance; `None` if there is none with this id.
    #[must_use]
    pub fn instance(&self, id: InstanceId) -> Option<InstanceView> {
        self.instances.get(id).map(|instance| self.view(id, instance))
    }

    /// A worker; `None` if its process tree is gone, or it never existed.
    #[must_use]
    pub fn worker(&self, id: WorkerId) -> Option<WorkerView> {
        self.workers.get(id).map(|worker| worker_view(id, worker))
    }

    /// All workers, ascending.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> + '_ {
        self.workers.iter().map(|(id, worker)| worker_view(id, worker))
    }

    /// All open slots, ascending.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = OpenSlot> + '_ {
        self.steering.slots().map(|(slot, it)| OpenSlot {
            slot,
            group: it.group,
            holder: it.tenant.worker(),
        })
    }

    /// The worker that holds a slot; `None` if none does, or the slot is not open.
    #[must_use]
    pub fn holder(&self, slot: SlotId) -> Option<WorkerId> {
        self.steering.holder(slot)
    }

    /// The slot of `group` that `worker` holds; the first, if it holds several.
    #[must_use]
    pub fn slot_at(&self, worker: WorkerId, group: GroupId) -> Option<SlotId> {
        let instance = self.workers.get(worker)?.instance;
        let mut held = self.steering.slots_of(instance, worker);
        held.find(|slot| self.steering.group_of(*slot) == Some(group))
    }

    /// An app; `None` if there is none with this id.
    #[must_use]
    pub fn app(&self, id: AppId) -> Option<AppView<'_>> {
        let app = self.apps.get(id)?;
        Some(AppView {
            id,
            generation: app.generation(),
            config: app.config(),
            previous: app.previous(),
            reload: app.rollout().map(|rollout| ReloadView {
                generation: app.generation(),
                former: rollout.former_revision(),
                returns: rollout.aim() == Aim::Return,
                yields: rollout.yields(),
                then_scale: rollout.then_scale(),
                room: rollout.room(),
                queued: rollout.queued().len(),
                launching: rollout.launching().len(),
                proved: rollout.proved().len(),
                watched_until: rollout.watched_until(),
            }),
            instances: app.instances(),
        })
    }

    /// The workers of an app that are standby, drain, or were terminated and have no successor that inherits from them. A worker that
    /// leaves together with its instance ([`crate::protocol::Command::Scale`]) is included, although it is its instance's own worker.
    pub fn leaving(&self, app: AppId) -> impl Iterator<Item = LeavingView> + '_ {
        self.standbys(app)
            .chain(self.leaving_workers(app))
            .filter_map(|(id, worker)| leaving_view(id, worker))
    }

    /// The leaving workers of one instance.
    pub fn leaving_of(&self, id: InstanceId) -> impl Iterator<Item = LeavingView> + '_ {
        let leaving = self.instances.get(id).map(|instance| instance.leaving());
        let leaving_workers = leaving
            .into_iter()
            .flatten()
            .filter_map(|id| Some((*id, self.workers.get(*id)?)));
        self.standby_of(id)
            .into_iter()
            .chain(leaving_workers)
            .filter_map(|(id, worker)| leaving_view(id, worker))
    }

    fn view(&self, id: InstanceId, instance: &Instance) -> InstanceView {
        InstanceView {
            id,
            app: instance.app(),
            number: instance.number(),
            generation: instance.generation(),
            state: self.state_view(id, instance.state()),
            candidate: self.candidate(id),
            restarts: instance.record().restarts,
            unstable_restarts: instance.record().unstable,
            ends_for: ends_for(instance.state()),
            last_exit: instance.last_exit(),
            backed_off: self
                .apps
                .get(instance.app())
                .and_then(|app| instance.record().backed_off(&app.config().policy)),
        }
    }

    fn state_view(&self, id: InstanceId, state: State) -> StateView {
        match state {
            State::Running { worker } => match self.workers.state(worker) {
                Some(WorkerState::Ready { since, silent, .. }) => StateView::Online {
                    worker,
                    since,
                    silent,
                },
                Some(
                    WorkerState::Spawning { .. }
                    | WorkerState::Starting { .. }
                    | WorkerState::CandidateSpawning { .. }
                    | WorkerState::Candidate { .. }
                    | WorkerState::Draining { .. }
                    | WorkerState::Cancelled { .. }
                    | WorkerState::Terminating { .. },
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

fn ends_for(state: State) -> Option<EndsFor> {
    match state {
        State::Stopping { then, .. } => Some(match then {
            AfterExit::Stopped => EndsFor::Stop,
            AfterExit::Restart => EndsFor::Restart,
            AfterExit::Retry { .. } => EndsFor::Failure { is_last: false },
            AfterExit::Errored => EndsFor::Failure { is_last: true },
            AfterExit::Forgotten => EndsFor::Delete,
        }),
        State::Running { .. }
        | State::Waiting { .. }
        | State::Awaiting { .. }
        | State::Stopped
        | State::Errored => None,
    }
}

fn worker_view(id: WorkerId, worker: &Worker) -> WorkerView {
    WorkerView {
        id,
        instance: worker.instance,
        generation: worker.generation,
        revision: worker.config.revision,
        spawned: worker.state().spawned(),
        online: worker.state().is_ready(),
        launching: worker.state().is_starting(),
        ending: matches!(worker.state(), WorkerState::Terminating { .. }),
        until: worker.state().deadline(),
    }
}

fn leaving_view(id: WorkerId, worker: &Worker) -> Option<LeavingView> {
    let (since, phase) = match (worker.state().part(), worker.state()) {
        (Part::Own | Part::Candidate, _) => return None,
        (Part::Standby { since }, _) => (since, LeavingPhase::Standby),
        (Part::Leaving { since }, WorkerState::Draining { intake, .. }) => {
            let refuses_new = match intake {
                Intake::Open => None,
                Intake::Refusing { keeps } => Some(RefusesNew { keeps }),
            };
            (since, LeavingPhase::Draining { refuses_new })
        }
        (Part::Leaving { since }, _) => (since, LeavingPhase::Terminating),
    };
    Some(LeavingView {
        worker: id,
        instance: worker.instance,
        generation: worker.generation,
        since,
        until: worker.state().deadline(),
        phase,
    })
}
