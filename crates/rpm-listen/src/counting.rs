//! Who counts connections for the apps that want the fewest to decide: one for all of them, and only if there are any.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rpm_sys::ebpf::{Counts, Tag};

use crate::policy::Policy;

/// It is made when the first app wants it, and made once.
#[derive(Default)]
pub(crate) enum Counting {
    #[default]
    Untried,
    Counts(Arc<Counts>),
    /// Why not.
    Fails(String),
}

impl Counting {
    pub(crate) fn taken_back(counts: Option<Counts>) -> Counting {
        counts.map_or(Counting::Untried, |counts| Counting::Counts(Arc::new(counts)))
    }

    /// What an app with this policy has.
    pub(crate) fn of(&mut self, policy: Policy) -> Count {
        if policy != Policy::LeastConnections {
            return Count::Unwanted;
        }
        if matches!(self, Counting::Untried) {
            *self = match Counts::load() {
                Ok(counts) => Counting::Counts(Arc::new(counts)),
                Err(error) => Counting::Fails(error.to_string()),
            };
        }
        match self {
            Counting::Untried => Count::Unwanted,
            Counting::Counts(counts) => Count::By(Arc::clone(counts)),
            Counting::Fails(why) => Count::Fails(why.clone()),
        }
    }

    /// Copies of what workers must hold, so that it goes on without the daemon.
    pub(crate) fn kept(&self) -> Vec<OwnedFd> {
        let Counting::Counts(counts) = self else {
            return Vec::new();
        };
        let copies = counts.descriptors();
        let copies = copies.iter().map(BorrowedFd::try_clone_to_owned);
        copies.collect::<Result<_, _>>().unwrap_or_default()
    }

    /// Forgets the slots that ended while nobody looked.
    pub(crate) fn end_all_but(&self, known: &[Tag]) {
        if let Counting::Counts(counts) = self {
            counts.end_all_but(known);
        }
    }
}

/// Whether the connections of a group are counted.
pub(crate) enum Count {
    Unwanted,
    By(Arc<Counts>),
    /// They should be, and why they are not.
    Fails(String),
}
