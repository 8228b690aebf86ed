//! The daemon's record of what it keeps, and its connection to the keeper.

use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rpm_sys::spawn::{Spawn, spawn};
use rpm_sys::{PidFd, Signal, scm};
use rustix::io::Errno;

use crate::hold::{ARGUMENT, LINK, LISTENER, is_full, send_within};
use crate::protocol::{ENTRIES, Entry, Kind, PACKET, decode, encode};
use crate::socket::{await_readable, connect_to, listen_at};

/// How long a running keeper may take to return what it holds.
const GIVEN_WITHIN: Duration = Duration::from_secs(5);
/// How long a killed keeper may take to end.
const ENDED_WITHIN: Duration = Duration::from_secs(1);
/// This program, even if its file was replaced.
const PROGRAM: &str = "/proc/self/exe";

type AnyDescriptor = dyn AsFd + Send + Sync;

/// A kept descriptor, of which the keeper has a copy.
pub(crate) enum Held {
    /// It is in a [`Kept`].
    Taken(Weak<AnyDescriptor>),
    /// The previous daemon kept it, and this one has not taken it yet.
    Left(Arc<OwnedFd>),
}

impl Held {
    fn descriptor(&self) -> Option<Arc<AnyDescriptor>> {
        match self {
            Held::Taken(descriptor) => descriptor.upgrade(),
            Held::Left(descriptor) => Some(Arc::clone(descriptor) as Arc<AnyDescriptor>),
        }
    }
}

pub(crate) struct State {
    /// Path of the keeper's socket; `None` if nothing is kept.
    pub(crate) path: Option<PathBuf>,
    pub(crate) link: Option<Arc<OwnedFd>>,
    pub(crate) process: Option<PidFd>,
    pub(crate) kept: BTreeMap<u64, (Entry, Held)>,
    /// Packets for which there was no room.
    pub(crate) waiting: VecDeque<(Kind, Vec<Entry>)>,
    /// Since when nothing could be sent.
    pub(crate) stuck: Option<Instant>,
    /// The number of descriptors for which the keeper had no room.
    pub(crate) lost: usize,
    /// The keeper releases what is dropped. Not before the daemon serves, and not after it gives up: the next daemon needs it.
    pub(crate) lets_go: bool,
    /// What was dropped while nothing is released.
    pub(crate) dropped: Vec<Entry>,
    pub(crate) next: u64,
    pub(crate) wake: Option<Box<dyn Fn() + Send>>,
}

