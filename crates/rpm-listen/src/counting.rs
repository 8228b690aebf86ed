//! The connection counter for apps with the policy least-connections. All of them share one, and it exists only if there is such an app.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rpm_keeper::{Keeper, Kept, NOBODY, Token};
use rpm_sys::ebpf::{Counts, Tag};

use crate::policy::SteeringPolicy;

/// The counter: loaded when the first app needs it, and loaded only once.
#[derive(Default)]
pub(crate) enum Counting {
    #[default]
    Untried,
    Counts {
        counts: Arc<Counts>,
        /// The copies that the keeper holds, so that counting goes on without the daemon and the next daemon gets the counter back.
        kept: Vec<Kept<OwnedFd>>,
    },
    /// Why it could not be loaded.
    Fails(String),
}

impl Counting {
    /// Takes back the counter that the previous daemon left with the keeper.
    pub(crate) fn taken_back(tokens: &[Token], keeper: &Keeper) -> Counting {
        let kept: Option<Vec<Kept<OwnedFd>>> = tokens.iter().map(|token| keeper.take(*token)).collect();
        let Some(kept) = kept else {
            return Counting::Untried;
        };
        let copies: Result<Vec<OwnedFd>, _> = kept.iter().map(|fd| fd.try_clone()).collect();
        let copies = copies.ok().and_then(|copies| copies.try_into().ok());
        let counts = copies.and_then(|copies| Counts::taken_back(copies).ok().flatten());
        counts.map_or(Counting::Untried, |counts| Counting::Counts {
            counts: Arc::new(counts),
            kept,
        })
    }

    /// Tokens for the next daemon.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        match self {
            Counting::Counts { kept, .. } => kept.iter().map(Kept::token).collect(),
            Counting::Untried | Counting::Fails(_) => Vec::new(),
        }
    }

    /// The counter for an app with this policy; loads it if needed.
    pub(crate) fn of(&mut self, policy: SteeringPolicy, keeper: &Keeper) -> Count {
        if policy != SteeringPolicy::LeastConnections {
            return Count::Unwanted;
        }
        if matches!(self, Counting::Untried) {
            *self = match Counts::load() {
                Ok(counts) => {
                    let copies = counts.descriptors().map(|fd| fd.try_clone_to_owned());
                    let kept = copies.into_iter().flatten().map(|copy| keeper.keep(copy, NOBODY));
                    Counting::Counts {
                        kept: kept.collect(),
                        counts: Arc::new(counts),
                    }
                }
                Err(error) => Counting::Fails(error.to_string()),
            };
        }
        match self {
            Counting::Untried => Count::Unwanted,
            Counting::Counts { counts, .. } => Count::By(Arc::clone(counts)),
            Counting::Fails(why) => Count::Fails(why.clone()),
        }
    }

    /// Forgets slots that ended while no daemon ran.
    pub(crate) fn end_all_but(&self, known: &[Tag]) {
        if let Counting::Counts { counts, .. } = self {
            counts.end_all_but(known);
        }
    }
}

/// How the connections of a group are spread over its slots.
#[derive(Clone)]
pub(crate) struct Spread {
    pub(crate) policy: SteeringPolicy,
    pub(crate) count: Count,
}

/// Whether the connections of a group are counted.
#[derive(Clone)]
pub(crate) enum Count {
    Unwanted,
    By(Arc<Counts>),
    /// They should be counted, but cannot be; the reason.
    Fails(String),
}
