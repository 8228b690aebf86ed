//! Restart policy: whether and when an instance that lost its worker gets another one.

use core::time::Duration;

use crate::protocol::{Exit, RestartPolicy};
use crate::rng::Rng;

/// First delay of the built-in scale: long enough to avoid a busy loop, too short for a person to notice.
const BUILT_IN_FIRST: Duration = Duration::from_millis(50);
/// Longest delay of the built-in scale: sixteen failures (the default limit) take about six seconds.
const BUILT_IN_CAP: Duration = Duration::from_millis(500);
/// Longest delay of `exp_backoff` (PM2's value).
const EXP_CAP: Duration = Duration::from_secs(15);
/// Uptime after which `exp_backoff` starts again at its first delay (PM2's value).
const EXP_FORGET: Duration = Duration::from_secs(30);

/// The life of a worker that ended without being asked to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lifetime {
    /// It was never ready.
    NeverReady,
    /// It was ready: time since its process was spawned, and since it was ready.
    Ready { uptime: Duration, online: Duration },
}

impl Lifetime {
    fn is_young(self, policy: &RestartPolicy) -> bool {
        match self {
            Lifetime::NeverReady => true,
            Lifetime::Ready { uptime, .. } => uptime < policy.min_uptime,
        }
    }
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Another worker at once.
    Now,
    /// Another worker after this delay.
    After(Duration),
    /// No worker: it failed too often.
    Errored,
    /// No worker: the app is not restarted.
    Stopped,
}

/// What becomes of an instance when the worker that was asked to end is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterExit {
    /// It rests.
    Stopped,
    /// It is errored.
    Errored,
    /// It gets another worker at once.
    Restart,
    /// Another worker, after this delay.
    Retry {
        /// How long.
        delay: Duration,
    },
    /// It is forgotten.
    Forgotten,
}

impl AfterExit {
    /// True if there will be another worker.
    pub(crate) fn will_run(self) -> bool {
        match self {
            AfterExit::Restart | AfterExit::Retry { .. } => true,
            AfterExit::Stopped | AfterExit::Errored | AfterExit::Forgotten => false,
        }
    }
}

/// What an instance remembers of its workers' failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// How often a worker was replaced: after a crash, and by a restart or a reload of one that was online.
    pub restarts: u32,
    /// Consecutive young failures.
    pub unstable: u32,
    /// Steps taken on the `exp_backoff` scale.
    pub attempts: u32,
}

impl Record {
    /// A user starts the instance, so earlier failures no longer count.
    pub(crate) fn forgive(&mut self) {
        self.unstable = 0;
        self.attempts = 0;
    }

    /// A user resets the counts.
    pub(crate) fn reset(&mut self) {
        self.restarts = 0;
        self.forgive();
    }

    pub(crate) fn count_restart(&mut self) {
        self.restarts = self.restarts.saturating_add(1);
    }

    /// Decides after an exit that was not asked for, and records it. Candidates and standbys of a reload are judged by the rollout instead.
    pub(crate) fn judge_exit(
        &mut self,
        exit: Option<Exit>,
        life: Lifetime,
        policy: &RestartPolicy,
        rng: &mut Rng,
    ) -> Verdict {
        match exit {
            Some(Exit::Code(code)) if policy.stops_at(code) => {
                self.credit(life, policy);
                Verdict::Stopped
            }
            Some(Exit::Code(_) | Exit::Signal(_)) | None => self.judge(life, policy, rng),
        }
    }

    /// As [`Record::judge_exit`], without looking at the exit code.
    pub(crate) fn judge(&mut self, life: Lifetime, policy: &RestartPolicy, rng: &mut Rng) -> Verdict {
        self.credit(life, policy);
        if !policy.autorestart {
            return Verdict::Stopped;
        }
        let young = life.is_young(policy);
        if young {
            self.unstable = self.unstable.saturating_add(1);
            if self.unstable >= policy.max_restarts {
                return Verdict::Errored;
            }
        }
        match self.delay(young, policy) {
            Duration::ZERO => Verdict::Now,
            delay => Verdict::After(rng.jitter(delay)),
        }
    }

