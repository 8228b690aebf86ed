//! `rpm-loadtest`: sends load, and compares rpm with other ways of sharing a port.

mod tool;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Load and comparisons for rpm.
#[derive(Debug, Parser)]
#[command(name = "rpm-loadtest", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare rpm, node:cluster and bare processes on the same app, in interleaved rounds.
    Compare(tool::compare::Arguments),
    /// Measure what the commands of rpm and of PM2 take, and the daemon with 100 apps.
    Commands(tool::commands::Arguments),
    /// Compare rpm's proxy, nginx and HAProxy before the same app, in interleaved rounds.
    Edge(tool::edge::Arguments),
    /// Compare four workers behind rpm's proxy, one of which is frozen, with three, in interleaved rounds.
    EdgeFrozen(tool::edge_frozen::Arguments),
    /// Measure what idle and slow clients of rpm's proxy cost the daemon.
    EdgeMemory(tool::edge_memory::Arguments),
    /// Measure what the daemon costs when nothing happens.
    Footprint(tool::footprint::Arguments),
    /// Measure how what the daemon does grows with the number of workers and of apps.
    Growth(tool::growth::Arguments),
    /// Reload, scale and stop apps, kill and update the daemon, under every kind of client: what became of each request.
    Reload(tool::reload::Arguments),
    /// The same reloads under rpm, PM2 and node:cluster with a rolling script.
    ReloadPeers(tool::peers::Arguments),
    /// Send load to a URL.
    Run(tool::run::Arguments),
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    // One thread: the generator is to leave the other cores to what it measures.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting tokio")?;
    runtime.block_on(async {
        let work = execute(arguments.command);
        tokio::select! {
            done = work => done,
            // Dropping the work ends every process it started.
            interrupted = interruption() => interrupted,
        }
    })
}

async fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Compare(arguments) => tool::compare::compare(arguments).await,
        Command::Commands(arguments) => tool::commands::commands(arguments).await,
        Command::Edge(arguments) => tool::edge::edge(arguments).await,
        Command::EdgeFrozen(arguments) => tool::edge_frozen::edge_frozen(arguments).await,
        Command::EdgeMemory(arguments) => tool::edge_memory::edge_memory(arguments).await,
        Command::Footprint(arguments) => tool::footprint::footprint(arguments).await,
        Command::Growth(arguments) => tool::growth::growth(arguments).await,
        Command::Reload(arguments) => tool::reload::reload(arguments).await,
        Command::ReloadPeers(arguments) => tool::peers::peers(arguments).await,
        Command::Run(arguments) => tool::run::run(arguments).await,
    }
}

/// Returns at SIGINT, SIGTERM or SIGHUP, with the exit code of a shell for the first.
async fn interruption() -> anyhow::Result<ExitCode> {
    let install = |kind| signal(kind).context("installing signal handlers");
    let mut interrupt = install(SignalKind::interrupt())?;
    let mut terminate = install(SignalKind::terminate())?;
    let mut hangup = install(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    eprintln!("interrupted: ending the processes started");
    Ok(ExitCode::from(130))
}
