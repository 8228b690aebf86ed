//! The output that is shown: kept up to a bound, followed or paused, wrapped or not, searched. Only what is visible is cut into rows.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use rpm_wire::api::{LogLine, Stream};

use super::text::{Level, found, level, plain, rows, skipped};

/// Maximum number of lines that are kept.
pub(super) const LINES: usize = 10_000;
/// Maximum length of them together, in bytes.
const BYTES: usize = 16 << 20;
/// Columns that one step to the left or right passes.
const SIDEWAYS: usize = 8;

/// A line of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The instance that has written it.
    pub(super) id: u32,
    pub(super) stream: Stream,
    /// Milliseconds since the Unix epoch, if known.
    pub(super) time_ms: Option<u64>,
    /// What it is sorted by: never less than that of the entry before it.
    order: u64,
    pub(super) level: Option<Level>,
    pub(super) text: String,
}

/// The place of a line: its number since the stream began. It stays when older lines are dropped.
type Number = u64;

/// A row of the screen: part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Visible {
    pub(super) line: Number,
    /// It is the first row of its line.
    pub(super) first: bool,
    /// Which part of the text.
    pub(super) range: Range<usize>,
}

/// Which part is visible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Anchor {
    /// The last lines.
    #[default]
    Follow,
    /// From this row of this line on.
    At { line: Number, row: usize },
}

/// What is searched for, and where it is.
#[derive(Clone, Debug, Default)]
struct Search {
    wanted: String,
    /// Lines that contain it.
    lines: VecDeque<Number>,
    /// The line that was jumped to.
    current: Option<Number>,
}

/// Which line comes first. The daemon sends the past of one file after that of another.
#[derive(Debug, Default)]
struct Order {
    /// When the last line of each file was written.
    last: HashMap<(u32, Stream), u64>,
    /// The clock was set back: lines stay as they come, or new ones would be shown among old ones.
    is_broken: bool,
}

impl Order {
    /// What this line is sorted by, if the last one of all is sorted by `end`.
    fn of(&mut self, line: &LogLine, end: u64) -> u64 {
        let last = self.last.entry((line.id, line.stream)).or_default();
        let time = line.time_ms.unwrap_or(*last);
        self.is_broken |= time < *last;
        *last = time;
        if self.is_broken { end.max(time) } else { time }
    }
}

/// Lines of output, and the window into them.
#[derive(Debug, Default)]
pub(super) struct Book {
    entries: VecDeque<Entry>,
    /// The number of the first entry.
    first: Number,
    /// Length of all texts.
    bytes: usize,
    order: Order,
    anchor: Anchor,
    search: Search,
    /// Long lines are cut at the right edge, and not wrapped.
    pub(super) cut: bool,
    /// The time of each line is shown.
    pub(super) times: bool,
    /// Columns that are left out at the left, if lines are cut.
    left: usize,
    /// Columns for text, and rows, of the window.
    size: (usize, usize),
}

impl Book {
    /// Takes a line.
    pub(super) fn push(&mut self, line: &LogLine) {
        let text = plain(&line.line);
        let end = self.entries.back().map_or(0, |entry| entry.order);
        let order = self.order.of(line, end);
        let place = match order >= end {
            true => self.entries.len(),
            false => self.entries.partition_point(|entry| entry.order <= order),
        };
        self.make_room(
            self.first + place as Number,
            !found(&text, &self.search.wanted).is_empty(),
        );
        self.bytes += text.len();
        let entry = Entry {
            id: line.id,
            stream: line.stream,
            time_ms: line.time_ms,
            order,
            level: level(&text),
            text,
        };
        self.entries.insert(place, entry);
        while self.entries.len() > LINES || self.bytes > BYTES {
            self.drop_first();
        }
    }

    /// A line comes to this place: what is known by later places moves on.
    fn make_room(&mut self, number: Number, is_match: bool) {
        let Search { lines, current, .. } = &mut self.search;
        let place = lines.partition_point(|line| *line < number);
        lines.iter_mut().skip(place).for_each(|line| *line += 1);
        if is_match {
            lines.insert(place, number);
        }
        if let Some(line) = current.as_mut().filter(|line| **line >= number) {
            *line += 1;
        }
        if let Anchor::At { line, .. } = &mut self.anchor
            && *line >= number
        {
            *line += 1;
        }
    }

