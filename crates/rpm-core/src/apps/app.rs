//! Apps: named sets of instances with one configuration.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use crate::protocol::AppConfig;
use crate::rollout::Rollout;
use crate::snapshot::{self, Configs, RestoreError, Snapshot};
use crate::{AppId, Generation, InstanceId, Revision};

/// A named set of instances with one configuration.
#[derive(Debug)]
pub(crate) struct App {
    /// For workers spawned from now on; running ones keep theirs.
    config: Arc<AppConfig>,
    generation: Generation,
    /// The highest generation so far: one that was undone is not used again.
    newest: Generation,
    /// The revision of the generation before the current one.
    previous: Option<Revision>,
    instances: BTreeSet<InstanceId>,
    /// Instance numbers in use.
    numbers: BTreeSet<u32>,
    /// The number of workers that fit into memory.
    room: Option<u32>,
    /// The current reload.
    rollout: Option<Rollout>,
}

impl App {
    /// An app without instances.
    pub(crate) fn new(config: AppConfig) -> Self {
        App {
            config: Arc::new(config),
            generation: Generation(1),
            newest: Generation(1),
            previous: None,
            instances: BTreeSet::new(),
            numbers: BTreeSet::new(),
            room: None,
            rollout: None,
        }
    }

    /// What outlives the shell, without what tickets wait for.
    pub(crate) fn snapshot(&self, configs: &mut Configs) -> snapshot::App {
        snapshot::App {
            config: configs.name(&self.config),
            generation: self.generation,
            newest: self.newest,
            previous: self.previous,
            room: self.room,
            reload: self.rollout.as_ref().map(|rollout| rollout.snapshot(configs)),
            // The tickets know it.
            scaling: None,
        }
    }

    /// Without its instances.
    pub(crate) fn restore(from: &snapshot::App, whole: &Snapshot) -> Result<App, RestoreError> {
        let restore = |reload| Rollout::restore(reload, whole);
        Ok(App {
            config: whole.config(from.config)?,
            generation: from.generation,
            newest: from.newest,
            previous: from.previous,
            instances: BTreeSet::new(),
            numbers: BTreeSet::new(),
            room: from.room,
            rollout: from.reload.as_ref().map(restore).transpose()?,
        })
    }

    pub(crate) fn config(&self) -> &Arc<AppConfig> {
        &self.config
    }

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    pub(crate) fn previous(&self) -> Option<Revision> {
        self.previous
    }

    pub(crate) fn instances(&self) -> &BTreeSet<InstanceId> {
        &self.instances
    }

    pub(crate) fn room(&self) -> Option<u32> {
        self.room
    }

    pub(crate) fn rollout(&self) -> Option<&Rollout> {
        self.rollout.as_ref()
    }

    pub(crate) fn rollout_mut(&mut self) -> Option<&mut Rollout> {
        self.rollout.as_mut()
    }

    /// Starts a generation with this configuration, and returns the previous one.
    pub(crate) fn renew(&mut self, config: Arc<AppConfig>) -> (Generation, Arc<AppConfig>) {
        self.newest = Generation(self.newest.0.saturating_add(1));
        let former = mem::replace(&mut self.generation, self.newest);
        (former, mem::replace(&mut self.config, config))
    }

    /// Restores what [`App::renew`] returned.
    pub(crate) fn go_back(&mut self, (generation, config): (Generation, Arc<AppConfig>)) {
        (self.generation, self.config) = (generation, config);
    }

    pub(crate) fn set_previous(&mut self, previous: Revision) {
        self.previous = Some(previous);
    }

    pub(crate) fn set_room(&mut self, workers: Option<u32>) {
        self.room = workers;
    }

    pub(crate) fn start_rollout(&mut self, rollout: Rollout) {
        self.rollout = Some(rollout);
    }

    pub(crate) fn take_rollout(&mut self) -> Option<Rollout> {
        self.rollout.take()
    }

    /// The lowest free instance numbers, ascending.
    pub(crate) fn free_numbers(&self, count: u32) -> Vec<u32> {
        (0..)
            .filter(|number| !self.numbers.contains(number))
            .take(count as usize)
            .collect()
    }

    pub(crate) fn add_instance(&mut self, id: InstanceId, number: u32) {
        self.numbers.insert(number);
        self.instances.insert(id);
    }

    /// Returns true if it was the last one.
    pub(crate) fn remove_instance(&mut self, id: InstanceId, number: u32) -> bool {
        self.instances.remove(&id);
        self.numbers.remove(&number);
        self.instances.is_empty()
    }

    /// Checks that each instance has one number, and that no generation is beyond the newest. `number_of` returns the number of an instance
    /// of this app.
    pub(crate) fn is_consistent(&self, number_of: impl Fn(InstanceId) -> Option<u32>) -> bool {
        let numbered =
            |id: &&InstanceId| number_of(**id).is_some_and(|number| self.numbers.contains(&number));
        self.instances.iter().filter(numbered).count() == self.instances.len()
            && self.numbers.len() == self.instances.len()
            && !self.instances.is_empty()
            && self.generation <= self.newest
    }
}

/// All apps.
#[derive(Debug, Default)]
pub(crate) struct Apps {
    all: BTreeMap<AppId, App>,
}

impl Apps {
    pub(crate) fn get(&self, id: AppId) -> Option<&App> {
        self.all.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: AppId) -> Option<&mut App> {
        self.all.get_mut(&id)
    }

    pub(crate) fn contains(&self, id: AppId) -> bool {
        self.all.contains_key(&id)
    }

    /// In ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (AppId, &App)> + '_ {
        self.all.iter().map(|(&id, app)| (id, app))
    }

    pub(crate) fn rollouts_mut(&mut self) -> impl Iterator<Item = &mut Rollout> + '_ {
        self.all.values_mut().filter_map(App::rollout_mut)
    }

    pub(crate) fn insert(&mut self, id: AppId, app: App) {
        self.all.insert(id, app);
    }

    pub(crate) fn remove(&mut self, id: AppId) {
        self.all.remove(&id);
    }
}
