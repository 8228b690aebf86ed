//! One log: what is read of its files, one after the other. [`place`] says which file that is, [`tail`] when it is left for the next, [`rest`] what is
//! left to read.

mod place;
mod rest;
mod tail;

pub(super) use rest::Rest;

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::assemble::{RECORD_BYTES, Raw, Room, Tail, assemble};
use super::book::Entry;
use super::disk::{Disk, Identity, Meta};
use super::handles::{Handle, Handles};
use super::joined::{Carry, Whose, clock, key};
use super::position::Position;
use super::prints::{is_as_it_was, moved};
use super::record::{About, Record};

/// Read at once: enough for one record whatever it is.
pub(super) const CHUNK: usize = 2 * RECORD_BYTES;
/// After this time without growth the last record is whole, in milliseconds.
const QUIET_MS: u64 = 500;
/// After this time a line is sent though it has no end, in milliseconds.
const UNFINISHED_MS: u64 = 5_000;
/// Files are listed again after this time if none has the name of the log, in milliseconds.
const RELIST_MS: u64 = 2_000;
/// What a file has got since it was read is known for so long, in milliseconds, at the pace of the looks. After a longer pause it may be anything.
const KNOWN_MS: u64 = 2_000;
/// In the place of what has the name of a log, if nothing has.
const MISSING: (Identity, u64) = (Identity { inode: 0, born: 0 }, 0);

/// What a look at a log needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// The time in nanoseconds since 1970, which may be set back.
    pub now_ns: u64,
    /// Milliseconds of a clock that is never set.
    pub now_ms: u64,
    pub room: Room,
}

/// What is new in a log.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub records: Vec<Record>,
    /// There is more at once.
    pub more: bool,
    /// The file was emptied, and is read from its beginning.
    pub restarted: bool,
    /// A file is gone before its end was seen.
    pub gap: bool,
}

/// A log. It may be several files, one after the other.
#[derive(Debug)]
pub(super) struct Log<D: Disk> {
    path: PathBuf,
    pub about: Arc<About>,
    /// Files that were written to since then are sent, in nanoseconds since 1970.
    begun_ns: u64,
    /// It is new, and sent from its end.
    at_end: bool,
    /// Everything before it was taken by the receiver.
    acked: Option<Position>,
    /// What is read next.
    cursor: Option<Position>,
    /// What the file before has at its end, and this one goes on with.
    carry: Option<Carry>,
    open: Option<D::File>,
    /// Leave to hold the file open between two looks.
    handle: Option<Handle>,
    /// When the file was looked at, in milliseconds.
    seen_ms: u64,
    /// The file that was seen next to the one that is read.
    following: Option<Identity>,
    /// How long the file is, and since when.
    still: (u64, u64),
    /// Where nothing was found that could be taken.
    fruitless: Option<(u64, u64, Tail)>,
    /// What had the name when the files were listed last and nothing came of it, and when that was.
    listed: Option<((Identity, u64), u64)>,
}

impl<D: Disk> Log<D> {
    pub(super) fn new(path: PathBuf, entry: Entry) -> Log<D> {
        Log {
            path,
            about: Arc::new(entry.about),
            begun_ns: entry.begun_ns,
            at_end: entry.at_end,
            acked: entry.position,
            cursor: entry.position,
            carry: None,
            open: None,
            handle: None,
            seen_ms: 0,
            following: None,
            still: (0, 0),
            fruitless: None,
            listed: None,
        }
    }

    /// What is stored of it.
    pub(super) fn entry(&self) -> Entry {
        Entry {
            about: About::clone(&self.about),
            position: self.acked,
            begun_ns: self.begun_ns,
            at_end: self.at_end,
        }
    }

    /// How far the receiver has taken it.
    pub(super) fn acked(&self) -> Option<Position> {
        self.acked
    }

    /// How far it was taken.
    pub(super) fn cursor(&self) -> Option<Position> {
        self.carry.as_ref().map(|carry| carry.from).or(self.cursor)
    }

    /// The receiver has taken everything before this.
    pub(super) fn ack(&mut self, position: Position) {
        self.acked = Some(position);
    }

    /// Holds the file open until the next look, if there is leave to: one that is rotated and removed meanwhile is read to its end.
    pub(super) fn hold(&mut self, handles: &Handles) {
        if self.open.is_some() && self.handle.is_none() {
            self.handle = handles.take();
        }
        if self.handle.is_none() {
            self.close();
        }
    }

    /// Closes the file until it is read the next time.
    pub(super) fn close(&mut self) {
        self.open = None;
        self.handle = None;
    }

    fn follow(&self) -> bool {
        !self.about.foreign
    }

