//! Waiting for many descriptors in a thread of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

use super::fetch;

/// Level-triggered readiness, with waiting.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// Watches nothing.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
        })
    }

    /// Watches `fd` for input and for the end of its stream.
    ///
    /// # Errors
    /// `EEXIST` if it is watched already, `EPERM` if it cannot be (a regular file).
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            fd,
            EventData::new_u64(token),
            EventFlags::IN,
        )?)
    }

    /// Watches `fd` for room for output, and for the loss of its reader.
    ///
    /// # Errors
    /// `EEXIST` if it is watched already, `EPERM` if it cannot be (a regular file).
    pub fn add_writable(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            fd,
            EventData::new_u64(token),
            EventFlags::OUT,
        )?)
    }

    /// Stops watching `fd`.
    ///
    /// # Errors
    /// `ENOENT` if it is not watched.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits until something is ready, or for `timeout` (`None`: without limit), and appends the tokens of up to 64 descriptors. A signal
    /// ends the wait early, without tokens.
    ///
    /// # Errors
    /// None that a correct call can meet.
    pub fn wait(&self, tokens: &mut Vec<u64>, timeout: Option<Duration>) -> io::Result<()> {
        fetch(&self.epoll, timeout, tokens).map(drop)
    }
}

/// Wakes a [`Poller`] of another thread that watches it.
#[derive(Debug)]
pub struct Waker {
    event: OwnedFd,
}

impl Waker {
    /// A waker that is not readable.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn new() -> io::Result<Waker> {
        Ok(Waker {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Makes it readable until [`Waker::drain`]. Never blocks; waking twice is waking once.
    pub fn wake(&self) {
        // The only failure is a counter at its maximum: readable already.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Makes it unreadable. Call this before looking at what the wake was about.
    pub fn drain(&self) {
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waker_wakes_another_thread() {
        let (poller, waker) = (Poller::new().unwrap(), Waker::new().unwrap());
        poller.add(&waker, 9).unwrap();
        let mut tokens = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            poller.wait(&mut tokens, Some(Duration::from_secs(60))).unwrap();
        });
        assert_eq!(tokens, [9]);
        waker.drain();
        tokens.clear();
        poller.wait(&mut tokens, Some(Duration::ZERO)).unwrap();
        assert_eq!(tokens, [0; 0]);
    }
}
