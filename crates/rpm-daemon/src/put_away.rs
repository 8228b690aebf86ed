//! When memory is given back that a start or a large request has taken, and nobody needs any more.

use std::time::{Duration, Instant};

use rpm_sys::memory;

/// After the last thing that took some: what it calls for, as the next worker of a start, mostly comes within this time.
const SOON: Duration = Duration::from_millis(200);
/// Between two times without such a thing. Not often, for what is needed must be fetched again.
const INTERVAL: Duration = Duration::from_secs(60);

/// Gives memory back now and then.
#[derive(Debug)]
pub(crate) struct PutAway {
    due: Instant,
    /// Something has taken memory: the daemon wakes for this, and does not wait until it is awake anyway.
    wakes: bool,
}

impl PutAway {
    /// The start of the daemon has taken some.
    pub(crate) fn new(now: Instant) -> PutAway {
        PutAway {
            due: now + SOON,
            wakes: true,
        }
    }

    /// A request or a new worker has taken some.
    pub(crate) fn soon(&mut self) {
        *self = PutAway::new(Instant::now());
    }

    /// When the daemon must be awake for it.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.wakes.then_some(self.due)
    }

    /// Does it, if it is time.
    pub(crate) fn on_time(&mut self) {
        let now = Instant::now();
        if now >= self.due {
            memory::give_back();
            memory::give_back_program();
            self.due = now + INTERVAL;
            self.wakes = false;
        }
    }
}
