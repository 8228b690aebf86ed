//! What outlives the shell: a core as plain data, and a core from it.
//!
//! A [`Snapshot`] has what is needed to go on and nothing that follows from it: no index, no deadline that a state has anyway, no set of
//! eligible slots, no random numbers. How it is written and read is none of the core's business.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

pub use crate::apps::State as InstanceState;
pub use crate::early_addresses::EarlyAddresses;
pub use crate::restart::{AfterExit, Record};
pub use crate::rollout::{Aim, Predecessor, Proved};
pub use crate::steering::{Flow, Rescued, Role, Slot, Tenant};
pub use crate::workers::{Candidate, Health, Intake, Kill, Place, Post, WorkerState};

use crate::core::{Core, Timer};
use crate::protocol::{AppConfig, Exit};
use crate::steering::Steering;
use crate::tickets::{self, Goal, NO_REQUESTER};
use crate::{AppId, Generation, InstanceId, Revision, SlotId, Tick, WorkerId};

/// A core, but for who waits for which outcome and for reloads that wait for their turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The configurations in use; apps, reloads and workers name them by their position.
    pub configs: Vec<Arc<AppConfig>>,
    /// All apps.
    pub apps: BTreeMap<AppId, App>,
    /// All instances.
    pub instances: BTreeMap<InstanceId, Instance>,
    /// All workers.
    pub workers: BTreeMap<WorkerId, Worker>,
    /// All slots.
    pub slots: BTreeMap<SlotId, Slot>,
    /// The number of the next instance.
    pub next_instance: u32,
    /// The number of the next worker.
    pub next_worker: u64,
}

/// A named set of instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// The configuration of workers spawned from now on, in [`Snapshot::configs`].
    pub config: u32,
    /// Their generation.
    pub generation: Generation,
    /// The highest there ever was.
    pub newest: Generation,
    /// What the generation before the present one was started from.
    pub previous: Option<Revision>,
    /// How many workers fit into memory; `None`: nothing limits them.
    pub room: Option<u32>,
    /// The reload that is going on.
    pub reload: Option<Reload>,
    /// The number of instances that it gets when some of them are online.
    pub scaling: Option<Scaling>,
}

/// The second half of a command that has restarted an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// The number of instances to scale to.
    pub count: u32,
    /// The instances that are not online yet.
    pub awaited: BTreeSet<InstanceId>,
}

/// A reload that is going on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Where it leads.
    pub aim: Aim,
    /// The generation that the app goes back to if the reload is undone.
    pub former_generation: Generation,
    /// The configuration of that, in [`Snapshot::configs`].
    pub former_config: u32,
    /// Instances whose turn has not come.
    pub queued: BTreeSet<InstanceId>,
    /// Instances whose candidate is not proved yet, with the candidate.
    pub launching: BTreeMap<InstanceId, WorkerId>,
    /// Instances that are served by their new worker.
    pub proved: BTreeMap<InstanceId, Proved>,
    /// All are proved, and are watched until then.
    pub watched_until: Option<Tick>,
    /// How many workers it may have, for memory.
    pub room: Option<u32>,
    /// The next reload ends it instead of waiting for it.
    pub yields: bool,
    /// How many instances there are to be when it is complete; `None`: as many as there are.
    pub then_scale: Option<u32>,
}

/// A place in the process list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its app.
    pub app: AppId,
    /// `NODE_APP_INSTANCE`.
    pub number: u32,
    /// Of its own worker, or the last it had.
    pub generation: Generation,
    /// What it is doing.
    pub state: InstanceState,
    /// What it remembers of its workers' failures.
    pub record: Record,
    /// How its last process ended.
    pub last_exit: Option<Exit>,
    /// What its last ready worker served; `None`: it never had one.
    pub early_addresses: Option<EarlyAddresses>,
}

/// A supervised process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The instance it works for.
    pub instance: InstanceId,
    /// Whose configuration it was started with.
    pub generation: Generation,
    /// That configuration, in [`Snapshot::configs`].
    pub config: u32,
    /// What it is doing.
    pub state: WorkerState,
    /// It has answered a probe.
    pub answers: bool,
    /// What it opened early in its life.
    pub early_addresses: EarlyAddresses,
    /// The shared sockets that it uses.
    pub shared: BTreeSet<crate::GroupId>,
    /// When the slots are closed that it did not take over from its predecessor, if there are any.
    pub unclaimed_until: Option<Tick>,
    /// It drains, has nothing left to do, and is terminated when another worker accepts where clients are about to come back.
    pub drained: bool,
}

/// A snapshot that is of no core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A configuration is missing.
    #[error("there is no configuration {0}")]
    NoConfig(u32),
    /// An app is missing.
    #[error("instance {instance} is of app {app}, which does not exist")]
    NoApp {
        /// The instance that names it.
        instance: InstanceId,
        /// The app.
        app: AppId,
    },
    /// An instance is missing.
    #[error("worker {worker} is of instance {instance}, which does not exist")]
    NoInstance {
        /// The worker that names it.
        worker: WorkerId,
        /// The instance.
        instance: InstanceId,
    },
}

/// The configurations that were named so far. Workers share those of their apps.
#[derive(Default)]
pub(crate) struct Configs {
    all: Vec<Arc<AppConfig>>,
    positions: BTreeMap<*const AppConfig, u32>,
}

