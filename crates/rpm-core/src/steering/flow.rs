//! How a worker accepts, according to samples of its accept queue.

use core::time::Duration;

use crate::Tick;

/// What is known of the queue of a slot whose worker is online.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// New connections may come.
    In {
        /// Since when its queue is not empty and did not shrink.
        stuck: Option<Tick>,
        /// How often it was put back without proof since it last accepted.
        trials: u32,
    },
    /// None come while another slot is healthy; its own queue can still prove it alive.
    Out {
        /// Since when its queue did not shrink.
        stuck: Tick,
        /// As for [`Flow::In`].
        trials: u32,
    },
    /// None come, and its queue was moved.
    Rescued(Rescued),
}

/// A slot after a rescue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rescued {
    /// Since when connections wait that arrived after the rescue (late handshakes).
    pub waiting: Option<Tick>,
    /// When its worker is asked for a sign of life.
    pub probe_at: Tick,
    /// How long after that again.
    pub probe_every: Duration,
    /// When it is put back without proof.
    pub trial_at: Tick,
    /// How often it was already.
    pub trials: u32,
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
