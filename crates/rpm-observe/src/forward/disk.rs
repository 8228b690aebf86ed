//! The log files on the disk, for those who read them: what has which name, and what it is.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rpm_wire::log_times::{INDEX_BYTES, RECORD, Times, index_of};
use rustix::fs::{AtFlags, CWD, FileType, OFlags, Statx, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::files::nanoseconds;

/// The most rotated files of a log that are read: the newest.
pub(super) const SIBLINGS: usize = 1_000;
/// Listings until two of them are the same.
const LISTINGS: usize = 5;
/// The end of an index, which is enough for what was written last.
const INDEX_END: u64 = 4096;
/// Numbers from this on are dates.
const DATES: u32 = 100_000;
/// What is asked of a file.
const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);
/// Files that are not read: compressed by another program.
const COMPRESSED: [&str; 4] = [".gz", ".zst", ".xz", ".bz2"];

/// By which a file is known whatever its name. The number of a device says nothing: network and other file systems get another one when the machine is
/// started, and all files of a log are on the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970; 0 if the file system or the kernel does not say.
    pub born: u64,
}

impl Identity {
    /// True if they are the same file. An inode is used again, but not with the same time of birth. Without that time it may be another file: the
    /// prints of a position tell.
    pub(super) fn is(&self, other: &Identity) -> bool {
        let one_unknown = self.born == 0 || other.born == 0;
        self.inode == other.inode && (one_unknown || self.born == other.born)
    }
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub identity: Identity,
    pub len: u64,
    /// When it was written to, in nanoseconds since 1970.
    pub written_ns: u64,
}

/// A file of a log: the present one, or one that was rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub path: PathBuf,
    pub meta: Meta,
    /// Its name is that of the log and a number.
    pub is_numbered: bool,
}

impl Seen {
    fn age(&self) -> (u64, u64) {
        (self.meta.written_ns, self.meta.identity.born)
    }

    /// True if nothing tells which of two rotated files is older: the one has a number and the other a date, and the last write to them was in the same
    /// tick of the clock, and their births are not known or in one tick, too.
    pub(super) fn is_undecided(&self, other: &Seen) -> bool {
        self.is_numbered != other.is_numbered && self.age() == other.age()
    }
}

/// A disk. The simulation has one of its own.
pub(super) trait Disk {
    type File: std::fmt::Debug;
    /// The logs that there are: none of them is a rotated file of another.
    fn know(&mut self, _logs: BTreeSet<PathBuf>) {}
    /// What has this name.
    fn look(&self, path: &Path, follow: bool) -> io::Result<Meta>;
    /// Opens a file for reading.
    fn open(&self, path: &Path, follow: bool) -> io::Result<Self::File>;
    /// What an open file is now.
    fn meta(&self, file: &Self::File) -> io::Result<Meta>;
    /// Reads until the buffer is full or the file is at its end.
    fn read_at(&self, file: &Self::File, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// The files of a log, oldest first, the present one last. `None` if they change at this moment.
    fn chain(&self, path: &Path, follow: bool) -> io::Result<Option<Vec<Seen>>>;
    /// When the bytes from `offset` on were written, if an index says so.
    fn times(&self, path: &Path, offset: u64) -> Times;
}

/// The disk of this machine.
#[derive(Debug, Default)]
pub(super) struct Machine {
    logs: BTreeSet<PathBuf>,
}

impl Disk for Machine {
    type File = File;

    fn know(&mut self, logs: BTreeSet<PathBuf>) {
        self.logs = logs;
    }

    fn look(&self, path: &Path, follow: bool) -> io::Result<Meta> {
        Meta::at(path, follow)
    }

    fn open(&self, path: &Path, follow: bool) -> io::Result<File> {
        // Neither a pipe nor a terminal is waited for, should one have the name by now.
        let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)?;
        self.meta(&file)?;
        Ok(file)
    }

    fn meta(&self, file: &File) -> io::Result<Meta> {
        Meta::of_open(file)
    }

    fn read_at(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn chain(&self, path: &Path, follow: bool) -> io::Result<Option<Vec<Seen>>> {
        let mut before = listed(path, follow, &self.logs)?;
        for _ in 0..LISTINGS {
            let now = listed(path, follow, &self.logs)?;
            let same = |one: &Seen, other: &Seen| {
                one.path == other.path && one.meta.identity.is(&other.meta.identity)
            };
            if now.len() == before.len() && now.iter().zip(&before).all(|(now, before)| same(now, before)) {
                return Ok(Some(now));
            }
            before = now;
        }
        Ok(None)
    }

    fn times(&self, path: &Path, offset: u64) -> Times {
        times(path, offset).unwrap_or_default()
    }
}

impl Meta {
    fn at(path: &Path, follow: bool) -> io::Result<Meta> {
        let flags = if follow {
            AtFlags::empty()
        } else {
            AtFlags::SYMLINK_NOFOLLOW
        };
        match statx(CWD, path, flags, WANTED) {
            Ok(found) => Meta::of(&found),
            Err(Errno::NOSYS) if follow => Meta::without_birth(&path.metadata()?),
            Err(Errno::NOSYS) => Meta::without_birth(&path.symlink_metadata()?),
            Err(error) => Err(error.into()),
        }
    }

