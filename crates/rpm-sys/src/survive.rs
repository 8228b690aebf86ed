//! What the successor of a dead process needs: clocks and ids that outlive it, exit statuses of workers that are not its children, and
//! copies of what workers hold.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::time::{ClockId, clock_gettime};

use crate::pidfd::{ExitStatus, PidFd};
use crate::proc::{Stat, exit_status, numbers_in};

/// Identifies the current boot (`/proc/sys/kernel/random/boot_id`). Pids and inodes mean nothing in another.
///
/// # Errors
/// The file cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// The monotonic clock, which all processes share until the next boot.
#[must_use]
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Raises the capacity of a pipe to `bytes`, or as far as this user is allowed.
pub fn widen_pipe(pipe: &OwnedFd, bytes: usize) {
    let mut bytes = bytes;
    // Beyond the user's share of pipe pages the kernel grants less.
    while rustix::pipe::fcntl_setpipe_size(pipe, bytes).is_err() && bytes > 64 * 1024 {
        bytes /= 2;
    }
}

impl PidFd {
    /// The start time of the process, in clock ticks since boot. Together with the pid it identifies the process.
    ///
    /// # Errors
    /// The process is gone.
    pub fn start_ticks(&self) -> io::Result<u64> {
        Ok(Stat::of(self.pid())?.start_ticks)
    }

