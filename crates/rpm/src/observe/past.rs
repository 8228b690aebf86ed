//! `top`: what the apps have used, from the history.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use rpm_observe::{FIGURES, Past, now_ms, past};
use rpm_shared::{report, tell};
use serde_json::{Map, Value, json};

use crate::columns::{Side, aligned};

/// What is shown unless the command says since when, in milliseconds.
const USUAL_MS: u64 = 3_600_000;
/// Points of a series: enough that an average over them is the average of all.
const POINTS: u32 = 1200;
/// Characters of a sparkline.
const SPARK: usize = 16;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

const HEAD: [&str; 11] = [
    "app", "cpu", "", "max", "memory", "max", "req/s", "5xx/s", "p99", "max", "restarts",
];
const SIDES: [Side; 11] = {
    let mut sides = [Side::Right; 11];
    sides[0] = Side::Left;
    sides[2] = Side::Left;
    sides
};

/// Carries out the command.
pub(crate) fn run(wish: &rpm_cli::Past) -> ExitCode {
    report(carried_out(wish))
}

fn carried_out(wish: &rpm_cli::Past) -> anyhow::Result<()> {
    let now = now_ms();
    let since = wish.since.unwrap_or(now - USUAL_MS);
    ensure!(since < now, "--since is a time to come");
    let all = past(&rpm_cli::home_dir()?, since / 1000, now / 1000, POINTS);
    let mut all = all.context("cannot read the history")?;
    for name in &wish.apps {
        let known = all.iter().any(|past| past.app == *name);
        ensure!(
            known,
            "nothing is recorded of {name} in that time; `rpm top` shows what is"
        );
    }
    all.retain(|past| wish.apps.is_empty() || wish.apps.contains(&past.app));
    if wish.json {
        let all: Vec<Value> = all.iter().map(told).collect();
        println!("{}", Value::from(all));
        return Ok(());
    }
    if all.is_empty() {
        tell("nothing is recorded of that time; `rpm observe on` records while it runs");
        return Ok(());
    }
    all.sort_by(|one, other| {
        let cpu = |past| average(past, "cpu").unwrap_or(0.0);
        cpu(other).total_cmp(&cpu(one))
    });
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(all.iter().map(row));
    for line in aligned(&rows, SIDES) {
        println!("{line}");
    }
    Ok(())
}

fn place(figure: &str) -> usize {
    let found = FIGURES.iter().position(|one| one.name == figure);
    found.unwrap_or_else(|| unreachable!("{figure} is a figure"))
}

/// The average of what is known.
fn average(past: &Past, figure: &str) -> Option<f64> {
    let known: Vec<f64> = past.series.values[place(figure)]
        .iter()
        .flatten()
        .copied()
        .collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

/// The largest value: of the maxima where there are some.
fn maximum(past: &Past, figure: &str) -> Option<f64> {
    let at = place(figure);
    let maxima = past.series.maxima[at].iter();
    let all = maxima.chain(&past.series.values[at]).flatten().copied();
    all.reduce(f64::max)
}

fn total(past: &Past, figure: &str) -> Option<f64> {
    let known = past.series.values[place(figure)].iter().flatten();
    known.copied().reduce(|one, other| one + other)
}

fn row(past: &Past) -> [String; 11] {
    let print = |value: Option<f64>, text: fn(f64) -> String| value.map_or_else(|| "-".to_owned(), text);
    let percent = |value: f64| format!("{value:.1}%");
    let bytes = |value: f64| format!("{:.1} MB", value / f64::from(1 << 20));
    let rate = |value: f64| format!("{value:.1}");
    let time = |value: f64| format!("{:.0} ms", value * 1000.0);
    let count = |value: f64| format!("{value:.0}");
    [
        past.app.clone(),
        print(average(past, "cpu"), percent),
        sparkline(&past.series.values[place("cpu")]),
        print(maximum(past, "cpu"), percent),
        print(average(past, "memory"), bytes),
        print(maximum(past, "memory"), bytes),
        print(average(past, "requests"), rate),
        print(average(past, "errors"), rate),
        print(average(past, "p99"), time),
        print(maximum(past, "p99"), time),
        print(total(past, "restarts"), count),
    ]
}

/// The series in few characters, each the average of its part; a gap is a space.
fn sparkline(values: &[Option<f64>]) -> String {
    let wide = values.len().div_ceil(SPARK).max(1);
    let parts: Vec<Option<f64>> = values
        .chunks(wide)
        .map(|part| {
            let known: Vec<f64> = part.iter().flatten().copied().collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        })
        .collect();
    let most = parts.iter().flatten().copied().fold(0.0, f64::max);
    let bar = |value: f64| {
        let height = if most > 0.0 { value / most } else { 0.0 };
        BARS[((height * 7.0).round() as usize).min(7)]
    };
    parts.into_iter().map(|part| part.map_or(' ', bar)).collect()
}

/// An app as JSON.
fn told(past: &Past) -> Value {
    let figures: Map<String, Value> = FIGURES
        .iter()
        .map(|figure| {
            let known = match figure.name {
                "restarts" => json!({ "unit": figure.unit, "total": total(past, figure.name) }),
                name => json!({ "unit": figure.unit, "average": average(past, name), "maximum": maximum(past, name) }),
            };
            (figure.name.to_owned(), known)
        })
        .collect();
    let end = past.series.from + past.series.step * past.series.points as u64;
    json!({ "app": past.app, "from": past.series.from, "to": end, "step": past.series.step, "figures": figures })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_has_the_shape_and_the_gaps() {
        let rising: Vec<Option<f64>> = (0..32).map(|at| Some(f64::from(at))).collect();
        assert_eq!(sparkline(&rising), "▁▂▂▂▃▃▄▄▅▅▆▆▇▇██");
        assert_eq!(sparkline(&[Some(1.0), None, Some(0.0)]), "█ ▁");
        assert_eq!(sparkline(&[]), "");
        assert_eq!(sparkline(&[Some(0.0)]), "▁");
    }
}
