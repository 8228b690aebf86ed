//! Lines of output made fit for the screen: without control sequences, with their severity, cut into rows, searched.

use std::ops::Range;

use ratatui::text::Span;
use rpm_wire::terminal::is_obeyed;

/// Maximum length of a kept line, in bytes.
pub(super) const LONGEST: usize = 8 << 10;
/// Width of a tab stop.
const TAB: usize = 4;
/// Part of a line, in bytes, in which its severity is looked for.
const HEAD: usize = 160;

/// How severe a line says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Error,
    Warning,
    Info,
    Debug,
}

/// The line without escape sequences, with tabs as blanks, and with a mark for every other character that a terminal would obey. A long line
/// ends in `…`.
pub(super) fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len().min(LONGEST));
    let mut letters = line.chars().peekable();
    let mut column = 0;
    while let Some(letter) = letters.next() {
        if text.len() >= LONGEST {
            text.push('…');
            break;
        }
        match letter {
            '\u{1b}' => skip_sequence(&mut letters),
            '\t' => {
                let blanks = TAB - column % TAB;
                text.extend(std::iter::repeat_n(' ', blanks));
                column += blanks;
            }
            // Windows ends lines with it.
            '\r' if letters.peek().is_none() => {}
            letter => {
                text.push(if is_obeyed(letter) { '\u{fffd}' } else { letter });
                column += 1;
            }
        }
    }
    text
}

