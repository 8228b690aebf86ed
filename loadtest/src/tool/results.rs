//! What the rounds of a comparison measured, and what follows from it.

use std::collections::BTreeMap;

use rpm_loadtest::{Kind, Report};
use serde_json::{Value, json};

use super::group::Setup;
use super::stats::{Median, median};

/// One round of one group.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) cpu_s_per_1000: f64,
    pub(crate) failures: u64,
}

impl Sample {
    pub(crate) fn new(report: &Report, cpu_s: f64) -> Self {
        let ok = report.outcomes.ok();
        Sample {
            per_second: report.throughput(),
            p50_ms: report.latency.p50_us() as f64 / 1000.0,
            p99_ms: report.latency.p99_us() as f64 / 1000.0,
            cpu_s_per_1000: if ok == 0 { 0.0 } else { cpu_s * 1000.0 / ok as f64 },
            failures: report.outcomes.failures(),
        }
    }
}

/// Throughput of one group by that of another, which may have to reach a floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Comparison {
    pub(crate) of: Setup,
    pub(crate) by: Setup,
    pub(crate) floor: Option<f64>,
}

/// The comparisons made for a kind of load.
pub(crate) fn comparisons(kind: Kind) -> [Comparison; 11] {
    let compare = |of, by, floor| Comparison { of, by, floor };
    let round_robin = match kind {
        Kind::NewConnection => Some(1.8),
        Kind::KeepAlive
        | Kind::Pipelined
        | Kind::Post
        | Kind::SlowUpload
        | Kind::EventStream
        | Kind::WebSocket
        | Kind::Http2 => None,
    };
    [
        compare(Setup::Rpm, Setup::RoundRobin, round_robin),
        compare(Setup::Rpm, Setup::Shared, None),
        compare(Setup::Rpm, Setup::Bare, Some(0.97)),
        compare(Setup::Captured, Setup::Bare, Some(0.97)),
        compare(Setup::Least, Setup::Rpm, None),
        compare(Setup::Handoff, Setup::RoundRobin, None),
        compare(Setup::BareAgain, Setup::Bare, None),
        compare(Setup::Rpm, Setup::Other, None),
        compare(Setup::Captured, Setup::OtherCaptured, None),
        compare(Setup::Handoff, Setup::OtherHandoff, None),
        compare(Setup::OtherAgain, Setup::Other, None),
    ]
}

/// A comparison with its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) comparison: Comparison,
    pub(crate) ratio: Median,
}

impl Verdict {
    /// Whether the floor is reached by the upper end of the interval; `None`: there is no floor.
    pub(crate) fn met(&self) -> Option<bool> {
        self.comparison.floor.map(|floor| self.ratio.high >= floor)
    }
}

/// All samples of one kind of load.
#[derive(Clone, Debug)]
pub(crate) struct Results {
    pub(crate) kind: Kind,
    pub(crate) samples: BTreeMap<Setup, Vec<Sample>>,
}

impl Results {
    pub(crate) fn new(kind: Kind) -> Self {
        Results {
            kind,
            samples: BTreeMap::new(),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.kind.as_str()
    }

    pub(crate) fn add(&mut self, setup: Setup, sample: Sample) {
        self.samples.entry(setup).or_default().push(sample);
    }

    /// The median over the rounds of one figure of a group.
    pub(crate) fn median(&self, setup: Setup, figure: impl Fn(&Sample) -> f64) -> f64 {
        let samples = self.samples.get(&setup).map(Vec::as_slice).unwrap_or_default();
        median(&samples.iter().map(figure).collect::<Vec<_>>())
    }

    /// Requests of a group that failed, in all rounds.
    pub(crate) fn failures(&self, setup: Setup) -> u64 {
        self.samples
            .get(&setup)
            .into_iter()
            .flatten()
            .map(|sample| sample.failures)
            .sum()
    }

    /// The comparisons both sides of which were measured.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        comparisons(self.kind)
            .into_iter()
            .filter_map(|comparison| self.verdict(comparison))
            .collect()
    }

