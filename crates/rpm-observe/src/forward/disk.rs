//! The log files on the disk, for those who read them: what has which name, and what it is.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rpm_wire::log_times::{INDEX_BYTES, RECORD, Times, index_of};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

/// The most rotated files of a log that are looked at.
const SIBLINGS: usize = 1_000;
/// Listings until two of them are the same.
const LISTINGS: usize = 5;
/// The end of an index, which is enough for what was written last.
const INDEX_END: u64 = 4096;
/// Numbers from this on are dates.
const DATES: u32 = 100_000;
/// Files that are not read: compressed by another program.
const COMPRESSED: [&str; 4] = [".gz", ".zst", ".xz", ".bz2"];

/// By which a file is known whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub device: u64,
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970; 0 if the file system does not know.
    pub born: u64,
}

impl Identity {
    /// True if they are the same file. An inode is used again, but not with the same time of birth; the number of a device changes when the
    /// machine is started.
    pub(super) fn is(&self, other: &Identity) -> bool {
        let same_birth = self.born == other.born && self.born != 0;
        let one_unknown = self.born == 0 || other.born == 0;
        self.inode == other.inode && (same_birth || (one_unknown && self.device == other.device))
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
        Meta::of(&file.metadata()?)
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
        let meta = match follow {
            true => path.metadata()?,
            false => path.symlink_metadata()?,
        };
        Meta::of(&meta)
    }

    fn of(meta: &Metadata) -> io::Result<Meta> {
        if !meta.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "it is not a regular file",
            ));
        }
        let born = meta
            .created()
            .ok()
            .and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let nanoseconds = |seconds: i64, rest: i64| {
            u64::try_from(i128::from(seconds) * 1_000_000_000 + i128::from(rest)).unwrap_or(0)
        };
        Ok(Meta {
            identity: Identity {
                device: meta.dev(),
                inode: meta.ino(),
                born: born.map_or(0, |born| u64::try_from(born.as_nanos()).unwrap_or(0)),
            },
            len: meta.len(),
            written_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
        })
    }
}

/// One look at all files of a log: those whose names begin with its name, a dot or a dash, and a digit or `old`.
fn listed(path: &Path, follow: bool, logs: &BTreeSet<PathBuf>) -> io::Result<Vec<Seen>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let other = entry.file_name();
        let Some(rest) = other.to_str().and_then(|other| other.strip_prefix(name)) else {
            continue;
        };
        if !is_rotated(rest) || logs.contains(&entry.path()) {
            continue;
        }
        // It may be gone by now.
        if let Ok(meta) = Meta::at(&entry.path(), follow) {
            found.push(Rotated {
                number: number(rest),
                path: entry.path(),
                meta,
            });
        }
        if found.len() == SIBLINGS {
            break;
        }
    }
    let mut chain = by_age(found);
    match Meta::at(path, follow) {
        Ok(meta) => chain.push(Seen {
            path: path.to_owned(),
            meta,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(chain)
}

/// True for what comes after the name of a log if it is a rotated file that can be read.
fn is_rotated(rest: &str) -> bool {
    let end = rest.strip_prefix(['.', '-']).unwrap_or_default();
    let is_one = end.starts_with(|first: char| first.is_ascii_digit()) || end.starts_with("old");
    is_one && !COMPRESSED.iter().any(|ending| end.ends_with(ending))
}

/// A rotated file.
struct Rotated {
    /// At the end of its name, if nothing else is there and it is no date: the higher, the older.
    number: Option<u32>,
    path: PathBuf,
    meta: Meta,
}

fn number(rest: &str) -> Option<u32> {
    let digits = rest.trim_start_matches(['.', '-']);
    digits.parse().ok().filter(|number| *number < DATES)
}

/// Oldest first, by the time of writing. Among those with numbers the numbers decide: a file that is copied back, or touched, is no newer.
fn by_age(mut found: Vec<Rotated>) -> Vec<Seen> {
    let age = |one: &Rotated| (one.meta.written_ns, one.meta.identity.born);
    found.sort_by(|one, other| (age(one), &one.path).cmp(&(age(other), &other.path)));
    let (mut numbered, others): (Vec<Rotated>, Vec<Rotated>) =
        found.into_iter().partition(|one| one.number.is_some());
    numbered.sort_by_key(|one| std::cmp::Reverse(one.number));
    let mut chain = Vec::new();
    let mut others = others.into_iter().peekable();
    for one in numbered {
        while let Some(older) = others.next_if(|other| age(other) < age(&one)) {
            chain.push(older);
        }
        chain.push(one);
    }
    chain.extend(others);
    let seen = |one: Rotated| Seen {
        path: one.path,
        meta: one.meta,
    };
    chain.into_iter().map(seen).collect()
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
    use super::*;

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
