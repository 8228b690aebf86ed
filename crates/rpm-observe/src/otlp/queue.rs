//! Spans on their way: together, and never more than can be kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpm_wire::spans::Span;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::counts::Count;

/// Spans that wait while the receiver takes none: 8 MB at most.
const SPANS: usize = 8192;
/// Spans in one request.
const BATCH: usize = 512;
/// A span waits for others no longer than this.
const TOGETHER: Duration = Duration::from_secs(5);

/// Spans that wait, and those that are being sent.
#[derive(Debug, Default)]
struct Queue {
    /// Behind the times at which they have come.
    spans: VecDeque<(Instant, Span)>,
    /// Those of a request; they stay until it is settled.
    batch: Vec<Span>,
}

impl Queue {
    /// Adds a span. Returns how many were dropped for it: the oldest make room.
    fn push(&mut self, span: Span, now: Instant) -> u64 {
        self.spans.push_back((now, span));
        match self.spans.len() > SPANS {
            true => {
                self.spans.pop_front();
                1
            }
            false => 0,
        }
    }

    /// How long to wait for the next batch; `None`: until there is a span.
    fn due(&self, now: Instant) -> Option<Duration> {
        if !self.batch.is_empty() || self.spans.len() >= BATCH {
            return Some(Duration::ZERO);
        }
        let (first, _) = self.spans.front()?;
        Some((*first + TOGETHER).saturating_duration_since(now))
    }

    /// The spans of the next request. One that was not settled is made again.
    fn batch(&mut self) -> Vec<Span> {
        if self.batch.is_empty() {
            let count = self.spans.len().min(BATCH);
            self.batch = self.spans.drain(..count).map(|(_, span)| span).collect();
        }
        self.batch.clone()
    }
}

/// The queue, between the task that fills it and the one that empties it.
#[derive(Debug)]
pub(super) struct Waiting {
    queue: Mutex<Queue>,
    come: Notify,
    count: Arc<Count>,
}

impl Waiting {
    pub(super) fn new(count: Arc<Count>) -> Waiting {
        Waiting {
            queue: Mutex::default(),
            come: Notify::new(),
            count,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, span: Span) {
        let dropped = self.queue().push(span, Instant::now());
        self.count.add_dropped(dropped);
        self.come.notify_one();
    }

    /// So many never came here.
    pub(super) fn missing(&self, count: u64) {
        self.count.add_dropped(count);
    }

    /// The next batch, when it is due.
    pub(super) async fn batch(&self) -> Vec<Span> {
        loop {
            let due = self.queue().due(Instant::now());
            match due {
                Some(Duration::ZERO) => return self.queue().batch(),
                // A span that comes may make the batch whole.
                Some(due) => drop(timeout(due, self.come.notified()).await),
                None => self.come.notified().await,
            }
        }
    }

    /// The batch was taken, or is given up.
    pub(super) fn settled(&self) {
        self.queue().batch.clear();
    }

    /// Forgets all: nothing is sent any more.
    pub(super) fn clear(&self) {
        let queue = std::mem::take(&mut *self.queue());
        self.count
            .add_dropped((queue.spans.len() + queue.batch.len()) as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::traces::tests::span;
    use super::*;

    fn ids(spans: &[Span]) -> Vec<u64> {
        let id = |span: &Span| u64::from_str_radix(&span.span_id, 16).expect("a number");
        spans.iter().map(id).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_whole_or_has_waited_long_enough() {
        let waiting = Waiting::new(Arc::default());
        let none = timeout(Duration::from_secs(60), waiting.batch()).await;
        assert!(none.is_err(), "there is none");
        waiting.push(span("api", 1));
        let began = Instant::now();
        assert_eq!(ids(&waiting.batch().await), [1]);
        assert_eq!(began.elapsed(), TOGETHER);
        // A request that was not settled is made again, and the spans that come meanwhile wait.
        (2..=2 + BATCH as u64).for_each(|number| waiting.push(span("api", number)));
        assert_eq!(ids(&waiting.batch().await), [1]);
        waiting.settled();
        let began = Instant::now();
        assert_eq!(waiting.batch().await.len(), BATCH);
        assert!(began.elapsed().is_zero());
        waiting.settled();
        assert_eq!(ids(&waiting.batch().await), [2 + BATCH as u64]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_is_away_costs_the_oldest_and_no_memory() {
        let waiting = Waiting::new(Arc::default());
        let dropped = || waiting.count.dropped.load(Ordering::Relaxed);
        (0..3).for_each(|number| waiting.push(span("api", number)));
        assert_eq!(ids(&waiting.batch().await), [0, 1, 2]);
        (10..10 + SPANS as u64 + 5).for_each(|number| waiting.push(span("api", number)));
        assert_eq!(dropped(), 5);
        assert_eq!(waiting.queue().spans.len(), SPANS);
        waiting.settled();
        assert_eq!(ids(&waiting.batch().await)[..2], [15, 16]);
        waiting.missing(7);
        waiting.clear();
        assert_eq!(dropped(), 5 + 7 + SPANS as u64);
    }
}