impl State {
    pub(crate) fn record<T: AsFd + Send + Sync + 'static>(&mut self, entry: Entry, descriptor: &Arc<T>) {
        let descriptor: Arc<AnyDescriptor> = Arc::clone(descriptor) as Arc<AnyDescriptor>;
        self.kept
            .insert(entry.token, (entry, Held::Taken(Arc::downgrade(&descriptor))));
    }

    /// Removes a descriptor that the previous daemon left.
    pub(crate) fn left(&mut self, token: u64) -> Option<(Entry, Arc<OwnedFd>)> {
        match self.kept.remove(&token)? {
            (entry, Held::Left(descriptor)) => Some((entry, descriptor)),
            taken @ (_, Held::Taken(_)) => {
                self.kept.insert(token, taken);
                None
            }
        }
    }

    /// Connects to the running keeper, and takes what it holds.
    pub(crate) fn take_from(&mut self, path: &Path) -> io::Result<()> {
        let (link, pid) = connect_to(path, GIVEN_WITHIN)?;
        // Until the keeper listens on it itself, the socket's credentials are those of the daemon that created it.
        let noted = std::fs::read_to_string(path.with_extension("pid"));
        let is_noted = noted.is_ok_and(|noted| noted.trim().parse() == Ok(pid));
        self.process = PidFd::open(pid).ok().filter(|_| is_noted);
        if let Some(process) = &self.process {
            // If somebody stopped the keeper, it has to continue now.
            let _ = process.send_signal(Signal::CONT);
        }
        let deadline = Instant::now() + GIVEN_WITHIN;
        send_within(&link, &encode(Kind::Give, &[]), &[], GIVEN_WITHIN)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !await_readable(&link, left)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut buffer = [0; PACKET];
            let mut descriptors = Vec::new();
            let count = scm::recv(&link, &mut buffer, &mut descriptors)?;
            match decode(&buffer[..count]) {
                Some((Kind::Held, entries)) => {
                    // This process had no room for their descriptors. They are released, because no other daemon would do that.
                    self.dropped.extend(entries.iter().skip(descriptors.len()));
                    let held = entries.into_iter().zip(descriptors);
                    let held = held.map(|(entry, fd)| (entry.token, (entry, Held::Left(Arc::new(fd)))));
                    self.kept.extend(held);
                }
                Some((Kind::End, _)) => break,
                _ if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
        }
        self.link = Some(Arc::new(link));
        match self.dropped.is_empty() {
            true => Ok(()),
            false => Err(Errno::MFILE.into()),
        }
    }

    pub(crate) fn start_another(&mut self) -> io::Result<()> {
        self.link = None;
        if let Some(process) = self.process.take() {
            let _ = process.send_signal(Signal::KILL);
            // If it is a child of this process, only this process waits for it.
            let _ = await_readable(&process, ENDED_WITHIN);
            let _ = process.try_wait();
        }
        let path = self.path.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let listener = listen_at(path)?;
        let (ours, theirs) = scm::packet_pair()?;
        rustix::io::ioctl_fionbio(&theirs, true)?;
        let null = || {
            Ok::<_, io::Error>(OwnedFd::from(
                std::fs::File::options().write(true).open("/dev/null")?,
            ))
        };
        let started = spawn(Spawn {
            program: PROGRAM.into(),
            argv: vec!["rpm".into(), ARGUMENT.into()],
            env: Vec::new(),
            cwd: "/".into(),
            stdin: None,
            stdout: null()?,
            stderr: null()?,
            fds: vec![(listener, LISTENER), (theirs, LINK)],
            listen_fds: 0,
            nofile: None,
            intercept: false,
            no_new_privileges: true,
            user: None,
        });
        let child = started.map_err(io::Error::other)?;
        // The next daemon identifies the keeper by this pid. Without it, that daemon does not signal the keeper.
        let _ = note(&path.with_extension("pid"), child.pid);
        self.process = Some(child.pidfd);
        self.link = Some(Arc::new(ours));
        (self.stuck, self.waiting, self.lost) = (None, VecDeque::new(), 0);
        self.dropped.clear();
        let all: Vec<Entry> = self.kept.values().map(|(entry, _)| *entry).collect();
        let packets = all.chunks(ENTRIES).map(|some| (Kind::Keep, some.to_vec()));
        self.waiting.extend(packets);
        if !self.flush() {
            self.wake();
        }
        Ok(())
    }

    pub(crate) fn post(&mut self, kind: Kind, entry: Entry) {
        if self.link.is_none() {
            return;
        }
        match self.waiting.back_mut() {
            Some((last, entries)) if *last == kind && entries.len() < ENTRIES => entries.push(entry),
            Some(_) | None => self.waiting.push_back((kind, vec![entry])),
        }
        if !self.flush() {
            self.wake();
        }
    }

    /// Releases a descriptor that was dropped.
    pub(crate) fn let_go(&mut self, entry: Entry) {
        match self.lets_go {
            true => self.post(Kind::Release, entry),
            false => self.dropped.push(entry),
        }
    }

    fn wake(&self) {
        if let Some(wake) = &self.wake {
            wake();
        }
    }

    pub(crate) fn flush(&mut self) -> bool {
        let Some(link) = self.link.clone() else {
            self.waiting.clear();
            return true;
        };
        while let Some((kind, entries)) = self.waiting.front() {
            let sent = match kind {
                Kind::Keep => self.send(&link, entries),
                _ => scm::send_packet(&link, &encode(*kind, entries), &[]),
            };
            match sent {
                Err(error) if is_full(&error) => {
                    // Errors other than this are not the keeper's fault.
                    if error.kind() == io::ErrorKind::WouldBlock {
                        self.stuck.get_or_insert_with(Instant::now);
                    }
                    return false;
                }
                // The keeper has died. The next one gets everything.
                Ok(()) | Err(_) => {
                    self.stuck = None;
                    self.waiting.pop_front();
                }
            }
        }
        true
    }

    /// Sends these with their descriptors. Those that were dropped in the meantime are left out.
    fn send(&self, link: &OwnedFd, entries: &[Entry]) -> io::Result<()> {
        let held = entries.iter().filter_map(|entry| {
            // The current entry: the owner may have changed.
            let (entry, held) = self.kept.get(&entry.token)?;
            Some((*entry, held.descriptor()?))
        });
        let (entries, held): (Vec<Entry>, Vec<Arc<AnyDescriptor>>) = held.unzip();
        if entries.is_empty() {
            return Ok(());
        }
        let fds: Vec<BorrowedFd<'_>> = held.iter().map(|descriptor| descriptor.as_fd()).collect();
        scm::send_packet(link, &encode(Kind::Keep, &entries), &fds)
    }
}

/// Writes a pid to a file that only this user can read.
fn note(path: &Path, pid: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    write!(file, "{pid}")
}
