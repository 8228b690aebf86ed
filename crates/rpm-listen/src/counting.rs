//! Who counts connections for the apps that want the fewest to decide: one for all of them, and only if there are any.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rpm_keeper::{Keeper, Kept, NOBODY, Token};
use rpm_sys::ebpf::{Counts, Tag};

use crate::policy::SteeringPolicy;

/// It is made when the first app wants it, and made once.
#[derive(Default)]
pub(crate) enum Counting {
    #[default]
    Untried,
    Counts {
        counts: Arc<Counts>,
        /// By these it goes on without the daemon, and the next one has it.
        kept: Vec<Kept<OwnedFd>>,
    },
    /// Why not.
    Fails(String),
}

impl Counting {
    /// From what the daemon before had kept of it.
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

    /// By which the next daemon has it.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        match self {
            Counting::Counts { kept, .. } => kept.iter().map(Kept::token).collect(),
            Counting::Untried | Counting::Fails(_) => Vec::new(),
        }
    }

    /// What an app with this policy has.
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

    /// Forgets the slots that ended while nobody looked.
    pub(crate) fn end_all_but(&self, known: &[Tag]) {
        if let Counting::Counts { counts, .. } = self {
            counts.end_all_but(known);
        }
    }
}

/// Whether the connections of a group are counted.
#[derive(Clone)]
pub(crate) enum Count {
    Unwanted,
    By(Arc<Counts>),
    /// They should be, and why they are not.
    Fails(String),
}