    fn credit(&mut self, life: Lifetime, policy: &RestartPolicy) {
        if let Lifetime::Ready { uptime, online } = life {
            if online >= policy.min_uptime {
                self.unstable = 0;
            }
            if uptime >= EXP_FORGET {
                self.attempts = 0;
            }
        }
    }

    /// The last delay on the `exp_backoff` scale, if that is in use.
    pub(crate) fn backed_off(&self, policy: &RestartPolicy) -> Option<Duration> {
        let first = policy
            .exp_backoff
            .filter(|first| !first.is_zero() && policy.restart_delay.is_zero())?;
        let steps = self.attempts.checked_sub(1)?;
        Some(scaled(first, steps, EXP_CAP))
    }

    fn delay(&mut self, young: bool, policy: &RestartPolicy) -> Duration {
        if !policy.restart_delay.is_zero() {
            return policy.restart_delay;
        }
        let exp_backoff = policy.exp_backoff.filter(|first| !first.is_zero());
        match (exp_backoff, young) {
            (Some(first), _) => {
                let delay = scaled(first, self.attempts, EXP_CAP);
                self.attempts = self.attempts.saturating_add(1);
                delay
            }
            (None, true) => scaled(BUILT_IN_FIRST, self.unstable.saturating_sub(1), BUILT_IN_CAP),
            (None, false) => Duration::ZERO,
        }
    }
}

/// `first` × 1.5 to the power of `steps`, at most `cap`.
pub(crate) fn scaled(first: Duration, steps: u32, cap: Duration) -> Duration {
    let mut delay = first.min(cap);
    for _ in 0..steps {
        if delay >= cap {
            break;
        }
        delay = grown(delay, cap);
    }
    delay
}

