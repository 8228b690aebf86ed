//! `commands`: what the commands of rpm and of PM2 take, on the same apps: in each round some times the one, then as often the other.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::pm2::Pm2;
use super::private_rpm::{PrivateRpm, argument};
use super::stats::median;
use super::{place, procfs};

/// Apps in fork mode that are there while it is measured.
const APPS: usize = 10;
/// Those that the daemon is weighed with.
const MANY: usize = 100;
/// What the last command has started is up by then, so that the next has the machine for itself.
const SETTLE: Duration = Duration::from_secs(2);
/// The daemon has put away by then what starting them took.
const AT_REST: Duration = Duration::from_secs(12);
/// The most that it may have then, in MB.
const MANY_LIMIT: f64 = 12.0;

/// Options of `commands`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Rounds.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Exit 1 if a floor is missed.
    #[arg(long)]
    check: bool,
}

/// A command, how often faster it is to be, and what it took: seconds, of rpm and of PM2.
struct Row {
    name: &'static str,
    floor: f64,
    /// In each round.
    often: u32,
    times: Vec<(f64, f64)>,
}

impl Row {
    fn new(name: &'static str, floor: f64, often: u32) -> Row {
        Row {
            name,
            floor,
            often,
            times: Vec::new(),
        }
    }

    fn ratio(&self) -> f64 {
        let ratios: Vec<f64> = self.times.iter().map(|(rpm, pm2)| pm2 / rpm).collect();
        median(&ratios)
    }
}

/// Run it.
///
/// # Errors
/// One of them cannot be run.
pub(crate) async fn commands(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let node = place::node().await?;
    let rpm = PrivateRpm::new(place::rpm().await?, Vec::new())?;
    let pm2 = Pm2::new(node.clone()).await?;
    let app = place::fixture("spin.js").with_file_name("no-listen.js");
    let app = argument(&app)?;
    for number in 0..APPS {
        let name = format!("app-{number}");
        rpm.command(&["start", app, "--name", &name, "--interpreter", argument(&node)?])
            .await?;
        pm2.run(&["start", app, "--name", &name]).await?;
    }
    let mut rows = [
        Row::new("list", 25.0, 10),
        Row::new("start --no-wait", 20.0, 5),
        Row::new("restart all --no-wait", 3.0, 1),
    ];
    for round in 0..arguments.rounds {
        eprint!("\rround {} of {} ", round + 1, arguments.rounds);
        for row in &mut rows {
            measure(row, &rpm, &pm2, lines(row.name, app, argument(&node)?)).await?;
        }
    }
    eprintln!();
    println!(
        "{:<26}{:>10}{:>10}{:>8}",
        "command, median", "rpm ms", "pm2 ms", "ratio"
    );
    let mut good = true;
    for row in &rows {
        let of =
            |pick: fn(&(f64, f64)) -> f64| median(&row.times.iter().map(pick).collect::<Vec<_>>()) * 1000.0;
        let met = row.ratio() >= row.floor;
        good &= met;
        println!(
            "{:<26}{:>10.1}{:>10.1}{:>8.1}  at least {} {}",
            row.name,
            of(|(rpm, _)| *rpm),
            of(|(_, pm2)| *pm2),
            row.ratio(),
            row.floor,
            if met { "met" } else { "missed" }
        );
    }
    drop(pm2);
    let resident = weigh(&rpm).await?;
    let met = resident <= MANY_LIMIT;
    good &= met;
    println!(
        "daemon with {MANY} apps: VmRSS {resident:.1} MB, at most {MANY_LIMIT} {}",
        if met { "met" } else { "missed" }
    );
    Ok(if good || !arguments.check {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn measure(
    row: &mut Row,
    rpm: &PrivateRpm,
    pm2: &Pm2,
    (ours, theirs): Lines<'_>,
) -> anyhow::Result<()> {
    let is_start = row.name.starts_with("start");
    tokio::time::sleep(SETTLE).await;
    let mut of_rpm = Vec::new();
    for _ in 0..row.often {
        of_rpm.push(timed(&mut rpm.quiet(&ours))?);
        if is_start {
            rpm.command(&["delete", "new"]).await?;
        }
    }
    tokio::time::sleep(SETTLE).await;
    for of_rpm in of_rpm {
        row.times
            .push((of_rpm, timed(pm2.command(&theirs).as_std_mut())?));
        if is_start {
            pm2.run(&["delete", "new"]).await?;
        }
    }
    Ok(())
}

/// What is typed for rpm, and for PM2.
type Lines<'a> = (Vec<&'a str>, Vec<&'a str>);

/// What is typed for rpm and for PM2.
fn lines<'a>(name: &str, app: &'a str, node: &'a str) -> Lines<'a> {
    match name {
        "list" => (vec!["list"], vec!["list"]),
        "start --no-wait" => (
            vec!["start", app, "--name", "new", "--interpreter", node, "--no-wait"],
            vec!["start", app, "--name", "new"],
        ),
        _ => (vec!["restart", "all", "--no-wait"], vec!["restart", "all"]),
    }
}

/// How long a command takes, in seconds.
fn timed(command: &mut std::process::Command) -> anyhow::Result<f64> {
    let began = Instant::now();
    let status = command.status()?;
    let took = began.elapsed();
    ensure!(status.success(), "{command:?}: {status}");
    Ok(took.as_secs_f64())
}

/// The daemon's memory in MB with many apps, which do nothing.
async fn weigh(rpm: &PrivateRpm) -> anyhow::Result<f64> {
    rpm.command(&["delete", "all"]).await?;
    for number in 0..MANY {
        let name = format!("app-{number}");
        rpm.command(&["start", "/bin/sleep", "--name", &name, "--no-wait", "--", "1000"])
            .await?;
    }
    let daemon = rpm.daemon().await?;
    tokio::time::sleep(AT_REST).await;
    let memory = procfs::memory(daemon).context("the daemon is gone")?;
    Ok(memory.resident as f64 / 1e6)
}
