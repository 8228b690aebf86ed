//! Apps and their instances: the places in the process list.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::footprint::Footprint;
use crate::protocol::{AppConfig, Exit};
use crate::reload::Rollout;
use crate::restart::Record;
use crate::{AppId, Generation, InstanceId, Revision, Tick, WorkerId};

/// A named set of instances with one configuration.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct App {
    /// For workers spawned from now on; earlier ones keep theirs.
    pub(crate) config: Arc<AppConfig>,
    pub(crate) generation: Generation,
    /// The highest there ever was: one that was undone is not used again.
    pub(crate) newest: Generation,
    /// What the generation before the present one was started from.
    pub(crate) previous: Option<Revision>,
    pub(crate) instances: BTreeSet<InstanceId>,
    /// Instance numbers in use.
    pub(crate) numbers: BTreeSet<u32>,
    /// How many workers fit into memory.
    #[serde(default)]
    pub(crate) room: Option<u32>,
    /// The reload that is going on.
    pub(crate) rollout: Option<Rollout>,
}

/// A place in the process list.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Instance {
    pub(crate) app: AppId,
    pub(crate) number: u32,
    /// Of its own worker, or the last it had.
    pub(crate) generation: Generation,
    pub(crate) state: State,
    pub(crate) record: Record,
    pub(crate) last_exit: Option<Exit>,
    /// What its last ready worker served (not one that a reload may still undo); `None`: it never had one.
    pub(crate) footprint: Option<Footprint>,
    /// Workers that drain, or that were terminated and have no successor that inherits from them.
    #[serde(rename = "retiring")]
    pub(crate) leaving: BTreeSet<WorkerId>,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// It has a worker, which is starting or online.
    Running { worker: WorkerId },
    /// Its worker was asked to end.
    Stopping { worker: WorkerId, then: AfterExit },
    /// It has none, and gets one at `until`.
    Waiting { until: Tick },
    /// It has none, and gets the candidate of a reload; `then`: if the reload is undone.
    Awaiting { then: AfterExit },
    /// Not running, by wish or by policy.
    Stopped,
    /// Failed too often.
    Errored,
}

/// What becomes of an instance when the worker that was asked to end is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AfterExit {
    /// It rests.
    Stopped,
    /// It has failed for good.
    Errored,
    /// Another worker, at once.
    Restart,
    /// Another worker, after this delay.
    Retry { delay: Duration },
    /// It is forgotten.
    Forgotten,
}

impl AfterExit {
    /// Will there be another worker?
    pub(crate) fn will_run(self) -> bool {
        match self {
            AfterExit::Restart | AfterExit::Retry { .. } => true,
            AfterExit::Stopped | AfterExit::Errored | AfterExit::Forgotten => false,
        }
    }
}

impl State {
    /// Does it run, or will it run again without being asked to?
    pub(crate) fn will_run(self) -> bool {
        match self {
            State::Running { .. } | State::Waiting { .. } | State::Awaiting { .. } => true,
            State::Stopping { then, .. } => then.will_run(),
            State::Stopped | State::Errored => false,
        }
    }

    /// Is it about to be forgotten?
    pub(crate) fn is_leaving(self) -> bool {
        match self {
            State::Stopping { then, .. } => then == AfterExit::Forgotten,
            State::Running { .. }
            | State::Waiting { .. }
            | State::Awaiting { .. }
            | State::Stopped
            | State::Errored => false,
        }
    }

    /// Does a reload give it a new worker? One that failed gets another chance; one that was stopped stays so.
    pub(crate) fn is_reloaded(self) -> bool {
        match self {
            State::Running { .. } | State::Waiting { .. } | State::Awaiting { .. } | State::Errored => true,
            State::Stopping { then, .. } => then.will_run() || then == AfterExit::Errored,
            State::Stopped => false,
        }
    }
}

impl Instance {
    /// One that never ran.
    pub(crate) fn new(app: AppId, number: u32, generation: Generation) -> Self {
        let record = Record::default();
        Instance {
            app,
            number,
            generation,
            state: State::Stopped,
            record,
            last_exit: None,
            footprint: None,
            leaving: BTreeSet::new(),
        }
    }
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

    /// A generation with this configuration begins; returns what was before.
    pub(crate) fn renew(&mut self, config: Arc<AppConfig>) -> (Generation, Arc<AppConfig>) {
        self.newest = Generation(self.newest.0.saturating_add(1));
        let former = mem::replace(&mut self.generation, self.newest);
        (former, mem::replace(&mut self.config, config))
    }

    /// The lowest instance numbers that are free, ascending.
    pub(crate) fn free_numbers(&self, count: u32) -> Vec<u32> {
        (0..)
            .filter(|number| !self.numbers.contains(number))
            .take(count as usize)
            .collect()
    }
}
