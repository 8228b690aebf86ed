//! What a log thread is to do: a queue that stays small while the thread hangs, and the knowledge whether it does.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use rpm_sys::epoll::Waker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Source;
use super::claims::Claim;
use crate::os::behalf::Behalf;

/// Called when an order is done. Dropped if it never will be.
pub(super) type Done = Box<dyn FnOnce() + Send>;

/// With so many orders, and with twice as many as were left the last time, those that have become pointless are removed.
const MANY: usize = 64;

/// A stream, and the files that it has for itself and others of its thread.
pub(super) struct Placed {
    pub(super) source: Source,
    pub(super) claims: Vec<Claim>,
}

pub(super) enum Order {
    /// Copy a stream.
    Add(Box<Placed>),
    /// Write everything that is in the pipes now.
    Sync(Done),
    /// The same, and wait until the other side of the channel is dropped.
    Pause(Done, mpsc::Receiver<()>),
    /// Open the files again: somebody has moved them.
    Reopen,
    /// Empty these files.
    Flush(Vec<(PathBuf, Behalf)>, Done),
    /// Do something else with this file.
    Act(PathBuf, Done),
    /// End after a last pass.
    Stop(Done),
}

/// The orders of one thread.
pub(super) struct Orders {
    queue: Mutex<Queue>,
    waker: Waker,
    /// The number of the last order that is done.
    answered: AtomicU64,
    /// The number of an order that was waited for in vain.
    missed: AtomicU64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u64, Order)>,
    /// The number of the last one.
    last: u64,
    /// With so many it is time to remove some.
    full: usize,
    ended: bool,
}

