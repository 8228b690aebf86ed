//! The daemon's side: keeping descriptors, and taking them back.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rpm_sys::{PidFd, Signal, scm, survive};

use crate::hold::{await_room, send_within};
use crate::kept::{Kept, Token};
use crate::protocol::{Entry, Kind, PACKET, decode, encode};
use crate::state::{Held, State};

/// The owner of what belongs to no worker.
pub const NOBODY: u64 = 0;

/// A handle to the keeper, through which everything is kept. Clones refer to the same keeper.
#[derive(Clone)]
pub struct Keeper(Arc<Mutex<State>>);

/// The result of [`Keeper::open`].
#[derive(Debug)]
pub struct Opened {
    /// The keeper.
    pub keeper: Keeper,
    /// Why the previous keeper did not return everything, if it did not.
    pub lost: Option<io::Error>,
    /// Whether a keeper runs.
    pub started: io::Result<()>,
}

impl Keeper {
    /// A keeper that keeps nothing: descriptors are closed when this process dies.
    #[must_use]
    pub fn none() -> Keeper {
        Keeper::with(None)
    }

    fn with(path: Option<PathBuf>) -> Keeper {
        // The clock never goes back until the next boot, and tokens are given out more slowly than one per nanosecond.
        let next = u64::try_from(survive::monotonic().as_nanos()).unwrap_or(u64::MAX >> 1);
        let path_is_none = path.is_none();
        Keeper(Arc::new(Mutex::new(State {
            path,
            link: None,
            process: None,
            kept: BTreeMap::new(),
            waiting: VecDeque::new(),
            stuck: None,
            lost: 0,
            lets_go: path_is_none,
            dropped: Vec::new(),
            next,
            wake: None,
        })))
    }

    /// The keeper whose socket is at `path`, with what the previous daemon kept. If there is none, or it does not return everything,
    /// another one is started.
    ///
    /// # Errors
    /// No keeper can be started ([`Opened::started`]). Then nothing is kept until [`Keeper::renew`] succeeds.
    pub fn open(path: &Path) -> Opened {
        let keeper = Keeper::with(Some(path.to_owned()));
        let mut state = keeper.lock();
        let (lost, started) = match state.take_from(path) {
            Ok(()) => (None, Ok(())),
            // It holds no more than it returned.
            Err(error) if state.link.is_some() => (Some(error), Ok(())),
            Err(error) => {
                let is_there = error.kind() != io::ErrorKind::NotFound;
                (is_there.then_some(error), state.start_another())
            }
        };
        drop(state);
        Opened {
            keeper,
            lost,
            started,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a descriptor. If the process of `owner` ends while there is no daemon, the keeper closes it.
    pub fn keep(&self, descriptor: OwnedFd, owner: u64) -> Kept<OwnedFd> {
        self.keep_shared(Arc::new(descriptor), owner)
    }

    /// As [`Keeper::keep`], for a descriptor that is shared within this process.
    pub fn keep_shared<T: AsFd + Send + Sync + 'static>(&self, descriptor: Arc<T>, owner: u64) -> Kept<T> {
        self.enter(descriptor, owner, false)
    }

    /// Keeps the process of the owner, so that the keeper notices its end.
    pub fn keep_process(&self, process: Arc<PidFd>, owner: u64) -> Kept<PidFd> {
        self.enter(process, owner, true)
    }

    fn enter<T: AsFd + Send + Sync + 'static>(
        &self,
        descriptor: Arc<T>,
        owner: u64,
        is_process: bool,
    ) -> Kept<T> {
        let mut state = self.lock();
        let token = state.next;
        state.next += 1;
        let entry = Entry {
            token,
            owner,
            is_process,
        };
        state.record(entry, &descriptor);
        state.post(Kind::Keep, entry);
        drop(state);
        self.kept(descriptor, token)
    }

