//! How a receiver of logs, alerts, metrics or spans stands: what it has taken, and what went wrong last.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rpm_wire::receivers::{Failure, Going, Receiving, Sent};

/// The standing of one receiver, which whoever sends to it keeps.
#[derive(Debug, Default)]
pub(crate) struct Standing(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    to: String,
    taken: u64,
    given_up: u64,
    last_taken_ms: Option<u64>,
    after: After,
}

/// What came last.
#[derive(Debug, Default)]
enum After {
    #[default]
    Nothing,
    Failed(Failure, u64),
    Refused(Failure),
}

impl Standing {
    /// Where it is, without what may be secret.
    pub(crate) fn is_at(&self, to: String) {
        self.inner().to = to;
    }

    /// It has taken so many.
    pub(crate) fn took(&self, count: u64, now_ms: u64) {
        let mut inner = self.inner();
        inner.taken += count;
        inner.last_taken_ms = Some(now_ms);
        inner.after = After::Nothing;
    }

    /// A request failed, and the next one is at `retry_at_ms`.
    pub(crate) fn failed(&self, why: &str, now_ms: u64, retry_at_ms: u64) {
        self.inner().after = After::Failed(failure(why, now_ms), retry_at_ms);
    }

    /// So many were given up.
    pub(crate) fn gave_up(&self, count: u64, why: &str, now_ms: u64) {
        let mut inner = self.inner();
        inner.given_up += count;
        inner.after = After::Refused(failure(why, now_ms));
    }

    /// As it is shown; `behind`: something waits for it.
    pub(crate) fn shown(&self, what: Sent, name: Option<&str>, behind: bool) -> Receiving {
        let inner = self.inner();
        let (state, failure, retry_at_ms) = match &inner.after {
            After::Nothing if behind => (Going::Sending, None, None),
            After::Nothing => (Going::Idle, None, None),
            After::Failed(failure, retry) => (Going::Waiting, Some(failure), Some(*retry)),
            After::Refused(failure) => (Going::Refused, Some(failure), None),
        };
        Receiving {
            what,
            name: name.unwrap_or(&inner.to).to_owned(),
            to: inner.to.clone(),
            state,
            retry_at_ms,
            behind_bytes: None,
            behind_messages: None,
            taken: inner.taken,
            given_up: inner.given_up,
            last_taken_ms: inner.last_taken_ms,
            failure: failure.cloned(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(why: &str, at_ms: u64) -> Failure {
    let why = why.to_owned();
    Failure { at_ms, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_thing_that_happened_is_the_state() {
        let standing = Standing::default();
        standing.is_at("http://a.test".to_owned());
        let shown = |behind| standing.shown(Sent::Logs, Some("loki"), behind);
        assert_eq!(
            (shown(false).state, shown(true).state),
            (Going::Idle, Going::Sending)
        );
        standing.took(3, 10);
        standing.failed("away", 20, 25);
        let waiting = shown(true);
        assert_eq!((waiting.state, waiting.retry_at_ms), (Going::Waiting, Some(25)));
        assert_eq!((waiting.taken, waiting.last_taken_ms), (3, Some(10)));
        assert_eq!(waiting.failure, Some(failure("away", 20)));
        assert_eq!(
            (waiting.name.as_str(), waiting.to.as_str()),
            ("loki", "http://a.test")
        );
        standing.gave_up(2, "too old", 30);
        let refused = shown(true);
        assert_eq!((refused.state, refused.given_up), (Going::Refused, 2));
        assert_eq!(
            (refused.retry_at_ms, refused.failure),
            (None, Some(failure("too old", 30)))
        );
        standing.took(1, 40);
        let taken = shown(false);
        assert_eq!((taken.state, taken.taken, taken.failure), (Going::Idle, 4, None));
        assert_eq!(standing.shown(Sent::Traces, None, false).name, "http://a.test");
    }
}
