//! Lines that have come in parts, put together before they are written where others write too.

use std::borrow::Cow;
use std::time::{Duration, Instant};

/// A line that does not end is written in parts after this time.
pub(super) const HELD_FOR: Duration = Duration::from_secs(1);

/// The beginning of a line whose end has not come yet.
#[derive(Debug, Default)]
pub(super) struct Parts {
    held: Vec<u8>,
    since: Option<Instant>,
}

impl Parts {
    /// The whole lines of what was held and of `bytes`; the rest is held, unless it is longer than `limit`.
    pub(super) fn whole<'b>(&mut self, bytes: &'b [u8], limit: usize, now: Instant) -> Cow<'b, [u8]> {
        let mut whole = match self.held.is_empty() {
            true => Cow::Borrowed(bytes),
            false => {
                self.held.extend_from_slice(bytes);
                Cow::Owned(std::mem::take(&mut self.held))
            }
        };
        let end = whole
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let rest = whole.len() - end;
        if rest == 0 || rest > limit {
            self.since = None;
            return whole;
        }
        if end > 0 || self.since.is_none() {
            self.since = Some(now);
        }
        self.held = whole[end..].to_vec();
        match &mut whole {
            Cow::Borrowed(bytes) => *bytes = &bytes[..end],
            Cow::Owned(bytes) => bytes.truncate(end),
        }
        whole
    }

    /// What is held, to be written now.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.since = None;
        std::mem::take(&mut self.held)
    }

    /// What is held.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    /// When it is to be written, whole or not.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + HELD_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_come_out_and_the_rest_waits_within_bounds() {
        let begin = Instant::now();
        let mut parts = Parts::default();
        for (bytes, whole, held) in [
            (&b"one\n"[..], &b"one\n"[..], &b""[..]),
            (b"tw", b"", b"tw"),
            (b"o", b"", b"two"),
            (b"\nthree\nfo", b"two\nthree\n", b"fo"),
            (b"ur5", b"", b"four5"),
            (b"6", b"four56", b""),
            (b"1234567", b"1234567", b""),
        ] {
            assert_eq!(parts.whole(bytes, 5, begin), whole, "{bytes:?}");
            assert_eq!(parts.held(), held, "{bytes:?}");
            assert_eq!(parts.due(), (!held.is_empty()).then_some(begin + HELD_FOR));
        }
    }

    #[test]
    fn a_line_waits_from_its_beginning() {
        let begin = Instant::now();
        let mut parts = Parts::default();
        let _ = parts.whole(b"a", 99, begin);
        let _ = parts.whole(b"b", 99, begin + HELD_FOR / 2);
        assert_eq!(parts.due(), Some(begin + HELD_FOR));
        let _ = parts.whole(b"\nc", 99, begin + HELD_FOR / 2);
        assert_eq!(parts.due(), Some(begin + HELD_FOR / 2 + HELD_FOR));
        assert_eq!((parts.take(), parts.due()), (b"c".to_vec(), None));
    }
}
