//! What is known of how a worker accepts, from the samples of its accept queue.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Tick;

/// What is known of the queue of a slot whose worker is online.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Flow {
    /// New connections may come. `stuck`: since when its queue is not empty and did not shrink;
    /// `trials`: how often it was put back without proof since it last accepted.
    In { stuck: Option<Tick>, trials: u32 },
    /// None come while another slot is healthy; its own queue can still prove it alive.
    Out { stuck: Tick, trials: u32 },
    /// None come, and its queue was moved.
    Rescued(Rescued),
}

/// A slot after a rescue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rescued {
    /// Since when connections wait that arrived after the rescue (late handshakes).
    pub(super) waiting: Option<Tick>,
    pub(super) probe_at: Tick,
    pub(super) probe_every: Duration,
    pub(super) trial_at: Tick,
    pub(super) trials: u32,
}

impl Flow {
    pub(crate) fn fresh() -> Flow {
        Flow::In {
            stuck: None,
            trials: 0,
        }
    }

    pub(crate) fn is_in(self) -> bool {
        match self {
            Flow::In { .. } => true,
            Flow::Out { .. } | Flow::Rescued(_) => false,
        }
    }

    /// The next probe or trial.
    pub(crate) fn deadline(self) -> Option<Tick> {
        match self {
            Flow::In { .. } | Flow::Out { .. } => None,
            Flow::Rescued(rescued) => Some(rescued.probe_at.min(rescued.trial_at)),
        }
    }
}
