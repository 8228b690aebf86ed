//! Interception of `bind` and `listen` in a process and all its descendants, by seccomp user notification (seccomp_unotify(2), Linux 5.9;
//! pidfd_getfd(2), Linux 5.6).
//!
//! The filter is installed between fork and exec, and inherited. A process that makes one of the two calls waits in the kernel until its
//! supervisor answers. Mostly the answer is to continue, after the supervisor has changed the socket or replaced it by another one;
//! sometimes it is an error.
//!
//! A process may change its memory before the kernel reads it, so nothing here provides security: a program that cheats gets the port that
//! it would have had without interception.

mod filter;

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

pub(crate) use filter::{Filter, install};

use crate::pidfd::raw_pid;
use crate::proc;

/// Linux, include/uapi/linux/pidfd.h: the pidfd may refer to a thread (Linux 6.9).
const PIDFD_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);
/// The link in `/proc/<pid>/fd` of a descriptor of [`Notifications`].
const LINK: &str = "anon_inode:seccomp notify";

/// The waiting calls of one process tree.
#[derive(Debug)]
pub struct Notifications {
    fd: OwnedFd,
}

/// A call that waits for its answer.
#[derive(Debug)]
pub struct Call {
    id: u64,
    /// The calling thread's id. Descriptors of its process are copied through this thread.
    thread: u32,
    /// The socket's descriptor number in the process.
    number: RawFd,
    what: What,
}

/// Which call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// `bind`: address and length of its argument in the caller's memory.
    Bind {
        /// Address in memory.
        at: u64,
        /// Bytes.
        len: u64,
    },
    /// `listen`.
    Listen {
        /// The requested backlog.
        backlog: u32,
    },
}

/// The result of [`Notifications::receive`].
#[derive(Debug)]
pub enum Received {
    /// A call.
    Call(Call),
    /// No call waits.
    Nothing,
    /// No call will come: no process with the filter is left.
    End,
}

impl Notifications {
    pub(crate) fn new(fd: OwnedFd) -> Notifications {
        Notifications { fd }
    }

    /// Takes over a descriptor that another process held; `None` if it is something else.
    #[must_use]
    pub fn taken_back(fd: OwnedFd) -> Option<Notifications> {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
        (link.as_os_str() == LINK).then_some(Notifications { fd })
    }

