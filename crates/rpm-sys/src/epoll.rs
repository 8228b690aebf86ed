//! epoll(7) in three forms: one-shot interest ([`Oneshot`]) and a set of readable descriptors ([`Readable`]), which nest in another event
//! loop, and a plain [`Poller`] with a [`Waker`] for a thread of its own.

mod oneshot;
mod poller;
mod readable;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;

pub use oneshot::Oneshot;
pub use poller::{Poller, Waker};
pub use readable::Readable;

/// The most events fetched by one system call.
const BATCH: usize = 64;

/// Waits, and appends the tokens of at most [`BATCH`] events. Returns their number: 0 on time-out or after a signal.
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
