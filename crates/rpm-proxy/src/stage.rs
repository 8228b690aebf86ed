//! The stages of closing a front.

/// How far a front has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClosingStage {
    /// Clients stay.
    Open,
    /// HTTP/1 connections are closed with their next response; new clients are served. HTTP/2 connections stay for now: they can be asked to
    /// close at any time.
    Thinning,
    /// Clients are asked to close their connections, and served until they do. New clients go elsewhere.
    Leaving,
    /// As `Leaving`, and new clients wait in the backlog: the process is about to execute another program.
    Parting,
    /// As `Parting`, and idle connections are closed.
    Clearing,
    /// No client is accepted, and idle connections are closed.
    Closed,
}

impl ClosingStage {
    /// New clients wait in the backlog.
    pub(crate) fn keeps_waiting(self) -> bool {
        match self {
            ClosingStage::Parting | ClosingStage::Clearing => true,
            ClosingStage::Open | ClosingStage::Thinning | ClosingStage::Leaving | ClosingStage::Closed => {
                false
            }
        }
    }

    /// Idle connections are closed.
    pub(crate) fn dismisses(self) -> bool {
        match self {
            ClosingStage::Clearing | ClosingStage::Closed => true,
            ClosingStage::Open | ClosingStage::Thinning | ClosingStage::Leaving | ClosingStage::Parting => {
                false
            }
        }
    }

    /// Clients that can be asked to close at any time are asked now.
    pub(crate) fn tells(self) -> bool {
        match self {
            ClosingStage::Leaving | ClosingStage::Parting | ClosingStage::Clearing | ClosingStage::Closed => {
                true
            }
            ClosingStage::Open | ClosingStage::Thinning => false,
        }
    }
}
