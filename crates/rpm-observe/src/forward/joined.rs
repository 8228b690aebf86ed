//! How the files of a log are joined: what one ends with and the next goes on with, and the place and the time of each record in them.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use rpm_wire::log_times::Times;

use super::assemble::{RECORD_BYTES, Raw, Room, Tail, assemble};
use super::position::{Position, hash};
use super::record::{About, Clock, Key, Record};

/// Lines of one write are at most so far apart in time, in nanoseconds, so that they stay in order and none looks like another.
const APART_NS: u64 = 999_999;

/// The log that records are of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whose<'l> {
    pub path: &'l Path,
    pub about: &'l Arc<About>,
}

/// The beginning of a record that goes on in the next file.
#[derive(Debug)]
pub(super) struct Carry {
    /// Where it begins.
    pub from: Position,
    /// How long its file is, and when that was written to.
    pub len: u64,
    pub written_ns: u64,
    pub bytes: Vec<u8>,
}

impl Carry {
    /// A record that begins in the file before. The index is of the present one.
    pub(super) fn record(&self, raw: Raw, whose: Whose<'_>, now_ns: u64) -> Record {
        let begin = self.from.offset + raw.begin as u64;
        let clock = clock(&Times::default(), self.len, begin, self.written_ns, now_ns);
        Record::new(raw, whose.about, clock, key(whose.path, &self.from, begin))
    }

    /// Its records, if nothing can follow.
    pub(super) fn settle(&self, whose: Whose<'_>, now_ns: u64) -> Vec<Record> {
        let room = Room {
            records: usize::MAX,
            bytes: usize::MAX,
        };
        let taken = assemble(&self.bytes, whose.about.dated, Tail::Ended, room);
        let records = taken.records.into_iter();
        records.map(|raw| self.record(raw, whose, now_ns)).collect()
    }
}

/// The file that is read after the end of another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Successor {
    pub start: Position,
    /// It begins where the other ends: no file between them was removed.
    pub goes_on: bool,
}

impl Successor {
    /// What comes after the last bytes of the other: the rest of a line, or of a record. Only one of the two is carried over.
    pub(super) fn tail(&self, bytes: &[u8]) -> Tail {
        let unfinished = bytes.iter().rev().take_while(|byte| **byte != b'\n').count();
        let decoded = String::from_utf8_lossy(&bytes[bytes.len() - unfinished..]);
        match decoded.len() {
            _ if !self.goes_on => Tail::Ended,
            0 => Tail::Growing,
            // What is carried is shorter than what is cut off a long line.
            long if long >= RECORD_BYTES - 8 => Tail::Ended,
            _ => Tail::Quiet,
        }
    }
}

/// By which a record is known.
pub(super) fn key(path: &Path, position: &Position, begin: u64) -> Key {
    Key(file_number(path, position), begin)
}

/// The same number for a file of a log whenever it is read, and another one after it was emptied.
fn file_number(path: &Path, position: &Position) -> u64 {
    let mut bytes = path.as_os_str().as_bytes().to_vec();
    for number in [position.file.inode, position.file.born, position.generation] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    hash(&bytes)
}

/// The time of what begins at `begin`: that of its write, and a little more for each byte behind the beginning of that. Without an index it is the time at
/// which the file was written to last, and a little less for each byte that follows, so that lines stay in order; and before the first record of an index,
/// which has only the newest ones, it is not after that.
pub(super) fn clock(times: &Times, len: u64, begin: u64, written_ns: u64, now_ns: u64) -> Clock {
    let last_ns = written_ns.min(now_ns);
    let without = last_ns.saturating_sub(len.saturating_sub(begin));
    let in_ns = |at_ms: u64| at_ms.saturating_mul(1_000_000);
    let written_ns = match (times.before(begin), times.first()) {
        (Some((base, at_ms)), _) => {
            let apart = begin.saturating_sub(base).min(APART_NS);
            let at_ns = in_ns(at_ms).saturating_add(apart);
            // The clock was set back; or the index is of another user, who may write anything.
            if in_ns(at_ms) <= now_ns { at_ns } else { without }
        }
        (None, Some((offset, at_ms))) => last_ns
            .min(in_ns(at_ms))
            .saturating_sub(offset.saturating_sub(begin)),
        (None, None) => without,
    };
    Clock { written_ns, now_ns }
}

#[cfg(test)]
mod tests {
    use rpm_wire::log_times::record;

    use super::*;

    #[test]
    fn times_rise_and_are_never_ahead() {
        const NOW_MS: u64 = 1_772_716_029_000;
        let index = |records: &[(u64, u64)]| {
            let bytes: Vec<u8> = records
                .iter()
                .flat_map(|(offset, at)| record(*offset, *at))
                .collect();
            Times::parse(&bytes)
        };
        let hour = 3_600_000;
        let partial = index(&[(500, NOW_MS - 2 * hour), (600, NOW_MS - hour)]);
        for (times, what) in [
            (index(&[]), "no index"),
            (partial.clone(), "an index of the newest lines"),
            (
                index(&[(0, NOW_MS - hour), (300, NOW_MS + hour)]),
                "a clock that was set back",
            ),
            (index(&[(0, u64::MAX), (300, u64::MAX / 1_000_000)]), "nonsense"),
        ] {
            let at =
                |begin: u64| clock(&times, 1_000, begin, NOW_MS * 1_000_000, NOW_MS * 1_000_000).written_ns;
            let all: Vec<u64> = (0..1_000).step_by(50).map(at).collect();
            assert!(all.is_sorted(), "{what}: {all:?}");
            assert!(
                all.iter().all(|at| *at <= NOW_MS * 1_000_000 + APART_NS),
                "{what}: {all:?}"
            );
        }
        let before = clock(&partial, 1_000, 490, NOW_MS * 1_000_000, NOW_MS * 1_000_000).written_ns;
        assert_eq!(before, (NOW_MS - 2 * hour) * 1_000_000 - 10);
    }
}