/// Skips what follows an ESC: `[ … letter` (colours and the like), `] … BEL` or `] … ESC \` (titles and links), or one letter.
fn skip_sequence(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match letters.next_if(|letter| !letter.is_control()) {
        Some('[') => {
            let parameters = ' '..='?';
            while letters.next_if(|letter| parameters.contains(letter)).is_some() {}
            letters.next_if(|letter| ('@'..='~').contains(letter));
        }
        Some(']') => {
            while let Some(letter) = letters.next() {
                match letter {
                    '\u{7}' => return,
                    '\u{1b}' => {
                        letters.next_if_eq(&'\\');
                        return;
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// The severity that the beginning of the line names: as a word in capitals or brackets, as `level=…`, or as a field of JSON.
pub(super) fn level(line: &str) -> Option<Level> {
    let mut end = line.len().min(HEAD);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    let head = &line[..end];
    let words = head.split(|letter: char| !letter.is_ascii_alphanumeric());
    let mut before = "";
    for word in words {
        // `"level":30` of pino and bunyan; `level=info`, `"severity":"ERROR"`.
        let named = matches!(before, "level" | "lvl" | "severity") && is_assigned(head, before, word);
        let numbered = word.parse::<u32>().ok().filter(|_| named).and_then(numbered);
        let bracketed = || head.contains(&format!("[{word}]")) || head.starts_with(&format!("{word}:"));
        let is_said = named || word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase());
        if let Some(level) = numbered {
            return Some(level);
        }
        if let Some(level) = worded(word).filter(|_| is_said || bracketed()) {
            return Some(level);
        }
        if !word.is_empty() {
            before = word;
        }
    }
    None
}

/// Whether `=` or `:` stands between these parts of the head, and quotes at most.
fn is_assigned(head: &str, before: &str, word: &str) -> bool {
    let place = |part: &str| part.as_ptr() as usize - head.as_ptr() as usize;
    let between = &head[place(before) + before.len()..place(word)];
    between.contains(['=', ':'])
        && between
            .chars()
            .all(|letter| matches!(letter, '=' | ':' | '"' | '\'' | ' '))
}

fn numbered(number: u32) -> Option<Level> {
    match number {
        50..=60 => Some(Level::Error),
        40..=49 => Some(Level::Warning),
        30..=39 => Some(Level::Info),
        10..=29 => Some(Level::Debug),
        _ => None,
    }
}

fn worded(word: &str) -> Option<Level> {
    const WORDS: [(&str, Level); 14] = [
        ("error", Level::Error),
        ("err", Level::Error),
        ("fatal", Level::Error),
        ("panic", Level::Error),
        ("critical", Level::Error),
        ("alert", Level::Error),
        ("emerg", Level::Error),
        ("warning", Level::Warning),
        ("warn", Level::Warning),
        ("info", Level::Info),
        ("notice", Level::Info),
        ("debug", Level::Debug),
        ("trace", Level::Debug),
        ("verbose", Level::Debug),
    ];
    let found = WORDS.iter().find(|(known, _)| word.eq_ignore_ascii_case(known));
    found.map(|(_, level)| *level)
}

/// Number of columns that the text takes.
pub(super) fn columns(text: &str) -> usize {
    if text.is_ascii() {
        text.len()
    } else {
        Span::raw(text).width()
    }
}

/// The rows that the text takes at this width: at least one, none longer than the width unless a single letter is.
pub(super) fn rows(text: &str, width: usize) -> Vec<Range<usize>> {
    let width = width.max(1);
    if text.len() <= width {
        return std::iter::once(0..text.len()).collect();
    }
    let mut rows = Vec::new();
    let mut from = 0;
    while from < text.len() {
        let to = from + fitting(&text[from..], width);
        rows.push(from..to);
        from = to;
    }
    rows
}

/// Length in bytes of the beginning of the text that fits into this width, and at least one letter.
fn fitting(text: &str, width: usize) -> usize {
    let ascii = text.bytes().take(width + 1).take_while(u8::is_ascii).count();
    // The letter before one that is not ASCII may be its base, but takes a column all the same.
    if ascii > width || ascii == text.len() {
        return ascii.min(width);
    }
    let mut taken = 0;
    let mut used = 0;
    for grapheme in Span::raw(text).styled_graphemes(ratatui::style::Style::new()) {
        used += columns(grapheme.symbol);
        if used > width && taken > 0 {
            break;
        }
        taken = grapheme.symbol.as_ptr() as usize - text.as_ptr() as usize + grapheme.symbol.len();
    }
    // Graphemes that are not shown at all are left out above.
    if taken == 0 { text.len() } else { taken }
}

/// Where the text begins if so many columns of it are left out.
pub(super) fn skipped(text: &str, columns: usize) -> usize {
    match columns {
        0 => 0,
        _ if text.len() <= columns => text.len(),
        _ => fitting(text, columns),
    }
}

/// Where `wanted` is in the text. Capitals count if there is one in `wanted`.
pub(super) fn found(text: &str, wanted: &str) -> Vec<Range<usize>> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let ranges = |text: &str, wanted: &str| -> Vec<Range<usize>> {
        let places = text.match_indices(wanted);
        places.map(|(place, part)| place..place + part.len()).collect()
    };
    match wanted.chars().any(char::is_uppercase) {
        true => ranges(text, wanted),
        // Of the same length, so places stay.
        false => ranges(&text.to_ascii_lowercase(), &wanted.to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_steer_the_terminal() {
        let cases = [
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}a\u{1b}]8;;x\u{1b}\\b", "ab"),
            ("a\tb", "a   b"),
            ("a\u{1b}[2", "a"),
            ("a\u{1b}", "a"),
            ("a\u{1b}\u{7}b", "a\u{fffd}b"),
            ("x\u{202e}y\r", "x\u{fffd}y"),
        ];
        for (line, text) in cases {
            assert_eq!(plain(line), text, "{line:?}");
        }
        let long = plain(&"é".repeat(LONGEST));
        assert!(long.len() < LONGEST + 8 && long.ends_with('…'));
    }

    #[test]
    fn severity_is_what_the_line_says() {
        let cases = [
            ("2026-11-30 ERROR cannot connect", Some(Level::Error)),
            ("[warn] slow", Some(Level::Warning)),
            ("error: no such file", Some(Level::Error)),
            (r#"{"level":50,"msg":"x"}"#, Some(Level::Error)),
            (r#"{"level":"info","msg":"an error"}"#, Some(Level::Info)),
            ("level=debug msg=hello", Some(Level::Debug)),
            ("time=1 level=warning", Some(Level::Warning)),
            ("no error at all", None),
            ("GET /level/50", None),
            ("", None),
        ];
        for (line, wanted) in cases {
            assert_eq!(level(line), wanted, "{line}");
        }
    }

    #[test]
    fn rows_have_the_width_of_the_screen() {
        let cut = |text: &str, width| -> Vec<String> {
            let ranges = rows(text, width);
            ranges.into_iter().map(|range| text[range].to_owned()).collect()
        };
        assert_eq!(cut("", 4), [""]);
        assert_eq!(cut("abcd", 4), ["abcd"]);
        assert_eq!(cut("abcdefghi", 4), ["abcd", "efgh", "i"]);
        assert_eq!(cut("äöüß", 2), ["äö", "üß"]);
        assert_eq!(cut("日本語", 4), ["日本", "語"]);
        assert_eq!(cut("日本", 1), ["日", "本"], "a letter is never cut");
        assert_eq!(skipped("日本語", 2), 3);
        assert_eq!(skipped("abc", 9), 3);
    }

    #[test]
    fn capitals_count_if_there_are_any() {
        assert_eq!(found("Error error", "error"), [0..5, 6..11]);
        assert_eq!(found("an error, an Error", "Error"), vec![13..18; 1]);
        assert_eq!(found("x", ""), []);
    }
}
