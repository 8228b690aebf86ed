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
    last: Instant,
    /// Something has taken memory: the daemon wakes for this, and does not wait until it is awake anyway.
    wakes: bool,
}

impl PutAway {
    /// The start of the daemon has taken some.
    pub(crate) fn new(now: Instant) -> PutAway {
        PutAway {
            due: now + SOON,
            last: now,
            wakes: true,
        }
    }

    /// A request or a new worker has taken some. However fast these follow each other, it is not put off beyond the interval.
    pub(crate) fn soon(&mut self, now: Instant) {
        self.due = (now + SOON).min(self.last + INTERVAL);
        self.wakes = true;
    }

    /// When the daemon must be awake for it.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.wakes.then_some(self.due)
    }

    /// Does it, if it is time.
    pub(crate) fn on_time(&mut self, now: Instant) {
        if self.is_due(now) {
            memory::give_back();
            memory::give_back_program();
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.due;
        if due {
            (self.due, self.last, self.wakes) = (now + INTERVAL, now, false);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_last_of_many_and_does_not_wait_for_ever() {
        let begun = Instant::now();
        let mut put_away = PutAway::new(begun);
        assert!(!put_away.is_due(begun) && put_away.is_due(begun + SOON));
        assert_eq!(put_away.poll_timeout(), None, "nobody wakes for the next one");
        let step = SOON / 2;
        let mut now = begun + SOON;
        let mut times = 0;
        while now < begun + SOON + 2 * INTERVAL + step {
            put_away.soon(now);
            times += u32::from(put_away.is_due(now));
            now += step;
        }
        assert_eq!(times, 2, "once an interval, although there was always something");
        put_away.soon(now);
        assert!(
            !put_away.is_due(now) && put_away.is_due(now + SOON),
            "after the last"
        );
    }
}