    fn of_open(file: &File) -> io::Result<Meta> {
        match statx(file, c"", AtFlags::EMPTY_PATH, WANTED) {
            Ok(found) => Meta::of(&found),
            Err(Errno::NOSYS) => Meta::without_birth(&file.metadata()?),
            Err(error) => Err(error.into()),
        }
    }

    /// The standard library does not know times of birth where the C library is musl, as in the program that users get.
    fn of(found: &Statx) -> io::Result<Meta> {
        if !FileType::from_raw_mode(found.stx_mode.into()).is_file() {
            return Err(irregular());
        }
        let time = |time: StatxTimestamp| nanoseconds(time.tv_sec, time.tv_nsec.into());
        let knows_birth = found.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Meta {
            identity: Identity {
                inode: found.stx_ino,
                born: if knows_birth { time(found.stx_btime) } else { 0 },
            },
            len: found.stx_size,
            written_ns: time(found.stx_mtime),
        })
    }

    /// By a kernel, or in a container, that does not know `statx`.
    fn without_birth(meta: &Metadata) -> io::Result<Meta> {
        if !meta.is_file() {
            return Err(irregular());
        }
        Ok(Meta {
            identity: Identity {
                inode: meta.ino(),
                born: 0,
            },
            len: meta.len(),
            written_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
        })
    }
}

fn irregular() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "it is not a regular file")
}

/// One look at all files of a log: those whose names begin with its name, a dot or a dash, and a digit or `old`.
fn listed(path: &Path, follow: bool, logs: &BTreeSet<PathBuf>) -> io::Result<Vec<Seen>> {
    let Some(directory) = path.parent() else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let other = entry?.path();
        if end_of(path, &other).is_none() || logs.contains(&other) {
            continue;
        }
        // It may be gone by now.
        if let Ok(meta) = Meta::at(&other, follow) {
            found.push(Seen {
                path: other,
                meta,
                is_numbered: false,
            });
        }
    }
    let mut chain = by_age(path, found);
    chain.drain(..chain.len().saturating_sub(SIBLINGS));
    match Meta::at(path, follow) {
        Ok(meta) => chain.push(Seen {
            path: path.to_owned(),
            meta,
            is_numbered: false,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(chain)
}

/// What comes after the name of a log in that of another file, if that is a rotated one.
fn end_of<'p>(log: &Path, other: &'p Path) -> Option<&'p str> {
    let name = log.file_name()?.to_str()?;
    let end = other.file_name()?.to_str()?.strip_prefix(name)?;
    is_rotated(end).then_some(end)
}

/// True for what comes after the name of a log if it is a rotated file that can be read.
fn is_rotated(rest: &str) -> bool {
    let end = rest.strip_prefix(['.', '-']).unwrap_or_default();
    let is_one = end.starts_with(|first: char| first.is_ascii_digit()) || end.starts_with("old");
    is_one && !COMPRESSED.iter().any(|ending| end.ends_with(ending))
}

/// The number at the end of a name, if nothing else is there and it is no date: the higher, the older.
fn number(rest: &str) -> Option<u32> {
    let digits = rest.trim_start_matches(['.', '-']);
    digits.parse().ok().filter(|number| *number < DATES)
}

/// The rotated files among these, oldest first, by the time of writing. Among those with numbers the numbers decide: a file that is copied back, or
/// touched, is no newer. Where nothing tells ([`Seen::is_undecided`]) the one with a number is first, which may be wrong: lines of the two files may change
/// places then, but all of them are read (`position::next`).
pub(super) fn by_age(log: &Path, found: Vec<Seen>) -> Vec<Seen> {
    let (mut numbered, mut others) = (Vec::new(), Vec::new());
    for mut seen in found {
        match end_of(log, &seen.path).map(number) {
            Some(Some(number)) => {
                seen.is_numbered = true;
                numbered.push((number, seen));
            }
            Some(None) => others.push(seen),
            None => {}
        }
    }
    numbered.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    others.sort_by(|one, other| (one.age(), &one.path).cmp(&(other.age(), &other.path)));
    let mut chain = Vec::new();
    let mut others = others.into_iter().peekable();
    for (_, one) in numbered {
        while let Some(older) = others.next_if(|other| other.age() < one.age()) {
            chain.push(older);
        }
        chain.push(one);
    }
    chain.extend(others);
    chain
}

