//! The world of the simulation: a disk, and logs that are written and rotated in every way.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rpm_wire::log_times::{Times, record};

use super::super::disk::{Disk, Identity, Meta, Seen, by_age};

/// Rotated files that are kept.
const KEEP: u64 = 4;
/// Records of an index from which on its older half is dropped.
const INDEXED: usize = 16;

/// SplitMix64.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    pub(super) fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

#[derive(Debug)]
struct Data {
    identity: Identity,
    bytes: Vec<u8>,
    written_ns: u64,
    held: Rc<()>,
}

/// A file that is open: its inode is not used again.
#[derive(Debug)]
pub(super) struct Opened {
    file: usize,
    _held: Rc<()>,
}

/// The disk: what has a name, and what is only open.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) now_ns: u64,
    files: Vec<Data>,
    names: BTreeMap<PathBuf, usize>,
    /// Files without a name, whose inodes are used again.
    free: Vec<usize>,
    /// Files have a time of birth.
    knows_births: bool,
    /// No inode is new while one is free.
    pub(super) is_full: bool,
    /// When what was written, by log: an offset, and a time in milliseconds.
    indexes: BTreeMap<PathBuf, Vec<(u64, u64)>>,
    /// Lines of which a file has only a part.
    cut: Vec<(usize, u64)>,
    /// Lines of a log in files whose order nothing on the disk tells.
    undecided: BTreeMap<PathBuf, Undecided>,
}

/// Of two files, one with a number and the other with a date in its name, that were made and written to in the same moments as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Undecided {
    /// Lines of the older file, which comes after the younger one.
    pub(super) overtaken: BTreeSet<u64>,
    /// A line that begins in the one and ends in the other is not put together.
    pub(super) torn: BTreeSet<u64>,
}

impl World {
    pub(super) fn new(now_ns: u64, knows_births: bool) -> World {
        World {
            now_ns,
            knows_births,
            ..World::default()
        }
    }

    fn make(&mut self, path: &Path, dice: &mut Dice) -> usize {
        // An inode that is free is used again.
        let is_free = |file: &usize| Rc::strong_count(&self.files[*file].held) == 1;
        let free = self.free.iter().position(is_free);
        let inode = match free.filter(|_| self.is_full || !dice.one_in(3)) {
            None => 1_000 + self.files.len() as u64,
            Some(free) => self.files[self.free.remove(free)].identity.inode,
        };
        self.files.push(Data {
            identity: Identity {
                inode,
                born: if self.knows_births { self.now_ns } else { 0 },
            },
            bytes: Vec::new(),
            written_ns: self.now_ns,
            held: Rc::default(),
        });
        self.names.insert(path.to_owned(), self.files.len() - 1);
        self.files.len() - 1
    }

    fn meta(&self, file: usize) -> Meta {
        let data = &self.files[file];
        Meta {
            identity: data.identity,
            len: data.bytes.len() as u64,
            written_ns: data.written_ns,
        }
    }

    /// Removes a name. Returns the numbers of the lines that are gone with the file.
    pub(super) fn remove(&mut self, path: &Path) -> Vec<u64> {
        let Some(file) = self.names.remove(path) else {
            return Vec::new();
        };
        self.free.push(file);
        self.lines(file)
    }

    fn lines(&self, file: usize) -> Vec<u64> {
        let cut = self
            .cut
            .iter()
            .filter(|(of, _)| *of == file)
            .map(|(_, number)| *number);
        let text = String::from_utf8_lossy(&self.files[file].bytes);
        numbers(&text).into_iter().chain(cut).collect()
    }

    /// What nobody can know of this log.
    pub(super) fn undecided(&self, log: &Path) -> Option<&Undecided> {
        self.undecided.get(log)
    }

