//! Messages between daemon and agent: each is a line of JSON, an object with one field that names the message.

use std::ops::{Add, Range};

use serde::{Deserialize, Serialize};

use crate::preload::FIGURES;

/// Longest line an agent may send, in bytes. The longest it has reason to send is a greeting of some hundred.
pub const MAX_LINE: usize = 4096;

/// Bytes of a malformed line that are quoted.
const EXCERPT: usize = 80;

/// A message from an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromAgent {
    /// The first message of each connection: this process listens, or did before.
    Hello {
        /// The value of [`crate::TOKEN_ENV`] in its environment.
        token: String,
        /// Its process id, which need not be the worker's: children inherit the token.
        pid: u32,
        /// It reports open connections ([`FromAgent::Open`]). The agent for Bun does not.
        #[serde(default = "yes")]
        counts: bool,
    },
    /// Acknowledges [`ToAgent::Drain`]: from now on its responses say `Connection: close`.
    Draining {},
    /// What a draining process still has open. Sent when it changes, at most every 20 ms.
    Open(Open),
    /// What was asked for by [`ToAgent::Measure`], every second.
    Figures(Box<Figures>),
}

fn yes() -> bool {
    true
}

/// Connections that a draining process has accepted and not closed. Connections in its accept queues are not included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// All of them, on all listeners of the process. At 0 the process is drained.
    pub connections: u64,
    /// Those between two requests, or before the first. They end at the server's `keepAliveTimeout`.
    pub idle: u64,
    /// Requests in flight: one per HTTP/1 connection, any number per HTTP/2 session.
    pub requests: u64,
    /// Connections that are no longer HTTP: WebSockets and tunnels.
    pub upgraded: u64,
}

/// Upper bounds in milliseconds of the buckets of [`Figures::times`]; one more is beyond them.
pub const TIME_BOUNDS_MS: [f64; 13] = [
    1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0,
];

/// How a process of Node does. Totals grow while it is measured, and stay when it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// The share of the last second in which its event loop was busy, in millionths
    /// (<https://nodejs.org/api/perf_hooks.html#performanceeventlooputilizationutilization1-utilization2>).
    pub busy_ppm: u32,
    /// How late the event loop was in the last two seconds, in microseconds: the median, the 99th percentile and the most.
    pub delay_us: [u64; 3],
    /// Bytes of V8's heap that are used.
    pub heap_used: u64,
    /// Bytes at which V8 gives up.
    pub heap_limit: u64,
    /// Garbage collections.
    pub gc_runs: u64,
    /// How long they took together, in microseconds.
    pub gc_us: u64,
    /// What keeps the event loop alive: sockets, timers, requests of the system.
    pub resources: u64,
    /// Responses of HTTP/1 by their class, from 1xx to 5xx.
    pub answers: [u64; 5],
    /// The same by the time from the request's head to the response's end, within each of [`TIME_BOUNDS_MS`] and beyond.
    pub times: [u64; TIME_BOUNDS_MS.len() + 1],
    /// How long they took together, in microseconds.
    pub time_us: u64,
}

impl Add for Figures {
    type Output = Figures;

    /// Of two processes together: the busier one's loop, and the sum of all else.
    fn add(self, other: Figures) -> Figures {
        fn sums<const N: usize>(ours: [u64; N], theirs: [u64; N]) -> [u64; N] {
            std::array::from_fn(|at| ours[at].saturating_add(theirs[at]))
        }
        Figures {
            busy_ppm: self.busy_ppm.max(other.busy_ppm),
            delay_us: std::array::from_fn(|at| self.delay_us[at].max(other.delay_us[at])),
            heap_used: self.heap_used.saturating_add(other.heap_used),
            heap_limit: self.heap_limit.saturating_add(other.heap_limit),
            gc_runs: self.gc_runs.saturating_add(other.gc_runs),
            gc_us: self.gc_us.saturating_add(other.gc_us),
            resources: self.resources.saturating_add(other.resources),
            answers: sums(self.answers, other.answers),
            times: sums(self.times, other.times),
            time_us: self.time_us.saturating_add(other.time_us),
        }
    }
}

impl Add for Open {
    type Output = Open;

