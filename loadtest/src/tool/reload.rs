//! `reload`: what becomes of every kind of request while workers, and the daemon, come and go.

mod cell;
mod factors;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rpm_loadtest::{Histogram, Outcome};
use serde_json::{Map, Value, json};

use super::place;
use cell::Outcome as CellOutcome;
use factors::{Cell, Cover};

/// Options of `reload`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which combinations of Node, steering, app and event.
    #[arg(long, value_enum, default_value_t = Cover::Pairs)]
    cover: Cover,
    /// This one only: node/path/app/event, such as 22/ebpf/plain/reload. May be given several times.
    #[arg(long, value_parser = Cell::parse, conflicts_with = "cover")]
    cell: Vec<Cell>,
    /// Reloads where an app is reloaded several times.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    reloads: u32,
    /// No cell begins after so many minutes.
    #[arg(long, default_value_t = 20)]
    minutes: u64,
    /// Add a line of JSON for each cell to this file, and leave out those that are in it.
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Print JSON, a line for each cell.
    #[arg(long)]
    json: bool,
}

/// Run them: exit code 1 if a request failed anywhere, or a cell could not be run.
///
/// # Errors
/// There is no rpm to be had, or the file of results cannot be read or written.
pub(crate) async fn reload(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let program = place::rpm().await?;
    let done = match &arguments.results {
        Some(file) => done_before(file)?,
        None => BTreeSet::new(),
    };
    let mut cells = match &arguments.cell[..] {
        [] => arguments.cover.cells(),
        named => named.to_vec(),
    };
    let wanted = cells.len();
    cells.retain(|cell| !done.contains(&cell.to_string()));
    let deadline = Instant::now() + Duration::from_secs(60 * arguments.minutes);
    let (mut ran, mut failed) = (0, Vec::new());
    for cell in cells {
        if Instant::now() >= deadline {
            break;
        }
        let outcome = cell::run(cell, arguments.reloads, &program).await;
        let line = to_json(cell, &outcome);
        if let Some(file) = &arguments.results {
            append(file, &line)?;
        }
        if arguments.json {
            println!("{line}");
        } else {
            show(cell, &outcome);
        }
        ran += 1;
        if !outcome.is_ok_and(|outcome| outcome.is_clean()) {
            failed.push(cell.to_string());
        }
    }
    let before = wanted - ran;
    eprintln!(
        "{ran} of {wanted} cells ran ({before} had before, or there was no time), {} failed{}",
        failed.len(),
        if failed.is_empty() {
            String::new()
        } else {
            format!(": {}", failed.join(" "))
        }
    );
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The cells of a file of results.
fn done_before(file: &Path) -> anyhow::Result<BTreeSet<String>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let named = lines.filter_map(|line| line["cell"].as_str().map(str::to_owned));
    Ok(named.collect())
}

fn append(file: &Path, line: &Value) -> anyhow::Result<()> {
    let opened = OpenOptions::new().create(true).append(true).open(file);
    let mut opened = opened.with_context(|| format!("writing {}", file.display()))?;
    Ok(writeln!(opened, "{line}")?)
}

fn to_json(cell: Cell, outcome: &anyhow::Result<CellOutcome>) -> Value {
    match outcome {
        Err(error) => json!({ "cell": cell.to_string(), "error": format!("{error:#}") }),
        Ok(outcome) => {
            let counts = |histogram: &Histogram| {
                let counts = histogram
                    .counts()
                    .map(|(of, count)| (of.to_string(), json!(count)));
                Value::Object(counts.collect())
            };
            let kinds = outcome.kinds.iter();
            let kinds: Map<_, _> = kinds
                .map(|(kind, report)| (kind.as_str().to_owned(), counts(&report.outcomes)))
                .collect();
            json!({
                "cell": cell.to_string(),
                "clean": outcome.is_clean(),
                "seconds": outcome.took.as_secs_f64(),
                "kinds": kinds,
            })
        }
    }
}

/// A line for the cell, and one for each kind of client with failures.
fn show(cell: Cell, outcome: &anyhow::Result<CellOutcome>) {
    let outcome = match outcome {
        Err(error) => return println!("{cell:<34} could not be run: {error:#}"),
        Ok(outcome) => outcome,
    };
    let mut whole = Histogram::default();
    outcome
        .kinds
        .iter()
        .for_each(|(_, report)| whole.merge(&report.outcomes));
    println!(
        "{cell:<34} {:>7} ok {:>4} resent {:>4} failed {:>6.1} s",
        whole.ok(),
        whole.count(Outcome::Resent),
        whole.failures(),
        outcome.took.as_secs_f64()
    );
    for (kind, report) in outcome
        .kinds
        .iter()
        .filter(|(_, report)| report.check_clean().is_err())
    {
        println!("  {}: {report}", kind.as_str());
    }
}
