//! epoll(7): one-shot interest that nests in another event loop, the set of readable descriptors among many, and a plain poller with a
//! waker for a thread of its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

/// The most events fetched by one system call.
const BATCH: usize = 64;

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

fn fetch(epoll: &OwnedFd, timeout: Option<Duration>, tokens: &mut Vec<u64>) -> io::Result<usize> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let mut events = [Event {
        flags: EventFlags::empty(),
        data: EventData::new_u64(0),
    }; BATCH];
    let len = match epoll::wait(epoll, &mut events[..], timeout.as_ref()) {
        Err(Errno::INTR) => 0,
        other => other?,
    };
    tokens.extend(events[..len].iter().map(|event| event.data.u64()));
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

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
        outer.wait(&mut tokens, Some(Duration::from_secs(5))).unwrap();
        assert_eq!(tokens, [2]);
        ready(&oneshot);
        tokens.clear();
        outer.wait(&mut tokens, Some(Duration::ZERO)).unwrap();
        assert_eq!(tokens, [0; 0]);
    }

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

    #[test]
    fn a_waker_wakes_another_thread() {
        let (poller, waker) = (Poller::new().unwrap(), Waker::new().unwrap());
        poller.add(&waker, 9).unwrap();
        let mut tokens = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            poller.wait(&mut tokens, Some(Duration::from_secs(5))).unwrap();
        });
        assert_eq!(tokens, [9]);
        waker.drain();
        tokens.clear();
        poller.wait(&mut tokens, Some(Duration::ZERO)).unwrap();
        assert_eq!(tokens, [0; 0]);
    }
}
