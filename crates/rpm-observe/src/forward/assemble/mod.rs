//! Bytes of a log file to records: one for each line, and one for a stack trace or another text of several lines. Without I/O or clock.

use std::borrow::Cow;

use serde::Deserialize;

use super::record::{Stream, time_of_text};

/// The longest record in bytes of its file. Loki takes 256 KiB, and what is written as JSON grows.
pub(super) const RECORD_BYTES: usize = 128 * 1024;

/// What comes after the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// More may come at any moment: the last record waits for it.
    Growing,
    /// Nothing has come for a while: the last record is whole, but a line without its end waits.
    Quiet,
    /// Nothing more comes.
    Ended,
}

/// How much is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub records: usize,
    pub bytes: usize,
}

/// A record as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Raw {
    /// Where it begins, counted from the first byte at hand.
    pub begin: usize,
    /// Where it ends.
    pub end: usize,
    /// Lines that it has.
    pub lines: u32,
    pub text: String,
    pub envelope: Envelope,
}

/// What the daemon has put around a line (`log_type: json`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Envelope {
    pub time_ns: Option<u64>,
    pub id: Option<u32>,
    pub stream: Option<Stream>,
}

/// Records, and how many bytes they and the blank lines between them are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Assembled {
    pub records: Vec<Raw>,
    pub consumed: usize,
    /// There was no more room.
    pub more: bool,
}

/// Takes records from the beginning of `bytes`. `dated`: each line begins with a time and ": ".
pub(super) fn assemble(bytes: &[u8], dated: bool, tail: Tail, room: Room) -> Assembled {
    let mut taken = Assembled::default();
    let mut open: Option<Open> = None;
    let (mut at, mut size) = (0, 0);
    while let Some(line) = next_line(bytes, at, tail) {
        at = line.end;
        let parts = Parts::of(&line, dated);
        if parts.own().trim().is_empty() {
            match &mut open {
                Some(open) => open.blank(&line),
                None => taken.consumed = line.end,
            }
            continue;
        }
        if let Some(open) = open.as_mut().filter(|open| open.takes(&line, &parts)) {
            open.add(&line, &parts);
            continue;
        }
        if let Some(open) = open.take() {
            size += open.text.len();
            taken.push(open);
            if taken.records.len() >= room.records || size >= room.bytes {
                taken.more = true;
                return taken;
            }
        }
        open = Some(Open::new(&line, parts));
    }
    // Whatever follows, a line without an end yet or more blank ones, is too long for this record.
    let is_long = |open: &Open| bytes.len() - open.begin > RECORD_BYTES;
    if let Some(open) = open.filter(|open| tail != Tail::Growing || open.whole || is_long(open)) {
        taken.push(open);
    }
    taken
}

impl Assembled {
    fn push(&mut self, open: Open) {
        self.consumed = open.end;
        self.records.push(Raw {
            begin: open.begin,
            end: open.end,
            lines: open.lines,
            text: open.text,
            envelope: open.envelope,
        });
    }
}

/// A line, or a part of one that is longer than a record.
struct Line<'b> {
    begin: usize,
    end: usize,
    text: Cow<'b, str>,
    is_part: bool,
}

/// The line at `at`; `None` if it has to wait for its end.
fn next_line(bytes: &[u8], at: usize, tail: Tail) -> Option<Line<'_>> {
    let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
    let newline = rest.iter().take(RECORD_BYTES).position(|byte| *byte == b'\n');
    let (length, end, is_part) = match newline {
        Some(newline) => (newline, newline + 1, false),
        None if rest.len() > RECORD_BYTES => {
            let length = boundary(rest);
            (length, length, true)
        }
        None if tail == Tail::Ended => (rest.len(), rest.len(), false),
        None => return None,
    };
    let text = &rest[..length];
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    // A file that was emptied while a program writes at its old end begins with zeros.
    let zeros = text.iter().take_while(|byte| **byte == 0).count();
    let decoded = String::from_utf8_lossy(&text[zeros..]);
    if decoded.len() <= RECORD_BYTES {
        return Some(Line {
            begin: at,
            end: at + end,
            text: decoded,
            is_part,
        });
    }
    // What is no text grows: three bytes stand for one.
    let length = zeros + fitting(&text[zeros..]);
    Some(Line {
        begin: at,
        end: at + length,
        text: String::from_utf8_lossy(&text[zeros..length]),
        is_part: true,
    })
}

/// How many bytes make a text that is no longer than a record.
fn fitting(bytes: &[u8]) -> usize {
    let (mut read, mut written) = (0, 0);
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid();
        if written + valid.len() > RECORD_BYTES {
            return read + valid.floor_char_boundary(RECORD_BYTES - written);
        }
        (read, written) = (read + valid.len(), written + valid.len());
        if !chunk.invalid().is_empty() {
            if written + char::REPLACEMENT_CHARACTER.len_utf8() > RECORD_BYTES {
                return read;
            }
            read += chunk.invalid().len();
            written += char::REPLACEMENT_CHARACTER.len_utf8();
        }
    }
    read
}

/// Where a long line is cut: not within a character.
fn boundary(bytes: &[u8]) -> usize {
    let is_inside = |at: usize| bytes[at] & 0xc0 == 0x80;
    let cut = (RECORD_BYTES - 3..=RECORD_BYTES).rev().find(|at| !is_inside(*at));
    cut.unwrap_or(RECORD_BYTES)
}

