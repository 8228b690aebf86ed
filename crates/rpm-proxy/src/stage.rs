//! The stages of closing a front.

/// How far a front has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClosingStage {
    /// Clients stay.
    Open,
    /// HTTP/1 connections are closed with their next response; new clients are served. HTTP/2 connections stay for now: they can be asked to
    /// close at any time.
    ClosingWithNextResponse,
    /// Clients are asked to close their connections, and served until they do. New clients go elsewhere.
    AskingToClose,
    /// As `AskingToClose`, and new clients wait in the backlog: the process is about to execute another program.
    HoldingNew,
    /// As `HoldingNew`, and idle connections are closed.
    ClosingIdle,
    /// No client is accepted, and idle connections are closed.
    Closed,
}

impl ClosingStage {
    /// New clients wait in the backlog.
    pub(crate) fn holds_new_clients(self) -> bool {
        match self {
            ClosingStage::HoldingNew | ClosingStage::ClosingIdle => true,
            ClosingStage::Open
            | ClosingStage::ClosingWithNextResponse
            | ClosingStage::AskingToClose
            | ClosingStage::Closed => false,
        }
    }

    /// Idle connections are closed.
    pub(crate) fn closes_idle(self) -> bool {
        match self {
            ClosingStage::ClosingIdle | ClosingStage::Closed => true,
            ClosingStage::Open
            | ClosingStage::ClosingWithNextResponse
            | ClosingStage::AskingToClose
            | ClosingStage::HoldingNew => false,
        }
    }

    /// Clients that can be asked to close at any time are asked now.
    pub(crate) fn asks_to_close(self) -> bool {
        match self {
            ClosingStage::AskingToClose
            | ClosingStage::HoldingNew
            | ClosingStage::ClosingIdle
            | ClosingStage::Closed => true,
            ClosingStage::Open | ClosingStage::ClosingWithNextResponse => false,
        }
    }
}
