//! One-shot interest in many descriptors.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::{BATCH, fetch};

/// Descriptors that report readability once, until they are armed again. A listener whose queue this process does not empty costs one
/// event, rather than one in each turn of the loop.
///
/// The value itself is a descriptor that is readable while an event waits: register it, level-triggered, with the event loop, and fetch
/// events with [`Oneshot::ready`].
#[derive(Debug)]
pub struct Oneshot {
    epoll: OwnedFd,
}

impl Oneshot {
    /// Watches nothing.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn new() -> io::Result<Oneshot> {
        Ok(Oneshot {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
        })
    }

    /// Watches `fd`, armed.
    ///
    /// # Errors
    /// `EEXIST` if it is watched already, `EPERM` if it cannot be (a regular file).
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            fd,
            EventData::new_u64(token),
            EventFlags::IN | EventFlags::ONESHOT,
        )?)
    }

    /// Arms `fd` again; if it is readable now, the event comes at once.
    ///
    /// # Errors
    /// `ENOENT` if it is not watched.
    pub fn rearm(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::modify(
            &self.epoll,
            fd,
            EventData::new_u64(token),
            EventFlags::IN | EventFlags::ONESHOT,
        )?)
    }

    /// Stops watching `fd`. This must happen before it is closed if another process holds the same socket.
    ///
    /// # Errors
    /// `ENOENT` if it is not watched.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Appends the tokens of all descriptors that became readable, and disarms them. Never waits.
    ///
    /// # Errors
    /// None that a correct call can meet.
    pub fn ready(&self, tokens: &mut Vec<u64>) -> io::Result<()> {
        // This ends because each event disarms its descriptor.
        while fetch(&self.epoll, Some(Duration::ZERO), tokens)? == BATCH {}
        Ok(())
    }
}

impl AsFd for Oneshot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl AsRawFd for Oneshot {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;
    use crate::epoll::Poller;

    fn ready(oneshot: &Oneshot) -> Vec<u64> {
        let mut tokens = Vec::new();
        oneshot.ready(&mut tokens).unwrap();
        tokens.sort_unstable();
        tokens
    }

    #[test]
    fn an_event_comes_once_until_armed_again() {
        let oneshot = Oneshot::new().unwrap();
        let (input, output) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        oneshot.add(&input, 7).unwrap();
        assert_eq!(ready(&oneshot), [0; 0]);
        rustix::io::write(&output, b"x").unwrap();
        assert_eq!(ready(&oneshot), [7]);
        assert_eq!(ready(&oneshot), [0; 0]);
        oneshot.rearm(&input, 8).unwrap();
        assert_eq!(ready(&oneshot), [8]);
        oneshot.rearm(&input, 8).unwrap();
        oneshot.remove(&input).unwrap();
        assert_eq!(ready(&oneshot), [0; 0]);
    }

    #[test]
    fn more_events_than_a_batch_all_come() {
        let oneshot = Oneshot::new().unwrap();
        let (input, output) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&output, b"x").unwrap();
        let copies: Vec<OwnedFd> = (0..150).map(|_| rustix::io::dup(&input).unwrap()).collect();
        for (copy, token) in copies.iter().zip(0..) {
            oneshot.add(copy, token).unwrap();
        }
        assert_eq!(ready(&oneshot), (0..150).collect::<Vec<u64>>());
    }

    #[test]
    fn the_set_is_readable_itself_while_an_event_waits() {
        let (oneshot, outer) = (Oneshot::new().unwrap(), Poller::new().unwrap());
        let (input, output) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        oneshot.add(&input, 1).unwrap();
        outer.add(&oneshot, 2).unwrap();
        let mut tokens = Vec::new();
        outer.wait(&mut tokens, Some(Duration::ZERO)).unwrap();
        assert_eq!(tokens, [0; 0]);
        rustix::io::write(&output, b"x").unwrap();
        outer.wait(&mut tokens, Some(Duration::from_secs(60))).unwrap();
        assert_eq!(tokens, [2]);
        ready(&oneshot);
        tokens.clear();
        outer.wait(&mut tokens, Some(Duration::ZERO)).unwrap();
        assert_eq!(tokens, [0; 0]);
    }
}
