//! Times as dayjs formats them, for that is how PM2's users say how they want them
//! (<https://day.js.org/docs/en/display/format>).

use std::fmt::Write as _;

use jiff::Zoned;

/// The tokens of dayjs and moment that mean times; what is none stays, and so does what stands in brackets.
const TOKENS: [(&str, &str); 22] = [
    ("YYYY", "%Y"),
    ("SSS", "%3f"),
    ("YY", "%y"),
    ("MMMM", "%B"),
    ("MMM", "%b"),
    ("MM", "%m"),
    ("DD", "%d"),
    ("dddd", "%A"),
    ("ddd", "%a"),
    ("HH", "%H"),
    ("hh", "%I"),
    ("mm", "%M"),
    ("ss", "%S"),
    ("ZZ", "%z"),
    ("M", "%-m"),
    ("D", "%-d"),
    ("H", "%-H"),
    ("h", "%-I"),
    ("A", "%p"),
    ("a", "%P"),
    ("X", "%s"),
    ("Z", "%:z"),
];

/// A time in the format of dayjs: `YYYY-MM-DD HH:mm:ss.SSS Z`.
#[must_use]
pub fn format_time(format: &str, time: &Zoned) -> String {
    let mut text = String::new();
    let mut rest = format;
    while let Some(letter) = rest.chars().next() {
        if letter == '['
            && let Some(end) = rest.find(']')
        {
            text.push_str(&rest[1..end]);
            rest = &rest[end + 1..];
            continue;
        }
        let token = TOKENS.iter().find(|(token, _)| rest.starts_with(token));
        match token {
            Some((token, directive)) => {
                // All of these are known to the formatter.
                let _ = write!(text, "{}", time.strftime(directive));
                rest = &rest[token.len()..];
            }
            None => {
                text.push(letter);
                rest = &rest[letter.len_utf8()..];
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        "2026-03-05T14:07:09.042+01:00[Europe/Berlin]".parse().unwrap()
    }

    #[test]
    fn formats_are_those_of_dayjs() {
        for (format, expected) in [
            ("YYYY-MM-DD HH:mm:ss.SSS Z", "2026-03-05 14:07:09.042 +01:00"),
            ("YYYY-MM-DDTHH:mm:ss", "2026-03-05T14:07:09"),
            ("D/M/YY h:mm A", "5/3/26 2:07 PM"),
            ("ddd [at] HH ZZ", "Thu at 14 +0100"),
            ("[", "["),
        ] {
            assert_eq!(format_time(format, &now()), expected, "{format}");
        }
    }
}
