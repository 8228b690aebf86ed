//! Messages as a mail (RFC 5322): its header and its body, in ASCII whatever they say.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::body::{clipped, lines};
use super::message::Message;

/// The longest subject, in bytes.
const SUBJECT: usize = 150;
/// Bytes in one encoded word: with what is around it, it has no more than 75 characters (RFC 2047).
const WORD: usize = 45;
/// Bytes in the first of them, which stands behind `Subject: `: a line with one has no more than 76 characters.
const FIRST_WORD: usize = 39;
/// Bytes in one line of a body in base64: 76 characters.
const LINE: usize = 57;

/// The text of a mail that tells these messages.
pub(crate) fn letter(from: &str, to: &[String], messages: &[Message], host: &str, now_ms: u64) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let text = lines(messages, host);
    let subject = clipped(text.lines().next().unwrap_or_default(), SUBJECT);
    let now = Timestamp::from_millisecond(i64::try_from(now_ms).unwrap_or(0)).unwrap_or_default();
    let date = now
        .to_zoned(TimeZone::UTC)
        .strftime("%a, %d %b %Y %H:%M:%S +0000")
        .to_string();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let domain = from.rsplit('@').next().unwrap_or("localhost");
    let mut letter = format!(
        "From: rpm <{from}>\r\nTo: {}\r\nSubject: {}\r\nDate: {date}\r\nMessage-ID: <{now_ms}.{process}.{number}@{domain}>\r\n",
        to.join(",\r\n "),
        header(&subject)
    );
    letter.push_str("Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n");
    letter.push_str("Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n");
    let body = text.replace('\n', "\r\n") + "\r\n";
    for line in body.as_bytes().chunks(LINE) {
        letter.push_str(&STANDARD.encode(line));
        letter.push_str("\r\n");
    }
    letter
}

/// A text as the value of a field, over several lines if need be.
fn header(text: &str) -> String {
    let (mut words, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let bytes = if words.is_empty() { FIRST_WORD } else { WORD };
        let (word, behind) = rest.split_at(rest.floor_char_boundary(bytes));
        words.push(format!("=?utf-8?B?{}?=", STANDARD.encode(word)));
        rest = behind;
    }
    words.join("\r\n ")
}

#[cfg(test)]
mod tests {
    use rpm_wire::alerts::Trigger;

    use super::super::message::State;
    use super::*;

    #[test]
    fn a_mail_has_its_fields_and_nothing_breaks_out_of_them() {
        let message = Message {
            rule: 0,
            key: "k0".to_owned(),
            on: Trigger::Crash,
            state: State::Fired,
            app: Some("ä\r\nBcc: x@example.org".to_owned()),
            id: None,
            text: "crashed ".to_owned() + &"ö".repeat(300) + "\n  | .\n.\nError",
            count: 1,
            at_ms: 0,
        };
        let to = ["ops@example.org".to_owned(), "b@example.org".to_owned()];
        let letter = letter("rpm@example.org", &to, &[message], "h", 1_780_000_000_123);
        let (head, body) = letter.split_once("\r\n\r\n").expect("a header");
        for line in [
            "From: rpm <rpm@example.org>",
            "To: ops@example.org,",
            " b@example.org",
            "Date: Thu, 28 May 2026 20:26:40 +0000",
        ] {
            assert!(head.lines().any(|other| other == line), "{line}: {head}");
        }
        assert!(!head.contains("Bcc"), "{head}");
        assert!(
            letter
                .lines()
                .all(|line| line.len() <= 76 && !line.starts_with('.') && line.is_ascii()),
            "{letter}"
        );
        let body: String = body.lines().collect();
        let pieces: Vec<u8> = STANDARD.decode(body).expect("base64");
        let body = String::from_utf8(pieces).expect("text");
        assert!(
            body.contains("crashed ö") && body.ends_with("\r\n  | .\r\n.\r\nError\r\n"),
            "{body}"
        );
    }

    #[test]
    fn a_long_subject_has_several_words() {
        let value = header(&"ö".repeat(50));
        let words: Vec<&str> = value.split("\r\n ").collect();
        assert!(
            words.len() == 3 && words.iter().all(|word| word.len() <= 75) && words[0].len() <= 67,
            "{value}"
        );
        let text: String = words
            .iter()
            .map(|word| {
                let code = word
                    .strip_prefix("=?utf-8?B?")
                    .and_then(|word| word.strip_suffix("?="));
                String::from_utf8(STANDARD.decode(code.expect("a word")).expect("base64"))
                    .expect("whole characters")
            })
            .collect();
        assert_eq!(text, "ö".repeat(50));
        assert_eq!(header(""), "");
    }
}
