//! When the next request is due.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{RngCore as _, SeedableRng as _};

use crate::Stop;

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Closed loop: each client sends its next request when it has the answer to the last.
    Closed,
    /// The same with a pause after each answer, as a person or a program takes that does something with it. Pauses are spread evenly, so
    /// that requests do not fall into step with each other or with what happens to the server. Event streams have none.
    Pausing {
        /// The longest pause.
        most: Duration,
    },
    /// Open loop: requests are due at a fixed rate over all clients, whatever the answers do, and
    /// latencies count from the time a request was *due*, so that a stall is charged to every
    /// request it delayed. The timer's resolution of 1 ms is part of such a latency.
    Open {
        /// Requests per second over all clients; above 0.
        per_second: f64,
    },
}

/// Hands out the requests of a load to its clients.
#[derive(Debug)]
pub(crate) struct Schedule {
    start: Instant,
    pace: Pace,
    end: Option<Instant>,
    requests: Option<u64>,
    stop: Stop,
    taken: AtomicU64,
}

impl Schedule {
    /// Starts now.
    pub(crate) fn new(pace: Pace, lasting: Option<Duration>, requests: Option<u64>, stop: Stop) -> Self {
        let start = Instant::now();
        let end = lasting.and_then(|lasting| start.checked_add(lasting));
        Schedule {
            start,
            pace,
            end,
            requests,
            stop,
            taken: AtomicU64::new(0),
        }
    }

    /// When the load began.
    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// Waits until the next request is due and returns when it was; `None`: the load is over.
    pub(crate) async fn next(&self) -> Option<Instant> {
        let ticket = self.taken.fetch_add(1, Ordering::Relaxed);
        if self.requests.is_some_and(|requests| ticket >= requests) || self.stop.is_stopped() {
            return None;
        }
        let now = Instant::now();
        let due = match self.pace {
            Pace::Closed => now,
            Pace::Pausing { most } => now + most.mul_f64(fraction(ticket)),
            Pace::Open { per_second } => self.start + nth(ticket, per_second)?,
        };
        // Late requests are not sent after the end: a backlog would make the load last for ever.
        if self.end.is_some_and(|end| end <= now.max(due)) {
            return None;
        }
        if due > now {
            tokio::select! {
                () = tokio::time::sleep(due - now) => {}
                () = self.stop.stopped() => return None,
            }
        }
        if let Pace::Pausing { .. } = self.pace {
            // Nobody waits for the end of a pause: it is no part of a latency, nor is what the timer adds to it.
            return Some(Instant::now());
        }
        Some(due)
    }

    /// Requests that were due before the end of the load and are not among the `sent`.
    pub(crate) fn missed(&self, sent: u64) -> u64 {
        let Pace::Open { per_second } = self.pace else {
            return 0;
        };
        let ends = [Some(Instant::now()), self.end, self.stop.at()];
        let end = ends.into_iter().flatten().min().unwrap_or(self.start);
        let due = end.saturating_duration_since(self.start).as_secs_f64() * per_second;
        // The conversion saturates, and a request at the very end is not due yet.
        let due = due.floor() as u64;
        due.min(self.requests.unwrap_or(u64::MAX)).saturating_sub(sent)
    }
}

/// How long after the start the request with this number is due; `None` if that is never.
fn nth(ticket: u64, per_second: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(ticket as f64 / per_second).ok()
}

/// A number from 0 to below 1 that looks random and is the same in every run.
fn fraction(ticket: u64) -> f64 {
    let bits = SplitMix64::seed_from_u64(ticket).next_u64();
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_open_schedule_keeps_its_own_time() {
        let schedule = Schedule::new(Pace::Open { per_second: 1000.0 }, None, Some(5), Stop::new());
        let mut due = Vec::new();
        while let Some(at) = schedule.next().await {
            due.push(at - schedule.start());
        }
        assert_eq!(due, [0, 1, 2, 3, 4].map(Duration::from_millis));
        assert_eq!(schedule.missed(5), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_are_spread_over_their_whole_length() {
        let most = Duration::from_millis(8);
        let schedule = Schedule::new(Pace::Pausing { most }, None, Some(1000), Stop::new());
        let mut pauses = Vec::new();
        let mut last = tokio::time::Instant::now();
        while schedule.next().await.is_some() {
            let now = tokio::time::Instant::now();
            pauses.push((now - last).as_millis());
            last = now;
        }
        assert_eq!(pauses.len(), 1000);
        let between = |from, to| pauses.iter().filter(|pause| (from..=to).contains(*pause)).count();
        assert!(
            between(0, 2) > 150 && between(6, 9) > 150 && between(0, 9) == 1000,
            "{pauses:?}"
        );
    }

    #[tokio::test]
    async fn no_request_begins_after_the_end_or_the_stop() {
        let ended = Schedule::new(Pace::Closed, Some(Duration::ZERO), None, Stop::new());
        assert_eq!(ended.next().await, None);
        let stop = Stop::new();
        let stopped = Schedule::new(Pace::Closed, None, None, stop.clone());
        assert!(stopped.next().await.is_some());
        stop.stop();
        assert_eq!(stopped.next().await, None);
    }

    #[tokio::test]
    async fn a_stop_interrupts_the_wait_for_a_request_far_away() {
        let stop = Stop::new();
        let schedule = Schedule::new(Pace::Open { per_second: 0.001 }, None, None, stop.clone());
        assert!(schedule.next().await.is_some());
        let next = tokio::time::timeout(Duration::from_secs(10), schedule.next());
        let (next, ()) = tokio::join!(next, async { stop.stop() });
        assert_eq!(next.expect("the stop ends the wait"), None);
    }

    #[tokio::test]
    async fn an_absurd_rate_ends_instead_of_panicking() {
        for per_second in [0.0, -1.0, f64::NAN] {
            let schedule = Schedule::new(Pace::Open { per_second }, None, None, Stop::new());
            assert!(
                schedule.next().await.is_none() || schedule.next().await.is_none(),
                "{per_second}"
            );
        }
    }

    #[test]
    fn what_was_due_and_not_sent_is_missed() {
        let pace = Pace::Open { per_second: 100.0 };
        let mut schedule = Schedule::new(pace, Some(Duration::from_secs(1)), None, Stop::new());
        schedule.start -= Duration::from_secs(5);
        schedule.end = Some(schedule.start + Duration::from_secs(1));
        assert_eq!(schedule.missed(70), 30);
        assert_eq!(schedule.missed(100), 0);
    }
}
