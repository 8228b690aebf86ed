//! What programs send over their channel (`process.send`), for those who follow it, and what is sent to them: `GET /v1/messages`,
//! `POST /v1/message`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Bytes;
use rpm_core::WorkerId;
use rpm_wire::api::{ApiError, MessageRequest, SentMessage};
use rpm_wire::channel;
use rpm_wire::shell::word;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::failure::failure;
use crate::os::clock::now_ms;
use crate::workers::worker::Outgoing;
use crate::workers::worker::Workers;

/// Those who follow at a time.
const SUBSCRIBERS: usize = 32;

/// Memory that waits for a subscriber that does not read; messages beyond that are counted and dropped. A message has 1 MiB at most.
const BACKLOG_BYTES: usize = 4 << 20;

/// What a line takes beside its text: a place in the queue, its count of owners, and what the allocator rounds up. Most messages are shorter
/// than that.
const LINE_OVERHEAD: usize = 160;

/// The longest message that is sent, as the longest that is received.
const MESSAGE_LIMIT: usize = 1 << 20;

/// Everybody who follows the messages of programs.
#[derive(Default)]
pub(crate) struct Subscribers(Vec<Subscriber>);

struct Subscriber {
    to: mpsc::UnboundedSender<Bytes>,
    /// Memory of the lines that it has not taken yet.
    waiting: Arc<AtomicUsize>,
    /// Messages that were dropped since it was last sent one.
    lost: u64,
}

/// The messages from now on, as lines of JSON.
pub(crate) struct Subscription {
    from: mpsc::UnboundedReceiver<Bytes>,
    waiting: Arc<AtomicUsize>,
}

impl Subscription {
    /// The next line. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let line = self.from.recv().await?;
        self.waiting.fetch_sub(memory_of(&line), Ordering::Relaxed);
        Some(line)
    }
}

impl Subscriber {
    fn send(&mut self, line: &Bytes) {
        self.lost = match (self.lost, self.put(line.clone())) {
            (lost, false) => lost + 1,
            (_, true) => 0,
        };
    }

    /// False if there is no room.
    fn put(&mut self, line: Bytes) -> bool {
        let line = match self.lost {
            0 => line,
            lost => [line_of(&json!({ "lost": lost })), line].concat().into(),
        };
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting + memory_of(&line) > BACKLOG_BYTES {
            return false;
        }
        self.waiting.fetch_add(memory_of(&line), Ordering::Relaxed);
        // One that has gone is removed with the next message.
        let _ = self.to.send(line);
        true
    }
}

fn memory_of(line: &Bytes) -> usize {
    line.len() + LINE_OVERHEAD
}

fn line_of(of: &Value) -> Bytes {
    format!("{of}\n").into()
}

impl Subscribers {
    fn add(&mut self) -> Option<Subscription> {
        self.0.retain(|subscriber| !subscriber.to.is_closed());
        if self.0.len() >= SUBSCRIBERS {
            return None;
        }
        let (to, from) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        self.0.push(Subscriber {
            to,
            waiting: Arc::clone(&waiting),
            lost: 0,
        });
        Some(Subscription { from, waiting })
    }

    /// Follows the messages of all programs from now on.
    ///
    /// # Errors
    /// As many do already as may.
    pub(crate) fn subscribe(&mut self) -> Result<Subscription, ApiError> {
        let refused = || {
            failure(
                format!("{SUBSCRIBERS} clients follow the messages already"),
                Some("end one of them"),
            )
        };
        self.add().ok_or_else(refused)
    }

    /// A program has sent a message.
    pub(crate) fn publish(&mut self, worker: WorkerId, message: &Value, workers: &Workers) {
        if self.0.is_empty() {
            return;
        }
        self.0.retain(|subscriber| !subscriber.to.is_closed());
        let Some(held) = workers.get(&worker) else {
            return;
        };
        let sent = SentMessage {
            at_ms: now_ms(),
            id: held.instance.0,
            name: held.spec.name.clone(),
            namespace: held.spec.namespace.clone(),
            message: message.clone(),
        };
        let line = line_of(&json!(sent));
        for subscriber in &mut self.0 {
            subscriber.send(&line);
        }
    }
}

/// Sends a message to every one of these workers that has a channel: the program gets it by `process.on('message')`.
///
/// # Errors
/// None has one, or the message is too long, or one that Node keeps for itself: what a worker answers to that would be taken for the answer to
/// something else.
pub(crate) fn send(
    request: &MessageRequest,
    targets: impl IntoIterator<Item = WorkerId>,
    workers: &mut Workers,
) -> Result<(), ApiError> {
    let bytes = channel::message(&request.message);
    if bytes.len() > MESSAGE_LIMIT {
        return Err(failure(
            format!("a message of {} bytes is too long", bytes.len()),
            Some("1 MiB is the most; send the rest in further messages, or its place"),
        ));
    }
    if channel::is_internal(&request.message) {
        return Err(failure(
            "a message whose `cmd` begins with NODE_ is one of Node's own",
            Some("give `cmd` another value"),
        ));
    }
    let mut sent = false;
    for worker in targets {
        let outgoing = Outgoing {
            bytes: bytes.clone(),
            fd: None,
        };
        let channel = workers.get_mut(&worker).and_then(|held| held.channel_mut());
        sent |= channel.is_some_and(|channel| !channel.is_behind() && channel.send(outgoing, None));
    }
    if sent {
        return Ok(());
    }
    Err(failure(
        format!("no process of {:?} takes messages", request.target),
        Some(&format!(
            "Node and Bun do as long as they run, are connected and read what they were sent before; see `rpm describe {}`",
            word(&request.target)
        )),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_subscriber_that_does_not_read_loses_messages_and_hears_how_many() {
        let mut subscribers = Subscribers::default();
        let mut subscription = subscribers.add().expect("room");
        let message = Bytes::from(vec![b'x'; (1 << 20) - LINE_OVERHEAD]);
        for _ in 0..7 {
            subscribers.0[0].send(&message);
        }
        for _ in 0..4 {
            assert_eq!(subscription.next().await.expect("a line"), message);
        }
        assert_eq!(subscription.waiting.load(Ordering::Relaxed), 0);
        subscribers.0[0].send(&Bytes::from_static(b"{}\n"));
        let next = subscription.next().await.expect("a line");
        assert_eq!(next, Bytes::from_static(b"{\"lost\":3}\n{}\n"));
        // Short ones take mostly what is around them.
        let short = Bytes::from_static(b"{}\n");
        (0..BACKLOG_BYTES / LINE_OVERHEAD * 2).for_each(|_| subscribers.0[0].send(&short));
        assert!(subscription.from.len() * LINE_OVERHEAD <= BACKLOG_BYTES);
        drop(subscription);
        assert!((0..SUBSCRIBERS).all(|_| subscribers.add().is_some_and(|kept| {
            std::mem::forget(kept);
            true
        })));
        assert!(subscribers.add().is_none(), "one more than may be");
    }
}
