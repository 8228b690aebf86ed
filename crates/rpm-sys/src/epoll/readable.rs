//! The readable ones among many descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::fetch;

/// The readable ones among many descriptors. The kernel keeps the list, so the cost depends only on those.
///
/// The value itself is a descriptor. It becomes readable when the first of them does, once until [`Readable::arm`] is called: register it
/// with the event loop, and call [`Readable::fired`] when it is ready. Until it is armed again nothing wakes, however much arrives.
#[derive(Debug)]
pub struct Readable {
    /// Every descriptor, level-triggered.
    all: OwnedFd,
    /// `all`, one-shot.
    wake: OwnedFd,
    /// The number of watched descriptors, which is the most events.
    watched: usize,
}

/// The token of `all` in `wake`.
const ALL: u64 = 0;

impl Readable {
    /// Watches nothing, and is armed.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn new() -> io::Result<Readable> {
        let all = epoll::create(CreateFlags::CLOEXEC)?;
        let wake = epoll::create(CreateFlags::CLOEXEC)?;
        let interest = EventFlags::IN | EventFlags::ONESHOT;
        epoll::add(&wake, &all, EventData::new_u64(ALL), interest)?;
        let watched = 0;
        Ok(Readable { all, wake, watched })
    }

    /// Watches `fd`.
    ///
    /// # Errors
    /// `EEXIST` if it is watched already, `EPERM` if it cannot be (a regular file).
    pub fn add(&mut self, fd: impl AsFd, token: u64) -> io::Result<()> {
        epoll::add(&self.all, fd, EventData::new_u64(token), EventFlags::IN)?;
        self.watched += 1;
        Ok(())
    }

    /// Stops watching `fd`. This must happen before it is closed if another process holds the same socket.
    ///
    /// # Errors
    /// `ENOENT` if it is not watched.
    pub fn remove(&mut self, fd: impl AsFd) -> io::Result<()> {
        epoll::delete(&self.all, fd)?;
        self.watched = self.watched.saturating_sub(1);
        Ok(())
    }

    /// True if a descriptor has become readable since it was armed. This disarms it.
    ///
    /// # Errors
    /// None that a correct call can meet.
    pub fn fired(&self) -> io::Result<bool> {
        Ok(fetch(&self.wake, Some(Duration::ZERO), &mut Vec::new())? > 0)
    }

    /// Arms: reports the next descriptor that becomes readable, or one that already is.
    ///
    /// # Errors
    /// None that a correct call can meet.
    pub fn arm(&self) -> io::Result<()> {
        let interest = EventFlags::IN | EventFlags::ONESHOT;
        Ok(epoll::modify(
            &self.wake,
            &self.all,
            EventData::new_u64(ALL),
            interest,
        )?)
    }

    /// The tokens of the descriptors that are readable now. Never waits.
    ///
    /// # Errors
    /// None that a correct call can meet.
    pub fn now(&self) -> io::Result<Vec<u64>> {
        // All in one call: a second one would return those that are still readable again.
        let mut events = Vec::with_capacity(self.watched.max(1));
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match epoll::wait(
            &self.all,
            rustix::buffer::spare_capacity(&mut events),
            Some(&timeout),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(events.iter().map(|event: &Event| event.data.u64()).collect())
    }
}

impl AsFd for Readable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;
    use crate::epoll::Poller;

    #[test]
    fn only_what_is_readable_is_told_and_the_first_alone_wakes() {
        let (mut readable, outer) = (Readable::new().unwrap(), Poller::new().unwrap());
        outer.add(&readable, 2).unwrap();
        let woken = || {
            let mut tokens = Vec::new();
            outer.wait(&mut tokens, Some(Duration::ZERO)).unwrap();
            tokens == [2]
        };
        let pipes: Vec<_> = (0..150).map(|_| pipe_with(PipeFlags::CLOEXEC).unwrap()).collect();
        for ((input, _), token) in pipes.iter().zip(0..) {
            readable.add(input, token).unwrap();
        }
        assert!(!woken() && readable.now().unwrap().is_empty());
        rustix::io::write(&pipes[7].1, b"x").unwrap();
        assert!(woken() && readable.fired().unwrap() && !woken());
        rustix::io::write(&pipes[90].1, b"x").unwrap();
        assert!(!woken() && !readable.fired().unwrap(), "it is not armed");
        for _ in 0..2 {
            let mut now = readable.now().unwrap();
            now.sort_unstable();
            assert_eq!(now, [7, 90]);
        }
        rustix::io::read(&pipes[7].0, &mut [0; 8]).unwrap();
        assert_eq!(readable.now().unwrap(), [90]);
        readable.arm().unwrap();
        assert!(woken() && readable.fired().unwrap(), "one is readable");
        readable.remove(&pipes[90].0).unwrap();
        readable.arm().unwrap();
        assert!(!woken() && readable.now().unwrap().is_empty());
        for (_, output) in &pipes {
            rustix::io::write(output, b"x").unwrap();
        }
        assert_eq!(readable.now().unwrap().len(), 149);
    }
}
