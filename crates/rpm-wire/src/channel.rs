//! The IPC channel of Node in its JSON mode, seen from the primary's side of node:cluster.
//!
//! A message is one line of JSON. Those whose `cmd` starts with `NODE_` are the runtime's own; all
//! others are what the program passed to `process.send`. The shapes were observed on Node 18 to 26
//! and Bun 1.4; the protocol itself is defined by `lib/internal/child_process.js` and
//! `lib/internal/cluster/` of Node.
//!
//! A descriptor travels by `SCM_RIGHTS` beside the bytes of the one `NODE_HANDLE` line it belongs to.

mod encode;
mod from_worker;
mod query;

use std::collections::VecDeque;

pub use encode::{Handle, ServerReply, ack, handle_ack, message, newconn, ping, reply_server};
pub use from_worker::{FromWorker, Malformed, is_internal};
pub use query::{AddressType, DEFAULT_BACKLOG, QueryServer};

/// Longest line a worker may send, in bytes. Cluster messages have some hundred; the rest is for
/// `process.send`, of which the daemon needs none.
pub const MAX_LINE: usize = 1 << 20;

/// Capacity kept between messages, in bytes: what one long message took is given back.
const KEPT_CAPACITY: usize = 4096;

/// Byte that Bun puts before each message of the runtime itself, and expects in the answer.
const BUN_INTERNAL: u8 = 0x02;

/// Whose variant of the protocol the worker speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Plain lines.
    #[default]
    Node,
    /// The runtime's own messages start with 0x02, and answers without it are not understood.
    Bun,
}

/// Cuts a worker's bytes into messages. Holds at most [`MAX_LINE`] bytes of an unfinished line.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Vec<u8>,
    /// The current line is too long: drop bytes up to its end.
    skipping: bool,
    decoded: VecDeque<Result<FromWorker, Malformed>>,
    dialect: Dialect,
}

impl Decoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream, cut anywhere. What they complete is returned by
    /// [`Decoder::next`], which is to be called until it is empty before more is fed.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.end_line(&bytes[..end]);
            bytes = &bytes[end + 1..];
        }
        self.extend_line(bytes);
    }

    /// The next message, or what is wrong with it; `None` when more bytes are needed. A line longer
    /// than [`MAX_LINE`] gives one [`Malformed::TooLong`], as soon as it is too long.
    #[expect(
        clippy::should_implement_trait,
        reason = "empty means `feed me`, not the end of an iterator"
    )]
    pub fn next(&mut self) -> Option<Result<FromWorker, Malformed>> {
        self.decoded.pop_front()
    }

    /// The variant the worker speaks, as far as it has shown: Node until proved otherwise.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    fn end_line(&mut self, tail: &[u8]) {
        if self.skipping {
            self.skipping = false;
        } else if self.partial.is_empty() {
            self.decode(tail);
        } else {
            self.extend_line(tail);
            if !std::mem::take(&mut self.skipping) {
                let line = std::mem::take(&mut self.partial);
                self.decode(&line);
                self.partial = line;
            }
            self.reset_partial();
        }
    }

    fn extend_line(&mut self, bytes: &[u8]) {
        if self.skipping {
            return;
        }
        if self.partial.len() + bytes.len() > MAX_LINE {
            self.decoded.push_back(Err(Malformed::TooLong));
            self.skipping = true;
            self.reset_partial();
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    fn decode(&mut self, line: &[u8]) {
        if line.len() > MAX_LINE {
            self.decoded.push_back(Err(Malformed::TooLong));
            return;
        }
        let line = match line {
            [BUN_INTERNAL, rest @ ..] => {
                self.dialect = Dialect::Bun;
                rest
            }
            _ => line,
        };
        self.decoded.push_back(FromWorker::parse(line));
    }

    fn reset_partial(&mut self) {
        self.partial.clear();
        self.partial.shrink_to(KEPT_CAPACITY);
    }
}

#[cfg(test)]
mod tests;
