//! What a successor of a dead process must know to take back what that one had: clocks and ids that outlive it, and
//! descriptors that another process still holds.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::pidfd::{ExitStatus, PidFd};
use crate::proc::{Stat, exit_status, fd_flags, numbers_in};

/// Names this run of the system (`/proc/sys/kernel/random/boot_id`): pids and inodes mean nothing in another.
///
/// # Errors
/// Those of reading it.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// The monotonic clock, which is the same for all processes of this run of the system.
#[must_use]
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// May a daemon take descriptors from processes that another one has started? They allow it (`PR_SET_PTRACER`), but Yama may leave
/// it to root alone, or to nobody (`kernel.yama.ptrace_scope` of 2 and 3).
#[must_use]
pub fn can_be_taken_back() -> bool {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim() {
        "3" => false,
        "2" => rustix::process::geteuid().is_root(),
        _ => true,
    }
}

/// Gives a pipe room for so many bytes, or for as many as this user may have.
pub fn widen_pipe(pipe: &OwnedFd, bytes: usize) {
    let mut bytes = bytes;
    // Beyond the user's share of pipe pages only less is granted.
    while rustix::pipe::fcntl_setpipe_size(pipe, bytes).is_err() && bytes > 64 * 1024 {
        bytes /= 2;
    }
}

/// A descriptor in another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    number: RawFd,
    inode: u64,
}

/// The sockets and read ends of pipes that a process holds.
#[derive(Debug)]
pub struct Holdings<'p> {
    process: &'p PidFd,
    held: Vec<Held>,
}

impl PidFd {
    /// When the process was started, in clock ticks since the system was: with its pid this names it.
    ///
    /// # Errors
    /// It is gone.
    pub fn start_ticks(&self) -> io::Result<u64> {
        Ok(Stat::of(self.pid())?.start_ticks)
    }

    /// What it holds; empty if it is gone or somebody else's.
    #[must_use]
    pub fn holdings(&self) -> Holdings<'_> {
        let pid = self.pid();
        let numbers = numbers_in(&format!("/proc/{pid}/fd")).filter_map(|number| i32::try_from(number).ok());
        let held = numbers.filter_map(|number| {
            let target = std::fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()?;
            let target = target.to_str()?;
            let inode = match target.strip_prefix("socket:[") {
                Some(socket) => socket.strip_suffix(']')?,
                None if is_read_only(pid, number) => target.strip_prefix("pipe:[")?.strip_suffix(']')?,
                None => return None,
            };
            let inode = inode.parse().ok()?;
            Some(Held { number, inode })
        });
        Holdings {
            process: self,
            held: held.collect(),
        }
    }

    /// How a process ended that was no child of this one, as long as its parent has not waited for it; after that where the kernel still
    /// tells (Linux 6.15, for a descriptor that was opened before).
    #[must_use]
    pub fn exit_of_stranger(&self) -> Option<ExitStatus> {
        // Its parent may wait for it between the two.
        self.exit_of_zombie().or_else(|| self.exit_of_reaped())
    }

    /// The status that its parent has not fetched yet (proc_pid_stat(5), field 52): shown to whoever may trace it; to others it is 0.
    fn exit_of_zombie(&self) -> Option<ExitStatus> {
        let status = exit_status(self.pid())?;
        let is_permitted =
            File::open(format!("/proc/{}/io", self.pid())).and_then(|mut io| io.read(&mut [0]));
        // A signal finds it as long as it was not waited for: until then its pid is its own.
        let is_there = self.signal_nothing();
        (is_permitted.is_ok() && is_there).then(|| decoded(status))
    }

    /// `PIDFD_GET_INFO`, which tells once its parent has waited for it.
    fn exit_of_reaped(&self) -> Option<ExitStatus> {
        // Linux, include/uapi/linux/pidfd.h: struct pidfd_info, version 0.
        const GET_INFO: libc::c_ulong = 0xC040_FF0B;
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

impl Holdings<'_> {
    /// A copy of the descriptor with this inode; `None`: the process has none, or does not give it.
    ///
    /// # Errors
    /// `EPERM` without the right to trace the process, `EMFILE`.
    pub fn take(&self, inode: u64) -> io::Result<Option<OwnedFd>> {
        let Some(held) = self.held.iter().find(|held| held.inode == inode) else {
            return Ok(None);
        };
        let copy = match self.process.getfd(held.number) {
            Ok(copy) => copy,
            // Closed since it was seen.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ESRCH)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let same = rustix::fs::fstat(&copy)?.st_ino == inode;
        Ok(same.then_some(copy))
    }
}

fn is_read_only(pid: u32, number: RawFd) -> bool {
    fd_flags(pid, number).is_some_and(|flags| flags & libc::O_ACCMODE == libc::O_RDONLY)
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
            intercept: None,
            user: None,
        })
        .unwrap()
    }

    #[test]
    fn the_read_end_of_a_pipe_is_taken_back() {
        let (read, write) = io::pipe().unwrap();
        let inode = rustix::fs::fstat(&read).unwrap().st_ino;
        let child = sleeper(read.into());
        let back = child.pidfd.holdings().take(inode).unwrap().expect("it is held");
        io::Write::write_all(&mut { write }, b"x").unwrap();
        let mut byte = [0];
        io::Read::read_exact(&mut File::from(back), &mut byte).unwrap();
        assert_eq!(&byte, b"x");
        assert!(child.pidfd.holdings().take(u64::MAX).unwrap().is_none());
        child.pidfd.send_signal(crate::Signal::KILL).unwrap();
        while child.pidfd.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        assert!(
            child.pidfd.holdings().take(inode).unwrap().is_none(),
            "it is gone"
        );
        let told = child.pidfd.exit_of_stranger();
        assert!(matches!(told, None | Some(ExitStatus::Signal(9))), "{told:?}");
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
