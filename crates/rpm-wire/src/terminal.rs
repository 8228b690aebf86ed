//! Text of apps and users on its way to a terminal, which obeys control characters: titles, colours, what is copied and pasted.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Begins what a terminal obeys.
const ESCAPE: char = '\u{1b}';

/// A terminal obeys it instead of showing it: control characters of ASCII and of ISO 6429, marks that turn the direction of what
/// follows (UAX #9), and the line breaks of Unicode.
#[must_use]
pub fn is_obeyed(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The same text with what a terminal would obey written as Rust writes it (`\u{1b}`). Line breaks and tabs stay.
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    shown(text, false)
}

/// As [`escaped`], but colours (SGR, `ESC [ … m`) stay too.
#[must_use]
pub fn coloured(text: &str) -> Cow<'_, str> {
    shown(text, true)
}

/// JSON on a terminal: what serde leaves as it is and a terminal would obey is escaped as JSON has it.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    // Line breaks are those between values.
    if !text.chars().any(|letter| letter != '\n' && is_obeyed(letter)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match letter != '\n' && is_obeyed(letter) {
            true => drop(write!(safe, "\\u{:04x}", u32::from(letter))),
            false => safe.push(letter),
        }
    }
    Cow::Owned(safe)
}

fn shown(text: &str, colours: bool) -> Cow<'_, str> {
    let stays = |letter: char| matches!(letter, '\n' | '\t') || !is_obeyed(letter);
    if text.chars().all(stays) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let colour = if colours { colour(rest) } else { 0 };
        let (taken, after) = rest.split_at(colour.max(letter.len_utf8()));
        match colour > 0 || stays(letter) {
            true => safe.push_str(taken),
            false => safe.extend(letter.escape_default()),
        }
        rest = after;
    }
    Cow::Owned(safe)
}

/// Bytes of the colour that `text` begins with; 0 if it does not.
fn colour(text: &str) -> usize {
    let Some(rest) = text.strip_prefix(ESCAPE).and_then(|rest| rest.strip_prefix('[')) else {
        return 0;
    };
    let numbers = rest
        .bytes()
        .take_while(|byte| matches!(byte, b'0'..=b'9' | b';' | b':'));
    let numbers = numbers.count();
    match rest.as_bytes().get(numbers) {
        Some(b'm') => numbers + 3,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left_but_colours() {
        for (text, plain, colours) in [
            ("a\tb\nc é 世", "a\tb\nc é 世", "a\tb\nc é 世"),
            (
                "\u{1b}[31mred\u{1b}[0m",
                "\\u{1b}[31mred\\u{1b}[0m",
                "\u{1b}[31mred\u{1b}[0m",
            ),
            (
                "\u{1b}[38:5:1mx\u{1b}[m",
                "\\u{1b}[38:5:1mx\\u{1b}[m",
                "\u{1b}[38:5:1mx\u{1b}[m",
            ),
            (
                "\u{1b}]0;title\u{7}",
                "\\u{1b}]0;title\\u{7}",
                "\\u{1b}]0;title\\u{7}",
            ),
            (
                "\u{1b}[2J\u{1b}[1;1H",
                "\\u{1b}[2J\\u{1b}[1;1H",
                "\\u{1b}[2J\\u{1b}[1;1H",
            ),
            ("\u{1b}[31", "\\u{1b}[31", "\\u{1b}[31"),
            ("\u{1b}[>4m\u{1b}", "\\u{1b}[>4m\\u{1b}", "\\u{1b}[>4m\\u{1b}"),
            (
                "\u{9b}31m\u{202e}gpj\r",
                "\\u{9b}31m\\u{202e}gpj\\r",
                "\\u{9b}31m\\u{202e}gpj\\r",
            ),
        ] {
            assert_eq!(escaped(text), plain);
            assert_eq!(coloured(text), colours);
        }
    }

    #[test]
    fn json_stays_json() {
        let text = serde_json::to_string("a\u{1b}\u{9b}\u{7f}\u{202e}b").expect("JSON");
        let safe = json(&text);
        assert!(!safe.chars().any(is_obeyed), "{safe:?}");
        let read: String = serde_json::from_str(&safe).expect("still JSON");
        assert_eq!(read, "a\u{1b}\u{9b}\u{7f}\u{202e}b");
    }
}