    /// Notes which files of a chain are the wrong way round though nothing tells: later files have higher indexes.
    fn note_undecided(&mut self, log: &Path, chain: &[Seen]) {
        for (place, later) in chain.iter().enumerate().filter(|(_, seen)| seen.meta.len > 0) {
            for earlier in chain[place + 1..].iter().filter(|seen| seen.meta.len > 0) {
                let (first, second) = (self.names[&earlier.path], self.names[&later.path]);
                if earlier.is_undecided(later) && first < second {
                    let overtaken = self.lines(first);
                    let cut = self.cut.iter().filter(|(of, _)| *of == first || *of == second);
                    let torn: Vec<u64> = cut.map(|(_, number)| *number).collect();
                    let undecided = self.undecided.entry(log.to_owned()).or_default();
                    undecided.overtaken.extend(overtaken);
                    undecided.torn.extend(torn);
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Simulated(pub(super) Rc<RefCell<World>>);

impl Disk for Simulated {
    type File = Opened;

    fn look(&self, path: &Path, _: bool) -> io::Result<Meta> {
        let world = self.0.borrow();
        let file = world.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(world.meta(*file))
    }

    fn open(&self, path: &Path, _: bool) -> io::Result<Opened> {
        let world = self.0.borrow();
        let file = *world.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Opened {
            file,
            _held: Rc::clone(&world.files[file].held),
        })
    }

    fn meta(&self, opened: &Opened) -> io::Result<Meta> {
        Ok(self.0.borrow().meta(opened.file))
    }

    fn read_at(&self, opened: &Opened, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = self.0.borrow();
        let bytes = &world.files[opened.file].bytes;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn chain(&self, path: &Path, _: bool) -> io::Result<Option<Vec<Seen>>> {
        let world = &mut *self.0.borrow_mut();
        let seen = |(name, file): (&PathBuf, &usize)| Seen {
            path: name.clone(),
            meta: world.meta(*file),
            is_numbered: false,
        };
        let mut chain = by_age(path, world.names.iter().map(seen).collect());
        let present = world.names.get_key_value(path).map(seen);
        world.note_undecided(path, &chain);
        chain.extend(present);
        Ok(Some(chain))
    }

    fn times(&self, path: &Path, _: u64) -> Times {
        let world = self.0.borrow();
        let records = world.indexes.get(path).into_iter().flatten();
        let bytes: Vec<u8> = records.flat_map(|(offset, at)| record(*offset, *at)).collect();
        Times::parse(&bytes)
    }
}

/// A log and the daemon that writes it.
pub(super) struct Writer {
    pub(super) path: PathBuf,
    pub(super) file: Option<usize>,
    pub(super) next: u64,
    /// The rest of a line: its number, the file with its beginning, and since when.
    pub(super) unfinished: Option<(u64, usize, u64, String)>,
    /// Somebody else has moved the file, and the daemon was not told yet.
    pub(super) is_moved: bool,
    rotations: u64,
}

impl Writer {
    pub(super) fn new(path: PathBuf) -> Writer {
        Writer {
            path,
            file: None,
            next: 0,
            unfinished: None,
            is_moved: false,
            rotations: 0,
        }
    }
}

impl Writer {
    /// The file that it writes to.
    fn opened(&mut self, world: &mut World, dice: &mut Dice) -> usize {
        let file = match self.file {
            Some(file) => file,
            None => match world.names.get(&self.path) {
                Some(file) => *file,
                None => world.make(&self.path, dice),
            },
        };
        self.file = Some(file);
        file
    }

    /// Writes this, and notes when.
    pub(super) fn append(&mut self, world: &mut World, dice: &mut Dice, text: &str) {
        let file = self.opened(world, dice);
        let now_ns = world.now_ns / 4_000_000 * 4_000_000;
        let data = &mut world.files[file];
        let index = world.indexes.entry(self.path.clone()).or_default();
        index.push((data.bytes.len() as u64, world.now_ns / 1_000_000));
        if index.len() > INDEXED {
            index.drain(..INDEXED / 2);
        }
        data.bytes.extend_from_slice(text.as_bytes());
        data.written_ns = now_ns;
    }

    pub(super) fn write(&mut self, world: &mut World, dice: &mut Dice) {
        let file = self.opened(world, dice);
        let mut text = String::new();
        if let Some((number, begun, _, rest)) = self.unfinished.take() {
            text.push_str(&rest);
            if begun != file {
                world.cut.extend([(begun, number), (file, number)]);
            }
        }
        for _ in 0..=dice.roll(20) {
            let number = self.next;
            self.next += 1;
            let indent = if dice.one_in(5) { "    at " } else { "" };
            let mut line = format!("{indent}<{number}> padding\n");
            match dice.roll(60) {
                0..4 => {
                    let rest = line.split_off(1 + dice.roll(line.len() as u64 - 1) as usize);
                    text.push_str(&line);
                    self.unfinished = Some((number, file, world.now_ns, rest));
                    break;
                }
                4..8 => line.push('\n'),
                8 if dice.one_in(4) => {
                    line.truncate(line.len() - 1);
                    line.push_str(&format!("{}\n", "ding".repeat(dice.roll(40_000) as usize)));
                }
                _ => {}
            }
            text.push_str(&line);
        }
        self.append(world, dice, &text);
    }

    fn numbered(&self, number: u64) -> PathBuf {
        format!("{}.{number}", self.path.display()).into()
    }

    /// As the daemon rotates. Returns what is removed.
    pub(super) fn rotate(&mut self, world: &mut World, dice: &mut Dice) -> Vec<u64> {
        let mut gone = world.remove(&self.numbered(KEEP));
        // With the beginning of a line, its end says nothing.
        if let Some((number, begun, ..)) = &self.unfinished
            && !world.names.values().any(|file| file == begun)
        {
            gone.push(*number);
        }
        for number in (1..KEEP).rev() {
            if let Some(file) = world.names.remove(&self.numbered(number)) {
                world.names.insert(self.numbered(number + 1), file);
            }
        }
        if let Some(file) = world.names.remove(&self.path) {
            world.names.insert(self.numbered(1), file);
        }
        world.make(&self.path, dice);
        self.file = None;
        gone
    }

    /// As logrotate does with a date in the name: the daemon writes on to the old file until it is told.
    pub(super) fn move_away(&mut self, world: &mut World, dice: &mut Dice) {
        if let Some(file) = world.names.remove(&self.path) {
            self.rotations += 1;
            world.names.insert(
                format!("{}-{}", self.path.display(), 20_260_000 + self.rotations).into(),
                file,
            );
            if dice.one_in(2) {
                world.make(&self.path, dice);
            }
            self.is_moved = self.file.is_some();
        }
    }

    /// As `rpm flush` does. Returns what is gone.
    pub(super) fn empty(&mut self, world: &mut World) -> Vec<u64> {
        let Some(&file) = world.names.get(&self.path) else {
            return Vec::new();
        };
        let gone = world.lines(file);
        world.files[file].bytes.clear();
        gone
    }
}

/// The numbers of the lines in a text. Where a file is gone, the halves of two lines are one.
pub(super) fn numbers(text: &str) -> Vec<u64> {
    let number = |part: &str| part.split_once('>')?.0.parse().ok();
    text.split('<').filter_map(number).collect()
}
