//! Open requests of a connection that hyper drives. hyper itself does not close connections that are idle or stalled.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// How long a connection may be idle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Before its first request, and for the head of each over HTTP/1.
    pub(crate) first: Duration,
    /// Between two requests.
    pub(crate) idle: Duration,
    /// While responses are in flight.
    pub(crate) answer: Duration,
}

/// The requests of a connection.
#[derive(Debug)]
pub(crate) struct Streams {
    open: Cell<u32>,
    /// Those that have not been answered yet. They have time-outs of their own.
    unanswered: Cell<u32>,
    served: Cell<bool>,
    /// When the head of the next request began to arrive, if it has begun; for HTTP/1.
    head: Cell<Option<Instant>>,
    moved: Cell<Instant>,
    changed: Notify,
}

impl Streams {
    pub(crate) fn new() -> Rc<Streams> {
        Rc::new(Streams {
            open: Cell::new(0),
            unanswered: Cell::new(0),
            served: Cell::new(false),
            head: Cell::new(None),
            moved: Cell::new(Instant::now()),
            changed: Notify::new(),
        })
    }

    /// Adds a request that waits for its response.
    pub(crate) fn open(self: &Rc<Self>) -> Stream {
        self.open.set(self.open.get() + 1);
        self.unanswered.set(self.unanswered.get() + 1);
        self.served.set(true);
        self.head.set(None);
        self.moved();
        Stream {
            of: Rc::clone(self),
            is_unanswered: true,
        }
    }

    /// Records bytes that have arrived over HTTP/1. Between two requests they begin the next one, unless it is an empty line (RFC 9112, 2.2).
    pub(crate) fn arrived(&self, bytes: &[u8]) {
        let is_head = bytes.iter().any(|byte| !b"\r\n".contains(byte));
        if is_head && self.open.get() == 0 && self.head.get().is_none() {
            self.head.set(Some(Instant::now()));
            self.changed.notify_one();
        }
    }

    /// A head has begun to arrive, and is not complete.
    pub(crate) fn awaits_head(&self) -> bool {
        self.head.get().is_some()
    }

    /// Records that a body has moved now.
    pub(crate) fn moved(&self) -> Instant {
        let now = Instant::now();
        self.moved.set(now);
        now
    }

    /// Wakes [`Streams::rest`] only if it may end earlier than before.
    fn changed(&self) {
        self.moved();
        if self.unanswered.get() == 0 {
            self.changed.notify_one();
        }
    }

    /// The limit that applies now.
    fn within(&self, limits: Limits) -> Option<Duration> {
        match (self.open.get(), self.unanswered.get(), self.served.get()) {
            (0, _, _) if self.awaits_head() => Some(limits.first),
            (0, _, false) => Some(limits.first),
            (0, _, true) => Some(limits.idle),
            (_, 0, _) => Some(limits.answer),
            _ => None,
        }
    }

    /// Ends when the connection was idle for too long. The time without a request counts from `since` on.
    pub(crate) async fn rest(&self, limits: Limits, since: Instant) {
        loop {
            let Some(within) = self.within(limits) else {
                self.changed.notified().await;
                continue;
            };
            let moved = self.moved.get();
            let from = match self.head.get() {
                Some(begun) => begun,
                None if self.open.get() == 0 => moved.max(since),
                None => moved,
            };
            let due = from + within;
            if due <= Instant::now() {
                return;
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep_until(due) => {}
            }
        }
    }
}

/// A request until its response has ended.
#[derive(Debug)]
pub(crate) struct Stream {
    of: Rc<Streams>,
    is_unanswered: bool,
}

impl Stream {
    /// Records that the response has begun.
    pub(crate) fn answered(&mut self) {
        if std::mem::take(&mut self.is_unanswered) {
            self.of.unanswered.set(self.of.unanswered.get() - 1);
            self.of.changed();
        }
    }

    pub(crate) fn moved(&self) {
        self.of.moved();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.answered();
        self.of.open.set(self.of.open.get() - 1);
        self.of.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        first: Duration::from_secs(20),
        idle: Duration::from_secs(75),
        answer: Duration::from_secs(600),
    };

    /// How long it takes until the connection is at rest for too long.
    async fn rests(streams: &Streams) -> u64 {
        let began = Instant::now();
        streams.rest(LIMITS, began).await;
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_rests_before_between_and_in_requests() {
        let streams = Streams::new();
        assert_eq!(rests(&streams).await, 20);
        let mut stream = streams.open();
        let waits = tokio::time::timeout(Duration::from_secs(3600), streams.rest(LIMITS, Instant::now()));
        assert!(
            waits.await.is_err(),
            "a request that waits has time-outs of its own"
        );
        stream.answered();
        assert_eq!(rests(&streams).await, 600);
        stream.moved();
        assert_eq!(rests(&streams).await, 600, "what moves puts it off");
        drop(stream);
        assert_eq!(rests(&streams).await, 75);
        assert_eq!(rests(&streams).await, 75, "from when it was asked to go");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_has_begun_has_less_time_than_an_idle_connection() {
        let streams = Streams::new();
        drop(streams.open());
        let bytes = async {
            // tidy: sleep because the clock is not the real one
            tokio::time::sleep(Duration::from_secs(10)).await;
            streams.arrived(b"\r\n");
            // tidy: sleep because the clock is not the real one
            tokio::time::sleep(Duration::from_secs(30)).await;
            streams.arrived(b"\nG");
        };
        let (rested, ()) = tokio::join!(rests(&streams), bytes);
        assert_eq!(rested, 10 + 30 + 20);
        assert!(streams.awaits_head());
        let stream = streams.open();
        streams.arrived(b"body");
        drop(stream);
        assert!(!streams.awaits_head());
        assert_eq!(rests(&streams).await, 75);
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_meanwhile_counts() {
        let streams = Streams::new();
        let mut stream = streams.open();
        // tidy: sleep because the clock is not the real one
        let after = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        let changes = async {
            after(30).await;
            stream.answered();
            after(40).await;
            drop(stream);
        };
        // 75 s from the end of the request, and not 600 from the beginning of its answer.
        let both = async { tokio::join!(rests(&streams), changes) };
        let (rested, ()) = tokio::time::timeout(Duration::from_secs(3600), both)
            .await
            .expect("it rests");
        assert_eq!(rested, 30 + 40 + 75);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_lasts_keeps_the_others() {
        let streams = Streams::new();
        let (lasting, mut other) = (streams.open(), streams.open());
        other.answered();
        let waits = tokio::time::timeout(Duration::from_secs(3600), streams.rest(LIMITS, Instant::now()));
        assert!(waits.await.is_err());
        drop(lasting);
        assert_eq!(rests(&streams).await, 600);
    }
}
