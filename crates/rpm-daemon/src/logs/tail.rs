//! Reading log files: the last lines, and what is added.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::rotation;
use super::times::Times;
use crate::home::PATIENT;

/// How far back the last lines are looked for, and the longest line that is shown whole.
const WINDOW_BYTES: u64 = 1024 * 1024;

/// A file that is followed may have been rotated so often since it was looked at.
const ASIDE_LIMIT: u32 = 100;

/// The last `count` lines of a file, oldest first, looking at nothing before `from` (an offset in bytes).
/// A file that cannot be read has none.
#[must_use]
pub fn last_lines(path: &Path, from: u64, count: usize) -> Vec<String> {
    last_lines_within(path, from, count, WINDOW_BYTES)
}

/// The same, looking at no more than the last `window` bytes.
pub(crate) fn last_lines_within(path: &Path, from: u64, count: usize, window: u64) -> Vec<String> {
    let lines = opened(path).and_then(|opened| read_end(opened, from, count, window));
    let (lines, _) = lines.unwrap_or_default();
    lines.into_iter().map(|(_, line)| line).collect()
}

/// The size of a file in bytes; 0 if there is none.
#[must_use]
pub fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Follows one file, through truncation and replacement.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    offset: u64,
    inode: Option<u64>,
    partial: Vec<u8>,
}

impl Follower {
    /// Starts at the end of the file, and returns its last `count` lines, each behind its time in milliseconds since 1970 if that is
    /// known.
    #[must_use]
    pub fn start(path: &Path, count: usize) -> (Vec<(Option<u64>, String)>, Follower) {
        Follower::start_while(path, count, || ())
    }

    /// `meanwhile` runs when the file was found and nothing is read of it yet.
    fn start_while(
        path: &Path,
        count: usize,
        meanwhile: impl FnOnce(),
    ) -> (Vec<(Option<u64>, String)>, Follower) {
        let opened = opened(path).ok();
        meanwhile();
        // The inode is that of what is read, whatever has the name by now.
        let inode = opened.as_ref().map(|opened| opened.inode);
        let read = opened.and_then(|opened| read_end(opened, 0, count, WINDOW_BYTES).ok());
        let (lines, offset) = read.unwrap_or_default();
        let times = match lines.is_empty() {
            true => Times::default(),
            false => times_of(path, inode),
        };
        let timed = lines.into_iter().map(|(offset, line)| (times.at(offset), line));
        (
            timed.collect(),
            Follower {
                path: path.to_owned(),
                offset,
                inode,
                partial: Vec::new(),
            },
        )
    }

    /// Starts at an offset in bytes, at the end without one; at the beginning of a file that is shorter: it was rotated since.
    #[must_use]
    pub fn start_at(path: &Path, offset: Option<u64>) -> Follower {
        let meta = std::fs::metadata(path).ok();
        let within = |len| offset.map_or(len, |offset| if offset > len { 0 } else { offset });
        Follower {
            path: path.to_owned(),
            offset: meta.as_ref().map_or(0, |meta| within(meta.len())),
            inode: meta.map(|meta| meta.ino()),
            partial: Vec::new(),
        }
    }

    /// What has no end, when there is nothing more to come.
    pub fn rest(&mut self) -> Vec<String> {
        split(&std::mem::take(&mut self.partial))
    }

    /// Complete lines added since the last call, at most about a megabyte of them; `true` if there may
    /// be more.
    pub fn more(&mut self) -> (Vec<String>, bool) {
        self.more_while(|| ())
    }

    /// `meanwhile` runs when a rotated file was found and nothing is read of it yet.
    fn more_while(&mut self, meanwhile: impl FnOnce()) -> (Vec<String>, bool) {
        // Of many files that are followed few have grown: the others are not opened.
        let is_same = |meta: &std::fs::Metadata| self.inode == Some(meta.ino()) && self.offset == meta.len();
        if self.path.metadata().is_ok_and(|meta| is_same(&meta)) {
            return (Vec::new(), false);
        }
        let Ok(Opened { file, inode, len }) = opened(&self.path) else {
            return (Vec::new(), false);
        };
        if self.inode == Some(inode) && len >= self.offset {
            let read = self.read(file);
            return (self.complete_lines(), read == WINDOW_BYTES);
        }
        if self.inode != Some(inode)
            && let Some((file, next)) = self.rotated(inode)
        {
            meanwhile();
            if self.read(file) == 0 {
                // It is read to its end; a line that has none goes on in the one after it.
                self.inode = Some(next);
                self.offset = 0;
            }
            return (self.complete_lines(), true);
        }
        self.inode = Some(inode);
        self.offset = 0;
        self.partial.clear();
        let read = self.read(file);
        (self.complete_lines(), read == WINDOW_BYTES)
    }