impl Orders {
    /// An empty queue.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub(super) fn new() -> io::Result<Orders> {
        Ok(Orders {
            queue: Mutex::default(),
            waker: Waker::new()?,
            answered: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        })
    }

    /// Adds an order; returns its number. Never waits for the thread.
    pub(super) fn give(&self, order: Order) -> u64 {
        let mut queue = self.queue();
        if queue.ended {
            return queue.last;
        }
        queue.last += 1;
        let number = queue.last;
        queue.waiting.push_back((number, order));
        // What is removed is dropped when the lock is free again.
        let _pointless = match queue.waiting.len() >= queue.full.max(MANY) {
            true => queue.make_room(),
            false => Vec::new(),
        };
        drop(queue);
        self.waker.wake();
        number
    }

    /// The next order, behind its number.
    pub(super) fn take(&self) -> Option<(u64, Order)> {
        self.queue().waiting.pop_front()
    }

    /// The order of that number is done, and all before it.
    pub(super) fn done(&self, number: u64) {
        self.answered.fetch_max(number, Ordering::Release);
    }

    /// The thread ends: nobody waits for an answer any more.
    pub(super) fn end(&self) {
        let mut queue = self.queue();
        queue.ended = true;
        let _dropped_unlocked = std::mem::take(&mut queue.waiting);
        drop(queue);
    }

    /// The order of that number was waited for in vain.
    pub(super) fn missed(&self, number: u64) {
        self.missed.fetch_max(number, Ordering::Release);
    }

    /// True from when the thread has not answered in time until it has.
    pub(super) fn is_late(&self) -> bool {
        self.answered.load(Ordering::Acquire) < self.missed.load(Ordering::Acquire)
    }

    /// True if the thread has nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        let queue = self.queue();
        self.answered.load(Ordering::Acquire) >= queue.last
    }

    /// The poller's side of the wake-up is made unreadable; call this before looking for orders.
    pub(super) fn drain_waker(&self) {
        self.waker.drain();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Orders {
    /// Readable when there are orders.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

impl Queue {
    /// Removes what later orders do again, and the streams of workers that have ended (what they have said last is lost). What is left is
    /// bounded by what lives: workers, files, and those who wait.
    fn make_room(&mut self) -> Vec<(u64, Order)> {
        let (mut acts, mut files, mut reopens) = (BTreeSet::new(), BTreeSet::new(), false);
        let mut is_pointless = |order: &mut Order| match order {
            Order::Reopen => std::mem::replace(&mut reopens, true),
            Order::Act(path, _) => !acts.insert(path.clone()),
            Order::Flush(these, _) => {
                these.retain(|(path, _)| files.insert(path.clone()));
                these.is_empty()
            }
            Order::Add(placed) => has_ended(&placed.source),
            Order::Sync(_) | Order::Pause(..) | Order::Stop(_) => false,
        };
        let (mut kept, mut pointless) = (VecDeque::new(), Vec::new());
        for (number, mut order) in std::mem::take(&mut self.waiting).into_iter().rev() {
            match is_pointless(&mut order) {
                true => pointless.push((number, order)),
                false => kept.push_front((number, order)),
            }
        }
        self.waiting = kept;
        self.full = 2 * self.waiting.len();
        pointless
    }
}

/// Has the last writer closed the pipe?
fn has_ended(source: &Source) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut polled = [PollFd::new(&source.pipe, PollFlags::empty())];
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::Style;

    fn nothing() -> Done {
        Box::new(|| ())
    }

    fn waiting(orders: &Orders) -> usize {
        orders.queue().waiting.len()
    }

    #[test]
    fn a_thread_is_late_until_it_has_answered() {
        let orders = Orders::new().unwrap();
        let first = orders.give(Order::Sync(nothing()));
        let second = orders.give(Order::Sync(nothing()));
        assert!(!orders.is_late() && !orders.is_idle());
        orders.missed(second);
        assert!(orders.is_late());
        orders.done(first);
        assert!(orders.is_late());
        orders.done(second);
        assert!(!orders.is_late() && orders.is_idle());
        // It has answered before that was noticed.
        orders.missed(first);
        assert!(!orders.is_late());
    }

    #[test]
    fn what_waits_for_a_thread_that_hangs_is_bounded_by_what_lives() {
        let orders = Orders::new().unwrap();
        let stuck = orders.give(Order::Sync(nothing()));
        orders.missed(stuck);
        let files = |names: &[&str]| {
            let file = |name: &&str| (PathBuf::from(name), Behalf::default());
            names.iter().map(file).collect::<Vec<_>>()
        };
        let live = io::pipe().unwrap();
        for number in 0..100 {
            orders.give(Order::Reopen);
            orders.give(Order::Act("pid".into(), nothing()));
            orders.give(Order::Flush(files(&["a", "b"]), nothing()));
            orders.give(Order::Flush(files(&["b"]), nothing()));
            let (read, write) = io::pipe().unwrap();
            let read = match number {
                50 => live.0.try_clone().unwrap(),
                _ => read,
            };
            drop(write);
            let pipe = rpm_keeper::Keeper::none().keep(read.into(), rpm_keeper::NOBODY);
            let source = Source {
                pipe,
                path: "out.log".into(),
                also: None,
                style: Style::Raw,
                limit: None,
                behalf: Behalf::default(),
                begin: Default::default(),
            };
            orders.give(Order::Add(Box::new(Placed {
                source,
                claims: Vec::new(),
            })));
        }
        assert!(waiting(&orders) < 2 * MANY, "{}", waiting(&orders));
        drop(orders.queue().make_room());
        let mut left = Vec::new();
        while let Some((_, order)) = orders.take() {
            left.push(match order {
                Order::Add(_) => "add".to_owned(),
                Order::Sync(_) => "sync".to_owned(),
                Order::Reopen => "reopen".to_owned(),
                Order::Act(..) => "act".to_owned(),
                Order::Flush(files, _) => format!("flush {}", files.len()),
                Order::Pause(..) | Order::Stop(_) => "other".to_owned(),
            });
        }
        // One worker lives. Of the files one was to be emptied again.
        assert_eq!(left, ["sync", "add", "reopen", "act", "flush 1", "flush 1"]);
        orders.end();
        orders.give(Order::Reopen);
        assert_eq!(waiting(&orders), 0);
        drop(live);
    }
}
