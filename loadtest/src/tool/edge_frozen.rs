//! `edge-frozen`: four workers behind the proxy, one of which stands still, against three that are well, in interleaved rounds.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use rpm_loadtest::{Kind, Load, Stop};
use rustix::process::{Pid, Signal, kill_process};

use super::edge::before_rpm;
use super::group::free_ports;
use super::results::Sample;
use super::stats::{Median, median};

/// Clients that keep their connections.
const CLIENTS: usize = 64;
/// What p99 with the frozen worker may be of that without.
const CEILING: f64 = 1.1;
/// From the freeze to the first round: it is found, and what waited for it is answered by others or given up.
const EJECTED_WITHIN: Duration = Duration::from_secs(3);
/// The worker that stands still answers nothing.
const HELD: Signal = Signal::STOP;

/// Options of `edge-frozen`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Rounds; 9 or more give a useful interval.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=500))]
    rounds: u16,
    /// Seconds of load for each and round.
    #[arg(long, default_value_t = 1.0, value_parser = super::compare::seconds)]
    seconds: f64,
    /// Exit 1 if it is slower, or a request fails.
    #[arg(long)]
    check: bool,
}

/// Run it.
///
/// # Errors
/// rpm cannot be started.
pub(crate) async fn edge_frozen(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let [four, three] = free_ports::<2>()?;
    let frozen = before_rpm(four, 4).await?;
    let _healthy = before_rpm(three, 3).await?;
    let lasting = Duration::from_secs_f64(arguments.seconds);
    let run = async |port: u16, lasting: Duration| {
        let load = Load {
            kind: Kind::KeepAlive,
            clients: CLIENTS,
            lasting: Some(lasting),
            ..Load::local(port)
        };
        Sample::new(&load.run(&Stop::new()).await, 0.0)
    };
    for port in [four, three] {
        run(port, lasting).await;
    }
    let workers = frozen.workers().await?;
    let victim = workers.first().context("there is no worker")?;
    let victim = Pid::from_raw(i32::try_from(*victim)?).context("it has no number")?;
    kill_process(victim, HELD).context("stopping a worker")?;
    run(four, EJECTED_WITHIN).await;

    let mut rounds: Vec<[Sample; 2]> = Vec::new();
    for _ in 0..arguments.rounds {
        rounds.push([run(four, lasting).await, run(three, lasting).await]);
    }
    kill_process(victim, Signal::CONT).context("letting the worker go on")?;
    let figure = |of: usize, figure: fn(&Sample) -> f64| {
        median(&rounds.iter().map(|round| figure(&round[of])).collect::<Vec<_>>())
    };
    for (name, of) in [("four, one frozen", 0), ("three", 1)] {
        println!(
            "{name}: {:.0} requests/s, p50 {:.2} ms, p99 {:.2} ms, {} failed",
            figure(of, |sample| sample.per_second),
            figure(of, |sample| sample.p50_ms),
            figure(of, |sample| sample.p99_ms),
            rounds.iter().map(|round| round[of].failures).sum::<u64>(),
        );
    }
    let ratios: Vec<f64> = rounds
        .iter()
        .map(|[four, three]| four.p99_ms / three.p99_ms)
        .collect();
    let ratio = Median::of(&ratios).context("no round")?;
    println!(
        "p99 by that of three: {:.2} ({:.2} to {:.2}), at most {CEILING}",
        ratio.value, ratio.low, ratio.high
    );
    let failed = rounds.iter().flatten().any(|sample| sample.failures > 0);
    let good = ratio.low <= CEILING && !failed;
    Ok(if good || !arguments.check {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
