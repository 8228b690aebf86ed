//! The keeper process.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rpm_sys::{limits, scm, succession};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{DumpableBehavior, geteuid, set_dumpable_behavior};

use crate::protocol::{ENTRIES, Entry, Kind, PACKET, decode, encode};
use crate::shelf::Shelf;
use crate::socket::{BACKLOG, await_readable};

/// The only argument of the program for the process that calls [`hold`].
pub const ARGUMENT: &str = "keeper";

/// The process name, as `ps` shows it.
const NAME: &str = "rpm-keeper";

/// Number of the socket on which the keeper listens for the next daemon; the connection of the current daemon follows.
pub(crate) const LISTENER: RawFd = 3;
pub(crate) const LINK: RawFd = 4;

/// How long it stays without a daemon and without a worker: the next daemon may be starting.
const ALONE: Duration = Duration::from_secs(10);
/// Pause before it accepts again after it had no descriptor left.
const AGAIN: Duration = Duration::from_millis(20);
/// Stack size of a thread that closes descriptors.
const STACK: usize = 64 * 1024;
/// How long a daemon may take to read what it asked for.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Holds what the daemon keeps with it, until it is told to end or neither a daemon nor a worker is left.
///
/// # Errors
/// It was not started by a daemon.
pub fn hold() -> io::Result<()> {
    let mut holder = Holder {
        listener: succession::passed(LISTENER)?,
        link: Some(succession::passed(LINK)?),
        shelf: Shelf::new(),
        alone: ALONE,
    };
    // The keeper works without its name, too.
    let _ = rustix::thread::set_name(&CString::new(NAME)?);
    // SO_PEERCRED (unix(7)) gives a client the pid of the process that called this.
    let _ = rustix::net::listen(&holder.listener, BACKLOG);
    // Other processes of its user must not read its memory or copy its descriptors.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = limits::raise_nofile();
    while holder.step()? {}
    Ok(())
}

pub(crate) struct Holder {
    pub(crate) listener: OwnedFd,
    /// The connection to the daemon, if there is one.
    pub(crate) link: Option<OwnedFd>,
    pub(crate) shelf: Shelf<OwnedFd>,
    /// How long it stays when it is not needed.
    pub(crate) alone: Duration,
}

impl Holder {
    /// Waits for an event and handles it. Returns `false` if it was the last.
    pub(crate) fn step(&mut self) -> io::Result<bool> {
        let processes: Vec<(Entry, BorrowedFd<'_>)> = match self.link {
            // While there is a daemon, the daemon reports that a worker has ended.
            Some(_) => Vec::new(),
            None => {
                let processes = self.shelf.processes();
                processes.map(|(entry, fd)| (entry, fd.as_fd())).collect()
            }
        };
        let watched = [
            Some(self.listener.as_fd()),
            self.link.as_ref().map(|link| link.as_fd()),
        ];
        let watched = watched.into_iter().flatten();
        let mut polled: Vec<PollFd<'_>> = watched
            .chain(processes.iter().map(|(_, fd)| *fd))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let is_alone = self.link.is_none() && processes.is_empty();
        let most = is_alone.then_some(self.alone).map(timespec);
        let ready = rustix::io::retry_on_intr(|| poll(&mut polled, most.as_ref()))?;
        if ready == 0 {
            return Ok(!is_alone);
        }
        let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
        let is_asked = ready.next().unwrap_or(false);
        let is_told = self.link.is_some() && ready.next().unwrap_or(false);
        let ended = processes.iter().zip(ready).filter(|(_, ready)| *ready);
        let ended: Vec<u64> = ended.map(|((entry, _), _)| entry.owner).collect();
        drop(polled);
        for owner in ended {
            close(self.shelf.ended(owner));
        }
        // The order matters: the last messages of a daemon are handled before its successor is.
        if is_told && !self.hear() {
            return Ok(false);
        }
        if is_asked {
            self.accept();
        }
        Ok(true)
    }

