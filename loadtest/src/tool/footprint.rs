//! `footprint`: what the daemon costs when nothing happens, and what its commands take.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::group::free_ports;
use super::private_rpm::{PrivateRpm, argument};
use super::stats::median;
use super::{many, place, procfs};

/// What a start leaves to be done is over by then.
const SETTLE: Duration = Duration::from_secs(3);
/// As long as it takes a person to look, after a command has returned.
const AS_ONLINE: Duration = Duration::from_secs(1);
const WORKERS: &str = "10";
const LISTS: usize = 50;
const TRIVIAL_WORKERS: usize = 100;
/// A timer of exactly 1 s shows as up to one wake-up more than the window has seconds.
const WAKEUPS_PER_SECOND: f64 = 1.05;

/// Options of `footprint`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds of idleness in which wake-ups are counted.
    #[arg(long, default_value_t = 60.0, value_parser = super::compare::seconds)]
    idle_seconds: f64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Exit 1 if a limit is exceeded.
    #[arg(long)]
    check: bool,
}

/// A figure and the limit it should stay within.
#[derive(Debug)]
struct Figure {
    name: &'static str,
    unit: &'static str,
    value: f64,
    limit: f64,
}

impl Figure {
    fn met(&self) -> bool {
        self.value <= self.limit
    }
}

/// Run it.
///
/// # Errors
/// rpm cannot be started or answers something unexpected.
pub(crate) async fn footprint(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let figures = measure(&arguments).await?;
    if arguments.json {
        let figures = figures.iter().map(
            |Figure {
                 name,
                 unit,
                 value,
                 limit,
             }| { json!({ "name": name, "unit": unit, "value": value, "limit": limit }) },
        );
        println!("{:#}", json!(figures.collect::<Vec<_>>()));
    } else {
        for figure in &figures {
            let Figure {
                name,
                unit,
                value,
                limit,
            } = figure;
            let met = if figure.met() { "met" } else { "missed" };
            println!("{name:<44}{value:>9.2} {unit:<4} at most {limit} {met}");
        }
    }
    let good = figures.iter().all(Figure::met);
    Ok(if good || !arguments.check {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn measure(arguments: &Arguments) -> anyhow::Result<Vec<Figure>> {
    let node = place::node().await?;
    let [port] = free_ports()?;
    let rpm = PrivateRpm::new(place::rpm().await?, vec![("PORT".to_owned(), port.to_string())])?;
    let app = place::script("app.js");
    let start = [
        "start",
        argument(&app)?,
        "-i",
        WORKERS,
        "--name",
        "idle",
        "--interpreter",
        argument(&node)?,
    ];
    rpm.command(&start).await?;
    let daemon = rpm.daemon().await?;
    let memory = || procfs::memory(daemon).context("the daemon is gone");
    tokio::time::sleep(AS_ONLINE).await;
    let started = memory()?;
    tokio::time::sleep(SETTLE).await;
    let wakeups = wakeups_per_second(daemon, Duration::from_secs_f64(arguments.idle_seconds)).await?;
    let idle = memory()?;
    let list_ms = list_ms(&rpm).await?;
    let spawn_s = spawn_s(&rpm).await?;
    drop(rpm);
    let (file, applied) = many::file_of_many_apps().await?;
    let (watching, reaction) = many::watched_tree().await?;
    let figure = |name, unit, value, limit| Figure {
        name,
        unit,
        value,
        limit,
    };
    Ok(vec![
        figure(
            "VmRSS of the daemon, 10 workers just started",
            "MB",
            started.resident as f64 / 1e6,
            8.0,
        ),
        figure("of it RssAnon, its own", "MB", started.own as f64 / 1e6, 2.5),
        figure(
            "VmRSS when they have been idle",
            "MB",
            idle.resident as f64 / 1e6,
            8.0,
        ),
        figure(
            "daemon wake-ups per second, idle",
            "/s",
            wakeups,
            WAKEUPS_PER_SECOND,
        ),
        figure("rpm list, median of 50", "ms", list_ms, 5.0),
        figure("100 workers spawned with --no-wait", "s", spawn_s, 0.5),
        figure("daemon's CPU, 500 apps started from a file", "s", file, 2.0),
        figure("the same, 500 running apps changed by it", "s", applied, 2.0),
        figure("daemon's CPU, 50,000 watched files, idle", "%", watching, 1.0),
        figure("from a change to the old worker's end", "ms", reaction, 200.0),
    ])
}

async fn wakeups_per_second(daemon: u32, idle: Duration) -> anyhow::Result<f64> {
    let count = || procfs::voluntary_switches(daemon).context("the daemon is gone");
    let (before, from) = (count()?, Instant::now());
    tokio::time::sleep(idle).await;
    Ok(count()?.saturating_sub(before) as f64 / from.elapsed().as_secs_f64())
}

async fn list_ms(rpm: &PrivateRpm) -> anyhow::Result<f64> {
    let mut times = Vec::with_capacity(LISTS);
    for _ in 0..LISTS {
        let from = Instant::now();
        rpm.command(&["list"]).await?;
        times.push(from.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(median(&times))
}

async fn spawn_s(rpm: &PrivateRpm) -> anyhow::Result<f64> {
    let count = TRIVIAL_WORKERS.to_string();
    let before = rpm.workers().await?.len();
    let from = Instant::now();
    let start = [
        "start",
        "/bin/sleep",
        "-i",
        &count,
        "--name",
        "trivial",
        "--interpreter",
        "none",
        "--no-wait",
    ];
    rpm.command(&[&start[..], &["--", "1000"]].concat()).await?;
    let took = from.elapsed().as_secs_f64();
    let spawned = rpm.workers().await?.len() - before;
    ensure!(
        spawned == TRIVIAL_WORKERS,
        "{spawned} of {TRIVIAL_WORKERS} workers run after the start"
    );
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_at_its_limit_is_within_it() {
        let figure = |value| Figure {
            name: "x",
            unit: "s",
            value,
            limit: 0.5,
        };
        assert!(figure(0.5).met() && !figure(0.51).met());
    }

    #[tokio::test]
    async fn wakeups_of_a_process_that_sleeps_are_few() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep");
        let wakeups = wakeups_per_second(child.id(), Duration::from_millis(50)).await;
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert!(wakeups.expect("wake-ups") < 100.0);
    }
}
