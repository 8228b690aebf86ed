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
        if line.text.trim().is_empty() {
            match &mut open {
                Some(open) => open.blank(&line),
                None => taken.consumed = line.end,
            }
            continue;
        }
        let parts = Parts::of(&line, dated);
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
    Some(Line {
        begin: at,
        end: at + end,
        text: String::from_utf8_lossy(&text[zeros..]),
        is_part,
    })
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
        let fits = line.end - self.begin <= RECORD_BYTES;
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
mod tests {
    use super::*;

    const ALL: Room = Room {
        records: usize::MAX,
        bytes: usize::MAX,
    };

    fn texts(text: &str, dated: bool, tail: Tail) -> Vec<String> {
        let taken = assemble(text.as_bytes(), dated, tail, ALL);
        taken.records.into_iter().map(|raw| raw.text).collect()
    }

    #[test]
    fn a_line_is_a_record_and_a_stack_is_one_too() {
        let node = "Error: boom\n    at f (a.js:1:2)\n    at g (a.js:3:4) {\n  code: 'E'\n}";
        let uncaught =
            "/srv/a.js:3\n    throw new Error('x');\n    ^\n\nError: x\n    at a.js:3:1\n\nNode.js v22.1.0";
        let python = "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    g()\nKeyError: 'a'\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"a.py\", line 2\nValueError: b";
        let java = "java.lang.IllegalStateException: a\n\tat A.f(A.java:1)\nCaused by: java.io.IOException: b\n\tat B.g(B.java:2)\n\t... 12 more";
        let go = "panic: boom\n\ngoroutine 1 [running]:\nmain.f(0x1)\n\t/srv/a.go:5 +0x1d\nmain.main()\n\t/srv/a.go:9 +0x1d\nexit status 2";
        let rust = "thread 'main' panicked at src/main.rs:2:5:\nboom\nnote: run with `RUST_BACKTRACE=1`";
        let dotnet = "Unhandled exception. System.Exception: a\n   at A.F()\n   --- End of inner exception stack trace ---\n   at B.G()";
        let object = "{\n  a: 1,\n  b: [\n    2\n  ]\n}";
        for stack in [node, uncaught, python, java, go, rust, dotnet, object] {
            let text = format!("before\n{stack}\nafter 1\nafter 2\n");
            let expected = ["before", stack, "after 1", "after 2"];
            assert_eq!(texts(&text, false, Tail::Quiet), expected);
            // Whatever comes between two looks, a line is never in two records.
            for cut in 0..text.len() {
                let first = assemble(&text.as_bytes()[..cut], false, Tail::Growing, ALL);
                let rest = assemble(&text.as_bytes()[first.consumed..], false, Tail::Quiet, ALL);
                let both: Vec<String> = first
                    .records
                    .into_iter()
                    .chain(rest.records)
                    .map(|raw| raw.text)
                    .collect();
                assert_eq!(both, expected, "cut at {cut}");
            }
        }
    }

    #[test]
    fn what_may_go_on_waits() {
        for (text, tail, expected, consumed) in [
            ("one\ntwo\n", Tail::Growing, &["one"][..], 4),
            ("one\ntwo\n", Tail::Quiet, &["one", "two"], 8),
            ("one\ntw", Tail::Quiet, &["one"], 4),
            ("one\ntw", Tail::Ended, &["one", "tw"], 6),
            ("\n\n", Tail::Growing, &[], 2),
            ("one\n\n\n", Tail::Growing, &[], 0),
            ("one\n\n\ntwo\n", Tail::Growing, &["one"], 6),
            ("one\r\ntwo\n", Tail::Quiet, &["one", "two"], 9),
            ("\0\0\0one\n", Tail::Quiet, &["one"], 7),
            ("{\"a\":1}\n", Tail::Growing, &["{\"a\":1}"], 8),
            ("{\"a\":1}\n  two\n", Tail::Quiet, &["{\"a\":1}", "  two"], 14),
            ("", Tail::Ended, &[], 0),
        ] {
            let taken = assemble(text.as_bytes(), false, tail, ALL);
            let texts: Vec<&str> = taken.records.iter().map(|raw| raw.text.as_str()).collect();
            assert_eq!(
                (texts.as_slice(), taken.consumed),
                (expected, consumed),
                "{text:?} {tail:?}"
            );
        }
    }

    #[test]
    fn records_are_bounded() {
        let stack = format!("Error: a\n{}", "    at f (a.js:1:2)\n".repeat(20_000));
        let long = "ä".repeat(RECORD_BYTES);
        for text in [format!("{stack}after\n"), format!("{long}\nafter\n")] {
            let taken = assemble(text.as_bytes(), false, Tail::Quiet, ALL);
            assert_eq!(taken.consumed, text.len());
            assert!(
                taken
                    .records
                    .iter()
                    .all(|raw| raw.end - raw.begin <= RECORD_BYTES + 1)
            );
            let joined: String = taken.records.iter().map(|raw| raw.text.as_str()).collect();
            assert_eq!(
                joined.replace('\n', ""),
                text.replace('\n', ""),
                "nothing is missing"
            );
            assert!(joined.ends_with("after") && taken.records.len() < 10);
            let some = assemble(
                text.as_bytes(),
                false,
                Tail::Quiet,
                Room {
                    records: 1,
                    bytes: usize::MAX,
                },
            );
            assert_eq!((some.records.len(), some.consumed), (1, some.records[0].end));
            let some = assemble(text.as_bytes(), false, Tail::Quiet, Room { records: 9, bytes: 1 });
            assert_eq!(some.records.len(), 1);
        }
        // Progress, whatever is at hand: twice a record is always enough for one.
        let blank = format!("one\n{}", "\n".repeat(2 * RECORD_BYTES));
        let spaces = format!("one\n{}", " ".repeat(2 * RECORD_BYTES));
        let full = format!("{}\n{}", "a".repeat(RECORD_BYTES - 1), "b".repeat(RECORD_BYTES));
        for text in [&long, &stack, &blank, &spaces, &full] {
            let text = &text.as_bytes()[..2 * RECORD_BYTES];
            let taken = assemble(text, false, Tail::Growing, ALL);
            assert!(taken.consumed > 0 && !taken.records.is_empty());
        }
    }

    #[test]
    fn what_the_daemon_adds_is_taken_off() {
        let dated = "2026-03-05T14:07:09: Error: a\n2026-03-05T14:07:09:     at f\n2026-03-05T14:07:10: b\n";
        let expected = [
            "2026-03-05T14:07:09: Error: a\n    at f",
            "2026-03-05T14:07:10: b",
        ];
        assert_eq!(texts(dated, true, Tail::Quiet), expected);
        let wrapped = |message: &str, id: u32| {
            let object = serde_json::json!({"message": message, "timestamp": "2026-03-05T13:07:09.042Z", "type": "err", "process_id": id, "app_name": "web"});
            format!("{object}\n")
        };
        let text = wrapped("Error: a\n", 1) + &wrapped("    at f\n", 1) + &wrapped("    at g\n", 2);
        let taken = assemble(text.as_bytes(), false, Tail::Quiet, ALL);
        let texts: Vec<&str> = taken.records.iter().map(|raw| raw.text.as_str()).collect();
        assert_eq!(
            texts,
            ["Error: a\n    at f", "    at g"],
            "another worker has written the last line"
        );
        let expected = Envelope {
            time_ns: Some(1_772_716_029_042_000_000),
            id: Some(1),
            stream: Some(Stream::Err),
        };
        assert_eq!(
            (&taken.records[0].envelope, taken.records[0].lines),
            (&expected, 2)
        );
    }
}
