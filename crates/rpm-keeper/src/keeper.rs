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
mod tests {
    use std::fs::File;
    use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
    use std::thread::JoinHandle;

    use super::*;
    use crate::hold::Holder;
    use crate::shelf::Shelf;
    use crate::socket::listen_at;

    const BOUND: Duration = Duration::from_secs(20);

    /// A keeper in a thread of its own, and the daemon that started it.
    struct World {
        path: PathBuf,
        holder: Option<Holder>,
        thread: Option<JoinHandle<()>>,
    }

    impl World {
        fn new(name: &str, alone: Duration) -> (World, Keeper) {
            let path = std::env::temp_dir().join(format!("rpm-keeper-{name}-{}", std::process::id()));
            let keeper = Keeper::with(Some(path.clone()));
            let (ours, theirs) = scm::packet_pair().unwrap();
            rustix::io::ioctl_fionbio(&theirs, true).unwrap();
            keeper.lock().link = Some(Arc::new(ours));
            keeper.serve();
            let holder = Some(Holder {
                listener: listen_at(&path).unwrap(),
                link: Some(theirs),
                shelf: Shelf::new(),
                alone,
            });
            let thread = None;
            (World { path, holder, thread }, keeper)
        }

        fn begin(&mut self) {
            let mut holder = self.holder.take().unwrap();
            self.thread = Some(std::thread::spawn(move || while holder.step().unwrap() {}));
        }

        /// The next daemon.
        fn next(&self) -> Keeper {
            let opened = Keeper::open(&self.path);
            assert!(opened.lost.is_none() && opened.started.is_ok(), "{opened:?}");
            opened.keeper.serve();
            opened.keeper
        }