    /// Reads on, no more than there is room for.
    pub(super) fn gather(&mut self, disk: &D, look: Look, buffer: &mut [u8]) -> io::Result<Gathered> {
        let Look {
            now_ns, now_ms, room, ..
        } = look;
        let mut gathered = Gathered::default();
        let Some(mut cursor) = self.place(disk, look, &mut gathered)? else {
            return Ok(gathered);
        };
        let Some(file) = &self.open else {
            return Ok(gathered);
        };
        let meta = disk.meta(file)?;
        if meta.len < cursor.offset || !is_as_it_was(disk, file, &cursor)? {
            self.restart(disk, look, &cursor, &meta, &mut gathered)?;
            return Ok(gathered);
        }
        self.seen_ms = now_ms;
        let (tail, successor) = self.tail(disk, &meta, &cursor, now_ms)?;
        let Some(file) = &self.open else {
            return Ok(gathered);
        };
        let wanted = usize::try_from(meta.len - cursor.offset).unwrap_or(usize::MAX);
        let cut = wanted > buffer.len();
        let state = (cursor.offset, meta.len, tail);
        if successor.is_none() && (self.fruitless == Some(state) || wanted + self.carried() == 0) {
            return Ok(gathered);
        }
        let wanted = wanted.min(buffer.len());
        let count = disk.read_at(file, &mut buffer[..wanted], cursor.offset)?;
        let bytes = match &self.carry {
            None => Cow::Borrowed(&buffer[..count]),
            Some(carry) => Cow::Owned([&carry.bytes, &buffer[..count]].concat()),
        };
        let tail = match &successor {
            _ if cut => Tail::Growing,
            Some(next) => next.tail(&bytes),
            None => tail,
        };
        let taken = assemble(&bytes, self.about.dated, tail, room);
        gathered.records = self.records(disk, taken.records, &cursor, &meta, now_ns);
        gathered.more = taken.consumed > 0 && (cut || taken.more);
        self.fruitless = (taken.consumed == 0).then_some(state);
        if taken.consumed > 0 {
            let carried = self.carried();
            debug_assert!(taken.consumed >= carried, "what is carried is of one record");
            let by = taken.consumed.saturating_sub(carried) as u64;
            cursor = moved(disk, file, &cursor, by, &meta)?;
            self.carry = None;
        }
        self.cursor = Some(cursor);
        if let Some(next) = successor.filter(|_| !cut && !taken.more) {
            let rest = &bytes[taken.consumed..];
            let (from, len, written_ns) = match self.carry.take() {
                Some(carry) => (carry.from, carry.len, carry.written_ns),
                None => (cursor, meta.len, meta.written_ns),
            };
            self.carry = (!rest.is_empty()).then(|| Carry {
                from,
                len,
                written_ns,
                bytes: rest.to_vec(),
            });
            self.leave_for(next.start);
            gathered.gap = !next.goes_on;
            gathered.more = true;
        }
        Ok(gathered)
    }

    /// The records, with the time and the place of each.
    fn records(&self, disk: &D, raws: Vec<Raw>, cursor: &Position, meta: &Meta, now_ns: u64) -> Vec<Record> {
        let times = self.times(disk, cursor);
        let carried = self.carried() as u64;
        let record = |raw: Raw| {
            let begin = raw.begin as u64;
            match &self.carry {
                Some(carry) if begin < carried => carry.record(raw, self.whose(), now_ns),
                _ => {
                    let begin = cursor.offset + begin - carried;
                    let clock = clock(&times, meta.len, begin, meta.written_ns, now_ns);
                    Record::new(raw, &self.about, clock, key(&self.path, cursor, begin))
                }
            }
        };
        raws.into_iter().map(record).collect()
    }

    fn whose(&self) -> Whose<'_> {
        Whose {
            path: &self.path,
            about: &self.about,
        }
    }

    /// What is carried, as records: what it could have gone on with is gone.
    fn settle(&mut self, now_ns: u64) -> Vec<Record> {
        let carry = self.carry.take();
        carry.map_or_else(Vec::new, |carry| carry.settle(self.whose(), now_ns))
    }

    fn carried(&self) -> usize {
        self.carry.as_ref().map_or(0, |carry| carry.bytes.len())
    }

    fn leave_for(&mut self, position: Position) {
        let left = self.cursor.filter(|left| left.file != position.file);
        let passed = left.map_or(position.passed, |left| Some(left.file));
        self.cursor = Some(Position { passed, ..position });
        self.close();
        self.following = None;
        self.fruitless = None;
        self.listed = None;
        self.still = (0, 0);
    }
}

#[cfg(test)]
mod tests;
