//! `runtime` and `start --no-daemon`: apps in the foreground, for containers. Their output goes to standard output. A signal ends
//! everything, and so does the end of the last app.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rpm_wire::api::{Action, ChangeReply, Known, Status};
use rustix::process::{Pid, WaitOptions, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::complaint::be_silent;
use super::logs::LogStream;
use super::{action, session, start};
use crate::args::{LogsArgs, RuntimeArgs};
use crate::connect::connect;
use crate::home::{Home, home_dir};
use crate::http::RequestError;
use crate::output::Output;

/// `runtime` ends after this many consecutive looks at which no app runs: an app may be about to restart.
const LOOKS: u32 = 4;
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Time for the last lines after the daemon has ended.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(2);

/// All apps have ended.
#[derive(Debug, thiserror::Error)]
#[error("all apps have ended; exiting")]
pub(super) struct NothingRuns;

pub(super) async fn run(args: &RuntimeArgs, output: &mut Output) -> anyhow::Result<()> {
    let home = Home::open(home_dir()?)?;
    if connect(&home).await?.is_some() {
        bail!(
            "a daemon already runs with {}; start the apps with it by `rpm start`, or set RPM_HOME to another directory",
            home.root().display()
        );
    }
    let mut start_args = args.start.clone();
    start_args.no_wait = true;
    // As in `pm2-runtime start app.js`.
    if start_args.targets.len() > 1 && start_args.targets[0] == "start" {
        start_args.targets.remove(0);
    }
    // Standard output is for the output of the apps.
    be_silent();
    // A signal during the start is handled after it, so that no app is left half started.
    let mut asked = Signals::new()?;
    if rustix::process::getpid() == Pid::INIT {
        reap_orphans()?;
    }
    let ended = match start::start(&start_args, output).await {
        Ok(()) if start_args.dry_run => Ok(()),
        Ok(()) => watch(args, &home, &mut asked).await,
        Err(error) => Err(error),
    };
    end_daemon(&home).await?;
    ended
}

/// Ends the daemon. If one runs, this command has started it.
async fn end_daemon(home: &Home) -> anyhow::Result<()> {
    if connect(home).await?.is_some() {
        session().await?.kill().await?;
    }
    Ok(())
}

/// Prints the output of the apps up to the end, including what they print when they are stopped. Signals are handled whether or not the
/// output is read.
async fn watch(args: &RuntimeArgs, home: &Home, asked: &mut Signals) -> anyhow::Result<()> {
    let follow = LogsArgs {
        raw: !args.json && !args.format,
        json: args.json,
        format: args.format,
        ..LogsArgs::default()
    };
    let mut printed = pin!(LogStream::open_fresh(&follow).await?.print_aside());
    let ended = tokio::select! {
        printed = &mut printed => {
            printed.context("cannot follow the output of the apps any longer")?;
            bail!("the daemon has ended");
        }
        ended = until_nothing_runs(), if !args.no_auto_exit => ended,
        () = asked.next() => Ok(()),
    };
    // The stream ends with the daemon. Errors of printing no longer affect the result.
    let drains = ended.is_ok();
    let mut killed = pin!(async {
        if drains {
            // Requests in flight are answered. A second signal ends everything at once.
            tokio::select! {
                stopped = stop_all() => stopped?,
                () = asked.next() => {}
            }
        }
        end_daemon(home).await
    });
    tokio::select! {
        killed = &mut killed => {
            killed?;
            let _ = timeout(LAST_LINES_WITHIN, printed).await;
        }
        _ = &mut printed => killed.await?,
    }
    ended
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

/// Stops all apps, and returns when they have stopped.
async fn stop_all() -> anyhow::Result<()> {
    let request = action(Action::Stop, vec!["all".to_owned()], true);
    let stopped = session()
        .await?
        .post::<ChangeReply>("/v1/actions", &request)
        .await;
    match stopped {
        // One that does not stop as it should is killed with the daemon.
        Ok(_) | Err(RequestError::Api(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Signals that end everything, handled from the creation on.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// The first process of a container is the parent of every process whose own has ended, and the kernel keeps those that it does not wait for.
/// Those of the apps are the daemon's; here come others, as of `docker exec`.
fn reap_orphans() -> std::io::Result<()> {
    let mut ended = signal(SignalKind::child())?;
    tokio::spawn(async move {
        while ended.recv().await.is_some() {
            while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        }
    });
    Ok(())
}