    fn drop_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.text.len();
            self.first += 1;
        }
        let first = self.first;
        while self.search.lines.front().is_some_and(|line| *line < first) {
            self.search.lines.pop_front();
        }
        if let Anchor::At { line, row } = &mut self.anchor
            && *line < first
        {
            (*line, *row) = (first, 0);
        }
    }

    /// Forgets the lines, not what is searched for.
    pub(super) fn clear(&mut self) {
        self.first = self.end();
        self.entries.clear();
        self.bytes = 0;
        self.order = Order::default();
        self.anchor = Anchor::Follow;
        self.left = 0;
        self.search.lines.clear();
        self.search.current = None;
    }

    /// Number of the line that comes next.
    fn end(&self) -> Number {
        self.first + self.entries.len() as Number
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entry(&self, line: Number) -> Option<&Entry> {
        let place = usize::try_from(line.checked_sub(self.first)?).ok()?;
        self.entries.get(place)
    }

    pub(super) fn is_followed(&self) -> bool {
        self.anchor == Anchor::Follow
    }

    /// The size of the window: columns for text, and rows.
    pub(super) fn resize(&mut self, columns: usize, rows: usize) {
        let size = (columns.max(1), rows.max(1));
        if size == self.size {
            return;
        }
        self.size = size;
        if let Anchor::At { line, row } = self.anchor {
            // At another width the line may have fewer rows, and the window may be larger than what is below.
            let row = row.min(self.rows_of(line).len().saturating_sub(1));
            let (line, row) = (line, row).min(self.last_top());
            self.anchor = Anchor::At { line, row };
        }
    }

    /// The rows of a line.
    fn rows_of(&self, line: Number) -> Vec<Range<usize>> {
        let Some(entry) = self.entry(line) else {
            return Vec::new();
        };
        match self.cut {
            true => {
                let from = skipped(&entry.text, self.left);
                std::iter::once(from..entry.text.len()).collect()
            }
            false => rows(&entry.text, self.size.0),
        }
    }

    /// The first row of the window that ends with the last line.
    fn last_top(&self) -> (Number, usize) {
        let mut room = self.size.1;
        let mut line = self.end();
        while line > self.first {
            line -= 1;
            let rows = self.rows_of(line).len();
            if rows >= room {
                return (line, rows - room);
            }
            room -= rows;
        }
        (self.first, 0)
    }

    fn top(&self) -> (Number, usize) {
        match self.anchor {
            Anchor::Follow => self.last_top(),
            Anchor::At { line, row } => (line, row),
        }
    }

    /// What is visible, from above.
    pub(super) fn visible(&self) -> Vec<Visible> {
        let (top, skip) = self.top();
        let parts = (top..self.end()).flat_map(|line| {
            let rows = self.rows_of(line).into_iter().enumerate();
            rows.map(move |(row, range)| Visible {
                line,
                first: row == 0,
                range,
            })
        });
        parts.skip(skip).take(self.size.1).collect()
    }

    /// Number of lines below the window.
    pub(super) fn below(&self) -> u64 {
        match self.anchor {
            Anchor::Follow => 0,
            Anchor::At { .. } => {
                let last = self.visible().last().map_or(self.end(), |row| row.line + 1);
                self.end() - last
            }
        }
    }

    /// Share of the lines that is above the window, from 0 to 1, and share that is visible.
    pub(super) fn position(&self) -> (f64, f64) {
        let all = self.entries.len().max(1) as f64;
        let above = (self.top().0 - self.first) as f64;
        (above / all, (self.size.1 as f64 / all).min(1.0))
    }

    /// Pauses where the window is.
    pub(super) fn pause(&mut self) {
        // There is nothing to stay at.
        if self.entries.is_empty() {
            return;
        }
        let (line, row) = self.top();
        self.anchor = Anchor::At { line, row };
    }

    /// Shows the last lines, and each new one.
    pub(super) fn follow(&mut self) {
        self.anchor = Anchor::Follow;
    }

    /// Moves the window by so many rows; negative: up. At the end it follows.
    pub(super) fn scroll(&mut self, by: isize) {
        let (mut line, mut row) = self.top();
        // No step goes farther than to an end.
        let mut left = by.unsigned_abs();
        if by < 0 {
            while left > row {
                if line == self.first {
                    left = row;
                    break;
                }
                left -= row + 1;
                line -= 1;
                row = self.rows_of(line).len().saturating_sub(1);
            }
            row -= left;
        } else {
            while left > 0 {
                let rows = self.rows_of(line).len();
                if row + left < rows {
                    row += left;
                    break;
                }
                left -= rows - row;
                row = 0;
                line += 1;
                if line >= self.end() {
                    break;
                }
            }
        }
        self.anchor = Anchor::At { line, row };
        self.settle();
    }

    /// A window that has reached the end follows.
    fn settle(&mut self) {
        if self.top() >= self.last_top() {
            self.follow();
        }
    }

    /// Wraps long lines, or cuts them.
    pub(super) fn toggle_wrap(&mut self) {
        self.cut = !self.cut;
        self.left = 0;
        if let Anchor::At { row, .. } = &mut self.anchor {
            *row = 0;
        }
    }

    /// Moves sideways, where lines are cut.
    pub(super) fn shift(&mut self, right: bool) {
        self.left = match (self.cut, right) {
            (false, _) => 0,
            (true, true) => self.left.saturating_add(SIDEWAYS).min(super::text::LONGEST),
            (true, false) => self.left.saturating_sub(SIDEWAYS),
        };
    }

    /// What is searched for; empty: nothing.
    pub(super) fn wanted(&self) -> &str {
        &self.search.wanted
    }

    /// Searches for something else.
    pub(super) fn search(&mut self, wanted: &str) {
        let contains = |(place, entry): (usize, &Entry)| {
            let is_there = !found(&entry.text, wanted).is_empty();
            is_there.then_some(self.first + place as Number)
        };
        let lines = self.entries.iter().enumerate().filter_map(contains).collect();
        self.search = Search {
            wanted: wanted.to_owned(),
            lines,
            current: None,
        };
    }

    /// Goes to the next line below the current one that contains it, or above; from the end on from the other end. `false`: there is none.
    pub(super) fn jump(&mut self, down: bool) -> bool {
        let lines = &self.search.lines;
        let from = self.search.current.unwrap_or_else(|| match self.is_followed() {
            // The newest one is the first that is wanted, as nothing is below.
            true => self.end(),
            false => self.top().0,
        });
        let place = match down {
            true => lines.iter().find(|line| **line > from).or(lines.front()),
            false => lines.iter().rev().find(|line| **line < from).or(lines.back()),
        };
        let Some(&line) = place else { return false };
        self.search.current = Some(line);
        self.show(line);
        true
    }

    /// Moves the window so that this line is in it, and not at its edge if it was not.
    fn show(&mut self, line: Number) {
        let (top, _) = self.top();
        let is_visible = line > top && self.visible().last().is_some_and(|last| line < last.line);
        if is_visible {
            return self.pause();
        }
        self.anchor = Anchor::At { line, row: 0 };
        let third = isize::try_from(self.size.1 / 3).unwrap_or(0);
        self.scroll(-third);
        // A window that would end below the last line ends with it. It is paused all the same: the next match may be above.
        let (line, row) = self.top().min(self.last_top());
        self.anchor = Anchor::At { line, row };
    }

    /// The number of the current match and of all; `None`: nothing is searched for.
    pub(super) fn matches(&self) -> Option<(usize, usize)> {
        let search = &self.search;
        let place = |current| search.lines.iter().position(|line| *line == current);
        let current = search.current.and_then(place).map_or(0, |place| place + 1);
        (!search.wanted.is_empty()).then_some((current, search.lines.len()))
    }

    /// Where the text of this line contains what is searched for, and whether it is the current match.
    pub(super) fn marks(&self, line: Number) -> (Vec<Range<usize>>, bool) {
        let ranges = self
            .entry(line)
            .map(|entry| found(&entry.text, &self.search.wanted));
        (ranges.unwrap_or_default(), self.search.current == Some(line))
    }
}

#[cfg(test)]
mod tests;
