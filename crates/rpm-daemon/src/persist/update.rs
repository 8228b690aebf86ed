//! Another binary takes over from the one that runs: same pid, same workers, and nobody is cut off.
//!
//! It is first run as a child, to say that it can read what it would take over. Then the daemon executes it in its own
//! place; it goes on as after a death, with the lock and the control socket in hand.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rpm_sys::limits::Rlimit;
use rpm_sys::succession;

/// What the new binary says first if it can take over; its version follows.
pub const CAN_TAKE_OVER: &str = "can take over: ";
/// For the new binary to say so.
const CHECK_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at the new binary.
const CHECK_PAUSE: Duration = Duration::from_millis(5);
/// Most of what it may say, in bytes.
const CHECK_LIMIT: u64 = 4096;
/// For the keeper to have everything.
pub(crate) const KEPT_WITHIN: Duration = Duration::from_secs(1);
/// Tells the new binary what it was passed.
pub(crate) const SUCCESSION_ENV: &str = "RPM_SUCCESSION";

/// What is passed on.
pub(crate) struct Succession {
    pub(crate) lock: OwnedFd,
    pub(crate) listener: OwnedFd,
    pub(crate) child_nofile: Rlimit,
}

/// Is this program in the place of one that was updated?
pub(crate) fn is_successor() -> bool {
    std::env::var_os(SUCCESSION_ENV).is_some()
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

/// Runs `binary` to see whether it can take over; its version.
pub(crate) fn check(binary: &Path, home: &Path) -> Result<String, String> {
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
