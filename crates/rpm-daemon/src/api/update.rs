//! `POST /v1/update`, `POST /v1/leave`: another binary takes over from the one that runs, or the daemon that is started next does, at a moment in
//! which nothing is under way.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rpm_wire::api::ApiError;
use tracing::{info, warn};

use crate::failure::failure;
use crate::inbox::{Fresh, HandOn, Handle, Request, Successor};
use crate::logs::Stalled;
use crate::os::{systemd, threads};
use crate::persist::update::check;
use crate::proxy::fronts::Parting;

/// Between two looks at how many clients are left.
const CHECK_PAUSE: Duration = Duration::from_millis(5);
/// For requests of clients of the proxy to be answered before their connections end.
const PARTED_WITHIN: Duration = Duration::from_secs(10);
/// For clients of the proxy that are idle to ask once more, and be told to go. New ones are served meanwhile.
const LEFT_WITHIN: Duration = Duration::from_secs(5);
/// For clients that were accepted last to send their first request.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// For those that have asked for nothing to see that their connections have ended, and to end them as well.
const CLEARED_WITHIN: Duration = Duration::from_secs(1);
/// Tries to find a moment in which nothing is under way.
const TRIES: u32 = 1000;
/// For a reload, or what else is under way, to end before the daemon does.
const DONE_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks whether it has.
const DONE_PAUSE: Duration = Duration::from_millis(50);

/// Has `binary` take over. Returns only if it does not.
pub(super) async fn update(handle: &Handle, binary: PathBuf) -> ApiError {
    let (Ok(refused) | Err(refused)) = try_update(handle, binary).await;
    systemd::ready();
    refused
}

async fn try_update(handle: &Handle, binary: PathBuf) -> Result<ApiError, ApiError> {
    let gone = || failure("the daemon is shutting down", None);
    let home = handle.ask(Request::PrepareUpdate).await.map_err(|_| gone())??;
    let asked = binary.clone();
    let checked = threads::run(move || check(&asked, &home)).await;
    let checked = checked.unwrap_or_else(|error| Err(format!("it cannot be asked: {error}")));
    let version = checked.map_err(|why| {
        failure(
            format!("{} cannot take over: {why}", binary.display()),
            Some("the running daemon stays in charge; nothing has changed"),
        )
    })?;
    info!(binary = %binary.display(), version, "taking over");
    systemd::reloading(&version);
    Err(hand_on(handle, Successor::Binary(binary)).await)
}

/// Ends the daemon, and leaves the apps to the next one. Returns only if it does not end.
pub(super) async fn leave(handle: &Handle) -> ApiError {
    let until = Instant::now() + DONE_WITHIN;
    loop {
        match handle.ask(Request::PrepareUpdate).await {
            Ok(Ok(_)) => break,
            Ok(Err(_)) if Instant::now() < until => tokio::time::sleep(DONE_PAUSE).await,
            // The next daemon goes on with it.
            Ok(Err(begun)) => {
                warn!(
                    error = begun.error,
                    "not done within 30 s, and left to the next daemon"
                );
                break;
            }
            Err(_) => return failure("the daemon is shutting down", None),
        }
    }
    systemd::leaving();
    let refused = hand_on(handle, Successor::Next).await;
    systemd::ready();
    refused
}

/// Leaves the apps to another daemon. Returns only if this one stays.
async fn hand_on(handle: &Handle, to: Successor) -> ApiError {
    let gone = || failure("the daemon is shutting down", None);
    let refused = |stalled: Stalled| {
        failure(
            format!("logs cannot be written: {stalled}"),
            Some("the running daemon stays in charge; try again when it responds"),
        )
    };
    // Before any client is sent away.
    if let Err(stalled) = handle.logs.answers().await {
        return refused(stalled);
    }
    if part(handle).await.is_err() {
        return gone();
    }
    // Output that was read is written, and what comes now waits in the pipes.
    let pause = match handle.logs.pause().await {
        Ok(pause) => pause,
        Err(stalled) => {
            let _ = handle.ask(|reply| Request::Part(Parting::Stays, reply)).await;
            return refused(stalled);
        }
    };
    for last in (0..TRIES).rev() {
        let asked = HandOn {
            to: to.clone(),
            anyway: last == 0,
        };
        match handle.ask(|reply| Request::HandOn(asked, reply)).await {
            Err(_) => return gone(),
            Ok(None) => {}
            Ok(Some(refused)) => {
                drop(pause);
                warn!(error = refused.error, "no other daemon took over");
                let _ = handle.ask(|reply| Request::Part(Parting::Stays, reply)).await;
                return refused;
            }
        }
        tokio::task::yield_now().await;
    }
    let _ = handle.ask(|reply| Request::Part(Parting::Stays, reply)).await;
    failure("the daemon was busy all the time", Some("run `rpm update` again"))
}

/// Has the clients of the proxy go, for their connections end with this program. New ones wait in the backlog for the next.
///
/// Most learn from their next answer that it was the last. What one sends that has asked for nothing for so long crosses the end of its
/// connection, which it sees before this program is another one: the system would reset it then.
async fn part(handle: &Handle) -> Result<(), ()> {
    let idle_until = Instant::now() + LEFT_WITHIN;
    wait(handle, Parting::Thinned, |connections, requests| {
        connections > requests && Instant::now() < idle_until
    })
    .await?;
    let until = Instant::now() + PARTED_WITHIN;
    for (tells, within) in [(Parting::Asked, FIRST_WITHIN), (Parting::Idle, CLEARED_WITHIN)] {
        let at_rest = Instant::now() + within;
        wait(handle, tells, |connections, requests| {
            connections > 0 && Instant::now() < if requests > 0 { until.max(at_rest) } else { at_rest }
        })
        .await?;
    }
    Ok(())
}

/// Tells the clients of the proxy, and looks at their number, and that of their requests, until it is as it should be.
async fn wait(handle: &Handle, tells: Parting, goes_on: impl Fn(u32, u32) -> bool) -> Result<(), ()> {
    let ask = |reply| Request::Part(tells, reply);
    // Somebody who is accepted meanwhile is not counted yet, and would be lost.
    if let Some(mut reached) = handle.ask(ask).await.map_err(drop)? {
        let _ = tokio::time::timeout(PARTED_WITHIN, reached.recv()).await;
    }
    loop {
        let busy = handle.look(Fresh::Stored, |view| view.fronts.busy()).await;
        let (connections, requests) = busy.map_err(drop)?;
        if !goes_on(connections, requests) {
            return Ok(());
        }
        tokio::time::sleep(CHECK_PAUSE).await;
    }
}
