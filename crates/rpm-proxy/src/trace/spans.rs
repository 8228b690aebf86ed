//! Spans that wait for their reader.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::span::Span;

/// Spans that wait, at most.
pub const SPANS: usize = 4096;
/// With so many its reader is woken at once.
const CROWD: usize = 512;

/// Spans that wait for one reader; the oldest make room.
#[derive(Debug)]
pub struct Spans {
    waiting: Mutex<Waiting>,
    most: usize,
    /// There is the first one, or a crowd.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    spans: VecDeque<Span>,
    lost: u64,
}

impl Spans {
    /// Room for `most` spans.
    #[must_use]
    pub fn new(most: usize) -> Spans {
        Spans {
            waiting: Mutex::default(),
            most,
            changed: Notify::new(),
        }
    }

    pub(crate) fn add(&self, span: Span) {
        let count = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.spans.len() >= self.most {
                waiting.spans.pop_front();
                waiting.lost += 1;
            }
            waiting.spans.push_back(span);
            waiting.spans.len()
        };
        // Not for each: the reader takes what has come together.
        if count == 1 || count == CROWD {
            self.changed.notify_one();
        }
    }

    /// All that wait, and how many were dropped since the last time.
    #[must_use]
    pub fn take(&self) -> (VecDeque<Span>, u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting { spans, lost } = &mut *waiting;
        (std::mem::take(spans), std::mem::take(lost))
    }

    /// Counts spans that were taken and reached nobody.
    pub fn lost(&self, count: u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.lost += count;
    }

    fn count(&self) -> usize {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.spans.len()
    }

    /// Ends when a span waits. For one reader.
    pub async fn any(&self) {
        self.at_least(1).await;
    }

    /// Ends when so many wait that they are worth a trip. For one reader.
    pub async fn crowd(&self) {
        self.at_least(CROWD.min(self.most)).await;
    }

    async fn at_least(&self, count: usize) {
        while self.count() < count {
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::super::context::{SpanId, TraceId};
    use super::*;

    fn span(number: u64) -> Span {
        Span {
            trace: TraceId(1),
            id: SpanId(number),
            parent: None,
            start_ns: 0,
            duration: Duration::ZERO,
            method: "GET",
            path: "/".into(),
            protocol: "2",
            status: Some(200),
            client: [127, 0, 0, 1].into(),
            app: "web".into(),
            upstream: None,
            queue: None,
            attempts: 1,
        }
    }

    fn numbers(spans: &Spans) -> (Vec<u64>, u64) {
        let (taken, lost) = spans.take();
        (taken.iter().map(|span| span.id.0).collect(), lost)
    }

    #[test]
    fn the_oldest_make_room_and_are_counted() {
        let spans = Spans::new(3);
        (1..=5).for_each(|number| spans.add(span(number)));
        assert_eq!(numbers(&spans), (vec![3, 4, 5], 2));
        assert_eq!(numbers(&spans), (vec![], 0));
        spans.lost(7);
        spans.add(span(6));
        assert_eq!(numbers(&spans), (vec![6], 7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_is_woken_by_the_first_and_by_a_crowd() {
        let spans = Spans::new(SPANS);
        let second = Duration::from_secs(1);
        assert!(timeout(second, spans.any()).await.is_err(), "nothing waits");
        for _ in 0..2 {
            let (come, ()) = tokio::join!(timeout(second, spans.any()), async { spans.add(span(1)) });
            assert!(come.is_ok());
            assert!(timeout(second, spans.crowd()).await.is_err(), "one is no crowd");
            let more = async { (1..CROWD as u64).for_each(|number| spans.add(span(number))) };
            let (come, ()) = tokio::join!(timeout(second, spans.crowd()), more);
            assert!(come.is_ok());
            assert_eq!(numbers(&spans).0.len(), CROWD);
        }
    }
}