    /// Accepts a daemon of this user; another user's is disconnected.
    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(link) = rustix::net::accept_with(&self.listener, flags) else {
            // No descriptor is left. The client stays in the queue, and there is nothing else to do.
            std::thread::sleep(AGAIN);
            return;
        };
        let peer = rustix::net::sockopt::socket_peercred(&link);
        if peer.is_ok_and(|peer| peer.uid == geteuid()) {
            // Unread messages of the previous daemon are handled first.
            while self.link.is_some() && self.is_readable() {
                if !self.hear() {
                    break;
                }
            }
            self.link = Some(link);
        }
    }

    fn is_readable(&self) -> bool {
        let readable = self
            .link
            .as_ref()
            .map(|link| await_readable(link, Duration::ZERO));
        readable.is_some_and(|readable| readable.unwrap_or(false))
    }

    /// Reads one packet from the daemon. Returns `false` if the keeper is to end.
    fn hear(&mut self) -> bool {
        let Some(link) = &self.link else { return true };
        let mut buffer = [0; PACKET];
        let mut descriptors = Vec::new();
        let count = match scm::recv(link, &mut buffer, &mut descriptors) {
            Ok(count) if count > 0 => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Ok(_) | Err(_) => {
                self.link = None;
                return true;
            }
        };
        let Some((kind, entries)) = decode(&buffer[..count]) else {
            return true;
        };
        match kind {
            Kind::Keep => {
                let lost = self.shelf.keep(&entries, descriptors);
                if !lost.is_empty() {
                    self.say(&encode(Kind::Lost, &lost), &[]);
                }
            }
            Kind::Release => close(self.shelf.release(&entries)),
            Kind::Own => self.shelf.own(&entries),
            Kind::Give => self.give(),
            Kind::Quit => return false,
            Kind::Held | Kind::End | Kind::Lost => {}
        }
        true
    }

    fn give(&mut self) {
        let all: Vec<(Entry, BorrowedFd<'_>)> =
            self.shelf.all().map(|(entry, fd)| (entry, fd.as_fd())).collect();
        let mut done = true;
        for some in all.chunks(ENTRIES) {
            let (entries, fds): (Vec<Entry>, Vec<BorrowedFd<'_>>) = some.iter().copied().unzip();
            done = done && self.say(&encode(Kind::Held, &entries), &fds);
        }
        if !(done && self.say(&encode(Kind::End, &[]), &[])) {
            // The daemon has died, or does not read. Its successor asks again.
            self.link = None;
        }
    }

    fn say(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let Some(link) = &self.link else { return false };
        send_within(link, packet, fds, READ_WITHIN).is_ok()
    }
}

/// Closes descriptors on a thread. Unread messages of a worker may contain a connection with SO_LINGER, and closing its last copy blocks.
fn close(descriptors: Vec<OwnedFd>) {
    if descriptors.is_empty() {
        return;
    }
    let thread = std::thread::Builder::new().stack_size(STACK);
    // If the thread cannot be created, the closure is dropped, which closes them here.
    let _ = thread.spawn(move || drop(descriptors));
}

/// Sends a packet as soon as there is room for it.
pub(crate) fn send_within(
    link: &OwnedFd,
    packet: &[u8],
    fds: &[BorrowedFd<'_>],
    within: Duration,
) -> io::Result<()> {
    let deadline = Instant::now() + within;
    loop {
        match scm::send_packet(link, packet, fds) {
            Err(error) if is_full(&error) => {}
            sent => return sent,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        await_room(link, left)?;
    }
}

/// True if there is no room for the packet at the moment: in the socket, for descriptors in flight, or in memory.
pub(crate) fn is_full(error: &io::Error) -> bool {
    let lacking = [Errno::TOOMANYREFS, Errno::NOBUFS, Errno::NOMEM].map(|errno| Some(errno.raw_os_error()));
    error.kind() == io::ErrorKind::WouldBlock || lacking.contains(&error.raw_os_error())
}

/// Pause when too many descriptors are in flight: then the socket is writable, but does not accept more.
const UNDER_WAY: Duration = Duration::from_millis(1);

/// Waits until there may be room.
pub(crate) fn await_room(link: &OwnedFd, most: Duration) -> io::Result<()> {
    let mut polled = [PollFd::new(link, PollFlags::OUT)];
    let most = timespec(most);
    rustix::io::retry_on_intr(|| poll(&mut polled, Some(&most)))?;
    std::thread::sleep(UNDER_WAY);
    Ok(())
}

pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or_default()
}
