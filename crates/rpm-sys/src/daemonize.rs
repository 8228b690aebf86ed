//! Detaches the daemon from the terminal, within its own process.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{Mode, OFlags};

/// Leaves the terminal's session, so that its signals do not reach this process. A process group leader that a shell started as a job of
/// its own stays.
pub fn leave_session() {
    // This fails for a session leader, which has no other session to leave.
    let _ = rustix::process::setsid();
}

/// Redirects standard input to `/dev/null`, and standard output and error to `log`, or to `/dev/null` without one.
///
/// # Errors
/// `/dev/null` cannot be opened; `EMFILE`.
pub fn redirect_stdio(log: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let output = log.unwrap_or(null.as_fd());
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(output)?;
    Ok(())
}
