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
        match unfinished {
            _ if !self.goes_on => Tail::Ended,
            0 => Tail::Growing,
            // What is carried is shorter than what is cut off a long line.
            long if long >= RECORD_BYTES - 4 => Tail::Ended,
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

/// The time of what begins at `begin`: that of its write, and a little more for each byte behind the beginning of that. Without an index it is
/// the time at which the file was written to last, and a little less for each byte that follows, so that lines stay in order.
pub(super) fn clock(times: &Times, len: u64, begin: u64, written_ns: u64, now_ns: u64) -> Clock {
    let written_ns = match times.before(begin) {
        Some((base, at_ms)) => at_ms.saturating_mul(1_000_000) + begin.saturating_sub(base).min(APART_NS),
        None => written_ns.min(now_ns).saturating_sub(len.saturating_sub(begin)),
    };
    Clock { written_ns, now_ns }
}