    /// A copy of the first socket of the process for which `is_it` is true; `None` if there is none.
    ///
    /// # Errors
    /// `EPERM` without the right to trace the process, `EMFILE`.
    pub fn find_socket(&self, is_it: impl Fn(BorrowedFd<'_>) -> bool) -> io::Result<Option<OwnedFd>> {
        let pid = self.pid();
        let numbers = numbers_in(&format!("/proc/{pid}/fd")).filter_map(|number| i32::try_from(number).ok());
        for number in numbers {
            let link = std::fs::read_link(format!("/proc/{pid}/fd/{number}"));
            if !link.is_ok_and(|link| link.as_os_str().as_encoded_bytes().starts_with(b"socket:")) {
                continue;
            }
            match self.getfd(number) {
                Ok(copy) if is_it(copy.as_fd()) => return Ok(Some(copy)),
                // It was closed in the meantime.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ESRCH)) => {}
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The read end of the pipe that the process writes to under this number, non-blocking.
    ///
    /// # Errors
    /// It is not a pipe, or belongs to another user.
    pub fn read_end(&self, number: RawFd) -> io::Result<OwnedFd> {
        let path = format!("/proc/{}/fd/{number}", self.pid());
        let link = std::fs::read_link(&path)?;
        if !link.as_os_str().as_encoded_bytes().starts_with(b"pipe:") {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::open(path, flags, Mode::empty())?)
    }

    /// How a process ended that was not a child of this one. This is known until its parent reaps it; after that only on Linux 6.15 or
    /// later, for a descriptor that was opened before.
    #[must_use]
    pub fn exit_of_stranger(&self) -> Option<ExitStatus> {
        // Its parent may reap it between the two.
        self.exit_of_zombie().or_else(|| self.exit_of_reaped())
    }

    /// The status of a zombie (proc_pid_stat(5), field 52). It is 0 for a process that may not trace it.
    fn exit_of_zombie(&self) -> Option<ExitStatus> {
        let status = exit_status(self.pid())?;
        let is_permitted =
            File::open(format!("/proc/{}/io", self.pid())).and_then(|mut io| io.read(&mut [0]));
        // A signal reaches it as long as it was not reaped; until then the pid is its own.
        let is_there = self.signal_nothing();
        (is_permitted.is_ok() && is_there).then(|| decoded(status))
    }

    /// `PIDFD_GET_INFO`, which has the status after its parent has reaped it.
    fn exit_of_reaped(&self) -> Option<ExitStatus> {
        // Linux, include/uapi/linux/pidfd.h: struct pidfd_info, version 0.
        const GET_INFO: libc::Ioctl = 0xC040_FF0B_u32 as libc::Ioctl;
        const INFO_EXIT: u64 = 1 << 3;
        const EXIT_CODE: usize = 60;
        let mut info = [0_u8; 64];
        info[..8].copy_from_slice(&INFO_EXIT.to_ne_bytes());
        // SAFETY: the kernel reads and writes the 64 bytes that the request's number says.
        let done = unsafe { libc::ioctl(libc_fd(self), GET_INFO, info.as_mut_ptr()) };
        let mask = u64::from_ne_bytes(*info.first_chunk()?);
        if done != 0 || mask & INFO_EXIT == 0 {
            return None;
        }
        Some(decoded(i32::from_ne_bytes(
            *info.get(EXIT_CODE..)?.first_chunk()?,
        )))
    }

    fn signal_nothing(&self) -> bool {
        // SAFETY: the kernel reads nothing: no signal is sent, and there is no siginfo.
        let done = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                libc_fd(self),
                0,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        done == 0
    }
}

fn decoded(status: i32) -> ExitStatus {
    if libc::WIFSIGNALED(status) {
        ExitStatus::Signal(libc::WTERMSIG(status))
    } else {
        ExitStatus::Code(libc::WEXITSTATUS(status))
    }
}

fn libc_fd(process: &PidFd) -> libc::c_int {
    use std::os::fd::AsRawFd as _;
    process.as_fd().as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(extra: OwnedFd) -> crate::spawn::Child {
        let null = || OwnedFd::from(File::create("/dev/null").unwrap());
        crate::spawn::spawn(crate::spawn::Spawn {
            program: "/bin/sleep".into(),
            argv: vec!["sleep".into(), "60".into()],
            env: Vec::new(),
            cwd: "/".into(),
            stdin: None,
            stdout: null(),
            stderr: null(),
            fds: vec![(extra, 9)],
            listen_fds: 0,
            nofile: None,
            intercept: false,
            user: None,
            no_new_privileges: false,
        })
        .unwrap()
    }

    #[test]
    fn what_a_process_holds_is_found() {
        let (ours, theirs) = crate::scm::pair().unwrap();
        let cookie = crate::socket::cookie(&theirs).unwrap();
        let is =
            |wanted: u64| move |fd: BorrowedFd<'_>| crate::socket::cookie(fd).is_ok_and(|it| it == wanted);
        let child = sleeper(theirs);
        let back = child.pidfd.find_socket(is(cookie)).unwrap().expect("it is held");
        assert_eq!(crate::socket::cookie(&back).unwrap(), cookie);
        let other = crate::socket::cookie(&ours).unwrap();
        assert!(child.pidfd.find_socket(is(other)).unwrap().is_none());
        assert!(child.pidfd.read_end(1).is_err(), "it is no pipe");
        child.pidfd.send_signal(crate::Signal::KILL).unwrap();
        while child.pidfd.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        assert!(
            child.pidfd.find_socket(is(cookie)).unwrap().is_none(),
            "it is gone"
        );
        let told = child.pidfd.exit_of_stranger();
        assert!(matches!(told, None | Some(ExitStatus::Signal(9))), "{told:?}");
    }

    #[test]
    fn a_pipe_has_a_reader_again() {
        let (read, write) = io::pipe().unwrap();
        let own = PidFd::open(std::process::id()).unwrap();
        drop(read);
        let back = own.read_end(std::os::fd::AsRawFd::as_raw_fd(&write)).unwrap();
        io::Write::write_all(&mut { write }, b"x").unwrap();
        let mut byte = [0];
        io::Read::read_exact(&mut File::from(back), &mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn how_one_ended_is_known_before_its_parent_asks() {
        for (script, status) in [
            ("exit 7", ExitStatus::Code(7)),
            ("exit 0", ExitStatus::Code(0)),
            ("kill -TERM $$", ExitStatus::Signal(15)),
        ] {
            let mut child = std::process::Command::new("/bin/sh")
                .args(["-c", script])
                .spawn()
                .unwrap();
            let pidfd = PidFd::open(child.id()).unwrap();
            while !pidfd.peek().unwrap() {
                std::thread::yield_now();
            }
            assert_eq!(pidfd.exit_of_zombie(), Some(status), "{script}");
            assert_eq!(pidfd.exit_of_stranger(), Some(status), "{script}");
            child.wait().unwrap();
            assert_eq!(pidfd.exit_of_zombie(), None, "its pid may be another's by now");
            let told = pidfd.exit_of_stranger();
            assert!(told.is_none_or(|told| told == status), "{script}: {told:?}");
        }
        let own = PidFd::open(std::process::id()).unwrap();
        assert_eq!(own.exit_of_stranger(), None, "it runs");
    }

    #[test]
    fn clocks_and_names_are_those_of_the_system() {
        assert!(monotonic() <= monotonic());
        assert_eq!(boot_id().unwrap().len(), 36);
        let own = PidFd::open(std::process::id()).unwrap();
        assert!(own.start_ticks().unwrap() > 0);
    }
}
