//! A log thread: one poller over all its pipes, and over what takes them where that may stop taking bytes.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rpm_sys::epoll::Poller;
use tracing::warn;

use super::orders::{Order, Placed};
use super::progress::Progress;
use super::sink::{Sinks, empty};
use super::stream::Stream;
use super::threads::LogThread;
use super::underway::{Left, Underway, is_transient};

/// Read at most this much from one pipe before the others have their turn: the size of a pipe.
const TURN_BYTES: usize = 64 * 1024;
/// A pass for [`Order::Sync`] ends after this many turns of one pipe: its writer is still writing.
const SYNC_TURNS: usize = 16;
const WAKE_TOKEN: u64 = 0;
/// The token of a stream is a multiple of this; those between are of what takes it.
const TOKENS: u64 = 4;

pub(super) struct Drain {
    own: Arc<LogThread>,
    progress: Arc<Progress>,
    poller: Poller,
    streams: BTreeMap<u64, Stream>,
    sinks: Sinks,
    next_token: u64,
    buffer: Vec<u8>,
    underway: Underway,
    /// Of the daemon before; their pipes are not taken back yet, by whichever thread.
    left: Arc<Mutex<Vec<Left>>>,
    /// When a line is to be written though it has no end.
    due: Option<Instant>,
}

enum Turn {
    Empty,
    Read,
    Ended,
}

impl Drain {
    pub(super) fn new(
        own: Arc<LogThread>,
        progress: Arc<Progress>,
        underway: Underway,
        left: Arc<Mutex<Vec<Left>>>,
    ) -> io::Result<Drain> {
        let poller = Poller::new()?;
        poller.add(own.orders.as_fd(), WAKE_TOKEN)?;
        Ok(Drain {
            own,
            progress,
            poller,
            streams: BTreeMap::new(),
            sinks: Sinks::default(),
            next_token: TOKENS,
            buffer: vec![0; TURN_BYTES],
            underway,
            left,
            due: None,
        })
    }

    pub(super) fn run(mut self) {
        let mut ready = Vec::new();
        loop {
            ready.clear();
            let left = self.due.map(|due| due.saturating_duration_since(Instant::now()));
            if let Err(error) = self.poller.wait(&mut ready, left) {
                warn!(%error, "the log thread cannot wait for output");
                return;
            }
            // First: who shares a file must be known before what came since is written to it.
            if ready.contains(&WAKE_TOKEN) {
                self.own.orders.drain_waker();
            }
            if self.obey().is_break() {
                return;
            }
            let mut wrote = self.release_due();
            for token in &ready {
                match *token {
                    WAKE_TOKEN => {}
                    stream if stream.is_multiple_of(TOKENS) => {
                        self.turn(stream);
                        wrote = true;
                    }
                    sink => self.sinks.go_on(sink, &self.poller),
                }
            }
            if wrote {
                self.progress.report();
            }
        }
    }

    fn obey(&mut self) -> ControlFlow<()> {
        while let Some((number, order)) = self.own.orders.take() {
            let done = self.carry_out(order);
            self.own.orders.done(number);
            if done.is_break() {
                self.own.orders.end();
                return done;
            }
        }
        ControlFlow::Continue(())
    }

    fn carry_out(&mut self, order: Order) -> ControlFlow<()> {
        match order {
            Order::Add(placed) => self.add(*placed),
            Order::Sync(done) => {
                self.pass();
                done();
            }
            Order::Pause(done, resumed) => {
                self.pass();
                // Another daemon may go on from here, and knows what is in the files.
                self.release(|_| true);
                done();
                // An error is what it waits for: the other side is gone.
                let _ = resumed.recv();
            }
            Order::Reopen => self.sinks.reopen(),
            Order::Flush(files, done) => {
                self.pass();
                files.iter().for_each(|(path, behalf)| empty(path, behalf));
                done();
            }
            Order::Act(_, act) => act(),
            Order::Stop(done) => {
                self.pass();
                self.release(|_| true);
                self.progress.report();
                done();
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn add(&mut self, placed: Placed) {
        let token = self.next_token;
        self.next_token += TOKENS;
        let mut stream = Stream::new(placed, token, &mut self.sinks);
        if let Some(left) = self.left_of(&stream) {
            stream.complete(&left, &mut self.sinks, &self.poller);
        }
        match self.poller.add(stream.pipe.as_fd(), token) {
            Ok(()) => drop(self.streams.insert(token, stream)),
            Err(error) => {
                warn!(path = stream.name(), %error, "cannot watch a worker's output");
                stream.finish(&mut self.sinks, &self.poller);
            }
        }
    }

    /// What a daemon that was killed had read of this stream, by whichever of its threads.
    fn left_of(&self, stream: &Stream) -> Option<Left> {
        let mut all = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().position(|left| left.is_of(&stream.pipe));
        found.map(|found| all.swap_remove(found))
    }

    /// Writes what has waited long enough for the end of its line; was there any?
    fn release_due(&mut self) -> bool {
        let now = Instant::now();
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.release(|stream| stream.due().is_some_and(|due| due <= now));
        self.due = self.streams.values().filter_map(Stream::due).min();
        true
    }

    fn release(&mut self, which: impl Fn(&Stream) -> bool) {
        for stream in self.streams.values_mut().filter(|stream| which(stream)) {
            stream.release(&mut self.sinks, &self.poller);
        }
    }

    fn pass(&mut self) {
        let tokens: Vec<u64> = self.streams.keys().copied().collect();
        for token in tokens {
            for _ in 0..SYNC_TURNS {
                match self.turn(token) {
                    // Its end comes behind the last bytes.
                    Turn::Read => {}
                    Turn::Empty | Turn::Ended => break,
                }
            }
        }
        self.progress.report();
    }

    fn turn(&mut self, token: u64) -> Turn {
        let Some(stream) = self.streams.get_mut(&token) else {
            return Turn::Ended;
        };
        match self.underway.take(stream, &mut self.sinks, &mut self.buffer) {
            Ok(0) => {}
            Ok(count) => {
                stream.store(&self.buffer[..count], &mut self.sinks, &self.poller);
                self.underway.written();
                for (path, keep) in stream.full(&self.sinks) {
                    self.sinks.rotate(&path, keep);
                }
                self.due = [self.due, stream.due()].into_iter().flatten().min();
                return Turn::Read;
            }
            Err(error) if is_transient(&error) => return Turn::Empty,
            Err(error) => warn!(path = stream.name(), %error, "cannot read a worker's output"),
        }
        if let Some(mut ended) = self.streams.remove(&token) {
            ended.finish(&mut self.sinks, &self.poller);
            let _ = self.poller.remove(ended.pipe.as_fd());
        }
        Turn::Ended
    }
}

#[cfg(test)]
mod tests;