    /// The next call. This does not wait, unless another process reads the same descriptor; then it may wait as long as a process of the
    /// tree lives.
    ///
    /// # Errors
    /// `EMFILE` and the like. If the caller has died, the result is [`Received::Nothing`].
    pub fn receive(&self) -> io::Result<Received> {
        let events = self.poll(Duration::ZERO)?;
        if !events.contains(PollFlags::IN) {
            let ended = events.intersects(PollFlags::HUP | PollFlags::ERR);
            return Ok(if ended { Received::End } else { Received::Nothing });
        }
        // The kernel demands zeros.
        let mut notice = room(sizes().seccomp_notif, size_of::<libc::seccomp_notif>());
        // SAFETY: the kernel writes one of its own `seccomp_notif`, for which there is room.
        let done = unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV,
                notice.as_mut_ptr(),
            )
        };
        if done != 0 {
            let error = io::Error::last_os_error();
            // The caller has died since, or another reader got the call.
            let nothing = matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR));
            return if nothing {
                Ok(Received::Nothing)
            } else {
                Err(error)
            };
        }
        // SAFETY: the words are aligned as its integers need and at least as many as it has; any bits are integers.
        let notice = unsafe { &*notice.as_ptr().cast::<libc::seccomp_notif>() };
        Ok(Received::Call(Call::read(notice)))
    }

    /// Waits up to `most` for the next call or the end.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn wait(&self, most: Duration) -> io::Result<()> {
        self.poll(most).map(drop)
    }

    fn poll(&self, most: Duration) -> io::Result<PollFlags> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let most = Timespec::try_from(most).map_err(io::Error::other)?;
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&most)))?;
        Ok(fds[0].revents())
    }

    /// True if the caller still waits for the answer.
    #[must_use]
    pub fn is_waiting(&self, call: &Call) -> bool {
        // SAFETY: the kernel reads one u64.
        let done = unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
                &raw const call.id,
            )
        };
        done == 0
    }

    /// Lets the call continue unchanged.
    ///
    /// # Errors
    /// `ENOENT` if the caller has died.
    pub fn proceed(&self, call: &Call) -> io::Result<()> {
        self.proceed_with(call.id)
    }

    /// As [`Notifications::proceed`], for a call that another process received, by its [`Call::id`].
    ///
    /// # Errors
    /// `ENOENT` if the caller has died, or the call was answered.
    pub fn proceed_with(&self, id: u64) -> io::Result<()> {
        // Its value is 1.
        let goes_on = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or(1);
        self.respond(id, goes_on, 0)
    }

    /// Makes the call succeed without executing it: the supervisor did what it asks for.
    ///
    /// # Errors
    /// `ENOENT` if the caller has died.
    pub fn done(&self, call: &Call) -> io::Result<()> {
        self.respond(call.id, 0, 0)
    }

    /// Makes the call fail with this errno, which is positive.
    ///
    /// # Errors
    /// `ENOENT` if the caller has died.
    pub fn fail(&self, call: &Call, errno: i32) -> io::Result<()> {
        self.fail_with(call.id, errno)
    }

    /// As [`Notifications::fail`], for a call that another process received, by its [`Call::id`].
    ///
    /// # Errors
    /// `ENOENT` if the caller has died, or the call was answered.
    pub fn fail_with(&self, id: u64, errno: i32) -> io::Result<()> {
        self.respond(id, 0, -errno)
    }

    fn respond(&self, id: u64, flags: u32, error: i32) -> io::Result<()> {
        let response = libc::seccomp_notif_resp {
            id,
            val: 0,
            error,
            flags,
        };
        let mut words = room(sizes().seccomp_notif_resp, size_of_val(&response));
        // SAFETY: the words are aligned as its integers need and at least as many as it has.
        unsafe {
            words
                .as_mut_ptr()
                .cast::<libc::seccomp_notif_resp>()
                .write(response);
        };
        // SAFETY: the kernel reads one of its own `seccomp_notif_resp`, which is no longer than this.
        let done = unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                words.as_ptr(),
            )
        };
        check(done)
    }

    /// A copy of the socket that the call is about.
    ///
    /// # Errors
    /// `EPERM` without the right to trace the caller, `EBADF` if it has no such descriptor, `ESRCH` if it has died, `EMFILE`.
    pub fn socket(&self, call: &Call) -> io::Result<OwnedFd> {
        let process = thread(call.thread)?;
        let copy = pidfd_getfd(&process, call.number, PidfdGetfdFlags::empty())?;
        // The thread may have died before the copy, and its id may belong to another one.
        if self.is_waiting(call) {
            Ok(copy)
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    }

    /// The address to which the caller wants to bind; `None` if it is not an internet address.
    ///
    /// # Errors
    /// The caller's memory cannot be read (process_vm_readv(2)).
    pub fn address(&self, call: &Call) -> io::Result<Option<SocketAddr>> {
        let What::Bind { at, len } = call.what else {
            return Ok(None);
        };
        let mut bytes = [0_u8; size_of::<libc::sockaddr_in6>()];
        let wanted = usize::try_from(len).unwrap_or(bytes.len()).min(bytes.len());
        let local = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: wanted,
        };
        let remote = libc::iovec {
            iov_base: std::ptr::with_exposed_provenance_mut(usize::try_from(at).unwrap_or(0)),
            iov_len: wanted,
        };
        let pid = libc::pid_t::try_from(call.thread).unwrap_or(0);
        // SAFETY: the kernel writes at most `wanted` bytes to `bytes`; the other address is the other process's and is not
        // dereferenced here.
        let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
        if read < 0 {
            return Err(io::Error::last_os_error());
        }
        if !self.is_waiting(call) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let read = usize::try_from(read).unwrap_or(0);
        Ok(internet_address(bytes.get(..read).unwrap_or(&[])))
    }

    /// Replaces the socket that the call is about by another one, which closes the caller's. The call still has to be answered.
    ///
    /// # Errors
    /// `ENOENT` if the caller has died, `EMFILE`.
    pub fn replace(&self, call: &Call, socket: BorrowedFd<'_>) -> io::Result<()> {
        let closes =
            proc::fd_flags(call.thread, call.number).is_some_and(|flags| flags & libc::O_CLOEXEC != 0);
        let request = libc::seccomp_notif_addfd {
            id: call.id,
            flags: u32::try_from(libc::SECCOMP_ADDFD_FLAG_SETFD).unwrap_or(1),
            srcfd: u32::try_from(socket.as_raw_fd()).unwrap_or(u32::MAX),
            newfd: u32::try_from(call.number).unwrap_or(u32::MAX),
            newfd_flags: if closes { libc::O_CLOEXEC.unsigned_abs() } else { 0 },
        };
        // SAFETY: the kernel reads one `seccomp_notif_addfd`.
        let done = unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ADDFD,
                &raw const request,
            )
        };
        // It returns the descriptor's number, or -1.
        check(done.min(0))
    }
}