/// What the daemon writes around each line with `log_type: json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    message: String,
    timestamp: String,
    #[serde(rename = "type")]
    stream: String,
    process_id: u32,
    #[serde(rename = "app_name")]
    _app: serde::de::IgnoredAny,
}

/// A line without what the daemon has added.
struct Parts {
    text: String,
    /// Where the program's own text begins: after the time.
    own: usize,
    envelope: Envelope,
}

impl Parts {
    fn of(line: &Line<'_>, dated: bool) -> Parts {
        let text = line.text.as_ref();
        if text.starts_with('{')
            && text.contains("\"process_id\":")
            && let Ok(wrapped) = serde_json::from_str::<Wrapped>(text)
        {
            let message = wrapped.message.trim_end_matches(['\n', '\r']);
            return Parts {
                text: message.to_owned(),
                own: 0,
                envelope: Envelope {
                    time_ns: time_of_text(&wrapped.timestamp),
                    id: Some(wrapped.process_id),
                    stream: Stream::named(&wrapped.stream),
                },
            };
        }
        let own = match dated {
            true => text.find(": ").map_or(0, |at| at + 2),
            false => 0,
        };
        Parts {
            text: text.to_owned(),
            own,
            envelope: Envelope::default(),
        }
    }

    fn own(&self) -> &str {
        &self.text[self.own..]
    }
}

/// What kind of text has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Python: ends with the line that names the error.
    Traceback {
        named: bool,
    },
    /// Go: `panic: …`, then goroutines.
    Go,
    /// Rust: `thread 'main' panicked at …`, then the message.
    Rust,
}

/// A record that may go on.
struct Open {
    begin: usize,
    end: usize,
    lines: u32,
    blanks: usize,
    text: String,
    envelope: Envelope,
    kind: Kind,
    /// Nothing can follow.
    whole: bool,
    /// The last line is indented, or opens a bracket.
    inside: bool,
    /// The last line points at a place in the line above it.
    points: bool,
}

const TRACEBACK: &str = "Traceback (most recent call last)";

impl Open {
    fn new(line: &Line<'_>, parts: Parts) -> Open {
        let own = parts.own();
        let kind = match () {
            () if own.starts_with(TRACEBACK) => Kind::Traceback { named: false },
            () if own.starts_with("panic: ") || own.starts_with("fatal error: ") => Kind::Go,
            () if own.starts_with("thread '") && own.contains("' panicked at") => Kind::Rust,
            () => Kind::Plain,
        };
        let whole = line.is_part || (own.starts_with('{') && own.trim_end().ends_with('}'));
        let mut open = Open {
            begin: line.begin,
            end: line.end,
            lines: 1,
            blanks: 0,
            text: String::new(),
            envelope: parts.envelope.clone(),
            kind,
            whole,
            inside: false,
            points: false,
        };
        open.note(own);
        open.text = parts.text;
        open
    }

    fn note(&mut self, own: &str) {
        self.inside = is_indented(own) || own.trim_end().ends_with(['{', '[', '(']);
        let marks = own.trim();
        self.points = is_indented(own) && marks.chars().all(|mark| matches!(mark, '^' | '~'));
    }

    /// It is of this record if the record goes on, and of none otherwise.
    fn blank(&mut self, line: &Line<'_>) {
        self.blanks += 1;
        self.end = line.end;
    }

    /// True if the line belongs to this record.
    fn takes(&self, line: &Line<'_>, parts: &Parts) -> bool {
        let fits = line.end - self.begin <= RECORD_BYTES
            && self.text.len() + self.blanks + 1 + line.text.len() <= RECORD_BYTES;
        let same = self.envelope.id == parts.envelope.id && self.envelope.stream == parts.envelope.stream;
        fits && same && !self.whole && !line.is_part && self.goes_on(parts.own())
    }

    fn goes_on(&self, own: &str) -> bool {
        let begins = |words: &[&str]| words.iter().any(|word| own.starts_with(word));
        if is_indented(own) || (self.points && !own.starts_with('{')) {
            return true;
        }
        if self.inside && own.starts_with(['}', ']', ')']) {
            return true;
        }
        match self.kind {
            Kind::Plain => {
                self.lines > 1 && begins(&["Caused by: ", "Suppressed: ", "--- End of ", "Node.js v"])
            }
            Kind::Traceback { named: false } => true,
            Kind::Traceback { named: true } => begins(&[
                TRACEBACK,
                "During handling of the above exception",
                "The above exception was the direct cause",
            ]),
            Kind::Go => {
                begins(&["goroutine ", "[signal ", "created by ", "panic: ", "exit status "])
                    || (self.lines > 1 && own.contains('(') && own.ends_with(')'))
            }
            Kind::Rust => self.lines == 1 || begins(&["note: ", "stack backtrace:"]),
        }
    }

    fn add(&mut self, line: &Line<'_>, parts: &Parts) {
        let own = parts.own();
        if let Kind::Traceback { named } = &mut self.kind {
            *named = !is_indented(own)
                && !own.starts_with(TRACEBACK)
                && !own.ends_with("exception occurred:")
                && !own.ends_with("following exception:");
        }
        self.note(own);
        for _ in 0..=self.blanks {
            self.text.push('\n');
        }
        self.blanks = 0;
        self.text.push_str(own);
        self.lines += 1;
        self.end = line.end;
    }
}

fn is_indented(text: &str) -> bool {
    text.starts_with([' ', '\t'])
}

#[cfg(test)]
mod tests;
