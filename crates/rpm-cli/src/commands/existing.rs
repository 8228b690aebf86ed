//! Questions about apps: where no daemon runs nobody knows any, and none is started to say that.

use anyhow::bail;
use rpm_wire::api::ApiError;

use super::session;
use crate::args::Command;
use crate::connect::connect;
use crate::home::{Home, home_dir};
use crate::http::RequestError;
use crate::output::Output;

/// Fails if the command asks for an app and no daemon runs that could know it.
pub(super) async fn check(command: &Command) -> anyhow::Result<()> {
    let Some(target) = first_target(command).filter(|target| *target != "all") else {
        return Ok(());
    };
    let home = Home::open(home_dir()?)?;
    // A daemon that was killed has left workers behind, which the next one takes back.
    if home.has_workers_left() || connect(&home).await?.is_some() {
        return Ok(());
    }
    let error = ApiError {
        error: format!("no process or app {target:?}: the daemon is not running, and so knows none"),
        hint: Some("`rpm start` starts an app, `rpm resurrect` those that were saved".to_owned()),
        last_lines: Vec::new(),
        unknown: None,
    };
    Err(RequestError::Api(error).into())
}

/// The app or process that must exist already, for commands that neither start nor end one: those leave it to the daemon, which looks for
/// workers that nobody knows.
fn first_target(command: &Command) -> Option<&str> {
    match command {
        Command::Logs(args) => args.targets.first(),
        Command::Flush { targets } | Command::Reset { targets } | Command::SendSignal { targets, .. } => {
            targets.first()
        }
        Command::Describe { target, .. }
        | Command::Env { target }
        | Command::Send { target, .. }
        | Command::Attach { target, .. }
        | Command::Trigger { target, .. } => Some(target),
        _ => None,
    }
    .map(String::as_str)
}

/// `ping`; `no_start`: it starts no daemon.
pub(super) async fn ping(json: bool, no_start: bool, output: &mut Output) -> anyhow::Result<()> {
    if no_start && connect(&Home::open(home_dir()?)?).await?.is_none() {
        bail!("the daemon is not running");
    }
    let session = session().await?;
    if json {
        return Ok(output.json(session.pong())?);
    }
    Ok(output.line(format_args!("{{ msg: '{}' }}", session.pong().msg))?)
}