    /// The file that was read, if it has got a number since, and the inode of the one after it. `newest`: the inode of the one without a
    /// number.
    fn rotated(&self, newest: u64) -> Option<(File, u64)> {
        let (mut next, mut missing) = (newest, 0);
        // From low numbers to high ones: a rotation meanwhile only repeats a file.
        for number in 1..=ASIDE_LIMIT {
            let Ok(Opened { file, inode, .. }) = opened(&rotation::numbered(&self.path, number)) else {
                // Between two renames of a rotation one number has no file.
                missing += 1;
                if missing > 1 {
                    return None;
                }
                continue;
            };
            missing = 0;
            if Some(inode) == self.inode {
                return Some((file, next));
            }
            next = inode;
        }
        None
    }

    /// Takes what is new in the file; how much that was, in bytes.
    fn read(&mut self, mut file: File) -> u64 {
        let before = self.partial.len();
        let read = file.seek(SeekFrom::Start(self.offset));
        // What cannot be read is not shown; it is in the file.
        let _ = read.and_then(|_| file.take(WINDOW_BYTES).read_to_end(&mut self.partial));
        let read = (self.partial.len() - before) as u64;
        self.offset += read;
        read
    }

    fn complete_lines(&mut self) -> Vec<String> {
        let too_long = self.partial.len() as u64 > WINDOW_BYTES;
        let end = match self.partial.iter().rposition(|b| *b == b'\n') {
            Some(newline) => newline + 1,
            None if too_long => self.partial.len(),
            None => return Vec::new(),
        };
        let rest = self.partial.split_off(end);
        let whole = std::mem::replace(&mut self.partial, rest);
        split(&whole)
    }
}

/// An open file, as it was when it was opened.
struct Opened {
    file: File,
    inode: u64,
    len: u64,
}

/// A regular file. Anything else would be waited for, or be taken from its reader.
fn opened(path: &Path) -> io::Result<Opened> {
    let is_file = |meta: std::fs::Metadata| match meta.is_file() {
        true => Ok(meta),
        false => Err(io::Error::other("it is not a file")),
    };
    is_file(path.metadata()?)?;
    // It may have been replaced since.
    let file = OpenOptions::new().read(true).custom_flags(PATIENT).open(path)?;
    let meta = is_file(file.metadata()?)?;
    Ok(Opened {
        file,
        inode: meta.ino(),
        len: meta.len(),
    })
}

/// The times of the lines of the file with this inode. None are known if the file was rotated meanwhile: the index may be that of the next
/// one.
fn times_of(path: &Path, inode: Option<u64>) -> Times {
    let times = Times::read(path);
    let now = path.metadata().ok().map(|meta| meta.ino());
    match now == inode {
        true => times,
        false => Times::default(),
    }
}

fn split(bytes: &[u8]) -> Vec<String> {
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if text.is_empty() && bytes.is_empty() {
        return Vec::new();
    }
    text.split(|b| *b == b'\n')
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect()
}