    /// The two sides of a round ran seconds apart: their ratio is what the machine's mood spares.
    fn verdict(&self, comparison: Comparison) -> Option<Verdict> {
        let (of, by) = (
            self.samples.get(&comparison.of)?,
            self.samples.get(&comparison.by)?,
        );
        let pairs = of.iter().zip(by).filter(|(_, by)| by.per_second > 0.0);
        let ratios: Vec<f64> = pairs.map(|(of, by)| of.per_second / by.per_second).collect();
        Some(Verdict {
            comparison,
            ratio: Median::of(&ratios)?,
        })
    }

    pub(crate) fn to_json(&self) -> Value {
        let groups: Vec<Value> = self.samples.keys().map(|setup| self.group_json(*setup)).collect();
        let ratios: Vec<Value> = self.verdicts().iter().map(verdict_json).collect();
        json!({ "kind": self.name(), "groups": groups, "ratios": ratios })
    }

    fn group_json(&self, setup: Setup) -> Value {
        json!({
            "group": setup.as_str(),
            "requests_per_second": self.median(setup, |sample| sample.per_second),
            "p50_ms": self.median(setup, |sample| sample.p50_ms),
            "p99_ms": self.median(setup, |sample| sample.p99_ms),
            "cpu_s_per_1000_requests": self.median(setup, |sample| sample.cpu_s_per_1000),
            "failures": self.failures(setup),
            "rounds": self.samples[&setup].iter().map(|sample| sample.per_second).collect::<Vec<_>>(),
        })
    }
}

fn verdict_json(verdict: &Verdict) -> Value {
    let Verdict { comparison, ratio } = verdict;
    json!({
        "of": comparison.of.as_str(),
        "by": comparison.by.as_str(),
        "median": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "interval_is_95_percent": ratio.enough,
        "floor": comparison.floor,
        "met": verdict.met(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(rpm: &[f64], bare: &[f64]) -> Results {
        let mut results = Results::new(Kind::KeepAlive);
        for (setup, rates) in [(Setup::Rpm, rpm), (Setup::Bare, bare)] {
            for rate in rates {
                let (p50_ms, p99_ms, cpu_s_per_1000, failures) = (1.0, 2.0, 0.05, 1);
                results.add(
                    setup,
                    Sample {
                        per_second: *rate,
                        p50_ms,
                        p99_ms,
                        cpu_s_per_1000,
                        failures,
                    },
                );
            }
        }
        results
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let verdicts = results(&[50.0, 200.0, 110.0], &[100.0, 400.0, 100.0]).verdicts();
        assert_eq!(verdicts.len(), 1, "only groups that ran are compared");
        assert!((verdicts[0].ratio.value - 0.5).abs() < 1e-9, "{verdicts:?}");
    }

    #[test]
    fn what_is_compared_is_measured_together_and_fairly() {
        let sets = [Setup::USUAL, Setup::OF_BUILDS];
        assert!(sets.iter().all(|set| set.len() % 2 == 0), "see `order`");
        for Comparison { of, by, .. } in comparisons(Kind::KeepAlive) {
            let has_both = |set: &&[Setup]| set.contains(&of) && set.contains(&by);
            assert!(sets.iter().any(has_both), "{of:?} / {by:?}");
        }
    }

    #[test]
    fn the_upper_end_of_the_interval_decides() {
        let bare = [100.0; 3];
        assert_eq!(
            results(&[90.0, 91.0, 98.0], &bare).verdicts()[0].met(),
            Some(true)
        );
        assert_eq!(
            results(&[90.0, 91.0, 96.0], &bare).verdicts()[0].met(),
            Some(false)
        );
    }

    #[test]
    fn json_has_groups_and_ratios() {
        let value = results(&[97.0], &[100.0]).to_json();
        assert_eq!(value["groups"][0]["group"], "rpm");
        assert_eq!(value["groups"][0]["failures"], 1);
        assert_eq!(value["ratios"][0]["by"], "bare");
        assert_eq!(value["ratios"][0]["met"], true);
    }
}
