//! What was measured of each proxy, and what follows from it.

use serde_json::{Value, json};

use super::{Cell, Edge, FLOOR};
use crate::tool::results::Sample;
use crate::tool::stats::{Median, median};

/// A cell and what was measured of it.
pub(super) struct Measured {
    pub(super) cell: Cell,
    /// By the order in which they were started.
    samples: Vec<(Edge, Vec<Sample>)>,
}

impl Measured {
    pub(super) fn new(cell: Cell, edges: &[Edge]) -> Measured {
        let samples = edges.iter().map(|edge| (*edge, Vec::new())).collect();
        Measured { cell, samples }
    }

    /// Of the proxy with this number.
    pub(super) fn add(&mut self, index: usize, sample: Sample) {
        self.samples[index].1.push(sample);
    }

    fn of(&self, edge: Edge) -> &[Sample] {
        let found = self.samples.iter().find(|(one, _)| *one == edge);
        found.map(|(_, samples)| samples.as_slice()).unwrap_or_default()
    }

    fn edges(&self) -> impl Iterator<Item = Edge> {
        self.samples.iter().map(|(edge, _)| *edge)
    }

    /// Of a figure, round by round.
    fn ratio(&self, of: Edge, by: Edge, figure: impl Fn(&Sample) -> f64) -> Option<Median> {
        let pairs = self.of(of).iter().zip(self.of(by));
        let ratios: Vec<f64> = pairs
            .map(|(of, by)| figure(of) / figure(by))
            .filter(|ratio| ratio.is_finite())
            .collect();
        Median::of(&ratios)
    }

    fn median(&self, edge: Edge, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(&self.of(edge).iter().map(figure).collect::<Vec<_>>())
    }

    /// What is to be reached, and was it?
    fn verdicts(&self) -> Vec<(String, Median, Option<bool>)> {
        let rate = |sample: &Sample| sample.per_second;
        let per_cpu = |sample: &Sample| 1.0 / sample.cpu_s_per_1000;
        let p99 = |sample: &Sample| sample.p99_ms;
        let mut verdicts = Vec::new();
        for by in [Edge::Nginx, Edge::HaProxy, Edge::Other] {
            let floor = by == self.cell.floor;
            let name = by.as_str();
            let mut add = |what: &str, ratio: Option<Median>, met: &dyn Fn(Median) -> bool| {
                if let Some(ratio) = ratio {
                    verdicts.push((format!("{what}: rpm / {name}"), ratio, floor.then(|| met(ratio))));
                }
            };
            add("req/s", self.ratio(Edge::Rpm, by, rate), &|it| it.high >= FLOOR);
            add("req/CPU s", self.ratio(Edge::Rpm, by, per_cpu), &|it| {
                it.high >= FLOOR
            });
            add("p99", self.ratio(Edge::Rpm, by, p99), &|it| it.low <= 1.0);
        }
        // What two identical ones differ by is noise.
        for (again, by) in [
            (Edge::NginxAgain, Edge::Nginx),
            (Edge::RpmAgain, Edge::Rpm),
            (Edge::OtherAgain, Edge::Other),
        ] {
            let names = format!("{} / {}", again.as_str(), by.as_str());
            for (what, ratio) in [
                ("req/s", self.ratio(again, by, rate)),
                ("req/CPU s", self.ratio(again, by, per_cpu)),
            ] {
                verdicts.extend(ratio.map(|ratio| (format!("{what}: {names}"), ratio, None)));
            }
        }
        verdicts
    }

    fn failures(&self, edge: Edge) -> u64 {
        self.of(edge).iter().map(|sample| sample.failures).sum()
    }

    pub(super) fn passes(&self) -> bool {
        self.failures(Edge::Rpm) == 0 && self.verdicts().iter().all(|(_, _, met)| *met != Some(false))
    }

    fn title(&self) -> String {
        let Cell {
            kind, clients, bytes, ..
        } = self.cell;
        format!("{}, {clients} clients, {bytes} bytes", kind.as_str())
    }

    pub(super) fn print(&self) {
        println!("{}", self.title());
        println!(
            "  {:<14}{:>9}{:>9}{:>9}{:>18}{:>10}",
            "proxy", "req/s", "p50 ms", "p99 ms", "its CPU s/1000", "failures"
        );
        for edge in self.edges() {
            println!(
                "  {:<14}{:>9.0}{:>9.2}{:>9.2}{:>18.4}{:>10}",
                edge.as_str(),
                self.median(edge, |sample| sample.per_second),
                self.median(edge, |sample| sample.p50_ms),
                self.median(edge, |sample| sample.p99_ms),
                self.median(edge, |sample| sample.cpu_s_per_1000),
                self.failures(edge)
            );
        }
        for (name, ratio, met) in self.verdicts() {
            let met = met.map_or("", |met| if met { "  met" } else { "  missed" });
            println!(
                "  {name:<32}{:>8.3}  {:.3} to {:.3}{met}",
                ratio.value, ratio.low, ratio.high
            );
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let proxies: Vec<Value> = self
            .edges()
            .map(|edge| {
                json!({
                    "proxy": edge.as_str(),
                    "requests_per_second": self.median(edge, |sample| sample.per_second),
                    "p99_ms": self.median(edge, |sample| sample.p99_ms),
                    "cpu_s_per_1000_requests": self.median(edge, |sample| sample.cpu_s_per_1000),
                    "failures": self.failures(edge),
                })
            })
            .collect();
        let ratios: Vec<Value> = self
            .verdicts()
            .into_iter()
            .map(|(name, ratio, met)| json!({ "ratio": name, "median": ratio.value, "low": ratio.low, "high": ratio.high, "met": met }))
            .collect();
        json!({ "cell": self.title(), "proxies": proxies, "ratios": ratios })
    }
}

#[cfg(test)]
mod tests {
    use rpm_loadtest::Report;

    use super::*;
    use crate::tool::edge::CELLS;

    #[test]
    fn builds_are_compared_with_each_other_and_with_themselves() {
        let mut measured = Measured::new(CELLS[0], Edge::OF_BUILDS);
        for index in 0..Edge::OF_BUILDS.len() {
            let sample = Sample {
                per_second: 100.0 * (index + 1) as f64,
                cpu_s_per_1000: 1.0,
                p99_ms: 1.0,
                ..Sample::new(&Report::default(), 0.0)
            };
            measured.add(index, sample);
        }
        let ratios: Vec<(String, f64)> = measured
            .verdicts()
            .into_iter()
            .map(|(name, ratio, _)| (name, ratio.value))
            .filter(|(name, _)| name.starts_with("req/s"))
            .collect();
        let expected = [
            ("rpm / other", 0.5),
            ("rpm-again / rpm", 3.0),
            ("other-again / other", 2.0),
        ];
        assert_eq!(
            ratios,
            expected.map(|(name, ratio)| (format!("req/s: {name}"), ratio))
        );
        assert!(
            [Edge::USUAL, Edge::OF_BUILDS]
                .iter()
                .all(|edges| edges.len() % 2 == 0)
        );
    }
}
