//! Instances: the places in the process list.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::early_addresses::EarlyAddresses;
use crate::protocol::Exit;
use crate::restart::{AfterExit, Record};
use crate::snapshot;
use crate::{AppId, Generation, InstanceId, Tick, WorkerId};

/// A place in the process list.
#[derive(Debug)]
pub(crate) struct Instance {
    app: AppId,
    number: u32,
    /// The generation of its own worker, or of the last one.
    generation: Generation,
    state: State,
    record: Record,
    last_exit: Option<Exit>,
    /// What its last ready worker served, unless a reload may still undo that; `None` if it never had one.
    early_addresses: Option<EarlyAddresses>,
    /// Workers that drain, and terminated ones whose slots no successor inherits.
    leaving: BTreeSet<WorkerId>,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has a worker, which is starting or online.
    Running {
        /// The worker.
        worker: WorkerId,
    },
    /// Its worker was asked to end.
    Stopping {
        /// The worker.
        worker: WorkerId,
        /// What becomes of the instance when the worker is gone.
        then: AfterExit,
    },
    /// It has none, and gets one.
    Waiting {
        /// When.
        until: Tick,
    },
    /// It has none, and gets the candidate of a reload.
    Awaiting {
        /// What becomes of it if the reload is undone.
        then: AfterExit,
    },
    /// Not running, by command or by policy.
    Stopped,
    /// It failed too often.
    Errored,
}

impl State {
    /// True if it runs, or will run again without a command.
    pub(crate) fn will_run(self) -> bool {
        match self {
            State::Running { .. } | State::Waiting { .. } | State::Awaiting { .. } => true,
            State::Stopping { then, .. } => then.will_run(),
            State::Stopped | State::Errored => false,
        }
    }

    /// True if it is forgotten when its worker is gone.
    pub(crate) fn will_be_forgotten(self) -> bool {
        match self {
            State::Stopping { then, .. } => then == AfterExit::Forgotten,
            State::Running { .. }
            | State::Waiting { .. }
            | State::Awaiting { .. }
            | State::Stopped
            | State::Errored => false,
        }
    }

    /// True if a reload gives it a new worker. One that failed gets another chance; one that was stopped stays so.
    pub(crate) fn is_reloaded(self) -> bool {
        match self {
            State::Running { .. } | State::Waiting { .. } | State::Awaiting { .. } | State::Errored => true,
            State::Stopping { then, .. } => then.will_run() || then == AfterExit::Errored,
            State::Stopped => false,
        }
    }

    /// When the state ends by itself.
    pub(crate) fn deadline(self) -> Option<Tick> {
        match self {
            State::Waiting { until } => Some(until),
            State::Running { .. }
            | State::Stopping { .. }
            | State::Awaiting { .. }
            | State::Stopped
            | State::Errored => None,
        }
    }
}

impl Instance {
    /// A new instance, which has not run.
    pub(crate) fn new(app: AppId, number: u32, generation: Generation) -> Self {
        Instance {
            app,
            number,
            generation,
            state: State::Stopped,
            record: Record::default(),
            last_exit: None,
            early_addresses: None,
            leaving: BTreeSet::new(),
        }
    }

    /// What outlives the shell.
    pub(crate) fn snapshot(&self) -> snapshot::Instance {
        snapshot::Instance {
            app: self.app,
            number: self.number,
            generation: self.generation,
            state: self.state,
            record: self.record,
            last_exit: self.last_exit,
            early_addresses: self.early_addresses.clone(),
        }
    }

    /// Without its leaving workers.
    pub(crate) fn restore(from: &snapshot::Instance) -> Instance {
        Instance {
            state: from.state,
            record: from.record,
            last_exit: from.last_exit,
            early_addresses: from.early_addresses.clone(),
            ..Instance::new(from.app, from.number, from.generation)
        }
    }

    pub(crate) fn app(&self) -> AppId {
        self.app
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    pub(crate) fn record_mut(&mut self) -> &mut Record {
        &mut self.record
    }

    pub(crate) fn last_exit(&self) -> Option<Exit> {
        self.last_exit
    }

    pub(crate) fn early_addresses(&self) -> Option<&EarlyAddresses> {
        self.early_addresses.as_ref()
    }

    pub(crate) fn leaving(&self) -> &BTreeSet<WorkerId> {
        &self.leaving
    }

    /// Its own worker now has this generation.
    pub(crate) fn set_generation(&mut self, generation: Generation) {
        self.generation = generation;
    }

    /// Records what its last ready worker served.
    pub(crate) fn set_early_addresses(&mut self, early_addresses: EarlyAddresses) {
        self.early_addresses = Some(early_addresses);
    }

    /// Records how its process ended, if it had one.
    pub(crate) fn note_exit(&mut self, exit: Option<Exit>) {
        self.last_exit = exit.or(self.last_exit);
    }

    /// Records that this worker leaves.
    pub(crate) fn add_leaving(&mut self, worker: WorkerId) {
        self.leaving.insert(worker);
    }

    /// Forgets a leaving worker, which is gone.
    pub(crate) fn remove_leaving(&mut self, worker: WorkerId) {
        self.leaving.remove(&worker);
    }
}

/// All instances.
#[derive(Debug, Default)]
pub(crate) struct Instances {
    all: BTreeMap<InstanceId, Instance>,
}

impl Instances {
    pub(crate) fn get(&self, id: InstanceId) -> Option<&Instance> {
        self.all.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: InstanceId) -> Option<&mut Instance> {
        self.all.get_mut(&id)
    }

    /// `None` if there is no such instance.
    pub(crate) fn state(&self, id: InstanceId) -> Option<State> {
        self.get(id).map(|instance| instance.state)
    }

    /// `None` if there is no such instance.
    pub(crate) fn app_of(&self, id: InstanceId) -> Option<AppId> {
        self.get(id).map(|instance| instance.app)
    }

    pub(crate) fn contains(&self, id: InstanceId) -> bool {
        self.all.contains_key(&id)
    }

    /// True if no instance of an app is left that is not hidden.
    pub(crate) fn only_hidden(&self) -> bool {
        self.all.keys().next().is_none_or(|id| id.is_hidden())
    }

    /// An id for an instance of a hidden app: those have the highest.
    pub(crate) fn next_hidden(&self) -> InstanceId {
        let last = self.all.keys().next_back().filter(|id| id.is_hidden());
        last.map_or(InstanceId::FIRST_HIDDEN, |id| InstanceId(id.0.saturating_add(1)))
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// In ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (InstanceId, &Instance)> + '_ {
        self.all.iter().map(|(&id, instance)| (id, instance))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Instance> + '_ {
        self.all.values()
    }

    pub(crate) fn insert(&mut self, id: InstanceId, instance: Instance) {
        self.all.insert(id, instance);
    }

    pub(crate) fn remove(&mut self, id: InstanceId) -> Option<Instance> {
        self.all.remove(&id)
    }

    /// For `Core::enter_instance`, which sets the state's deadline.
    pub(crate) fn set_state(&mut self, id: InstanceId, state: State) {
        if let Some(instance) = self.all.get_mut(&id) {
            instance.state = state;
        }
    }
}