impl AsRawFd for Notifications {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Call {
    fn read(notice: &libc::seccomp_notif) -> Call {
        let [number, second, third, ..] = notice.data.args;
        let what = if libc::c_long::from(notice.data.nr) == libc::SYS_bind {
            What::Bind {
                at: second,
                len: third,
            }
        } else {
            // The kernel takes the low half, and treats a negative backlog as the largest.
            What::Listen {
                backlog: second as u32,
            }
        };
        Call {
            id: notice.id,
            thread: notice.pid,
            number: number as RawFd,
            what,
        }
    }

    /// Identifies the call among all calls of this process tree.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Which call it is.
    #[must_use]
    pub fn what(&self) -> What {
        self.what
    }

    /// The process of the calling thread; `None` if it has died.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        proc::process_of(self.thread).ok()
    }

    /// The id of the calling thread.
    #[must_use]
    pub fn thread(&self) -> u32 {
        self.thread
    }
}

/// The sizes of the kernel's structures, which may be larger than those known at build time (seccomp(2)).
fn sizes() -> libc::seccomp_notif_sizes {
    static SIZES: OnceLock<libc::seccomp_notif_sizes> = OnceLock::new();
    *SIZES.get_or_init(|| {
        // SAFETY: plain integers.
        let mut sizes: libc::seccomp_notif_sizes = unsafe { mem::zeroed() };
        let ask = libc::SECCOMP_GET_NOTIF_SIZES;
        // SAFETY: the kernel writes one `seccomp_notif_sizes`. A kernel without the operation leaves the zeros.
        unsafe { libc::syscall(libc::SYS_seccomp, ask, 0 as libc::c_long, &raw mut sizes) };
        sizes
    })
}

/// Zeros for a structure of this size in the kernel, and of that size here.
fn room(kernel: u16, own: usize) -> Vec<u64> {
    vec![0; usize::from(kernel).max(own).div_ceil(size_of::<u64>())]
}

fn thread(number: u32) -> io::Result<OwnedFd> {
    let pid = raw_pid(number)?;
    match pidfd_open(pid, PIDFD_THREAD) {
        Ok(fd) => Ok(fd),
        // An older kernel has pidfds of processes only.
        Err(rustix::io::Errno::INVAL) => Ok(pidfd_open(
            raw_pid(proc::process_of(number)?)?,
            PidfdFlags::empty(),
        )?),
        Err(error) => Err(error.into()),
    }
}

/// Reads `sockaddr_in` and `sockaddr_in6` (ip(7), ipv6(7)).
fn internet_address(bytes: &[u8]) -> Option<SocketAddr> {
    let field = |at: usize| bytes.get(at..at + 2)?.first_chunk::<2>().copied();
    let family = i32::from(u16::from_ne_bytes(field(0)?));
    let port = u16::from_be_bytes(field(2)?);
    match family {
        libc::AF_INET => {
            let ip = Ipv4Addr::from(*bytes.get(4..8)?.first_chunk::<4>()?);
            Some(SocketAddr::new(ip.into(), port))
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(*bytes.get(8..24)?.first_chunk::<16>()?);
            let scope = bytes.get(24..28).and_then(|scope| scope.first_chunk::<4>());
            let scope = scope.map_or(0, |scope| u32::from_ne_bytes(*scope));
            Some(SocketAddrV6::new(ip, port, 0, scope).into())
        }
        _ => None,
    }
}

fn check(done: i32) -> io::Result<()> {
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_what_the_kernel_writes() {
        let own = size_of::<libc::seccomp_notif>();
        // Since Linux 5.0, `struct seccomp_notif` has 80 bytes and `struct seccomp_notif_resp` 24.
        assert!(sizes().seccomp_notif >= 80 && sizes().seccomp_notif_resp >= 24);
        assert_eq!(room(0, own).len() * 8, own, "a kernel that does not say");
        assert_eq!(room(101, own).len() * 8, 104, "a longer one of a later kernel");
    }

    #[test]
    fn internet_addresses_are_read_and_others_are_not() {
        let mut four = [0_u8; 16];
        four[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        four[2..8].copy_from_slice(&[0x1f, 0x90, 127, 0, 0, 1]);
        assert_eq!(internet_address(&four), "127.0.0.1:8080".parse().ok());
        assert_eq!(internet_address(&four[..7]), None, "cut short");
        let mut six = [0_u8; 28];
        six[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        six[2..4].copy_from_slice(&[0, 80]);
        six[23] = 1;
        assert_eq!(internet_address(&six), "[::1]:80".parse().ok());
        assert_eq!(
            internet_address(&six[..24]),
            "[::1]:80".parse().ok(),
            "without a scope"
        );
        four[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
        assert_eq!(internet_address(&four), None);
        assert_eq!(internet_address(&[]), None);
    }
}
