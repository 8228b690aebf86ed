//! Another binary takes over from the one that runs: same pid, same workers, and nobody is cut off.
//!
//! It is first run as a child, to say that it can read what it would take over. Then the daemon executes it in its own
//! place; it goes on as after a death, with the lock and the control socket in hand.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rpm_core::StateView;
use rpm_sys::limits::Rlimit;
use rpm_sys::succession;
use rpm_wire::api::ApiError;
use tracing::{info, warn};

use crate::api::handle::Handle;
use crate::apps::commands::failure;
use crate::os::threads;
use crate::proxy::fronts::Parting;
use crate::supervisor::Supervisor;
use crate::workers::launch::chain;

/// What the new binary says first if it can take over; its version follows.
pub const CAN_TAKE_OVER: &str = "can take over: ";
/// For the new binary to say so.
const CHECK_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at the new binary.
const CHECK_PAUSE: Duration = Duration::from_millis(5);
/// Most of what it may say, in bytes.
const CHECK_LIMIT: u64 = 4096;
/// For requests of clients of the proxy to be answered before their connections end.
const PARTED_WITHIN: Duration = Duration::from_secs(10);
/// For clients of the proxy that are idle to ask once more, and be told to go. New ones are served meanwhile.
const LEFT_WITHIN: Duration = Duration::from_secs(5);
/// For clients that were accepted last to send their first request.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// For those that have asked for nothing to see that their connections have ended, and to end them as well.
const CLEARED_WITHIN: Duration = Duration::from_secs(1);
/// For the keeper to have everything.
const KEPT_WITHIN: Duration = Duration::from_secs(1);
/// Tries to find a moment in which nothing is under way.
const TRIES: u32 = 1000;
/// Tells the new binary what it was passed.
pub(crate) const SUCCESSION_ENV: &str = "RPM_SUCCESSION";

/// What is passed on.
pub(crate) struct Succession {
    pub(crate) lock: OwnedFd,
    pub(crate) listener: OwnedFd,
    pub(crate) child_nofile: Rlimit,
}

/// What a binary that took over was passed.
pub(crate) fn succession() -> io::Result<Option<Succession>> {
    let Ok(text) = std::env::var(SUCCESSION_ENV) else {
        return Ok(None);
    };
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("{SUCCESSION_ENV}={text}"));
    let numbers: Vec<u64> = text
        .split(',')
        .map(|part| part.parse().map_err(|_| wrong()))
        .collect::<io::Result<_>>()?;
    let [lock, listener, soft, hard] = numbers[..] else {
        return Err(wrong());
    };
    let passed = |number: u64| succession::passed(i32::try_from(number).map_err(|_| wrong())?);
    Ok(Some(Succession {
        lock: passed(lock)?,
        listener: passed(listener)?,
        child_nofile: Rlimit { soft, hard },
    }))
}

/// Has `binary` take over. Returns only if it does not.
pub(crate) async fn update(handle: &Handle, binary: PathBuf) -> ApiError {
    match try_update(handle, binary).await {
        Ok(refused) | Err(refused) => refused,
    }
}

async fn try_update(handle: &Handle, binary: PathBuf) -> Result<ApiError, ApiError> {
    let gone = || failure("the daemon is shutting down", None);
    let home = handle
        .ask(|supervisor| {
            supervisor.nothing_begun()?;
            supervisor.store.changed();
            supervisor.store(true);
            Ok::<_, ApiError>(supervisor.home.root().to_owned())
        })
        .await
        .map_err(|_| gone())??;
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
    part(handle).await.map_err(|()| gone())?;
    // Output that was read is written, and what comes now waits in the pipes.
    let pause = handle.logs.pause().await;
    for last in (0..TRIES).rev() {
        let binary = binary.clone();
        let tried = handle.ask(move |supervisor| {
            // Connections wait in the backlog meanwhile.
            supervisor.handoffs.pause(true);
            let refused = supervisor.hand_on(&binary, last == 0);
            supervisor.handoffs.pause(refused.is_none());
            if refused.is_some() {
                supervisor.fronts.part(Parting::Stays);
            }
            refused
        });
        if let Some(refused) = tried.await.map_err(|_| gone())? {
            drop(pause);
            warn!(error = refused.error, "the new binary did not take over");
            return Err(refused);
        }
        tokio::task::yield_now().await;
    }
    let _ = handle
        .ask(|supervisor| supervisor.fronts.part(Parting::Stays))
        .await;
    Err(failure(
        "the daemon was busy all the time",
        Some("`rpm update` tries again"),
    ))
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
    let ask = move |supervisor: &mut Supervisor| {
        supervisor.fronts.part(tells);
        supervisor.fronts.reached()
    };
    // Somebody who is accepted meanwhile is not counted yet, and would be lost.
    if let Some(mut reached) = handle.ask(ask).await.map_err(drop)? {
        let _ = tokio::time::timeout(PARTED_WITHIN, reached.recv()).await;
    }
    loop {
        let busy = handle.ask(|supervisor| supervisor.fronts.busy()).await;
        let (connections, requests) = busy.map_err(drop)?;
        if !goes_on(connections, requests) {
            return Ok(());
        }
        tokio::time::sleep(CHECK_PAUSE).await;
    }
}

