//! A process by descriptor (pidfd_open(2)): signals and waits never reach another process that got the same pid.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, WaitId, WaitIdOptions, pidfd_getfd, pidfd_open, pidfd_send_signal,
    waitid,
};

pub use rustix::process::Signal;

use crate::proc::{Stat, numbers_in};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// `exit(code)`.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

/// One process, for as long as the value lives.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
    pid: u32,
}

impl PidFd {
    /// The process that has `pid` now.
    ///
    /// # Errors
    /// `ESRCH` if there is none, `EINVAL` if `pid` is not a thread-group leader's, `EMFILE`.
    pub fn open(pid: u32) -> io::Result<PidFd> {
        let fd = pidfd_open(raw_pid(pid)?, PidfdFlags::empty())?;
        Ok(PidFd { fd, pid })
    }

    /// Takes over a descriptor that another process held; `None` if it is something else, or refers to another process.
    #[must_use]
    pub fn taken_back(fd: OwnedFd, pid: u32) -> Option<PidFd> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
        let said = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim();
        // -1 if it has ended and was reaped.
        (said == "-1" || said.parse() == Ok(pid)).then_some(PidFd { fd, pid })
    }

    /// Wraps the descriptor that came with the process (`CLONE_PIDFD`).
    pub(crate) fn from_parts(fd: OwnedFd, pid: u32) -> PidFd {
        PidFd { fd, pid }
    }

    /// Its pid, for display and `/proc`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal to the process (not to its group).
    ///
    /// # Errors
    /// `ESRCH` if it has been reaped, `EPERM`.
    pub fn send_signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.fd, signal)?)
    }

    /// Reaps the process if it has ended; `None` while it runs.
    ///
    /// # Errors
    /// `ECHILD` if it is not a child of this process or has been reaped already.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let ended = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.fd.as_fd()), options))?;
        Ok(ended.map(|status| match status.exit_status() {
            Some(code) => ExitStatus::Code(code),
            None => ExitStatus::Signal(status.terminating_signal().unwrap_or(0)),
        }))
    }

    /// True if the process has ended, reaped or not. Works for any process, not only children.
    ///
    /// # Errors
    /// poll(2) failed.
    pub fn peek(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now)))? > 0)
    }

    /// A duplicate of descriptor `number` of the process (pidfd_getfd(2), close-on-exec).
    ///
    /// # Errors
    /// `EBADF` if it has no such descriptor, `EPERM` without the right to trace it, `ESRCH`, `EMFILE`.
    pub fn getfd(&self, number: RawFd) -> io::Result<OwnedFd> {
        Ok(pidfd_getfd(&self.fd, number, PidfdGetfdFlags::empty())?)
    }

    /// True if every thread of the process is stopped, by a signal or a tracer. False once it has ended.
    ///
    /// # Errors
    /// `/proc` cannot be read. A process that has ended is no error.
    pub fn is_stopped(&self) -> io::Result<bool> {
        let mut any = false;
        for thread in numbers_in(&format!("/proc/{}/task", self.pid)) {
            match Stat::of_thread(self.pid, thread) {
                Ok(stat) if stat.is_stopped() => any = true,
                // A thread that has ended runs nothing; an ended leader stays listed as a zombie.
                Ok(stat) if stat.is_dead() => {}
                Ok(_) => return Ok(false),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        // Checked last: if the process still exists now, the pid was its own all along.
        Ok(any && !self.peek()?)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// True if the error says that the process does not exist, or no longer exists.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT))
}

/// A valid pid.
pub(crate) fn raw_pid(pid: u32) -> io::Result<Pid> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// The signal of this name (`SIGUSR2`, `usr2`) or number. Real-time signals and others that programs do not use are left out.
#[must_use]
pub fn signal_by_name(name: &str) -> Option<Signal> {
    let named = [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("ABRT", Signal::ABORT),
        ("KILL", Signal::KILL),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("PIPE", Signal::PIPE),
        ("ALRM", Signal::ALARM),
        ("TERM", Signal::TERM),
        ("CHLD", Signal::CHILD),
        ("CONT", Signal::CONT),
        ("STOP", Signal::STOP),
        ("TSTP", Signal::TSTP),
        ("WINCH", Signal::WINCH),
        ("IO", Signal::IO),
    ];
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = name.parse::<i32>().ok();
    let known = |(word, signal): &&(&str, Signal)| *word == short || Some(signal.as_raw()) == number;
    named.iter().find(known).map(|(_, signal)| *signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for name in ["SIGUSR2", "usr2", "SigUsr2", "12"] {
            assert_eq!(signal_by_name(name), Some(Signal::USR2), "{name}");
        }
        for none in ["", "SIG", "usr3", "0", "-9", "99"] {
            assert_eq!(signal_by_name(none), None, "{none}");
        }
    }
}