/// One step: × 1.5, at least by something, at most to `cap`.
pub(crate) fn grown(delay: Duration, cap: Duration) -> Duration {
    let half = (delay / 2).max(Duration::from_nanos(1));
    delay.saturating_add(half).min(cap)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATURE: Lifetime = Lifetime::Ready {
        uptime: Duration::from_secs(5),
        online: Duration::from_secs(5),
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn is_about(actual: Verdict, wanted: Duration) -> bool {
        match actual {
            Verdict::After(delay) => delay >= wanted * 9 / 10 && delay <= wanted * 11 / 10,
            Verdict::Now => wanted.is_zero(),
            Verdict::Errored | Verdict::Stopped => false,
        }
    }

    /// Feeds `lives` to a fresh record and compares each verdict's delay.
    fn assert_delays(policy: &RestartPolicy, lives: &[(Lifetime, u64)]) {
        let (mut record, mut rng) = (Record::default(), Rng::new(1));
        for (step, &(life, wanted)) in lives.iter().enumerate() {
            let verdict = record.judge(life, policy, &mut rng);
            assert!(
                is_about(verdict, ms(wanted)),
                "step {step}: {verdict:?}, not {wanted} ms"
            );
        }
    }

    #[test]
    fn built_in_scale_grows_to_its_cap_and_resets() {
        let young = Lifetime::NeverReady;
        let wanted = [50, 75, 112, 168, 253, 379, 500, 500];
        let mut lives: Vec<(Lifetime, u64)> = wanted.iter().map(|&delay| (young, delay)).collect();
        lives.extend([(MATURE, 0), (young, 50), (young, 75)]);
        assert_delays(&RestartPolicy::default(), &lives);
    }

    #[test]
    fn exp_backoff_grows_to_its_cap_and_forgets_after_thirty_seconds() {
        let policy = RestartPolicy {
            exp_backoff: Some(ms(4000)),
            max_restarts: 99,
            ..RestartPolicy::default()
        };
        let half_minute = Lifetime::Ready {
            uptime: ms(30_000),
            online: ms(29_000),
        };
        let almost = Lifetime::Ready {
            uptime: ms(29_999),
            online: ms(29_000),
        };
        let young = Lifetime::NeverReady;
        let lives = [
            (young, 4000),
            (MATURE, 6000),
            (almost, 9000),
            (young, 13_500),
            (young, 15_000),
            (young, 15_000),
            (half_minute, 4000),
            (young, 6000),
        ];
        assert_delays(&policy, &lives);
    }

    #[test]
    fn a_fixed_delay_beats_every_scale() {
        let policy = RestartPolicy {
            restart_delay: ms(300),
            exp_backoff: Some(ms(10)),
            ..RestartPolicy::default()
        };
        assert_delays(
            &policy,
            &[
                (Lifetime::NeverReady, 300),
                (MATURE, 300),
                (Lifetime::NeverReady, 300),
            ],
        );
    }

    #[test]
    fn an_exit_is_young_by_uptime_or_when_never_ready() {
        let cases = [
            (Lifetime::NeverReady, 1),
            (
                Lifetime::Ready {
                    uptime: ms(999),
                    online: ms(998),
                },
                1,
            ),
            (
                Lifetime::Ready {
                    uptime: ms(1000),
                    online: ms(10),
                },
                0,
            ),
        ];
        for (life, unstable) in cases {
            let mut record = Record::default();
            record.judge(life, &RestartPolicy::default(), &mut Rng::new(1));
            assert_eq!(record.unstable, unstable, "{life:?}");
        }
    }

    #[test]
    fn unstable_resets_only_after_min_uptime_online() {
        let mut record = Record {
            unstable: 3,
            ..Record::default()
        };
        let slow_start = Lifetime::Ready {
            uptime: ms(3000),
            online: ms(999),
        };
        record.judge(slow_start, &RestartPolicy::default(), &mut Rng::new(1));
        assert_eq!(record.unstable, 3);
        record.judge(MATURE, &RestartPolicy::default(), &mut Rng::new(1));
        assert_eq!(record.unstable, 0);
    }

    #[test]
    fn the_limit_is_reached_by_young_failures_in_a_row() {
        for limit in [0, 1, 3] {
            let policy = RestartPolicy {
                max_restarts: limit,
                ..RestartPolicy::default()
            };
            let (mut record, mut rng) = (Record::default(), Rng::new(1));
            let mut failures = 1;
            while record.judge(Lifetime::NeverReady, &policy, &mut rng) != Verdict::Errored {
                failures += 1;
            }
            assert_eq!(failures, limit.max(1));
        }
    }

    #[test]
    fn no_autorestart_means_stopped() {
        let policy = RestartPolicy {
            autorestart: false,
            max_restarts: 0,
            ..RestartPolicy::default()
        };
        for life in [Lifetime::NeverReady, MATURE] {
            let verdict = Record::default().judge(life, &policy, &mut Rng::new(1));
            assert_eq!(verdict, Verdict::Stopped);
        }
    }

    #[test]
    fn scales_end_for_any_operands() {
        let tiny = Duration::from_nanos(1);
        assert_eq!(scaled(tiny, u32::MAX, EXP_CAP), EXP_CAP);
        assert_eq!(scaled(Duration::MAX, 0, EXP_CAP), EXP_CAP);
        assert_eq!(scaled(Duration::ZERO, u32::MAX, tiny), tiny);
    }

    #[test]
    fn the_last_delay_of_the_growing_scale_is_known() {
        let policy = RestartPolicy {
            exp_backoff: Some(ms(100)),
            ..RestartPolicy::default()
        };
        let (mut record, mut rng) = (Record::default(), Rng::new(7));
        assert_eq!(record.backed_off(&policy), None, "none yet");
        for wanted in [100, 150, 225] {
            record.judge(Lifetime::NeverReady, &policy, &mut rng);
            assert_eq!(record.backed_off(&policy), Some(ms(wanted)));
        }
        assert_eq!(
            record.backed_off(&RestartPolicy::default()),
            None,
            "another scale"
        );
        record.forgive();
        assert_eq!(record.backed_off(&policy), None);
    }
}
