//! The daemon's events, from one daemon to the next.

use std::time::Duration;

use rpm_wire::events::{Event, Head, LINE_BYTES};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::daemon::{Daemon, Unanswered};

/// Pauses between two attempts: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];

/// Gets events as long as somebody wants them.
#[derive(Debug)]
pub(crate) struct Follower {
    daemon: Daemon,
    /// The last event that was heard.
    last: Option<u64>,
    events: mpsc::Sender<Event>,
    wanted: watch::Receiver<Wanted>,
}

/// From when on events are of interest as long as none was heard, in milliseconds since the Unix epoch; `None` while nobody wants to know.
pub(crate) type Wanted = Option<u64>;

impl Follower {
    pub(crate) fn new(
        daemon: Daemon,
        last: Option<u64>,
        events: mpsc::Sender<Event>,
        wanted: watch::Receiver<Wanted>,
    ) -> Follower {
        Follower {
            daemon,
            last,
            events,
            wanted,
        }
    }

    /// Until nobody listens any more.
    pub(crate) async fn run(mut self) {
        let [first, longest] = PAUSES;
        let mut pause = first;
        let mut wanted = self.wanted.clone();
        while let Ok(since_ms) = wanted.wait_for(Option::is_some).await.map(|since| *since) {
            let since_ms = since_ms.unwrap_or_default();
            let before = self.last;
            let mut until = self.wanted.clone();
            let ended = tokio::select! {
                ended = self.follow(since_ms) => ended,
                _ = until.wait_for(Option::is_none) => {
                    // What happens while nobody wants to know is no news.
                    self.last = None;
                    continue;
                }
            };
            if self.events.is_closed() {
                return;
            }
            // A number that the daemon has not given yet is of other files than those that are there.
            if let Err(Unanswered::Refused(status)) = &ended
                && status.is_client_error()
                && let Ok(newest) = self.newest().await
                && self.last.is_some_and(|last| last > newest)
            {
                self.last = Some(newest);
            }
            pause = if self.last == before {
                (pause * 2).min(longest)
            } else {
                first
            };
            sleep(pause).await;
        }
    }

    /// Until the stream ends.
    async fn follow(&mut self, since_ms: u64) -> Result<(), Unanswered> {
        let from = match self.last {
            Some(last) => format!("after={last}"),
            None => format!("since_ms={since_ms}"),
        };
        let path = format!("/v1/events?follow=true&{from}");
        let mut stream = self.daemon.stream(&path).await?;
        let mut rest = Vec::new();
        while let Some(piece) = stream.piece().await? {
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                self.line(&line).await;
            }
            if rest.len() > LINE_BYTES {
                rest.clear();
            }
        }
        Ok(())
    }

    /// The last event that has happened.
    async fn newest(&self) -> Result<u64, Unanswered> {
        let line = self.daemon.get("/v1/events?lines=1").await?;
        if line.is_empty() {
            return Ok(0);
        }
        let head = serde_json::from_slice::<Head>(&line);
        head.map(|head| head.seq)
            .map_err(|error| Unanswered::Cut(Box::new(error)))
    }

    /// An event of a kind that only a newer daemon knows is passed over.
    async fn line(&mut self, line: &[u8]) {
        if let Ok(event) = serde_json::from_slice::<Event>(line) {
            let seq = event.seq;
            if self.events.send(event).await.is_ok() {
                self.last = Some(seq);
            }
        } else if let Ok(head) = serde_json::from_slice::<Head>(line) {
            self.last = Some(head.seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{UnixListener, UnixStream};

    use super::super::tests::event;
    use super::*;

    /// The next request to a daemon of the test's own: where it is answered, and its first line.
    async fn asked(listener: &UnixListener) -> (BufReader<UnixStream>, String) {
        let (client, _) = listener.accept().await.expect("a client");
        let (mut client, mut line) = (BufReader::new(client), String::new());
        client.read_line(&mut line).await.expect("text");
        (client, line)
    }

    #[tokio::test]
    async fn events_since_the_rules_are_asked_for_and_then_those_behind_the_last_one() {
        let socket = std::env::temp_dir().join(format!("rpm-follow-{}", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a socket");
        let (events, mut heard) = mpsc::channel(4);
        let (_wanted, is_wanted) = watch::channel(Some(1234));
        let follower = Follower::new(Daemon::new(socket.clone()), None, events, is_wanted);
        let running = tokio::spawn(follower.run());

        // Nothing has happened when the first one breaks.
        for _ in 0..2 {
            let (_, line) = asked(&listener).await;
            assert!(
                line.starts_with("GET /v1/events?follow=true&since_ms=1234 "),
                "{line}"
            );
        }
        let (mut client, _) = asked(&listener).await;
        let frozen = serde_json::to_string(&event(1, "frozen", &json!({"queued": 1}))).expect("JSON");
        let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{frozen}\n");
        client.write_all(answer.as_bytes()).await.expect("it listens");
        drop(client);
        assert_eq!(heard.recv().await.map(|event| event.seq), Some(1));
        let (_, line) = asked(&listener).await;
        assert!(line.starts_with("GET /v1/events?follow=true&after=1 "), "{line}");
        running.abort();
        let _ = std::fs::remove_file(&socket);
    }
}
