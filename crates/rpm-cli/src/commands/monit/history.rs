//! What apps and instances have used since the screen was opened: bounded, and in memory only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rpm_wire::api::Process;

/// Number of samples of an app or instance that are kept: ten minutes of one a second.
const SAMPLES: usize = 600;
/// Samples that are farther apart than this are not joined: the daemon did not answer in between.
const GAP: Duration = Duration::from_secs(5);

/// What was used at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// Time since the screen was opened.
    pub(super) at: Duration,
    /// Percent of one CPU.
    pub(super) cpu: f64,
    /// Bytes.
    pub(super) memory: u64,
    /// Unknown for an app that does not share ports.
    pub(super) connections: Option<u32>,
}

impl Sample {
    fn of(at: Duration, process: &Process) -> Sample {
        Sample {
            at,
            cpu: process.cpu_percent,
            memory: process.memory_bytes,
            connections: process.connections,
        }
    }

    fn add(&mut self, other: &Sample) {
        self.cpu += other.cpu;
        self.memory += other.memory;
        self.connections = match (self.connections, other.connections) {
            (Some(one), Some(another)) => Some(one.saturating_add(another)),
            (one, another) => one.or(another),
        };
    }
}

/// Samples in the order of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Series(VecDeque<Sample>);

impl Series {
    fn push(&mut self, sample: Sample) {
        if self.0.len() >= SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// The CPU share of the last `count` samples, the oldest first.
    pub(super) fn cpu(&self, count: usize) -> impl Iterator<Item = f64> {
        let from = self.0.len().saturating_sub(count);
        self.0.iter().skip(from).map(|sample| sample.cpu)
    }

    /// The memory of the last `count` samples, the oldest first.
    pub(super) fn memory(&self, count: usize) -> impl Iterator<Item = f64> {
        let from = self.0.len().saturating_sub(count);
        // Exact below 2^53.
        self.0.iter().skip(from).map(|sample| sample.memory as f64)
    }

    /// Stretches without a gap, each of points of seconds (of the time watched) and values.
    pub(super) fn stretches(&self, value: impl Fn(&Sample) -> Option<f64>) -> Vec<Vec<(f64, f64)>> {
        let mut stretches: Vec<Vec<(f64, f64)>> = Vec::new();
        let mut last: Option<Duration> = None;
        for sample in &self.0 {
            let joined = last.is_some_and(|last| sample.at.saturating_sub(last) <= GAP);
            let Some(value) = value(sample) else {
                last = None;
                continue;
            };
            let point = (sample.at.as_secs_f64(), value);
            match stretches.last_mut().filter(|_| joined) {
                Some(stretch) => stretch.push(point),
                None => stretches.push(vec![point]),
            }
            last = Some(sample.at);
        }
        stretches
    }

    /// When the first and the last sample were taken.
    pub(super) fn span(&self) -> Option<(Duration, Duration)> {
        Some((self.0.front()?.at, self.0.back()?.at))
    }

    pub(super) fn last(&self) -> Option<&Sample> {
        self.0.back()
    }
}

/// The samples of all that the daemon knows of.
#[derive(Debug, Default)]
pub(super) struct History {
    apps: BTreeMap<String, Series>,
    instances: BTreeMap<u32, Series>,
}

impl History {
    /// Adds a sample of each. Those that are gone are forgotten.
    pub(super) fn record(&mut self, at: Duration, processes: &[Process]) {
        let mut sums: BTreeMap<&str, Sample> = BTreeMap::new();
        for process in processes {
            let sample = Sample::of(at, process);
            self.instances.entry(process.id).or_default().push(sample);
            sums.entry(&process.name)
                .and_modify(|sum| sum.add(&sample))
                .or_insert(sample);
        }
        let ids: BTreeSet<u32> = processes.iter().map(|process| process.id).collect();
        self.instances.retain(|id, _| ids.contains(id));
        self.apps.retain(|name, _| sums.contains_key(name.as_str()));
        for (name, sum) in sums {
            self.apps.entry(name.to_owned()).or_default().push(sum);
        }
    }

    pub(super) fn app(&self, name: &str) -> Option<&Series> {
        self.apps.get(name)
    }

    pub(super) fn instance(&self, id: u32) -> Option<&Series> {
        self.instances.get(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::tests::process;
    use super::*;

    #[test]
    fn samples_are_bounded_summed_and_forgotten() {
        let mut history = History::default();
        let two = [process(0, "api", (1.0, 10, 0)), process(1, "api", (2.0, 20, 0))];
        for second in 0..SAMPLES as u64 + 50 {
            history.record(Duration::from_secs(second), &two);
        }
        let app = history.app("api").expect("samples");
        assert_eq!(app.0.len(), SAMPLES);
        assert_eq!(
            app.last().map(|sample| (sample.cpu, sample.memory)),
            Some((3.0, 30))
        );
        assert_eq!(app.span().map(|(first, _)| first.as_secs()), Some(50));
        assert_eq!(app.cpu(2).collect::<Vec<_>>(), [3.0, 3.0]);
        history.record(Duration::from_secs(9999), &two[..1]);
        assert!(history.instance(1).is_none() && history.instance(0).is_some());
        history.record(Duration::from_secs(9999), &[]);
        assert!(history.app("api").is_none());
    }

    #[test]
    fn a_gap_is_not_joined() {
        let mut history = History::default();
        let one = [process(0, "api", (1.0, 10, 0))];
        for second in [0, 1, 2, 30, 31] {
            history.record(Duration::from_secs(second), &one);
        }
        let series = history.instance(0).expect("samples");
        let lengths = |stretches: Vec<Vec<_>>| stretches.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(series.stretches(|sample| Some(sample.cpu))), [3, 2]);
        let unknown = series.stretches(|sample| sample.connections.map(f64::from));
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