        fn end(mut self) {
            self.thread.take().unwrap().join().unwrap();
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Cuts the connection, as if the daemon had been killed.
    fn die(keeper: &Keeper) {
        keeper.lock().link = None;
    }

    fn kept_pipe(keeper: &Keeper, owner: u64) -> (Kept<OwnedFd>, PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        (keeper.keep(reader.into(), owner), writer)
    }

    fn reads(kept: &Kept<OwnedFd>, mut writer: &PipeWriter) -> bool {
        writer.write_all(b"x").unwrap();
        let mut byte = [0];
        File::from(kept.try_clone().unwrap())
            .read_exact(&mut byte)
            .is_ok()
    }

    /// True if no process has the read end.
    fn is_closed(writer: &PipeWriter) -> bool {
        let mut polled = [rustix::event::PollFd::new(writer, rustix::event::PollFlags::OUT)];
        rustix::event::poll(&mut polled, Some(&rustix::event::Timespec::default())).unwrap();
        polled[0].revents().contains(rustix::event::PollFlags::ERR)
    }

    fn wait_until(what: &str, is: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < BOUND, "{what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_was_kept_is_had_back_and_what_was_dropped_is_not() {
        let (mut world, first) = World::new("back", BOUND);
        // More than the socket can buffer while the keeper does not read.
        let pipes: Vec<_> = (0..500).map(|_| kept_pipe(&first, NOBODY)).collect();
        assert!(!first.flush());
        world.begin();
        first.settle(BOUND);
        assert!(first.flush());
        let tokens: Vec<Token> = pipes.iter().map(|(kept, _)| kept.token()).collect();
        let (mut kept, writers): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
        let dropped = kept.remove(7);
        let dropped_token = dropped.token();
        drop(dropped);
        die(&first);
        // The copies of a process close with it.
        kept.into_iter().for_each(|kept| drop(kept.share()));
        let second = world.next();
        let taken: Vec<_> = tokens.iter().filter_map(|token| second.take(*token)).collect();
        assert_eq!(taken.len(), tokens.len() - 1);
        assert!(!second.has(dropped_token) && second.take(dropped_token).is_none());
        assert!(second.take(tokens[0]).is_none(), "it is taken");
        assert!(reads(&taken[3], &writers[3]) && reads(&taken[498], &writers[499]));
        wait_until("the dropped one is closed", || is_closed(&writers[7]));
        // The third daemon gets what the second has not dropped.
        drop(taken);
        let (last, writer) = kept_pipe(&second, NOBODY);
        let token = last.token();
        second.settle(BOUND);
        die(&second);
        let third = world.next();
        assert!(third.take(tokens[0]).is_none());
        let last = third.take(token).unwrap();
        assert!(reads(&last, &writer));
        third.quit();
        world.end();
    }

    #[test]
    fn without_a_daemon_what_a_process_owned_ends_with_it_and_the_keeper_with_the_last() {
        let (mut world, first) = World::new("owned", Duration::ZERO);
        world.begin();
        let mut children = [0, 1].map(|_| std::process::Command::new("sleep").arg("1000").spawn().unwrap());
        let open = |child: &std::process::Child| Arc::new(PidFd::open(child.id()).unwrap());
        let processes = [
            first.keep_process(open(&children[0]), 5),
            first.keep_process(open(&children[1]), 6),
        ];
        let (mut left, written) = kept_pipe(&first, 5);
        let (mut moved, moved_to) = kept_pipe(&first, 5);
        moved.belongs_to(6);
        first.settle(BOUND);
        die(&first);
        for kept in [&mut left, &mut moved] {
            // The daemon's own copy is gone, too.
            kept.descriptor = Arc::new(File::open("/dev/null").unwrap().into());
        }
        children[0].kill().unwrap();
        wait_until("what it owned is closed", || is_closed(&written));
        assert!(!is_closed(&moved_to), "it was given to another one");
        children[1].kill().unwrap();
        world.end();
        // A thread closes them, and the keeper may end before it does.
        wait_until("what the other one owned is closed", || is_closed(&moved_to));
        children.iter_mut().for_each(|child| drop(child.wait()));
        drop(processes);
    }

    #[test]
    fn what_is_something_else_than_it_should_be_is_let_go() {
        let (mut world, first) = World::new("else", BOUND);
        world.begin();
        let (kept, writer) = kept_pipe(&first, NOBODY);
        let token = kept.token();
        first.settle(BOUND);
        die(&first);
        drop(kept);
        let second = world.next();
        assert!(second.take_as(token, |fd| PidFd::taken_back(fd, 1)).is_none());
        wait_until("it is closed", || is_closed(&writer));
        second.quit();
        world.end();
    }

    #[test]
    fn a_daemon_that_does_not_come_to_serve_leaves_everything_to_the_next() {
        let (mut world, first) = World::new("gives-up", BOUND);
        world.begin();
        let (kept, writer) = kept_pipe(&first, NOBODY);
        let token = kept.token();
        first.settle(BOUND);
        die(&first);
        let second = Keeper::open(&world.path).keeper;
        let taken = second.take(token).unwrap();
        assert!(!second.lets_go());
        // It fails to start, and drops what it has.
        drop(taken);
        let (early, _) = kept_pipe(&second, NOBODY);
        drop(early);
        assert!(second.flush());
        die(&second);
        let third = Keeper::open(&world.path).keeper;
        let taken = third.take(token).unwrap();
        assert!(reads(&taken, &writer));
        third.serve();
        assert!(third.confirm(BOUND).is_ok());
        third.abandon();
        drop(taken);
        let fourth = world.next();
        assert!(fourth.has(token));
        fourth.quit();
        assert!(fourth.has_quit() && fourth.confirm(BOUND).is_err());
        world.end();
        drop(kept);
    }

    #[test]
    fn one_that_keeps_nothing_works() {
        let keeper = Keeper::none();
        let (reader, writer): (PipeReader, PipeWriter) = io::pipe().unwrap();
        let kept = keeper.keep(reader.into(), NOBODY);
        assert!(reads(&kept, &writer) && keeper.flush() && keeper.pid().is_none());
        assert!(keeper.renew().is_err());
        drop(kept);
        assert!(is_closed(&writer));
    }
}
