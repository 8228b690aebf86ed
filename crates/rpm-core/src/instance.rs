//! Apps and their instances: the places in the process list.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use crate::protocol::{AppConfig, Exit};
use crate::restart::Record;
use crate::{AppId, Generation, InstanceId, Tick, WorkerId};

/// A named set of instances with one configuration.
#[derive(Debug)]
pub(crate) struct App {
    /// For workers spawned from now on; earlier ones keep theirs.
    pub(crate) config: Arc<AppConfig>,
    pub(crate) generation: Generation,
    pub(crate) instances: BTreeSet<InstanceId>,
    /// Instance numbers in use.
    pub(crate) numbers: BTreeSet<u32>,
}

/// A place in the process list.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) app: AppId,
    pub(crate) number: u32,
    /// Of the worker spawned last.
    pub(crate) generation: Generation,
    pub(crate) state: State,
    pub(crate) record: Record,
    pub(crate) last_exit: Option<Exit>,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It has a worker, which is starting or online.
    Running { worker: WorkerId },
    /// Its worker was asked to end.
    Stopping { worker: WorkerId, then: Then },
    /// It has none, and gets one at `until`.
    Waiting { until: Tick },
    /// Not running, by wish or by policy.
    Stopped,
    /// Failed too often.
    Errored,
}

/// What becomes of an instance when the worker that was asked to end is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
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

impl Then {
    /// Will there be another worker?
    pub(crate) fn returns(self) -> bool {
        match self {
            Then::Restart | Then::Retry { .. } => true,
            Then::Stopped | Then::Errored | Then::Forgotten => false,
        }
    }
}

impl State {
    /// Does it run, or will it run again without being asked to?
    pub(crate) fn returns(self) -> bool {
        match self {
            State::Running { .. } | State::Waiting { .. } => true,
            State::Stopping { then, .. } => then.returns(),
            State::Stopped | State::Errored => false,
        }
    }

    /// Is it about to be forgotten?
    pub(crate) fn is_leaving(self) -> bool {
        match self {
            State::Stopping { then, .. } => then == Then::Forgotten,
            State::Running { .. } | State::Waiting { .. } | State::Stopped | State::Errored => false,
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
        }
    }
}

impl App {
    /// The lowest instance numbers that are free, ascending.
    pub(crate) fn free_numbers(&self, count: u32) -> Vec<u32> {
        (0..)
            .filter(|number| !self.numbers.contains(number))
            .take(count as usize)
            .collect()
    }
}