fn times(path: &Path, offset: u64) -> io::Result<Times> {
    let mut index = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed())
        .open(index_of(path))?;
    let meta = index.metadata()?;
    if !meta.is_file() || meta.len() > 2 * INDEX_BYTES {
        return Ok(Times::default());
    }
    let record = RECORD as u64;
    let end = meta.len().saturating_sub(INDEX_END) / record * record;
    for start in [end, 0] {
        let mut bytes = Vec::new();
        index.seek(SeekFrom::Start(start))?;
        (&index).take(2 * INDEX_BYTES).read_to_end(&mut bytes)?;
        let times = Times::parse(&bytes);
        if start == 0 || times.before(offset).is_some() {
            return Ok(times);
        }
    }
    Ok(Times::default())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_file_has_the_time_of_its_birth_where_the_system_knows_it() {
        let path = std::env::temp_dir().join(format!("rpm-birth-{}", std::process::id()));
        fs::write(&path, "one").expect("a file");
        let file = File::open(&path).expect("it opens");
        let known = file.metadata().expect("it is there");
        let born = known
            .created()
            .ok()
            .and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let seen = Meta::of_open(&file).expect("it is there");
        if let Some(born) = born {
            assert_eq!(u128::from(seen.identity.born), born.as_nanos());
        }
        let without = Meta::without_birth(&known).expect("it is a file");
        assert_eq!((without.len, without.written_ns), (seen.len, seen.written_ns));
        assert!(without.identity.is(&seen.identity) && without.identity.born == 0);
        fs::remove_file(&path).expect("it is ours");
        assert!(Meta::at(&std::env::temp_dir(), true).is_err(), "no file");
    }

    #[test]
    fn the_newest_files_are_read_where_there_are_too_many() {
        let directory = std::env::temp_dir().join(format!("rpm-many-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let log = directory.join("a.log");
        for number in 0..SIBLINGS + 5 {
            let name = if number == 0 {
                log.clone()
            } else {
                directory.join(format!("a.log.{number}"))
            };
            fs::write(name, "x").expect("a file");
        }
        let chain = Machine::default()
            .chain(&log, true)
            .expect("it is read")
            .expect("nothing changes");
        assert_eq!(chain.len(), SIBLINGS + 1);
        assert_eq!(chain[0].path, directory.join(format!("a.log.{SIBLINGS}")));
        assert_eq!(chain.last().map(|seen| &seen.path), Some(&log));
        fs::remove_dir_all(&directory).expect("it is ours");
    }

    #[test]
    fn the_files_of_a_log_are_in_the_order_in_which_they_were_written() {
        let directory = std::env::temp_dir().join(format!("rpm-chain-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let log = directory.join("a-out.log");
        let at = |seconds: u64| UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        for (name, written) in [
            ("a-out.log", 50),
            ("a-out.log.1", 40),
            ("a-out.log.10", 30),
            // It was touched.
            ("a-out.log.2", 45),
            // Of another app, whose log is named after this one.
            ("a-out.log-2", 40),
            ("a-out.log.err", 40),
            ("a-out.log.old", 25),
            ("a-out.log-20260101", 20),
            ("a-out.log.3.gz", 10),
            (".a-out.log.times", 50),
            ("a-out.logs", 50),
            ("a-out-1.log", 50),
        ] {
            fs::write(directory.join(name), name).expect("a file");
            let file = File::options()
                .write(true)
                .open(directory.join(name))
                .expect("it opens");
            file.set_modified(at(written)).expect("a time");
        }
        let names = || {
            let mut machine = Machine::default();
            machine.know(BTreeSet::from([log.clone(), directory.join("a-out.log-2")]));
            let chain = machine
                .chain(&log, true)
                .expect("it is read")
                .expect("nothing changes");
            let name = |seen: Seen| {
                seen.path
                    .file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned()
            };
            chain.into_iter().map(name).collect::<Vec<_>>()
        };
        let expected = [
            "a-out.log-20260101",
            "a-out.log.old",
            "a-out.log.10",
            "a-out.log.2",
            "a-out.log.1",
            "a-out.log",
        ];
        assert_eq!(names(), expected);
        // A link in the place of a log of another user is not followed.
        fs::remove_file(&log).expect("it is there");
        std::os::unix::fs::symlink(directory.join("a-out.logs"), &log).expect("a link");
        let machine = Machine::default();
        assert!(machine.look(&log, true).is_ok() && machine.look(&log, false).is_err());
        assert!(machine.open(&log, true).is_ok() && machine.open(&log, false).is_err());
        fs::remove_dir_all(&directory).expect("it is ours");
    }
}