    /// The sum of two processes.
    fn add(self, other: Open) -> Open {
        Open {
            connections: self.connections.saturating_add(other.connections),
            idle: self.idle.saturating_add(other.idle),
            requests: self.requests.saturating_add(other.requests),
            upgraded: self.upgraded.saturating_add(other.upgraded),
        }
    }
}

/// A message to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToAgent {
    /// Drain: each response says `Connection: close` (HTTP/1), each session gets GOAWAY (HTTP/2).
    Drain {
        /// When [`ToAgent::Close`] will follow, in milliseconds from now. The agent has no timer for it.
        deadline_ms: u64,
    },
    /// Refuse new clients: close the listeners. Requests in flight are finished. The process stays alive until [`ToAgent::Release`].
    Refuse {
        /// True: existing connections end as after [`ToAgent::Drain`]. False: idle connections, WebSockets (1001), tunnels and event
        /// streams are closed at once.
        keeps: bool,
    },
    /// The process may exit by itself again; it is about to be terminated.
    Release {},
    /// The deadline: end WebSockets (1001, going away), tunnels and event streams. Other responses are not cut.
    Close {},
    /// Report [`Figures`] every second, for this time from now on. It begins to cost something with that, and ends to afterwards.
    Measure {
        /// In milliseconds.
        for_ms: u64,
        /// The first time on this connection: what measures goes with it.
        first: bool,
    },
}

impl ToAgent {
    /// The message as it is sent. With the first [`ToAgent::Measure`] goes what measures.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            ToAgent::Drain { deadline_ms } => format!("{{\"drain\":{{\"deadline_ms\":{deadline_ms}}}}}\n"),
            ToAgent::Refuse { keeps } => format!("{{\"refuse\":{{\"keeps\":{keeps}}}}}\n"),
            ToAgent::Release {} => "{\"release\":{}}\n".to_owned(),
            ToAgent::Close {} => "{\"close\":{}}\n".to_owned(),
            ToAgent::Measure { for_ms, first: false } => format!("{{\"measure\":{{\"for_ms\":{for_ms}}}}}\n"),
            ToAgent::Measure { for_ms, first: true } => {
                let module = FIGURES.as_str();
                format!("{{\"measure\":{{\"for_ms\":{for_ms},\"module\":\"{module}\"}}}}\n")
            }
        }
    }
}

/// A line that is not a valid message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is too long, and was skipped.
    #[error("a message of more than {MAX_LINE} bytes")]
    TooLong,
    /// It is not JSON, or not a known message.
    #[error("not a message ({reason}): {excerpt}")]
    Unknown {
        /// The parser's reason.
        reason: String,
        /// The start of the line.
        excerpt: String,
    },
}

/// Splits an agent's bytes into messages. Holds what was fed last, and at most [`MAX_LINE`] bytes of an unfinished line.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Offset of the next line in the buffer.
    start: usize,
    /// The current line is too long: its bytes are dropped up to its end.
    skipping: bool,
}

impl Decoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream, split anywhere. Before more is fed, [`Decoder::next`] must be called until it returns `None`.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, or what is wrong with it; `None` if more bytes are needed.
    #[expect(
        clippy::should_implement_trait,
        reason = "empty means `feed me`, not the end of an iterator"
    )]
    pub fn next(&mut self) -> Option<Result<FromAgent, Malformed>> {
        while let Some(line) = self.line() {
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            let line = &self.buffer[line];
            return Some(if line.len() > MAX_LINE {
                Err(Malformed::TooLong)
            } else {
                parse(line)
            });
        }
        self.keep_unfinished().then_some(Err(Malformed::TooLong))
    }

    /// The range of the next line, without its end; advances behind it.
    fn line(&mut self) -> Option<Range<usize>> {
        let start = self.start;
        let end = start + self.buffer[start..].iter().position(|&byte| byte == b'\n')?;
        self.start = end + 1;
        Some(start..end)
    }

    /// Makes room for more bytes. True if the unfinished line has just become too long.
    fn keep_unfinished(&mut self) -> bool {
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.skipping || self.buffer.len() > MAX_LINE {
            self.buffer = Vec::new();
            return !std::mem::replace(&mut self.skipping, true);
        }
        self.buffer.shrink_to(MAX_LINE);
        false
    }
}

