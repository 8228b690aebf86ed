//! `logs`: lines of the apps, each behind its origin.

use rpm_wire::api::{LogLine, RESERVED_PREFIX, Stream};

use super::Look;

/// Green, cyan, yellow, blue and magenta: processes are told apart by them.
const COLOURS: [u32; 5] = [32, 36, 33, 34, 35];
const RED: &str = "\u{1b}[31m";
const REVERSED: &str = "\u{1b}[7m";
const UPRIGHT: &str = "\u{1b}[27m";
const RESET: &str = "\u{1b}[0m";

/// How wide `id|name` has become: it grows with what has been seen, so that columns align.
pub(crate) fn origin_width(width: usize, line: &LogLine) -> usize {
    width.max(origin(line).chars().count().min(MAX_WIDTH))
}

/// `id|name`, or the name alone of a file that does not say which process has written the line, and of a hidden process, whose id is none
/// that a user has seen.
fn origin(line: &LogLine) -> String {
    match line.shared || line.name.starts_with(RESERVED_PREFIX) {
        true => line.name.clone(),
        false => format!("{}|{}", line.id, line.name),
    }
}

/// Names longer than that are not padded to.
const MAX_WIDTH: usize = 24;

/// `id|name | line`, the origin padded to `width`, red for errors and otherwise in the colour of the process. The line is the
/// app's own and goes out as it is, colours included.
pub(crate) fn log_line(line: &LogLine, width: usize, look: Look) -> String {
    let origin = origin(line);
    let text = &line.line;
    match (look, line.stream) {
        (Look::Coloured, Stream::Out) => {
            let colour = COLOURS[line.id as usize % COLOURS.len()];
            format!("\u{1b}[{colour}m{origin:width$} |{RESET} {text}{RESET}")
        }
        (Look::Coloured, Stream::Err) => format!("{RED}{origin:width$} |{RESET} {text}{RESET}"),
        (Look::Plain | Look::Terminal, _) => format!("{origin:width$} | {text}"),
    }
}

/// The text with every occurrence of `what` reversed, where that can be seen.
pub(crate) fn highlighted(text: &str, what: &str, look: Look) -> String {
    match look {
        Look::Coloured => text.replace(what, &format!("{REVERSED}{what}{UPRIGHT}")),
        Look::Plain | Look::Terminal => text.to_owned(),
    }
}
