//! Leaving the terminal, from inside the daemon's own process.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{Mode, OFlags};

/// Leaves the session of the terminal, and [`redirect_stdio`].
///
/// # Errors
/// Those of [`redirect_stdio`].
pub fn detach(log: Option<BorrowedFd<'_>>) -> io::Result<()> {
    // The leader of a process group cannot, and need not if it leads its session.
    let _ = rustix::process::setsid();
    redirect_stdio(log)
}

/// Makes standard input `/dev/null`, and standard output and error `log`, or `/dev/null` too.
///
/// # Errors
/// Those of opening `/dev/null`, `EMFILE`.
pub fn redirect_stdio(log: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let output = log.unwrap_or(null.as_fd());
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(output)?;
    Ok(())
}