fn parse(line: &[u8]) -> Result<FromAgent, Malformed> {
    serde_json::from_slice(line).map_err(|error| Malformed::Unknown {
        reason: error.to_string(),
        excerpt: String::from_utf8_lossy(&line[..line.len().min(EXCERPT)]).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(decoder: &mut Decoder) -> Vec<Result<FromAgent, Malformed>> {
        std::iter::from_fn(|| decoder.next()).collect()
    }

    const STREAM: &[u8] = b"{\"hello\":{\"token\":\"t\",\"pid\":7}}\n{\"draining\":{}}\n{\"open\":{\"connections\":3,\"idle\":1,\"requests\":2,\"upgraded\":0}}\n";

    fn messages() -> [FromAgent; 3] {
        let open = Open {
            connections: 3,
            idle: 1,
            requests: 2,
            upgraded: 0,
        };
        [
            FromAgent::Hello {
                token: "t".to_owned(),
                counts: true,
                pid: 7,
            },
            FromAgent::Draining {},
            FromAgent::Open(open),
        ]
    }

    #[test]
    fn messages_are_read_wherever_the_stream_is_cut() {
        for cut in 0..STREAM.len() {
            let mut decoder = Decoder::new();
            let mut found = Vec::new();
            for part in [&STREAM[..cut], &STREAM[cut..]] {
                decoder.feed(part);
                found.extend(all(&mut decoder));
            }
            assert_eq!(found, messages().map(Ok), "cut at {cut}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_reported_once_and_skipped() {
        let mut decoder = Decoder::new();
        decoder.feed(&vec![b'x'; MAX_LINE]);
        assert_eq!(all(&mut decoder), []);
        decoder.feed(b"x");
        assert_eq!(all(&mut decoder), [Err(Malformed::TooLong)]);
        decoder.feed(&vec![b'x'; 3 * MAX_LINE]);
        assert_eq!(all(&mut decoder), []);
        assert!(decoder.buffer.is_empty(), "nothing of it is held");
        decoder.feed(b"x\n{\"draining\":{}}\n");
        assert_eq!(all(&mut decoder), [Ok(FromAgent::Draining {})]);
    }

    #[test]
    fn a_line_that_is_too_long_at_once_is_reported_too() {
        let mut decoder = Decoder::new();
        decoder.feed(&[&vec![b'x'; MAX_LINE + 1], &b"\n{\"draining\":{}}\n"[..]].concat());
        assert_eq!(
            all(&mut decoder),
            [Err(Malformed::TooLong), Ok(FromAgent::Draining {})]
        );
    }

    #[test]
    fn what_is_no_message_says_why() {
        let bad: [&[u8]; 5] = [
            b"",
            b"\xff\xfe",
            b"{\"hello\":{\"pid\":7}}",
            b"{\"hello\":{\"token\":\"\",\"pid\":-1}}",
            b"{\"bye\":{}}",
        ];
        for line in bad {
            let found = parse(line);
            assert!(matches!(found, Err(Malformed::Unknown { .. })), "{found:?}");
        }
        let long = parse(&[b'y'; 1000]).expect_err("no JSON").to_string();
        assert!(
            long.contains(&"y".repeat(EXCERPT)) && long.len() < 2 * EXCERPT,
            "{long}"
        );
    }

    #[test]
    fn messages_to_the_agent_are_lines_of_their_json() {
        for message in [
            ToAgent::Drain { deadline_ms: 30_000 },
            ToAgent::Release {},
            ToAgent::Close {},
        ] {
            let json = serde_json::to_string(&message).expect("plain values");
            assert_eq!(message.line(), format!("{json}\n"));
        }
    }

    #[test]
    fn what_measures_goes_with_the_request_and_fits_into_a_line() {
        let message = |first| ToAgent::Measure {
            for_ms: 30_000,
            first,
        };
        assert_eq!(message(false).line(), "{\"measure\":{\"for_ms\":30000}}\n");
        let line = message(true).line();
        // The agent's own limit (`LINE_LIMIT`), and an eighth of it.
        assert!(line.len() < 8192, "{} bytes", line.len());
        let message: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(message["measure"]["for_ms"], 30_000);
        let module = message["measure"]["module"].as_str().expect("a module");
        assert!(module.starts_with("data:text/javascript;base64,"), "{module}");
    }
}