impl Configs {
    pub(crate) fn name(&mut self, config: &Arc<AppConfig>) -> u32 {
        let next = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        *self.positions.entry(Arc::as_ptr(config)).or_insert_with(|| {
            self.all.push(Arc::clone(config));
            next
        })
    }
}

impl Snapshot {
    pub(crate) fn config(&self, position: u32) -> Result<Arc<AppConfig>, RestoreError> {
        let config = self.configs.get(position as usize);
        config.map(Arc::clone).ok_or(RestoreError::NoConfig(position))
    }
}

impl Core {
    /// The core as plain data. To be taken between two inputs.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut configs = Configs::default();
        let apps = self.apps.iter().map(|(id, app)| (id, app.snapshot(&mut configs)));
        let mut apps: BTreeMap<AppId, App> = apps.collect();
        for (tickets::Scaling { app, count }, awaited) in self.tickets.scalings() {
            if let Some(app) = apps.get_mut(&app) {
                app.scaling = Some(Scaling { count, awaited });
            }
        }
        let workers = self.workers.iter().map(|(id, worker)| {
            let worker = Worker {
                instance: worker.instance,
                generation: worker.generation,
                config: configs.name(&worker.config),
                state: worker.state(),
                answers: worker.answers,
                early_addresses: worker.early_addresses.clone(),
                shared: worker.shared.clone(),
                unclaimed_until: self.timers.get(Timer::Unclaimed(id)),
                drained: self.drained_but_needed.contains(&id),
            };
            (id, worker)
        });
        let workers = workers.collect();
        Snapshot {
            configs: configs.all,
            apps,
            instances: self
                .instances
                .iter()
                .map(|(id, instance)| (id, instance.snapshot()))
                .collect(),
            workers,
            slots: self
                .steering
                .slots()
                .map(|(id, slot)| (id, slot.clone()))
                .collect(),
            next_instance: self.next_instance,
            next_worker: self.next_worker,
        }
    }

    /// The core that a snapshot was taken of; [`Core::take_over`] has it go on. `seed` is as for [`Core::new`].
    ///
    /// # Errors
    /// The snapshot names what it does not have.
    pub fn restore(snapshot: Snapshot, seed: u64) -> Result<Core, RestoreError> {
        let mut core = Core::new(seed);
        core.next_instance = snapshot.next_instance;
        core.next_worker = snapshot.next_worker;
        for (&id, app) in &snapshot.apps {
            core.restore_app(id, app, &snapshot)?;
        }
        for (&id, instance) in &snapshot.instances {
            core.restore_instance(id, instance)?;
        }
        for (&id, app) in &snapshot.apps {
            core.restore_scaling(id, app);
        }
        for (&id, worker) in &snapshot.workers {
            core.restore_worker(id, worker, &snapshot)?;
        }
        core.steering = Steering::restore(snapshot.slots);
        Ok(core)
    }

    fn restore_app(&mut self, id: AppId, app: &App, snapshot: &Snapshot) -> Result<(), RestoreError> {
        self.apps.insert(id, crate::apps::App::restore(app, snapshot)?);
        if let Some(until) = app.reload.as_ref().and_then(|reload| reload.watched_until) {
            self.timers.set(Timer::WatchEnds(id), until);
        }
        Ok(())
    }

    fn restore_scaling(&mut self, id: AppId, app: &App) {
        if let Some(Scaling { count, awaited }) = &app.scaling {
            let known = awaited.iter().filter(|id| self.instances.contains(**id));
            let goals = known.map(|&instance| (instance, Goal::Online)).collect();
            let then = tickets::Scaling {
                app: id,
                count: *count,
            };
            self.tickets.open(NO_REQUESTER, goals, Some(then));
        }
    }

    fn restore_instance(&mut self, id: InstanceId, instance: &Instance) -> Result<(), RestoreError> {
        let app = instance.app;
        let no_app = RestoreError::NoApp { instance: id, app };
        let of = self.apps.get_mut(app).ok_or(no_app)?;
        of.add_instance(id, instance.number);
        self.instances
            .insert(id, crate::apps::Instance::restore(instance));
        if let Some(until) = instance.state.deadline() {
            self.timers.set(Timer::Respawn(id), until);
        }
        Ok(())
    }

    fn restore_worker(
        &mut self,
        id: WorkerId,
        worker: &Worker,
        snapshot: &Snapshot,
    ) -> Result<(), RestoreError> {
        let instance = worker.instance;
        let no_instance = RestoreError::NoInstance { worker: id, instance };
        let of = self.instances.get_mut(instance).ok_or(no_instance)?;
        if worker.state.is_leaving() {
            of.add_leaving(id);
        }
        if worker.drained {
            self.drained_but_needed.insert(id);
        }
        let deadlines = [
            (Timer::State(id), worker.state.deadline()),
            (Timer::Unclaimed(id), worker.unclaimed_until),
        ];
        for (timer, at) in deadlines {
            if let Some(at) = at {
                self.timers.set(timer, at);
            }
        }
        let config = snapshot.config(worker.config)?;
        let mut restored = crate::workers::Worker::new(instance, worker.generation, config, worker.state);
        restored.answers = worker.answers;
        restored.early_addresses = worker.early_addresses.clone();
        restored.shared = worker.shared.clone();
        self.workers.insert(id, restored);
        Ok(())
    }
}
