//! A kept descriptor, as the daemon holds it.

use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use crate::keeper::Keeper;
use crate::protocol::Kind;

/// Names something that is kept, for the next daemon. No two are the same while the system runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub(crate) u64);

impl From<u64> for Token {
    fn from(number: u64) -> Token {
        Token(number)
    }
}

impl From<Token> for u64 {
    fn from(token: Token) -> u64 {
        token.0
    }
}

/// A descriptor that the next daemon gets if this one dies; when it is dropped it is kept no more.
pub struct Kept<T: AsFd + Send + Sync + 'static> {
    pub(crate) descriptor: Arc<T>,
    pub(crate) token: Token,
    pub(crate) keeper: Keeper,
}

impl<T: AsFd + Send + Sync + 'static> Kept<T> {
    /// The token by which the next daemon asks for it.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// The descriptor, to be shared.
    #[must_use]
    pub fn share(&self) -> Arc<T> {
        Arc::clone(&self.descriptor)
    }

    /// True if the keeper releases it when it is dropped: see [`Keeper::lets_go`].
    #[must_use]
    pub fn lets_go(&self) -> bool {
        self.keeper.lets_go()
    }

    /// Changes the owner, to another worker or [`crate::NOBODY`].
    pub fn belongs_to(&self, owner: u64) {
        let mut state = self.keeper.lock();
        let Some((entry, _)) = state.kept.get_mut(&self.token.0) else {
            return;
        };
        if entry.owner != owner {
            entry.owner = owner;
            let entry = *entry;
            state.post(Kind::Own, entry);
        }
    }
}

impl<T: AsFd + Send + Sync + 'static> Drop for Kept<T> {
    fn drop(&mut self) {
        // If the daemon panics, the next one gets it.
        if std::thread::panicking() {
            return;
        }
        let mut state = self.keeper.lock();
        if let Some((entry, _)) = state.kept.remove(&self.token.0) {
            state.let_go(entry);
        }
    }
}

impl<T: AsFd + Send + Sync + 'static> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.descriptor
    }
}

impl<T: AsFd + Send + Sync + 'static> AsFd for Kept<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl<T: AsFd + Send + Sync + 'static> AsRawFd for Kept<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_fd().as_raw_fd()
    }
}

impl<T: AsFd + Send + Sync + 'static> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.token.0).finish()
    }
}
