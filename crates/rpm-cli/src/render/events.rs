//! `events`: a line for each, and below a crash what the worker has said last.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use rpm_wire::api::RESERVED_PREFIX;
use rpm_wire::dayjs::format_time;
use rpm_wire::events::{Head, Lost, Subject, Tone, What};

use super::Look;
use super::table::{LEAST_TEXT, columns_of, cut, visible, wrapped};

/// The time in front, in the local zone; it is as wide in every month.
const TIME: &str = "MMM DD HH:mm:ss";
/// Between the columns.
const GAP: &str = "  ";
/// Names longer than that are not padded to.
const WIDEST_NAME: usize = 24;
/// The events of the daemon itself.
const DAEMON: &str = "-";

const DIM: &str = "\u{1b}[2m";
const RESET: &str = "\u{1b}[0m";

/// Events as lines of text. The column of names grows with what has been seen.
#[derive(Debug)]
pub(crate) struct EventLines {
    look: Look,
    zone: TimeZone,
    /// Columns of the terminal; `None`: lines are as long as they are.
    columns: Option<usize>,
    names: usize,
}

impl EventLines {
    /// On a terminal with so many columns, if it is one.
    pub(crate) fn new(look: Look, columns: Option<usize>) -> EventLines {
        EventLines {
            look,
            zone: TimeZone::system(),
            columns: columns.filter(|_| look != Look::Plain),
            names: 0,
        }
    }

    /// Makes the column of names as wide as this line of the stream needs.
    pub(crate) fn widen(&mut self, line: &[u8]) {
        if let Ok(subject) = serde_json::from_slice(line) {
            let width = columns_of(&name(&subject));
            self.names = self.names.max(width.min(WIDEST_NAME));
        }
    }

    /// The text of a line of the stream; `None`: it is not one that this version knows anything of.
    pub(crate) fn text(&mut self, line: &[u8]) -> Option<String> {
        if let Ok(Lost { lost }) = serde_json::from_slice(line) {
            return Some(self.paint(
                Tone::Warning,
                &format!("({lost} older events are not kept any more)"),
            ));
        }
        let head: Head = serde_json::from_slice(line).ok()?;
        let name = name(&serde_json::from_slice(line).unwrap_or_default());
        let (sentence, tone, last_lines) = match serde_json::from_slice::<What>(line) {
            Ok(what) => (what.sentence(), what.tone(), what.last_lines().to_vec()),
            // Of a newer daemon.
            Err(_) => (head.kind.replace('_', " "), Tone::Plain, Vec::new()),
        };
        let time = self.time(head.at_ms);
        let pad = " ".repeat(self.names.saturating_sub(columns_of(&name)));
        let indent = columns_of(&time) + 2 * GAP.len() + self.names.max(columns_of(&name));
        let mut text = format!("{}{GAP}{name}{pad}{GAP}", self.dim(&time));
        for (index, part) in self.wrapped(&visible(&sentence), indent).iter().enumerate() {
            if index > 0 {
                text.push('\n');
                text.push_str(&" ".repeat(indent));
            }
            text.push_str(&self.paint(tone, part));
        }
        for last in last_lines {
            text.push('\n');
            let shown = format!("{}| {}", " ".repeat(indent), visible(&last));
            let room = self.columns.filter(|columns| *columns >= indent + LEAST_TEXT);
            let shown = room.map_or(shown.clone(), |room| cut(&shown, room));
            text.push_str(&self.dim(&shown));
        }
        Some(text)
    }

    fn time(&self, ms: u64) -> String {
        let time = i64::try_from(ms)
            .ok()
            .and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let zoned: Option<Zoned> = time.map(|time| time.to_zoned(self.zone.clone()));
        zoned.map_or_else(|| "?".to_owned(), |zoned| format_time(TIME, &zoned))
    }

    /// The words in as many lines as they need behind the indentation.
    fn wrapped(&self, text: &str, indent: usize) -> Vec<String> {
        wrapped(text, self.columns.map(|columns| columns.saturating_sub(indent)))
    }

