//! What can become of a request, and how often it did.

use std::fmt;

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Answered in full, with the expected status.
    Ok,
    /// The connection was refused: nobody listened.
    Refused,
    /// The peer ended a new connection (reset or end of stream) before any byte of an answer.
    ResetFresh,
    /// The same on a connection that had carried an answer before.
    ResetReused,
    /// No full answer before the deadline.
    TimedOut,
    /// The answer began and ended early.
    Truncated,
    /// Another status or body than the expected one, or something that is not the protocol.
    WrongStatus,
    /// Never left this machine: no local port, descriptor or route. Says nothing about the server.
    Unsent,
    /// A connection that lives long (event stream, WebSocket) was ended, in peace, before it had to be.
    ClosedEarly,
    /// Answered in full when it was sent again, for by the rules of the protocol it had not been processed: pipelined
    /// behind an answer that said close, above the last stream of a GOAWAY, behind a close frame. No failure.
    Resent,
}

impl Outcome {
    /// All of them, in the order of tables.
    pub const ALL: [Outcome; 10] = [
        Outcome::Ok,
        Outcome::Refused,
        Outcome::ResetFresh,
        Outcome::ResetReused,
        Outcome::TimedOut,
        Outcome::Truncated,
        Outcome::WrongStatus,
        Outcome::Unsent,
        Outcome::ClosedEarly,
        Outcome::Resent,
    ];

    /// Its name in tables and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
            Outcome::ResetFresh => "reset_fresh",
            Outcome::ResetReused => "reset_reused",
            Outcome::TimedOut => "timed_out",
            Outcome::Truncated => "truncated",
            Outcome::WrongStatus => "wrong_status",
            Outcome::Unsent => "unsent",
            Outcome::ClosedEarly => "closed_early",
            Outcome::Resent => "resent",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How many requests had which outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; Outcome::ALL.len()],
}

impl Histogram {
    /// Count one request.
    pub fn record(&mut self, outcome: Outcome) {
        self.counts[outcome as usize] += 1;
    }

    /// Add the counts of another histogram.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
    }

    /// How many requests had this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.counts[outcome as usize]
    }

    /// Every outcome with its count, zeros included.
    pub fn counts(&self) -> impl Iterator<Item = (Outcome, u64)> + '_ {
        Outcome::ALL.into_iter().zip(self.counts)
    }

    /// Requests that were answered well.
    #[must_use]
    pub fn ok(&self) -> u64 {
        self.count(Outcome::Ok)
    }

    /// Requests that were not, not even when sent again.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.total() - self.ok() - self.count(Outcome::Resent)
    }

    /// All requests that have an outcome.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Every request was answered well, and there was at least one.
    ///
    /// # Errors
    /// [`Unclean`] with the counts.
    pub fn check_clean(&self) -> Result<(), Unclean> {
        self.check_allowing(&[])
    }

    /// At least one request was answered well, and every other had one of the outcomes in `allowed`.
    ///
    /// # Errors
    /// [`Unclean`] with the counts.
    pub fn check_allowing(&self, allowed: &[Outcome]) -> Result<(), Unclean> {
        let failures = self.counts().filter(|(outcome, _)| {
            !matches!(outcome, Outcome::Ok | Outcome::Resent) && !allowed.contains(outcome)
        });
        let failures = failures.map(|(_, count)| count).sum();
        if failures == 0 && self.ok() > 0 {
            return Ok(());
        }
        Err(Unclean {
            failures,
            outcomes: self.clone(),
            samples: Vec::new(),
        })
    }
}

impl fmt::Display for Histogram {
    /// One line; outcomes that did not occur are shown as 0.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (outcome, count)) in self.counts().enumerate() {
            let gap = if place == 0 { "" } else { "  " };
            write!(f, "{gap}{outcome} {count}")?;
        }
        Ok(())
    }
}

/// Requests failed that should not have, or none was answered at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct Unclean {
    /// How many failed in a way that was not allowed; 0 if the complaint is that none was answered.
    pub failures: u64,
    /// What became of all requests.
    pub outcomes: Histogram,
    /// The first failures, in words.
    pub samples: Vec<String>,
}

impl Unclean {
    fn describe(&self) -> String {
        let total = self.outcomes.total();
        let mut text = if self.failures == 0 {
            format!("not one of {total} requests was answered")
        } else {
            format!("{} of {total} requests failed: {}", self.failures, self.outcomes)
        };
        for sample in &self.samples {
            text.push_str("\n  ");
            text.push_str(sample);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(outcomes: &[Outcome]) -> Histogram {
        let mut histogram = Histogram::default();
        outcomes.iter().for_each(|outcome| histogram.record(*outcome));
        histogram
    }

    #[test]
    fn all_lists_every_outcome_at_its_own_index() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
    }

    #[test]
    fn clean_needs_an_answer_and_no_failure() {
        assert!(histogram(&[Outcome::Ok]).check_clean().is_ok());
        let silent = Histogram::default().check_clean().unwrap_err();
        assert_eq!(silent.to_string(), "not one of 0 requests was answered");
        let broken = histogram(&[Outcome::Ok, Outcome::Refused, Outcome::Refused])
            .check_clean()
            .unwrap_err();
        assert!(
            broken
                .to_string()
                .starts_with("2 of 3 requests failed: ok 1  refused 2"),
            "{broken}"
        );
    }

    #[test]
    fn what_was_sent_again_by_the_rules_is_no_failure() {
        let counts = histogram(&[Outcome::Ok, Outcome::Resent]);
        assert!(counts.check_clean().is_ok());
        assert_eq!((counts.ok(), counts.failures(), counts.total()), (1, 0, 2));
    }

    #[test]
    fn allowed_outcomes_are_no_failures_and_others_are() {
        let counts = histogram(&[Outcome::Ok, Outcome::ResetFresh]);
        assert!(counts.check_allowing(&[Outcome::ResetFresh]).is_ok());
        assert_eq!(
            counts.check_allowing(&[Outcome::Refused]).unwrap_err().failures,
            1
        );
        assert!(
            histogram(&[Outcome::ResetFresh])
                .check_allowing(&[Outcome::ResetFresh])
                .is_err()
        );
    }

    #[test]
    fn merging_adds_up() {
        let mut sum = histogram(&[Outcome::Ok, Outcome::TimedOut]);
        sum.merge(&histogram(&[Outcome::Ok]));
        assert_eq!((sum.ok(), sum.failures(), sum.total()), (2, 1, 3));
    }
}
