//! What a load found out.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::{Histogram, Latency, Outcome, Unclean};

/// Failures that are kept in words.
const MAX_SAMPLES: usize = 8;
/// Responders that are told apart; a program that answers with random words is not worth more.
const MAX_RESPONDERS: usize = 4096;

/// The account of a load.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many requests had which outcome.
    pub outcomes: Histogram,
    /// Latencies of those that were answered well: from the first step of connecting (new connection)
    /// or sending (reused one), or from the time due (open loop), to the last byte of the answer.
    pub latency: Latency,
    /// Good answers by who gave them: the `x-worker` header, else the first word of the body.
    pub responders: BTreeMap<String, u64>,
    /// Connections opened.
    pub connections: u64,
    /// From the start to the last good answer.
    pub elapsed: Duration,
    /// Open loop: requests that were due and never sent, for all clients were waiting.
    pub missed: u64,
    /// The first failures, in words.
    pub samples: Vec<String>,
}

impl Report {
    /// Good answers per second; 0 if there were none.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 {
            self.outcomes.ok() as f64 / seconds
        } else {
            0.0
        }
    }

    /// Every request was answered well, and there was at least one.
    ///
    /// # Errors
    /// [`Unclean`] with the counts and the first failures.
    pub fn check_clean(&self) -> Result<(), Unclean> {
        self.check_allowing(&[])
    }

    /// At least one request was answered well, and every other had one of the outcomes in `allowed`.
    ///
    /// # Errors
    /// [`Unclean`] with the counts and the first failures.
    pub fn check_allowing(&self, allowed: &[Outcome]) -> Result<(), Unclean> {
        let samples = || self.samples.clone();
        self.outcomes.check_allowing(allowed).map_err(|unclean| Unclean {
            samples: samples(),
            ..unclean
        })
    }

    /// Add the account of another load that ran at the same time.
    pub fn merge(&mut self, other: &Report) {
        self.outcomes.merge(&other.outcomes);
        self.latency.merge(&other.latency);
        for (worker, count) in &other.responders {
            *self.responders.entry(worker.clone()).or_default() += count;
        }
        self.connections += other.connections;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.missed += other.missed;
        let room = MAX_SAMPLES.saturating_sub(self.samples.len());
        self.samples.extend(other.samples.iter().take(room).cloned());
    }

    /// A good answer ([`Outcome::Ok`] or [`Outcome::Resent`]) to the request that was due (or begun) at `due`, of a load
    /// begun at `start`.
    pub(crate) fn record_good(&mut self, outcome: Outcome, worker: &str, start: Instant, due: Instant) {
        let now = Instant::now();
        self.outcomes.record(outcome);
        self.latency.record(now.saturating_duration_since(due));
        self.elapsed = now.saturating_duration_since(start);
        if let Some(count) = self.responders.get_mut(worker) {
            *count += 1;
        } else if self.responders.len() < MAX_RESPONDERS {
            self.responders.insert(worker.to_owned(), 1);
        }
    }

    /// A request that failed.
    pub(crate) fn record_failure(&mut self, outcome: Outcome, detail: &dyn fmt::Display, start: Instant) {
        self.outcomes.record(outcome);
        if self.samples.len() < MAX_SAMPLES {
            let at = start.elapsed().as_secs_f64();
            self.samples.push(format!("{outcome} at {at:.3} s: {detail}"));
        }
    }
}

impl fmt::Display for Report {
    /// Outcomes, rate, latencies and responders, a line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "outcomes   {}", self.outcomes)?;
        let (rate, seconds) = (self.throughput(), self.elapsed.as_secs_f64());
        writeln!(
            f,
            "rate       {rate:.0}/s over {seconds:.2} s, {} connections",
            self.connections
        )?;
        writeln!(f, "latency    {}", self.latency)?;
        if self.missed > 0 {
            writeln!(f, "missed     {} requests were due and not sent", self.missed)?;
        }
        for (worker, count) in &self.responders {
            writeln!(f, "worker     {worker}: {count}")?;
        }
        for sample in &self.samples {
            writeln!(f, "failure    {sample}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unclean_report_names_its_failures() {
        let start = Instant::now();
        let mut report = Report::default();
        report.record_good(Outcome::Ok, "0", start, start);
        assert!(report.check_clean().is_ok());
        report.record_failure(Outcome::Truncated, &"3 bytes missing", start);
        let unclean = report.check_clean().unwrap_err().to_string();
        assert!(
            unclean.contains("1 of 2 requests") && unclean.contains("3 bytes missing"),
            "{unclean}"
        );
        assert!(report.to_string().contains("truncated 1"), "{report}");
    }

    #[test]
    fn samples_and_responders_are_bounded_and_counts_are_not() {
        let start = Instant::now();
        let mut report = Report::default();
        for number in 0..MAX_RESPONDERS + 10 {
            report.record_good(Outcome::Ok, &number.to_string(), start, start);
            report.record_failure(Outcome::Refused, &"nobody listens", start);
        }
        assert_eq!(report.responders.len(), MAX_RESPONDERS);
        assert_eq!(report.samples.len(), MAX_SAMPLES);
        assert_eq!(report.outcomes.ok(), report.outcomes.failures());
    }

    #[test]
    fn merging_adds_up() {
        let start = Instant::now();
        let mut sum = Report::default();
        sum.record_good(Outcome::Ok, "0", start, start);
        let mut other = Report::default();
        other.record_good(Outcome::Ok, "0", start, start);
        other.record_good(Outcome::Ok, "1", start, start);
        sum.merge(&other);
        assert_eq!(sum.responders.values().copied().collect::<Vec<_>>(), [2, 1]);
        assert_eq!(sum.latency.count(), 3);
    }
}