    fn dim(&self, text: &str) -> String {
        match self.look {
            Look::Coloured => format!("{DIM}{text}{RESET}"),
            Look::Plain | Look::Terminal => text.to_owned(),
        }
    }

    fn paint(&self, tone: Tone, text: &str) -> String {
        let colour = match (self.look, tone) {
            (Look::Plain | Look::Terminal, _) | (Look::Coloured, Tone::Plain) => return text.to_owned(),
            (Look::Coloured, Tone::Good) => 32,
            (Look::Coloured, Tone::Warning) => 33,
            (Look::Coloured, Tone::Bad) => 31,
        };
        format!("\u{1b}[{colour}m{text}{RESET}")
    }
}

fn name(subject: &Subject) -> String {
    let app = subject.app.as_deref().map(visible);
    match (app, subject.id) {
        // The id of a hidden process is none that a user has seen.
        (Some(app), Some(_)) if app.starts_with(RESERVED_PREFIX) => app,
        (Some(app), Some(id)) => format!("{app} {id}"),
        (Some(app), None) => app,
        (None, Some(id)) => id.to_string(),
        (None, None) => DAEMON.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(look: Look, columns: Option<usize>) -> EventLines {
        EventLines {
            zone: TimeZone::fixed(jiff::tz::offset(1)),
            ..EventLines::new(look, columns)
        }
    }

    const CRASH: &str = r#"{"seq":7,"at_ms":1772716029042,"app":"api","namespace":"default","id":2,"worker":14,"pid":4242,"generation":1,"kind":"crashed","exit_code":1,"failures":3,"max_restarts":16,"retry_in_ms":200,"last_lines":["Error: no\u001b[2J"]}"#;

    #[test]
    fn a_time_a_name_and_what_happened_in_columns() {
        let mut lines = lines(Look::Plain, Some(40));
        lines.widen(CRASH.as_bytes());
        assert_eq!(
            lines.text(CRASH.as_bytes()).unwrap(),
            "Mar 05 14:07:09  api 2  crashed with exit code 1; next try in 200 ms (failure 3 of 16)\n                        | Error: no\u{fffd}[2J"
        );
        let ready = r#"{"seq":8,"at_ms":1772716029042,"app":"long-name","id":13,"kind":"ready"}"#;
        lines.widen(ready.as_bytes());
        assert_eq!(
            lines.text(ready.as_bytes()).unwrap(),
            "Mar 05 14:07:09  long-name 13  ready"
        );
        let stopped = r#"{"seq":9,"at_ms":1772716029042,"pid":1,"kind":"daemon_stopped"}"#;
        assert_eq!(
            lines.text(stopped.as_bytes()).unwrap(),
            "Mar 05 14:07:09  -             daemon stopped"
        );
        assert_eq!(
            lines.text(br#"{"lost":3}"#).unwrap(),
            "(3 older events are not kept any more)"
        );
        let newer = r#"{"seq":9,"at_ms":1772716029042,"app":"api","kind":"of_tomorrow","x":1}"#;
        assert_eq!(
            lines.text(newer.as_bytes()).unwrap(),
            "Mar 05 14:07:09  api           of tomorrow"
        );
        assert_eq!(lines.text(b"{}"), None);
    }

    #[test]
    fn on_a_terminal_it_is_wrapped_below_itself() {
        let mut lines = lines(Look::Terminal, Some(60));
        lines.widen(CRASH.as_bytes());
        let text = lines.text(CRASH.as_bytes()).unwrap();
        let shown: Vec<&str> = text.lines().collect();
        assert_eq!(
            shown[0],
            "Mar 05 14:07:09  api 2  crashed with exit code 1; next try"
        );
        assert_eq!(shown[1], "                        in 200 ms (failure 3 of 16)");
        assert!(shown.iter().all(|line| columns_of(line) <= 60), "{text}");
    }
}
