//! Reading log files: the last lines, and what is added.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::aside;
use super::times::Times;
use crate::home::PATIENT;

/// How far back the last lines are looked for, and the longest line that is shown whole.
const WINDOW_BYTES: u64 = 1024 * 1024;

/// A file that is followed may have been put aside so often since it was looked at.
const ASIDE_LIMIT: u32 = 100;

/// The last `count` lines of a file, oldest first, looking at nothing before `from` (an offset in bytes).
/// A file that cannot be read has none.
#[must_use]
pub fn last_lines(path: &Path, from: u64, count: usize) -> Vec<String> {
    last_lines_within(path, from, count, WINDOW_BYTES)
}

/// The same, looking at no more than the last `window` bytes.
pub(crate) fn last_lines_within(path: &Path, from: u64, count: usize, window: u64) -> Vec<String> {
    let (lines, _) = read_end(path, from, count, window).unwrap_or_default();
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
        let inode = std::fs::metadata(path).ok().map(|meta| meta.ino());
        let (lines, offset) = read_end(path, 0, count, WINDOW_BYTES).unwrap_or_default();
        let times = match lines.is_empty() {
            true => Times::default(),
            false => Times::read(path),
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

    /// Starts at an offset in bytes; at the beginning of a file that is shorter: it was put aside since.
    #[must_use]
    pub fn start_at(path: &Path, offset: u64) -> Follower {
        let meta = std::fs::metadata(path).ok();
        Follower {
            path: path.to_owned(),
            offset: meta
                .as_ref()
                .map_or(0, |meta| if offset > meta.len() { 0 } else { offset }),
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
        let Ok((file, inode, len)) = opened(&self.path) else {
            return (Vec::new(), false);
        };
        if self.inode == Some(inode) && len >= self.offset {
            let read = self.read(file);
            return (self.complete_lines(), read == WINDOW_BYTES);
        }
        if self.inode != Some(inode)
            && let Some((number, file)) = self.put_aside()
        {
            if self.read(file) == 0 {
                // It is read to its end; a line that has none goes on in the one after it.
                let next = match number {
                    1 => Ok(inode),
                    number => opened(&aside::numbered(&self.path, number - 1)).map(|(_, inode, _)| inode),
                };
                self.inode = next.ok();
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

    /// The file that was read, if it has got a number since.
    fn put_aside(&self) -> Option<(u32, File)> {
        let numbers = (1..=ASIDE_LIMIT).map_while(|number| {
            let (file, inode, _) = opened(&aside::numbered(&self.path, number)).ok()?;
            Some((number, file, inode))
        });
        let mut same = numbers.filter(|(_, _, inode)| Some(*inode) == self.inode);
        same.next().map(|(number, file, _)| (number, file))
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

/// A regular file. Anything else would be waited for, or be taken from its reader.
fn opened(path: &Path) -> io::Result<(File, u64, u64)> {
    let is_file = |meta: std::fs::Metadata| match meta.is_file() {
        true => Ok(meta),
        false => Err(io::Error::other("it is not a file")),
    };
    is_file(path.metadata()?)?;
    // It may have been replaced since.
    let file = OpenOptions::new().read(true).custom_flags(PATIENT).open(path)?;
    let meta = is_file(file.metadata()?)?;
    Ok((file, meta.ino(), meta.len()))
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
fn read_end(path: &Path, from: u64, count: usize, window: u64) -> io::Result<(Vec<(u64, String)>, u64)> {
    let (mut file, _, end) = opened(path)?;
    // One that is shorter was put aside since.
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
}
