//! How far a front has gone on its way to its end.

/// What a listener's connections are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Clients may stay.
    Open,
    /// Clients of HTTP/1 go with their next answer, and new ones are served. Those of HTTP/2 need not be asked so early: they are told when
    /// they ask for nothing as well.
    Thinning,
    /// Others serve new clients: whoever is here is asked to go, and served until it does.
    Leaving,
    /// The same, and new clients wait in the backlog: the process is about to be another program.
    Parting,
    /// The same, and whoever is idle has to go.
    Clearing,
    /// Nobody is accepted any more, and whoever is idle has to go.
    Closed,
}

impl Stage {
    /// New clients wait in the backlog.
    pub(crate) fn keeps_waiting(self) -> bool {
        match self {
            Stage::Parting | Stage::Clearing => true,
            Stage::Open | Stage::Thinning | Stage::Leaving | Stage::Closed => false,
        }
    }

    /// An idle client has to go.
    pub(crate) fn dismisses(self) -> bool {
        match self {
            Stage::Clearing | Stage::Closed => true,
            Stage::Open | Stage::Thinning | Stage::Leaving | Stage::Parting => false,
        }
    }

    /// A client that can be told at any time is told to go.
    pub(crate) fn tells(self) -> bool {
        match self {
            Stage::Leaving | Stage::Parting | Stage::Clearing | Stage::Closed => true,
            Stage::Open | Stage::Thinning => false,
        }
    }
}
