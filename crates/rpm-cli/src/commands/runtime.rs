//! `runtime`, and `start --no-daemon`: the apps in the foreground, as a container wants them. What they print goes to standard output, a
//! signal ends everything, and so does the end of the last app.

use std::time::Duration;

use anyhow::{Context as _, bail};
use rpm_wire::api::{Known, Status};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::complaint::be_silent;
use super::{logs, session, start};
use crate::args::{LogsArgs, RuntimeArgs};
use crate::connect::connect;
use crate::home::{Home, home_dir};
use crate::output::Output;

/// So many looks at which nothing runs, one after the other, end it: an app may be on its way to another try.
const LOOKS: u32 = 4;
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Lines that may be printed before they are followed.
const EARLY_LINES: u32 = 1000;

/// No app runs any more.
#[derive(Debug, thiserror::Error)]
#[error("no app runs any more; everything is ended")]
pub(super) struct NothingRuns;

pub(super) async fn run(args: &RuntimeArgs, output: &mut Output) -> anyhow::Result<()> {
    let home = Home::open(home_dir()?)?;
    if connect(&home).await?.is_some() {
        bail!(
            "a daemon runs already with {}; start without --no-daemon, or set RPM_HOME to another directory",
            home.root().display()
        );
    }
    let mut start_args = args.start.clone();
    start_args.no_wait = true;
    // As in `pm2-runtime start app.js`.
    if start_args.targets.len() > 1 && start_args.targets[0] == "start" {
        start_args.targets.remove(0);
    }
    // Standard output is for what the apps print.
    be_silent();
    let ended = match start::start(&start_args, output).await {
        Ok(()) => watch(args, output).await,
        Err(error) => Err(error),
    };
    // It has started the daemon, if there is one.
    if connect(&home).await?.is_some() {
        session().await?.kill().await?;
    }
    ended
}

async fn watch(args: &RuntimeArgs, output: &mut Output) -> anyhow::Result<()> {
    let follow = LogsArgs {
        lines: EARLY_LINES,
        raw: !args.json && !args.format,
        json: args.json,
        format: args.format,
        ..LogsArgs::default()
    };
    tokio::select! {
        followed = logs::logs(&follow, output) => followed.context("the output of the apps cannot be followed any more"),
        ended = until_nothing_runs(), if !args.no_auto_exit => ended,
        asked = until_asked() => asked,
    }
}

async fn until_nothing_runs() -> anyhow::Result<()> {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut empty = 0;
    loop {
        ticks.tick().await;
        let known: Vec<Known> = session().await?.get("/v1/known").await?;
        let runs = |process: &Known| {
            matches!(
                process.status,
                Status::Online | Status::Launching | Status::Stopping | Status::WaitingRestart
            )
        };
        empty = if known.iter().any(runs) { 0 } else { empty + 1 };
        if empty >= LOOKS {
            return Err(NothingRuns.into());
        }
    }
}

async fn until_asked() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut quit = signal(SignalKind::quit())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = quit.recv() => {}
    }
    Ok(())
}
