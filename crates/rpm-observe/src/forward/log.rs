//! One log: which of its files is read, from where, and when it is left for the next.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rpm_wire::log_times::Times;

use super::assemble::{RECORD_BYTES, Raw, Room, Tail, assemble};
use super::disk::{Disk, Identity, Meta, Seen};
use super::handles::{Handle, Handles};
use super::joined::{Carry, Successor, Whose, clock, key};
use super::position::{Position, after, first, next, place};
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
const MISSING: (Identity, u64) = (
    Identity {
        device: 0,
        inode: 0,
        born: 0,
    },
    0,
);

/// What a look at a log needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// The time in nanoseconds since 1970, which may be set back.
    pub now_ns: u64,
    /// Milliseconds of a clock that is never set.
    pub now_ms: u64,
    /// Since when the destination is in force, in nanoseconds since 1970.
    pub begun_ns: u64,
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
    pub(super) fn new(path: PathBuf, about: Arc<About>, acked: Option<Position>, at_end: bool) -> Log<D> {
        Log {
            path,
            about,
            at_end,
            acked,
            cursor: acked,
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

    /// Finds out where a log begins that has no position, though nothing is read now.
    pub(super) fn find(&mut self, disk: &D, begun_ns: u64) -> io::Result<()> {
        if self.cursor.is_none() {
            self.begin(disk, begun_ns)?;
            self.close();
        }
        Ok(())
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

    /// The file was emptied. If it was copied before, the rest is in the copy, and the file itself comes after that.
    fn restart(
        &mut self,
        disk: &D,
        look: Look,
        cursor: &Position,
        meta: &Meta,
        gathered: &mut Gathered,
    ) -> io::Result<()> {
        let Some(chain) = disk.chain(&self.path, self.follow())? else {
            return Ok(());
        };
        let generation = cursor.generation + 1;
        let position = match self.copy(disk, &chain, cursor) {
            Some(copy) => Position {
                file: copy.identity,
                generation,
                ..*cursor
            },
            None => {
                let unread = self.still.0 > cursor.offset;
                let is_known = look.now_ms.abs_diff(self.seen_ms) <= KNOWN_MS;
                gathered.restarted = true;
                gathered.gap = unread || !is_known;
                Position::start(cursor.file, meta.written_ns, generation)
            }
        };
        gathered.records = self.settle(look.now_ns);
        gathered.more = true;
        self.leave_for(position);
        Ok(())
    }

    /// The copy of the file that is read, from before it was emptied: the same bytes stand before the position.
    fn copy(&self, disk: &D, chain: &[Seen], cursor: &Position) -> Option<Meta> {
        let may_be = |seen: &&Seen| {
            cursor.offset > 0 && seen.meta.len >= cursor.offset && !seen.meta.identity.is(&cursor.file)
        };
        let is_it = |seen: &&Seen| {
            let file = disk.open(&seen.path, self.follow());
            file.and_then(|file| is_as_it_was(disk, &file, cursor))
                .unwrap_or(false)
        };
        let copy = chain.iter().rev().filter(may_be).find(is_it);
        copy.map(|seen| seen.meta)
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

    /// True if the files need not be listed again: as long as the same file has the name, none is between it and the one that is read. If none has
    /// the name, one may have had it meanwhile.
    fn was_listed(&self, state: (Identity, u64), now_ms: u64) -> bool {
        let is_so =
            |(before, at_ms)| before == state && (state != MISSING || now_ms.abs_diff(at_ms) < RELIST_MS);
        self.listed.is_some_and(is_so)
    }

    fn leave_for(&mut self, position: Position) {
        self.cursor = Some(position);
        self.close();
        self.following = None;
        self.fruitless = None;
        self.listed = None;
        self.still = (0, 0);
    }

    /// The cursor, with its file open. `None` if there is nothing to read, or the files change at this moment.
    fn place(&mut self, disk: &D, look: Look, gathered: &mut Gathered) -> io::Result<Option<Position>> {
        let now_ms = look.now_ms;
        let Some(cursor) = self.cursor else {
            return self.begin(disk, look.begun_ns);
        };
        if self.open.is_some() {
            return Ok(Some(cursor));
        }
        match disk.look(&self.path, self.follow()) {
            Ok(meta) if meta.identity.is(&cursor.file) => {
                return self.opened(disk, &self.path.clone(), cursor);
            }
            Err(_) if self.was_listed(MISSING, now_ms) => return Ok(None),
            Err(_) => self.listed = Some((MISSING, now_ms)),
            Ok(_) => {}
        }
        let Some(chain) = disk.chain(&self.path, self.follow())? else {
            return Ok(None);
        };
        if let Some(place) = place(&chain, &cursor.file) {
            return self.opened(disk, &chain[place].path, cursor);
        }
        let Some(next) = next(&chain, &cursor) else {
            return Ok(None);
        };
        let position = Position::start(next.meta.identity, next.meta.written_ns, cursor.generation);
        gathered.records = self.settle(look.now_ns);
        gathered.gap = true;
        gathered.more = true;
        self.leave_for(position);
        Ok(None)
    }

    fn begin(&mut self, disk: &D, begun_ns: u64) -> io::Result<Option<Position>> {
        disk.look(&self.path, self.follow())?;
        let Some(chain) = disk.chain(&self.path, self.follow())? else {
            return Ok(None);
        };
        let seen = match self.at_end {
            true => chain.last(),
            false => first(&chain, begun_ns),
        };
        let Some(seen) = seen else {
            return Ok(None);
        };
        let position = Position::start(seen.meta.identity, seen.meta.written_ns, 0);
        let Some(mut position) = self.opened(disk, &seen.path, position)? else {
            return Ok(None);
        };
        if self.at_end
            && let Some(file) = &self.open
        {
            let meta = disk.meta(file)?;
            position = moved(disk, file, &position, meta.len, &meta)?;
        }
        // From here on it has a position, whatever is taken.
        self.acked = Some(position);
        self.cursor = Some(position);
        Ok(Some(position))
    }

    /// Opens the file that was seen under this name, if it still has it.
    fn opened(&mut self, disk: &D, path: &Path, cursor: Position) -> io::Result<Option<Position>> {
        let file = disk.open(path, self.follow())?;
        if !disk.meta(&file)?.identity.is(&cursor.file) {
            return Ok(None);
        }
        self.open = Some(file);
        self.listed = None;
        Ok(Some(cursor))
    }

    /// What comes after what is in the file now, and the file to go on with after its end.
    fn tail(
        &mut self,
        disk: &D,
        meta: &Meta,
        cursor: &Position,
        now_ms: u64,
    ) -> io::Result<(Tail, Option<Successor>)> {
        if self.still.0 != meta.len || self.still.1 > now_ms || self.still.1 == 0 {
            self.still = (meta.len, now_ms);
        }
        let tail = match now_ms - self.still.1 {
            quiet if quiet >= UNFINISHED_MS => Tail::Ended,
            quiet if quiet >= QUIET_MS => Tail::Quiet,
            _ => Tail::Growing,
        };
        let present = disk.look(&self.path, self.follow());
        let state = present.map_or(MISSING, |present| (present.identity, present.len));
        if state.0.is(&cursor.file) || self.was_listed(state, now_ms) {
            return Ok((tail, None));
        }
        self.listed = Some((state, now_ms));
        let Some(chain) = disk.chain(&self.path, self.follow())? else {
            self.listed = None;
            return Ok((tail, None));
        };
        let known = Position {
            written_ns: meta.written_ns,
            ..*cursor
        };
        let Some(next) = next(&chain, &known) else {
            return Ok((tail, None));
        };
        // What the daemon writes to the next file it has written after everything in this one.
        self.listed = None;
        let settled = match &self.open {
            Some(file) => disk.meta(file)?.len == meta.len,
            None => false,
        };
        if place(&chain, &cursor.file).is_some() {
            self.following = Some(next.meta.identity);
        }
        let following = self.following;
        let successor = settled.then(|| Successor {
            start: Position::start(next.meta.identity, next.meta.written_ns, cursor.generation),
            goes_on: following.is_some_and(|seen| seen.is(&next.meta.identity)),
        });
        Ok((tail, successor))
    }

    /// When what is read was written, if it is in the present file: an index has no times of others.
    fn times(&self, disk: &D, cursor: &Position) -> Times {
        let times = disk.times(&self.path, cursor.offset);
        match disk.look(&self.path, self.follow()) {
            Ok(meta) if meta.identity.is(&cursor.file) => times,
            _ => Times::default(),
        }
    }

    /// Bytes that the receiver has not taken yet.
    pub(super) fn behind(&self, disk: &D) -> u64 {
        let present = disk.look(&self.path, self.follow()).ok();
        let Some(from) = self.acked.or(self.cursor) else {
            return present.map_or(0, |present| present.len);
        };
        if let Some(present) = present
            && present.identity.is(&from.file)
        {
            return present.len.saturating_sub(from.offset);
        }
        let chain = disk
            .chain(&self.path, self.follow())
            .ok()
            .flatten()
            .unwrap_or_default();
        let rest =
            place(&chain, &from.file).map_or(0, |place| chain[place].meta.len.saturating_sub(from.offset));
        rest + after(&chain, &from).iter().map(|seen| seen.meta.len).sum::<u64>()
    }

    /// True if its files are gone.
    pub(super) fn is_gone(&self, disk: &D) -> bool {
        let look = disk.look(&self.path, self.follow());
        look.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::Machine;
    use super::super::record::{Key, Stream};
    use super::*;

    /// A log on the disk, and a clock.
    struct Scene {
        path: PathBuf,
        log: Log<Machine>,
        now_ns: u64,
    }

    /// What was gathered: texts, ids, times, how often it began again, and gaps.
    #[derive(Debug, Default)]
    struct Found {
        texts: Vec<String>,
        records: Vec<Record>,
        restarts: usize,
        gaps: usize,
    }

    impl Scene {
        fn new(name: &str) -> Scene {
            let directory = std::env::temp_dir().join(format!("rpm-log-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&directory);
            std::fs::create_dir_all(&directory).expect("a directory");
            let about = About {
                app: "api".to_owned(),
                others: std::collections::BTreeSet::new(),
                id: None,
                stream: Some(Stream::Out),
                dated: false,
                foreign: false,
            };
            let path = directory.join("a.log");
            Scene {
                log: Log::new(path.clone(), Arc::new(about), None, false),
                path,
                now_ns: 4_000_000_000_000_000_000,
            }
        }

        fn write(&self, text: &str) {
            std::fs::write(&self.path, text).expect("a file");
        }

        fn rotated(&self) -> PathBuf {
            self.path.with_extension("log.1")
        }

        /// As long as it takes for the last line to be whole.
        fn gather(&mut self) -> Found {
            let (mut found, mut buffer) = (Found::default(), vec![0; CHUNK]);
            for _ in 0..6 {
                self.now_ns += QUIET_MS * 1_000_000;
                let look = Look {
                    now_ns: self.now_ns,
                    now_ms: self.now_ns / 1_000_000,
                    begun_ns: 0,
                    room: Room {
                        records: 10,
                        bytes: 10_000,
                    },
                };
                let gathered = self.log.gather(&Machine::default(), look, &mut buffer);
                let gathered = gathered.expect("it is read");
                found.restarts += usize::from(gathered.restarted);
                found.gaps += usize::from(gathered.gap);
                found.records.extend(gathered.records);
            }
            found.texts = found.records.iter().map(|record| record.text.clone()).collect();
            found
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.path.parent().expect("a directory"));
        }
    }

    #[test]
    fn a_file_that_is_emptied_is_noticed_once_and_read_from_its_beginning() {
        let mut scene = Scene::new("emptied");
        let mut gather = |text: Option<&str>| {
            if let Some(text) = text {
                scene.write(text);
            }
            let found = scene.gather();
            assert_eq!(found.gaps, 0, "all of it was read");
            let keys: Vec<Key> = found.records.iter().map(|record| record.key).collect();
            (found.texts, found.restarts, keys)
        };
        let (texts, restarts, before) = gather(Some("one\ntwo\n"));
        assert_eq!((texts, restarts), (vec!["one".to_owned(), "two".to_owned()], 0));
        for (text, expected, restarts) in [
            (None, None, 0),
            (Some(""), None, 1),
            (Some("six\n"), Some("six"), 0),
            // As long as before, and another one.
            (Some("ten\n"), Some("ten"), 1),
            (Some("ten\nten\n"), Some("ten"), 0),
        ] {
            let (texts, seen, keys) = gather(text);
            assert_eq!(
                (texts.first().map(String::as_str), seen),
                (expected, restarts),
                "{text:?}"
            );
            assert!(texts.len() < 2);
            assert!(
                keys.iter().all(|key| !before.contains(key)),
                "it is another record, at the same place"
            );
        }
    }

    #[test]
    fn what_was_not_read_of_a_file_that_is_emptied_is_in_its_copy_or_a_gap() {
        for has_copy in [true, false] {
            let mut scene = Scene::new(if has_copy { "copied" } else { "flushed" });
            scene.write("one\n");
            assert_eq!(scene.gather().texts, ["one"]);
            // Nobody looks for a while.
            scene.now_ns += (KNOWN_MS + 1) * 1_000_000;
            scene.write("one\ntwo\nthree\n");
            if has_copy {
                std::fs::copy(&scene.path, scene.rotated()).expect("a copy");
            }
            scene.write("4\n");
            let found = scene.gather();
            let expected: &[&str] = if has_copy { &["two", "three", "4"] } else { &["4"] };
            assert_eq!(found.texts, expected);
            assert_eq!(
                (found.gaps, found.restarts),
                (usize::from(!has_copy), usize::from(!has_copy))
            );
        }
    }

    #[test]
    fn a_file_that_is_gone_is_a_gap_and_what_is_carried_is_sent() {
        let mut scene = Scene::new("gone");
        scene.write("one\ntwo\n");
        std::fs::rename(&scene.path, scene.rotated()).expect("it is there");
        scene.write("");
        scene.log.find(&Machine::default(), 0).expect("it is found");
        let times = scene.gather();
        assert_eq!(
            (times.texts.as_slice(), times.gaps),
            (&["one".to_owned(), "two".to_owned()][..], 0)
        );
        let written = times.records[1].written_ns;
        assert_eq!(written - times.records[0].written_ns, 4, "lines stay in order");
        // Removed while it is not open.
        scene.log.close();
        std::fs::remove_file(scene.rotated()).expect("it is there");
        scene.write("three\n");
        let found = scene.gather();
        assert_eq!(
            (found.texts.as_slice(), found.gaps),
            (&["three".to_owned()][..], 1)
        );
        // Within a record: the next file is gone before it is read.
        scene.write("three\nfour\n");
        scene.now_ns += 1;
        let mut buffer = vec![0; CHUNK];
        std::fs::rename(&scene.path, scene.rotated()).expect("it is there");
        scene.write("five\n");
        let look = |now_ns: u64| Look {
            now_ns,
            now_ms: now_ns / 1_000_000,
            begun_ns: 0,
            room: Room {
                records: 10,
                bytes: 10_000,
            },
        };
        let first = scene
            .log
            .gather(&Machine::default(), look(scene.now_ns), &mut buffer);
        assert!(first.expect("it is read").records.is_empty() && scene.log.carry.is_some());
        // Made while the others are there, so that it has no inode of theirs.
        let six = scene.path.with_extension("six");
        std::fs::write(&six, "six\n").expect("a file");
        std::fs::remove_file(scene.rotated()).expect("it is there");
        std::fs::rename(&six, &scene.path).expect("it takes its place");
        let found = scene.gather();
        assert_eq!(
            (found.texts.as_slice(), found.gaps),
            (&["four".to_owned(), "six".to_owned()][..], 1)
        );
    }
}