    fn kept<T: AsFd + Send + Sync + 'static>(&self, descriptor: Arc<T>, token: u64) -> Kept<T> {
        Kept {
            descriptor,
            token: Token(token),
            keeper: self.clone(),
        }
    }

    /// What the previous daemon kept under this token; `None` if the keeper did not have it, or it was taken already.
    #[must_use]
    pub fn take(&self, token: Token) -> Option<Kept<OwnedFd>> {
        let mut state = self.lock();
        let (entry, descriptor) = state.left(token.0)?;
        state.record(entry, &descriptor);
        drop(state);
        Some(self.kept(descriptor, token.0))
    }

    /// As [`Keeper::take`], converted by `make`. If `make` returns `None`, the descriptor is released.
    pub fn take_as<T: AsFd + Send + Sync + 'static>(
        &self,
        token: Token,
        make: impl FnOnce(OwnedFd) -> Option<T>,
    ) -> Option<Kept<T>> {
        let mut state = self.lock();
        let (entry, descriptor) = state.left(token.0)?;
        let Some(made) = Arc::into_inner(descriptor).and_then(make) else {
            state.let_go(entry);
            return None;
        };
        let made = Arc::new(made);
        state.record(entry, &made);
        drop(state);
        Some(self.kept(made, token.0))
    }

    /// True if the token can be taken.
    #[cfg(test)]
    fn has(&self, token: Token) -> bool {
        matches!(self.lock().kept.get(&token.0), Some((_, Held::Left(_))))
    }

    /// Everything that was not taken.
    #[must_use]
    pub fn take_rest(&self) -> Vec<Kept<OwnedFd>> {
        let state = self.lock();
        let left = state
            .kept
            .iter()
            .filter(|(_, (_, held))| matches!(held, Held::Left(_)));
        let tokens: Vec<u64> = left.map(|(token, _)| *token).collect();
        drop(state);
        tokens
            .into_iter()
            .filter_map(|token| self.take(Token(token)))
            .collect()
    }

    /// Call this when the daemon serves. From now on the keeper releases what is dropped, and what was dropped before.
    pub fn serve(&self) {
        let mut state = self.lock();
        state.lets_go = true;
        for entry in std::mem::take(&mut state.dropped) {
            state.post(Kind::Release, entry);
        }
    }

    /// Call this when the daemon gives up. From now on the keeper releases nothing: the next daemon gets everything.
    pub fn abandon(&self) {
        let mut state = self.lock();
        state.lets_go = false;
        state.link = None;
    }

    /// True if the keeper releases what is dropped. False while the daemon starts, when it gives up, and when it panics.
    #[must_use]
    pub fn lets_go(&self) -> bool {
        self.lock().lets_go && !std::thread::panicking()
    }

    /// Makes sure that the keeper has everything, before the daemon executes another program.
    ///
    /// # Errors
    /// The keeper does not have everything.
    pub fn confirm(&self, within: Duration) -> io::Result<()> {
        if self.hear().is_err() {
            self.renew()?;
        }
        self.settle(within);
        self.hear()?;
        let mut state = self.lock();
        let lost = state.lost;
        if !state.flush() {
            return Err(io::Error::other("its keeper accepts nothing"));
        }
        if lost > 0 {
            let why = format!("its keeper has no room for {lost} descriptors (its limit of open files)");
            return Err(io::Error::other(why));
        }
        Ok(())
    }

    /// The connection, to be watched; `None` if there is none. It is readable when the keeper sent a message, and when it has died.
    #[must_use]
    pub fn link(&self) -> Option<Arc<OwnedFd>> {
        self.lock().link.clone()
    }

    /// Sets a function that is called when packets wait to be sent. It must not call the keeper.
    pub fn on_waiting(&self, wake: impl Fn() + Send + 'static) {
        self.lock().wake = Some(Box::new(wake));
    }

    /// Sends waiting packets. Returns `false` if there is not enough room yet.
    pub fn flush(&self) -> bool {
        self.lock().flush()
    }

    /// True if packets wait and none could be sent for `how_long`.
    #[must_use]
    pub fn is_stuck(&self, how_long: Duration) -> bool {
        self.lock().stuck.is_some_and(|since| since.elapsed() > how_long)
    }

    /// Sends waiting packets, for at most `within`.
    pub fn settle(&self, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let mut state = self.lock();
            let Some(link) = state.link.clone().filter(|_| !state.flush()) else {
                return;
            };
            drop(state);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || await_room(&link, left).is_err() {
                return;
            }
        }
    }

    /// Reads the keeper's messages: the number of descriptors for which it had no room.
    ///
    /// # Errors
    /// The keeper has died.
    pub fn hear(&self) -> io::Result<usize> {
        let link = self.link().ok_or(io::ErrorKind::NotConnected)?;
        let mut lost = 0;
        loop {
            let mut buffer = [0; PACKET];
            match scm::recv(&link, &mut buffer, &mut Vec::new()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    if let Some((Kind::Lost, entries)) = decode(&buffer[..count]) {
                        lost += entries.len();
                        self.lock().lost += entries.len();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(lost),
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts another keeper and gives it everything. A keeper that does not respond is killed.
    ///
    /// # Errors
    /// It cannot be started: no descriptor or process is left, or its socket cannot be created.
    pub fn renew(&self) -> io::Result<()> {
        self.lock().start_another()
    }

    /// True if the keeper was told to end.
    #[must_use]
    pub fn has_quit(&self) -> bool {
        self.lock().path.is_none()
    }

    /// The pid of the keeper.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.lock().process.as_ref().map(PidFd::pid)
    }

    /// Ends the keeper, with everything it holds.
    pub fn quit(&self) {
        let mut state = self.lock();
        if let Some(link) = state.link.take() {
            let told = send_within(&link, &encode(Kind::Quit, &[]), &[], Duration::from_millis(100));
            if let (Err(_), Some(process)) = (told, &state.process) {
                let _ = process.send_signal(Signal::KILL);
            }
        }
        if let Some(path) = state.path.take() {
            let _ = std::fs::remove_file(path.with_extension("pid"));
            let _ = std::fs::remove_file(path);
        }
        state.waiting.clear();
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper")
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}
#[cfg(test)]
mod tests;
