//! Which lines of the history are wanted.

use std::collections::VecDeque;

use super::{Head, LINE_BYTES};

/// How many of the lines that fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The oldest ones.
    First(usize),
    /// The newest ones.
    Last(usize),
}

/// Picks lines. It is given all lines there are, oldest first; some may come twice, as while a file is rotated, and what is no event is passed
/// over.
pub struct Picker<'f> {
    which: Which,
    fits: &'f dyn Fn(&Head) -> bool,
    /// The last one that was seen.
    seq: u64,
    lost: u64,
    picked: VecDeque<Vec<u8>>,
}

/// What was picked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Picked {
    /// Lines, without their ends.
    pub lines: Vec<Vec<u8>>,
    /// The last event that was looked at: where the next look goes on.
    pub seq: u64,
    /// Events between `after` and the first one that is still there.
    pub lost: u64,
}

impl<'f> Picker<'f> {
    /// Those after this number that fit.
    pub fn new(which: Which, after: u64, fits: &'f dyn Fn(&Head) -> bool) -> Picker<'f> {
        Picker {
            which,
            fits,
            seq: after,
            lost: 0,
            picked: VecDeque::new(),
        }
    }

    /// Takes a line, without its end; `false`: no more are wanted.
    pub fn push(&mut self, line: &[u8]) -> bool {
        if line.len() > LINE_BYTES {
            return true;
        }
        let Ok(head) = serde_json::from_slice::<Head>(line) else {
            return true;
        };
        if head.seq <= self.seq {
            return true;
        }
        self.lost += head.seq - self.seq - 1;
        self.seq = head.seq;
        if (self.fits)(&head) {
            self.picked.push_back(line.to_vec());
        }
        match self.which {
            Which::First(most) => self.picked.len() < most,
            Which::Last(most) => {
                if self.picked.len() > most {
                    self.picked.pop_front();
                }
                true
            }
        }
    }

    /// The last event that was looked at.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// What it has.
    #[must_use]
    pub fn finish(self) -> Picked {
        Picked {
            lines: self.picked.into(),
            seq: self.seq,
            lost: match self.which {
                Which::First(_) => self.lost,
                Which::Last(_) => 0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, app: &str) -> Vec<u8> {
        format!(r#"{{"seq":{seq},"at_ms":{seq}000,"app":"{app}","kind":"ready"}}"#).into_bytes()
    }

    fn picked(which: Which, after: u64, lines: &[Vec<u8>]) -> (Vec<u64>, u64, u64) {
        let fits = |head: &Head| head.app.as_deref() == Some("a");
        let mut picker = Picker::new(which, after, &fits);
        let _ = lines.iter().all(|line| picker.push(line));
        let Picked { lines, seq, lost } = picker.finish();
        let seqs = lines
            .iter()
            .map(|line| serde_json::from_slice::<Head>(line).unwrap().seq);
        (seqs.collect(), seq, lost)
    }

    #[test]
    fn the_first_and_the_last_of_those_that_fit() {
        let lines: Vec<Vec<u8>> = (4..10)
            .map(|seq| line(seq, if seq % 2 == 0 { "a" } else { "b" }))
            .collect();
        assert_eq!(picked(Which::Last(2), 0, &lines), (vec![6, 8], 9, 0));
        assert_eq!(picked(Which::Last(0), 0, &lines), (vec![], 9, 0));
        assert_eq!(
            picked(Which::First(2), 4, &lines),
            (vec![6, 8], 8, 0),
            "it goes on behind 8"
        );
        assert_eq!(picked(Which::First(9), 8, &lines), (vec![], 9, 0));
        assert_eq!(picked(Which::First(9), 9, &lines), (vec![], 9, 0));
    }

    #[test]
    fn what_is_gone_is_counted() {
        let lines = [line(4, "a"), line(5, "a"), line(8, "b"), line(9, "a")];
        assert_eq!(picked(Which::First(9), 1, &lines), (vec![4, 5, 9], 9, 4));
    }

    #[test]
    fn damage_and_lines_that_come_twice_are_no_obstacle() {
        let lines = [
            line(1, "a"),
            b"{\"seq\":2,\"at".to_vec(),
            b"\xff\xfe".to_vec(),
            line(2, "a"),
            line(2, "a"),
            line(1, "a"),
            format!(
                r#"{{"seq":3,"at_ms":1,"app":"a","kind":"{}"}}"#,
                "x".repeat(LINE_BYTES)
            )
            .into_bytes(),
            line(3, "a"),
        ];
        assert_eq!(picked(Which::First(9), 0, &lines), (vec![1, 2, 3], 3, 0));
    }
}
