//! Stopping a process for a moment.

use std::io;
use std::time::{Duration, Instant};

use crate::pidfd::{PidFd, Signal, is_gone};

/// How long [`freeze`] waits for every thread to stop. A thread in an uninterruptible system call
/// cannot stop; all others do within microseconds.
pub const FREEZE_DEADLINE: Duration = Duration::from_millis(20);

/// Stopping takes microseconds. Until this has passed, the wait only yields the CPU.
const FREEZE_SPIN: Duration = Duration::from_micros(200);

/// Pause between checks after [`FREEZE_SPIN`].
const FREEZE_PAUSE: Duration = Duration::from_micros(50);

/// A process that does not run.
#[derive(Debug)]
#[must_use = "the process continues when this is dropped"]
pub enum Frozen<'p> {
    /// It was stopped by another process, or has ended. It is left unchanged.
    Already,
    /// Stopped by this process, until this is dropped.
    Held(Hold<'p>),
}

/// Continues the process when dropped.
#[derive(Debug)]
pub struct Hold<'p>(&'p PidFd);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        // This fails only if the process is gone.
        let _ = self.0.send_signal(Signal::CONT);
    }
}

/// Stops every thread of a process, within [`FREEZE_DEADLINE`]. Other processes that share its descriptors are not stopped.
///
/// # Errors
/// `TimedOut` if a thread does not stop (the process continues), `EPERM`.
pub fn freeze(process: &PidFd) -> io::Result<Frozen<'_>> {
    freeze_within(process, FREEZE_DEADLINE)
}

/// As [`freeze`], with another deadline.
///
/// # Errors
/// As [`freeze`].
pub fn freeze_within(process: &PidFd, within: Duration) -> io::Result<Frozen<'_>> {
    if process.peek()? || process.is_stopped()? {
        return Ok(Frozen::Already);
    }
    match process.send_signal(Signal::STOP) {
        Err(error) if is_gone(&error) => return Ok(Frozen::Already),
        other => other?,
    }
    let hold = Hold(process);
    let began = Instant::now();
    loop {
        if process.is_stopped()? {
            return Ok(Frozen::Held(hold));
        }
        if process.peek()? {
            return Ok(Frozen::Already);
        }
        let waited = began.elapsed();
        if waited >= within {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if waited < FREEZE_SPIN {
            std::thread::yield_now();
        } else {
            std::thread::sleep(FREEZE_PAUSE);
        }
    }
}
