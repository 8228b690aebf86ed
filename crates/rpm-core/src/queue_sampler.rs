//! Decides when to sample the accept queues: every 5 ms while there is traffic, never while there is none.
//!
//! While idle, the set of all slots is armed one-shot. The first connection fires it and starts the ticks ([`QueueSampler::traffic`]). At each
//! tick, the shell asks which queues are not empty, passes them to the core, and tells [`QueueSampler::tick`] whether there were any. After 100
//! ms of quiet ticks, the shell arms the set again and sleeps.

use core::time::Duration;

use crate::Tick;

/// Time between two samples, so that a stall is seen within 20 ms.
pub const PERIOD: Duration = Duration::from_millis(5);
/// Quiet time after which sampling ends. The next connection then wakes the daemon, which should not happen in short gaps between
/// connections.
pub const QUIET: Duration = Duration::from_millis(100);

/// Decides when queues are sampled. Pure: used by the shell beside the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSampler(Mode);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Idle,
    Ticking {
        next: Tick,
        busy_at: Tick,
    },
}

/// The result of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Sample again at [`QueueSampler::poll_timeout`].
    Continue,
    /// No more ticks: arm the set again. If a queue is not empty then, it fires at once.
    Rearm,
}

impl QueueSampler {
    /// An idle sampler.
    #[must_use]
    pub fn new() -> Self {
        QueueSampler::default()
    }

    /// When the next tick is due; `None` while idle.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        match self.0 {
            Mode::Idle => None,
            Mode::Ticking { next, .. } => Some(next),
        }
    }

    /// The armed set fired.
    pub fn traffic(&mut self, now: Tick) {
        self.0 = match self.0 {
            // The queue that fired is sampled at once, because its time without progress counts from here.
            Mode::Idle => Mode::Ticking {
                next: now,
                busy_at: now,
            },
            Mode::Ticking { next, .. } => Mode::Ticking { next, busy_at: now },
        };
    }

    /// All queues have been sampled; `busy` tells whether one was not empty. Missed ticks are not made up for.
    pub fn tick(&mut self, now: Tick, busy: bool) -> Decision {
        let Mode::Ticking { busy_at, .. } = self.0 else {
            return Decision::Rearm;
        };
        let busy_at = if busy { now } else { busy_at };
        if now.since(busy_at) >= QUIET {
            self.0 = Mode::Idle;
            return Decision::Rearm;
        }
        self.0 = Mode::Ticking {
            next: now + PERIOD,
            busy_at,
        };
        Decision::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Tick {
        Tick(Duration::from_millis(ms))
    }

    /// Ticks when due until idle, and returns the times.
    fn run(sampler: &mut QueueSampler, busy: impl Fn(Tick) -> bool) -> Vec<Tick> {
        let mut ticks = Vec::new();
        while let Some(now) = sampler.poll_timeout() {
            let decision = sampler.tick(now, busy(now));
            ticks.push(now);
            assert_eq!(decision == Decision::Rearm, sampler.poll_timeout().is_none());
            assert!(ticks.len() < 1000, "never idle");
        }
        ticks
    }

    #[test]
    fn idle_means_no_wake_up() {
        assert_eq!(QueueSampler::new().poll_timeout(), None);
        assert_eq!(QueueSampler::new().tick(at(1), true), Decision::Rearm);
    }

    #[test]
    fn ticks_from_the_first_event_until_100_ms_after_the_last_busy_one() {
        let mut sampler = QueueSampler::new();
        sampler.traffic(at(10));
        let ticks = run(&mut sampler, |now| now <= at(50));
        let wanted: Vec<Tick> = (0..=28).map(|n| at(10 + 5 * n)).collect();
        assert_eq!(ticks, wanted);
    }

    #[test]
    fn an_event_between_ticks_prolongs_but_does_not_hasten() {
        let mut sampler = QueueSampler::new();
        sampler.traffic(at(0));
        assert_eq!(sampler.tick(at(0), false), Decision::Continue);
        sampler.traffic(at(3));
        assert_eq!(sampler.poll_timeout(), Some(at(5)));
        assert_eq!(run(&mut sampler, |_| false).last(), Some(&at(105)));
    }

    #[test]
    fn late_ticks_are_not_made_up_for() {
        let mut sampler = QueueSampler::new();
        sampler.traffic(at(0));
        assert_eq!(sampler.tick(at(42), true), Decision::Continue);
        assert_eq!(sampler.poll_timeout(), Some(at(47)));
    }
}
