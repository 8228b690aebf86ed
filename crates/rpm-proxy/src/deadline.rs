//! Time-outs of a connection.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep_until};

/// A deadline that moves with every request. The timer is not set again for each of them.
pub(crate) struct Deadline {
    due: tokio::time::Instant,
    armed: Pin<Box<Sleep>>,
}

impl Deadline {
    pub(crate) fn new() -> Deadline {
        let due = tokio::time::Instant::now() + Duration::from_secs(3600);
        Deadline {
            due,
            armed: Box::pin(sleep_until(due)),
        }
    }

    pub(crate) fn set(&mut self, within: Duration) {
        self.due = tokio::time::Instant::now() + within;
        if self.due < self.armed.deadline() {
            self.armed.as_mut().reset(self.due);
        }
    }

    /// Ready when the deadline has passed.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.armed.as_mut().poll(context).is_ready() {
            if self.due <= tokio::time::Instant::now() {
                return Poll::Ready(());
            }
            self.armed.as_mut().reset(self.due);
        }
        Poll::Pending
    }
}