/// Runs `binary` to see whether it can take over; its version.
fn check(binary: &Path, home: &Path) -> Result<String, String> {
    let mut child = Command::new(binary)
        .args(["daemon", "--check"])
        .env("RPM_HOME", home)
        .env_remove(SUCCESSION_ENV)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("it cannot be executed: {error}"))?;
    let deadline = Instant::now() + CHECK_WITHIN;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            // The daemon waits for every child that has ended and is no worker's leader.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::CHILD.raw_os_error()) => {
                break None;
            }
            Ok(None) if Instant::now() < deadline => std::thread::sleep(CHECK_PAUSE),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it has not answered within {} s", CHECK_WITHIN.as_secs()));
            }
        }
    };
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        // What it printed is in the pipe; who inherited that does not matter.
        let _ = rustix::io::ioctl_fionbio(&stdout, true);
        let _ = stdout.take(CHECK_LIMIT).read_to_string(&mut said);
    }
    match said.trim().strip_prefix(CAN_TAKE_OVER) {
        Some(version) if status.is_none_or(|status| status.success()) => Ok(version.to_owned()),
        _ if said.trim().is_empty() => Err("asked whether it can, it said nothing".to_owned()),
        _ => Err(said.trim().to_owned()),
    }
}

impl Supervisor {
    /// A worker that starts may have asked the daemon for something, and a reload would be undone.
    fn nothing_begun(&self) -> Result<(), ApiError> {
        let reloading = self
            .apps
            .iter()
            .find(|(id, _)| self.core.app(**id).is_some_and(|view| view.reload.is_some()));
        let mut instances = self.core.instances();
        let launching = instances.find(|view| matches!(view.state, StateView::Launching { .. }));
        let what = match (reloading, launching) {
            (Some((_, app)), _) => format!("{} is being reloaded", app.name),
            (None, Some(view)) => format!("a worker of {} is starting", self.catalog().label(view.app)),
            (None, None) => return Ok(()),
        };
        Err(failure(what, Some("then try `rpm update` again")))
    }

    /// Becomes the new binary, if nothing is under way that would be lost. Returns why that failed; `None`: try
    /// again. `anyway`: what is under way does not end.
    fn hand_on(&mut self, binary: &Path, anyway: bool) -> Option<ApiError> {
        if let Err(begun) = self.nothing_begun() {
            return Some(begun);
        }
        let flushed = |worker: &crate::workers::worker::Worker| {
            let process = worker.process();
            process.is_none_or(|process| {
                process
                    .channel
                    .as_ref()
                    .is_none_or(|channel| channel.is_flushed())
            })
        };
        let quiet = self.handoffs.is_quiet()
            && self.events.capacity() == self.events.max_capacity()
            && self.workers.values().all(flushed);
        if !quiet && !anyway {
            return None;
        }
        // The next daemon takes for done what is decided.
        self.settle_now();
        let Some(passed) = &self.succession else {
            return Some(failure("this daemon cannot pass on its socket", None));
        };
        self.store.changed();
        let numbers = [passed.lock.as_fd(), passed.listener.as_fd()].map(succession::number);
        let Rlimit { soft, hard } = passed.child_nofile;
        let [lock, listener] = numbers;
        let text = format!("{lock},{listener},{soft},{hard}");
        let mut env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        env.retain(|(key, _)| key != SUCCESSION_ENV);
        env.push((SUCCESSION_ENV.into(), text.into()));
        self.store(true);
        if let Err(error) = self.keeper.confirm(KEPT_WITHIN) {
            return Some(failure(
                format!(
                    "the apps would lose what the daemon holds for them: {}",
                    chain(&error)
                ),
                Some("the running daemon stays in charge; fix this, then `rpm update`"),
            ));
        }
        let passed = self.succession.as_ref()?;
        let argv = [binary.as_os_str(), OsStr::new("daemon")];
        let keep = [passed.lock.as_fd(), passed.listener.as_fd()];
        self.listeners.unguard_private();
        let error = succession::become_program(binary, &argv, &env, &keep);
        self.listeners.guard_private();
        Some(failure(
            format!("{} cannot be executed: {error}", binary.display()),
            Some("the running daemon stays in charge"),
        ))
    }
}
