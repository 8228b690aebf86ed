//! Answers of a bounded size: a model reads every byte of them. Pure.

use rpm_wire::api::LogLine;
use rpm_wire::terminal;
use serde::Serialize;

/// Room for the lists of an answer, in bytes of JSON: some ten thousand tokens.
pub(super) const ROOM: usize = 40_000;
/// Longest line or message, in bytes.
const LONGEST: usize = 2_000;

/// Room that is left in an answer.
#[derive(Debug)]
pub(super) struct Room(usize);

impl Room {
    pub(super) fn new() -> Room {
        Room(ROOM)
    }

    /// That of one of two lists.
    pub(super) fn half() -> Room {
        Room(ROOM / 2)
    }

    /// As many of the first as there is room for, and how many are left out.
    pub(super) fn first<T: Serialize>(&mut self, mut items: Vec<T>) -> (Vec<T>, usize) {
        let fitting = items.iter().take_while(|item| self.takes(*item)).count();
        let left_out = items.len() - fitting;
        items.truncate(fitting);
        (items, left_out)
    }

    /// As many of the last as there is room for, and how many are left out.
    pub(super) fn last<T: Serialize>(&mut self, mut items: Vec<T>) -> (Vec<T>, usize) {
        let fitting = items.iter().rev().take_while(|item| self.takes(*item)).count();
        let left_out = items.len() - fitting;
        (items.split_off(left_out), left_out)
    }

    fn takes(&mut self, item: &impl Serialize) -> bool {
        // What cannot be written has no place.
        let length = serde_json::to_vec(item).map_or(usize::MAX, |json| json.len() + 1);
        let left = self.0.checked_sub(length);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

/// Text as a model needs it: without colours, what else a terminal would obey made visible, and not longer than a line may be.
pub(super) fn legible(text: &str) -> String {
    let text = uncoloured(text);
    let text = terminal::escaped(&text);
    match text.len() <= LONGEST {
        true => text.into_owned(),
        false => {
            let end = text.floor_char_boundary(LONGEST);
            format!("{}… ({} bytes more)", &text[..end], text.len() - end)
        }
    }
}

/// Without control sequences (`ESC [ … letter`), most of which are colours.
pub(super) fn uncoloured(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut parts = text.split("\u{1b}[");
    plain.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let end = part.find(|letter: char| matches!(letter, '\u{40}'..='\u{7e}'));
        plain.push_str(end.and_then(|end| part.get(end + 1..)).unwrap_or_default());
    }
    plain
}

/// The newest lines of several files, each of which comes in its own order.
#[derive(Debug)]
pub(super) struct Tail {
    most: usize,
    lines: Vec<LogLine>,
    left_out: usize,
}

impl Tail {
    pub(super) fn new(most: usize) -> Tail {
        Tail {
            most,
            lines: Vec::new(),
            left_out: 0,
        }
    }

    /// One more line.
    pub(super) fn push(&mut self, line: LogLine) {
        self.lines.push(line);
        if self.lines.len() >= 2 * self.most {
            self.trim();
        }
    }

    /// The newest lines, oldest first, and how many older ones there were.
    pub(super) fn finish(mut self) -> (Vec<LogLine>, usize) {
        self.trim();
        (self.lines, self.left_out)
    }

    /// Those of which no time is known are the oldest.
    fn trim(&mut self) {
        self.lines.sort_by_key(|line| line.time_ms);
        let over = self.lines.len().saturating_sub(self.most);
        self.lines.drain(..over);
        self.left_out += over;
    }
}
