//! Leaving the terminal, from inside the daemon's own process.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{Mode, OFlags};

/// Leaves the session of the terminal: what is typed there is not for this process any more. The leader of a process group, which a shell
/// has started in its own right, stays.
pub fn leave_session() {
    // Whoever leads its session has nothing to leave.
    let _ = rustix::process::setsid();
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
