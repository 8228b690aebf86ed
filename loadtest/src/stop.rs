//! A handle that ends running loads.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::Notify;

/// Ends every load it was given to; clones are the same handle. Requests in flight are finished, so
/// that each has an outcome; no new one begins.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    at: OnceLock<Instant>,
    wake: Notify,
}

impl Stop {
    /// A handle nobody has used yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stop. The first call counts; later ones change nothing.
    pub fn stop(&self) {
        self.inner.at.get_or_init(Instant::now);
        self.inner.wake.notify_waiters();
    }

    /// Whether [`Stop::stop`] was called.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.at().is_some()
    }

    /// When [`Stop::stop`] was first called.
    pub(crate) fn at(&self) -> Option<Instant> {
        self.inner.at.get().copied()
    }

    /// Returns once [`Stop::stop`] was called.
    pub async fn stopped(&self) {
        let wake = self.inner.wake.notified();
        tokio::pin!(wake);
        // Registered before the flag is read: a stop in between is not missed.
        wake.as_mut().enable();
        if !self.is_stopped() {
            wake.await;
        }
    }
}
