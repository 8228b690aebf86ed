//! The daemon itself: another version of it, and its end.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use rpm_wire::api::{ChangeReply, Pong, UpdateRequest};

use super::{session_that, tell};
use crate::connect::{Lost, connect};
use crate::home::{Home, home_dir};
use crate::http::{RequestError, Session};
use crate::output::Output;

/// Time for a new binary to take over.
const UPDATE_DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two checks whether it has.
const UPDATE_PAUSE: Duration = Duration::from_millis(10);

/// `update`: another version of the daemon goes on.
pub(super) async fn update(binary: Option<&Path>, output: &mut Output) -> anyhow::Result<()> {
    let home = Home::open(home_dir()?)?;
    let binary = match binary {
        Some(path) => std::path::absolute(path).context("the current directory is gone")?,
        None => std::env::current_exe().context("cannot find this program's own file")?,
    };
    let Some(stream) = connect(&home).await? else {
        tell("the daemon is not running; the next command starts this version");
        return Ok(());
    };
    let mut session = Session::open(stream).await?;
    let before = session.pong().clone();
    let request = UpdateRequest {
        binary: binary
            .into_os_string()
            .into_string()
            .map_err(|path| anyhow!("the path of the binary is not UTF-8: {}", path.to_string_lossy()))?,
    };
    match session.post::<ChangeReply>("/v1/update", &request).await {
        // The old daemon has ended.
        Ok(_) | Err(RequestError::Broken(_) | RequestError::Cut(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let after = successor(&home, before.started_at_ms).await?;
    Ok(output.line(format_args!(
        "updated: {} to {} (pid {})",
        before.version, after.version, after.pid
    ))?)
}

/// Waits until a daemon with another start time answers.
async fn successor(home: &Home, before: u64) -> anyhow::Result<Pong> {
    let deadline = Instant::now() + UPDATE_DEADLINE;
    while Instant::now() < deadline {
        if let Some(stream) = connect(home).await?
            && let Ok(session) = Session::open(stream).await
            && session.pong().started_at_ms != before
        {
            return Ok(session.pong().clone());
        }
        tokio::time::sleep(UPDATE_PAUSE).await;
    }
    bail!(
        "the new daemon does not answer after {} s; the apps keep running, and any command starts another daemon",
        UPDATE_DEADLINE.as_secs()
    )
}

/// `kill --keep-apps`: ends the daemon, and leaves the apps to the next one.
pub(super) async fn leave() -> anyhow::Result<()> {
    let home = Home::open(home_dir()?)?;
    let Some(stream) = connect(&home).await? else {
        tell("the daemon is not running");
        return Ok(());
    };
    let mut session = Session::open(stream).await?;
    match session.post::<ChangeReply>("/v1/leave", &()).await {
        // The daemon has ended.
        Ok(_) | Err(RequestError::Broken(_) | RequestError::Cut(_)) => {}
        Err(error) => return Err(error.into()),
    }
    tell("the daemon has ended; the apps serve on, and the next command takes them back");
    Ok(())
}

/// `kill`: ends all apps, then the daemon.
pub(super) async fn kill() -> anyhow::Result<()> {
    let home = Home::open(home_dir()?)?;
    if connect(&home).await?.is_none() && !home.has_workers_left() {
        tell("the daemon is not running; nothing to kill");
        return Ok(());
    }
    // A daemon that died has left its workers behind: the next one takes them back, and ends them.
    session_that(Lost::End).await?.kill().await?;
    tell("all apps and the daemon have ended");
    Ok(())
}
