//! The queue of requests for which every upstream that may serve them is full.
//!
//! An upstream with a free place is offered to the first request that waits for this upstream and has no other offer. A request that does not
//! take its offer passes it on, so a free place is never left while a request waits for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::target::UpstreamId;

/// Requests that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// How many wait. While none does, a request that ends takes no lock.
    length: AtomicU32,
    waiting: Mutex<BTreeMap<u64, Waiting>>,
}

/// A request that waits.
#[derive(Debug)]
struct Waiting {
    /// The upstreams that may serve it.
    wanted: Vec<UpstreamId>,
    /// An upstream that has had a free place since the request last looked.
    offer: Option<UpstreamId>,
    wake: Arc<Notify>,
}

impl Queue {
    /// How many requests wait.
    pub(crate) fn length(&self) -> u32 {
        self.length.load(Ordering::SeqCst)
    }

    /// A place at the end of the queue. `None`: `limit` requests wait already.
    pub(crate) fn join(&self, limit: u32) -> Option<QueuePlace<'_>> {
        let mut waiting = self.lock();
        if self.length() >= limit {
            return None;
        }
        let ticket = waiting.last_key_value().map_or(0, |(last, _)| last + 1);
        let wake = Arc::new(Notify::new());
        let one = Waiting {
            wanted: Vec::new(),
            offer: None,
            wake: Arc::clone(&wake),
        };
        waiting.insert(ticket, one);
        self.length.fetch_add(1, Ordering::SeqCst);
        Some(QueuePlace {
            queue: self,
            ticket,
            wake,
        })
    }

    /// An upstream has a free place: the first request that waits for it is woken.
    ///
    /// The caller has lowered the number of requests in flight before, and a request that waits looks at that number after it has joined, all
    /// in one order (`SeqCst`): one of the two sees the other.
    pub(crate) fn offer(&self, upstream: UpstreamId) {
        if self.length() == 0 {
            return;
        }
        let mut waiting = self.lock();
        let first = waiting
            .values_mut()
            .find(|one| one.offer.is_none() && one.wanted.contains(&upstream));
        if let Some(first) = first {
            first.offer = Some(upstream);
            first.wake.notify_one();
        }
    }

    /// Wakes all: which upstreams may serve them has changed.
    pub(crate) fn wake_all(&self) {
        if self.length() > 0 {
            self.lock().values().for_each(|one| one.wake.notify_one());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue.
#[derive(Debug)]
pub(crate) struct QueuePlace<'q> {
    queue: &'q Queue,
    ticket: u64,
    wake: Arc<Notify>,
}

impl QueuePlace<'_> {
    /// Resolves when there is an offer, and at times without one.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes the offer, before the request looks for an upstream. From now on there may be another one.
    pub(crate) fn take_offer(&self) -> Option<UpstreamId> {
        self.queue.lock().get_mut(&self.ticket)?.offer.take()
    }

    /// Waits for these upstreams. True if it has waited for others until now: one of these may have had a free place since the request last
    /// looked.
    pub(crate) fn wait_for(&self, wanted: Vec<UpstreamId>) -> bool {
        let mut waiting = self.queue.lock();
        let Some(one) = waiting.get_mut(&self.ticket) else {
            return true;
        };
        let other = one.wanted != wanted;
        one.wanted = wanted;
        other
    }
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        let left = self.queue.lock().remove(&self.ticket);
        self.queue.length.fetch_sub(1, Ordering::SeqCst);
        if let Some(offer) = left.and_then(|left| left.offer) {
            self.queue.offer(offer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const ONE: UpstreamId = UpstreamId(1);
    const TWO: UpstreamId = UpstreamId(2);

    fn place<'q>(queue: &'q Queue, wanted: &[UpstreamId]) -> QueuePlace<'q> {
        let place = queue.join(u32::MAX).expect("there is room");
        assert!(place.wait_for(wanted.to_vec()), "it has not waited before");
        assert!(!place.wait_for(wanted.to_vec()));
        place
    }

    fn is_woken(place: &QueuePlace<'_>) -> bool {
        pin!(place.woken()).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn a_free_place_is_offered_to_the_first_that_waits_for_it() {
        let queue = Queue::default();
        let [first, second, third] = [&[ONE][..], &[TWO], &[ONE, TWO]].map(|wanted| place(&queue, wanted));
        queue.offer(TWO);
        assert_eq!([&first, &second, &third].map(is_woken), [false, true, false]);
        // It has not looked yet, so the next offer is for another one.
        queue.offer(TWO);
        assert!(is_woken(&third));
        assert_eq!((second.take_offer(), third.take_offer()), (Some(TWO), Some(TWO)));
        assert_eq!(first.take_offer(), None);
        queue.offer(TWO);
        assert_eq!((second.take_offer(), third.take_offer()), (Some(TWO), None));
    }

    #[test]
    fn who_leaves_passes_its_offer_on() {
        let queue = Queue::default();
        let first = place(&queue, &[ONE]);
        let second = place(&queue, &[ONE]);
        queue.offer(ONE);
        drop(first);
        assert!(is_woken(&second));
        assert_eq!((second.take_offer(), queue.length()), (Some(ONE), 1));
        drop(second);
        queue.offer(ONE);
        assert_eq!(place(&queue, &[ONE]).take_offer(), None);
    }

    #[test]
    fn all_are_woken_when_others_may_serve_them() {
        let queue = Queue::default();
        let places = [&[ONE][..], &[TWO]].map(|wanted| place(&queue, wanted));
        queue.wake_all();
        assert!(
            places
                .iter()
                .all(|place| is_woken(place) && place.take_offer().is_none())
        );
    }

    #[test]
    fn the_queue_has_a_limit() {
        let queue = Queue::default();
        let first = queue.join(1);
        assert!(first.is_some() && queue.join(1).is_none());
        drop(first);
        assert!(queue.join(1).is_some());
        assert!(queue.join(0).is_none());
        assert_eq!(queue.length(), 0);
    }
}
