//! Results for people.

use std::fmt;

use super::results::{Results, Verdict};

/// A table of groups and one of ratios.
pub(crate) struct Table<'a>(pub(crate) &'a Results);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let results = self.0;
        writeln!(f, "{}", results.name())?;
        let titles = ["req/s", "p50 ms", "p99 ms", "CPU s/1000", "failures"];
        let [rate, p50, p99, cpu, failures] = titles;
        writeln!(
            f,
            "  {:<16}{rate:>9}{p50:>9}{p99:>9}{cpu:>12}{failures:>10}",
            "group"
        )?;
        for setup in results.samples.keys().copied() {
            let rate = results.median(setup, |sample| sample.per_second);
            let p50 = results.median(setup, |sample| sample.p50_ms);
            let p99 = results.median(setup, |sample| sample.p99_ms);
            let cpu = results.median(setup, |sample| sample.cpu_s_per_1000);
            let (name, failures) = (setup.as_str(), results.failures(setup));
            writeln!(
                f,
                "  {name:<16}{rate:>9.0}{p50:>9.2}{p99:>9.2}{cpu:>12.4}{failures:>10}"
            )?;
        }
        writeln!(
            f,
            "  {:<32}{:>8}{:>18}  floor",
            "ratio", "median", "95 % interval"
        )?;
        for verdict in results.verdicts() {
            line(f, &verdict)?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, verdict: &Verdict) -> fmt::Result {
    let Verdict { comparison, ratio } = verdict;
    let name = format!("{} / {}", comparison.of.as_str(), comparison.by.as_str());
    let interval = format!("{:.3} to {:.3}", ratio.low, ratio.high);
    write!(f, "  {name:<32}{:>8.3}{interval:>18}", ratio.value)?;
    if let (Some(floor), Some(met)) = (comparison.floor, verdict.met()) {
        write!(f, "  {floor:.2} {}", if met { "met" } else { "missed" })?;
    }
    let few = if ratio.enough {
        ""
    } else {
        "  (range: too few rounds for an interval)"
    };
    writeln!(f, "{few}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::group::Setup;
    use crate::tool::results::Sample;
    use rpm_loadtest::Kind;

    #[test]
    fn a_missed_floor_is_said_to_be_missed() {
        let mut results = Results::new(Kind::NewConnection);
        for (setup, per_second) in [(Setup::Rpm, 10_000.0), (Setup::RoundRobin, 12_000.0)] {
            let sample = Sample {
                per_second,
                p50_ms: 1.0,
                p99_ms: 2.0,
                cpu_s_per_1000: 0.1,
                failures: 0,
            };
            results.add(setup, sample);
        }
        let table = Table(&results).to_string();
        assert!(
            table.contains("rpm / cluster-rr") && table.contains("1.80 missed"),
            "{table}"
        );
        assert!(table.contains("too few rounds"), "{table}");
    }
}