/// The last lines, each behind its offset, and where they end.
fn read_end(opened: Opened, from: u64, count: usize, window: u64) -> io::Result<(Vec<(u64, String)>, u64)> {
    let Opened {
        mut file, len: end, ..
    } = opened;
    // One that is shorter was rotated since.
    let from = if from > end { 0 } else { from };
    let start = end.saturating_sub(window).max(from);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(end - start).read_to_end(&mut bytes)?;
    let mut offset = start;
    let parts = bytes.split_inclusive(|byte| *byte == b'\n');
    let mut lines: Vec<(u64, &[u8])> = parts
        .map(|part| {
            let begin = offset;
            offset += part.len() as u64;
            (begin, part.strip_suffix(b"\n").unwrap_or(part))
        })
        .collect();
    if start > from && lines.len() > 1 {
        lines.remove(0);
    }
    let surplus = lines.len().saturating_sub(count);
    let last = lines.split_off(surplus).into_iter();
    let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    Ok((last.map(|(offset, line)| (offset, text(line))).collect(), offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("rpm-tail-{name}-{}", std::process::id()))
    }

    #[test]
    fn last_lines_come_oldest_first_and_from_an_offset() {
        let path = scratch("last");
        std::fs::write(&path, "old\none\ntwo\nthree").unwrap();
        assert_eq!(last_lines(&path, 0, 2), ["two", "three"]);
        assert_eq!(last_lines(&path, 4, 9), ["one", "two", "three"]);
        assert_eq!(last_lines(&path, 17, 9), Vec::<String>::new());
        assert_eq!(last_lines(&path, 999, 1), ["three"]);
        assert_eq!(last_lines(Path::new("/nonexistent"), 0, 9), Vec::<String>::new());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_follower_starts_at_an_offset_or_at_the_end() {
        let path = scratch("start-at");
        std::fs::write(&path, "old\none\n").unwrap();
        for (offset, lines) in [(Some(4), &["one"][..]), (Some(99), &["old", "one"]), (None, &[])] {
            assert_eq!(Follower::start_at(&path, offset).more().0, lines, "{offset:?}");
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_follower_sees_additions_truncation_and_replacement() {
        let path = scratch("follow");
        std::fs::write(&path, "a\nb\n").unwrap();
        let (lines, mut follower) = Follower::start(&path, 1);
        assert_eq!(lines, [(None, "b".to_owned())]);
        let append = |text: &str| {
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        };
        append("c\npar");
        assert_eq!(follower.more().0, ["c"]);
        append("tial\n");
        assert_eq!(follower.more().0, ["partial"]);
        std::fs::write(&path, "x\n").unwrap();
        assert_eq!(follower.more().0, ["x"]);
        std::fs::rename(&path, scratch("rotated")).unwrap();
        std::fs::write(&path, "new file\n").unwrap();
        assert_eq!(follower.more().0, ["new file"]);
        for leftover in [path, scratch("rotated")] {
            std::fs::remove_file(leftover).unwrap();
        }
    }

    /// A directory with a log that a daemon rotates.
    struct Rotated(PathBuf);

    impl Rotated {
        fn new(name: &str) -> Rotated {
            let dir = scratch(name);
            std::fs::create_dir_all(&dir).unwrap();
            Rotated(dir)
        }

        fn log(&self) -> PathBuf {
            self.0.join("a.log")
        }

        fn write(&self, text: &str) {
            std::fs::write(self.log(), text).unwrap();
        }

        /// The file gets the number 1, and another one its name.
        fn rotate(&self, text: &str) {
            rotation::rotate(&self.log(), 9).unwrap();
            self.write(text);
        }

        /// All lines that are still to come.
        fn rest(follower: &mut Follower) -> Vec<String> {
            let mut lines = Vec::new();
            loop {
                let (more, again) = follower.more();
                lines.extend(more);
                if !again {
                    return lines;
                }
            }
        }
    }

    impl Drop for Rotated {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_rotation_while_following_begins_repeats_and_loses_nothing() {
        for (name, new) in [("shorter", "c\n"), ("longer", "more than the old one\n")] {
            let place = Rotated::new(&format!("start-{name}"));
            place.write("a\nb\n");
            let (lines, mut follower) = Follower::start_while(&place.log(), 1, || place.rotate(new));
            assert_eq!(lines, [(None, "b".to_owned())], "{name}");
            assert_eq!(Rotated::rest(&mut follower), [new.trim_end()], "{name}");
        }
    }

    #[test]
    fn a_rotation_gives_no_line_the_time_of_another() {
        let place = Rotated::new("start-times");
        place.write("a\nb\n");
        let (lines, _) = Follower::start_while(&place.log(), 1, || {
            place.rotate("c\n");
            let mut clock = crate::logs::times::Clock::default();
            clock.note(&place.log(), &crate::os::behalf::Behalf::default(), 0, 5000);
        });
        assert_eq!(lines, [(None, "b".to_owned())]);
    }

    #[test]
    fn a_rotation_in_progress_hides_no_file() {
        let place = Rotated::new("in-progress");
        place.write("a\n");
        let (_, mut follower) = Follower::start(&place.log(), 1);
        place.write("a\nunread\n");
        place.rotate("b\n");
        // The first half of another rotation.
        let number = |number| rotation::numbered(&place.log(), number);
        std::fs::rename(number(1), number(2)).unwrap();
        assert_eq!(Rotated::rest(&mut follower), ["unread", "b"]);
        std::fs::rename(place.log(), number(1)).unwrap();
        place.write("c\n");
        assert_eq!(Rotated::rest(&mut follower), ["c"]);
    }

    #[test]
    fn a_rotation_while_a_rotated_file_is_read_skips_no_file() {
        let place = Rotated::new("more");
        place.write("a\n");
        let (_, mut follower) = Follower::start(&place.log(), 1);
        place.rotate("b\n");
        place.rotate("c\n");
        let (lines, again) = follower.more_while(|| place.rotate("d\n"));
        assert_eq!((lines, again), (Vec::new(), true));
        assert_eq!(Rotated::rest(&mut follower), ["b", "c", "d"]);
    }
}
