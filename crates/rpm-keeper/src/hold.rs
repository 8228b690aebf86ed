//! The keeper's process.

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

/// The only argument of a program that is to call [`hold`].
pub const ARGUMENT: &str = "keeper";

/// Its name, as `ps` shows it.
const NAME: &str = "rpm-keeper";

/// Where it was passed the socket at which the next daemon connects, and the connection of this one.
pub(crate) const LISTENER: RawFd = 3;
pub(crate) const LINK: RawFd = 4;

/// Without a daemon and without any worker it stays for so long: the next daemon may be on its way.
const ALONE: Duration = Duration::from_secs(10);
/// Before one is accepted for whom there was no descriptor.
const AGAIN: Duration = Duration::from_millis(20);
/// Of a thread that closes descriptors.
const STACK: usize = 64 * 1024;
/// For a daemon to read what it has asked for.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Holds what the daemon has it keep, until it is told to end, or nobody is left who would need it.
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
    // What fails here leaves it as useful as it is.
    let _ = rustix::thread::set_name(&CString::new(NAME)?);
    // Who connects is told the pid of the process that has called this (SO_PEERCRED, unix(7)).
    let _ = rustix::net::listen(&holder.listener, BACKLOG);
    // Other processes of its user have no business in it.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = limits::raise_nofile();
    while holder.step()? {}
    Ok(())
}

pub(crate) struct Holder {
    pub(crate) listener: OwnedFd,
    /// To the daemon; none while there is none.
    pub(crate) link: Option<OwnedFd>,
    pub(crate) shelf: Shelf<OwnedFd>,
    /// How long it stays where nobody needs it.
    pub(crate) alone: Duration,
}

impl Holder {
    /// Waits for something to happen, and deals with it. `false`: that was the last.
    pub(crate) fn step(&mut self) -> io::Result<bool> {
        let processes: Vec<(Entry, BorrowedFd<'_>)> = match self.link {
            // The daemon knows better than this when a worker has ended.
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
        // In this order: what the daemon said last is heard before the next one asks.
        if is_told && !self.hear() {
            return Ok(false);
        }
        if is_asked {
            self.accept();
        }
        Ok(true)
    }

    /// A daemon comes. Only one of this user may: another one waits for nothing.
    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(link) = rustix::net::accept_with(&self.listener, flags) else {
            // No descriptor is left: it comes again, and there is nothing to do meanwhile.
            std::thread::sleep(AGAIN);
            return;
        };
        let peer = rustix::net::sockopt::socket_peercred(&link);
        if peer.is_ok_and(|peer| peer.uid == geteuid()) {
            // What the one before has said and nobody has read is read first.
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

    /// Reads one packet of the daemon. `false`: it says that this is the end.
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
            // It has died, or does not read: the next one asks again.
            self.link = None;
        }
    }

    fn say(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let Some(link) = &self.link else { return false };
        send_within(link, packet, fds, READ_WITHIN).is_ok()
    }
}

/// Closes them, on a thread: in what a worker has sent and nobody has read there may be a connection that lingers (SO_LINGER), and
/// whoever closes the last copy of that waits.
fn close(descriptors: Vec<OwnedFd>) {
    if descriptors.is_empty() {
        return;
    }
    let thread = std::thread::Builder::new().stack_size(STACK);
    // Where no thread can be made it is done here: the closure is dropped.
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

/// Is there no room for the packet, now: in the socket, for descriptors under way, or in memory?
pub(crate) fn is_full(error: &io::Error) -> bool {
    let lacking = [Errno::TOOMANYREFS, Errno::NOBUFS, Errno::NOMEM].map(|errno| Some(errno.raw_os_error()));
    error.kind() == io::ErrorKind::WouldBlock || lacking.contains(&error.raw_os_error())
}

/// Where too many descriptors are under way the socket has room, but does not take more.
const UNDER_WAY: Duration = Duration::from_millis(1);

/// Waits until there may be.
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
