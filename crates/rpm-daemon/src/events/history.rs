//! Reading what is written.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rpm_wire::events::{FILES, Head, LINE_BYTES, Picked, Picker, Which};

use crate::home::PATIENT;

/// A place in the history.
#[derive(Clone, Debug)]
pub(crate) struct History {
    dir: PathBuf,
    /// The last event that was looked at.
    pub(crate) seq: u64,
    /// The file that has it, by inode, and where it begins there.
    at: Option<(u64, u64)>,
}

impl History {
    /// Its beginning.
    pub(crate) fn new(dir: &Path) -> History {
        History {
            dir: dir.to_owned(),
            seq: 0,
            at: None,
        }
    }

    /// Behind the event of this number.
    pub(crate) fn after(mut self, seq: u64) -> History {
        (self.seq, self.at) = (seq, None);
        self
    }

    /// Those of the events from here on that fit, and goes on behind them. May wait for the disk.
    pub(crate) fn read(&mut self, which: Which, fits: &dyn Fn(&Head) -> bool) -> Picked {
        let files = opened(&self.dir);
        let known = self.at.and_then(|(inode, offset)| {
            let position = files.iter().position(|(_, number)| *number == inode)?;
            begins(&files[position].0, offset, self.seq).then_some((position, offset))
        });
        let (first, mut offset) = known.unwrap_or((0, 0));
        let mut picker = Picker::new(which, self.seq, fits);
        'files: for (file, inode) in files.into_iter().skip(first) {
            let mut reader = BufReader::new(file);
            // What cannot be read is not shown; it is in the file.
            if reader.seek(SeekFrom::Start(offset)).is_err() {
                break;
            }
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                // The rest of one that has no end is being written.
                let Some(whole) = line.strip_suffix(b"\n") else {
                    break;
                };
                let before = picker.seq();
                let goes_on = picker.push(whole);
                if picker.seq() > before {
                    self.at = Some((inode, offset));
                }
                if !goes_on {
                    break 'files;
                }
                offset += line.len() as u64;
                line.clear();
            }
            offset = 0;
        }
        let picked = picker.finish();
        self.seq = picked.seq;
        picked
    }
}

/// A file, if it is one: a pipe would be waited for, or be taken from its reader.
pub(super) fn open_to_read(path: &Path) -> Option<File> {
    path.metadata().ok().filter(Metadata::is_file)?;
    let opened = OpenOptions::new().read(true).custom_flags(PATIENT).open(path);
    opened
        .ok()
        .filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))
}

/// Does the event of this number begin there? A new file may have got the inode of one that is gone.
fn begins(file: &File, offset: u64, seq: u64) -> bool {
    let mut bytes = vec![0; LINE_BYTES];
    let read = file.read_at(&mut bytes, offset).unwrap_or(0);
    let line = bytes[..read]
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    serde_json::from_slice::<Head>(line).is_ok_and(|head| head.seq == seq)
}

/// The files there are, oldest first, each with its inode. They are opened in the other order: one that is rotated meanwhile comes twice then,
/// and none is missed.
fn opened(dir: &Path) -> Vec<(File, u64)> {
    let open = |name: &&str| {
        let file = open_to_read(&dir.join(name))?;
        let inode = file.metadata().ok()?.ino();
        Some((file, inode))
    };
    let mut files: Vec<(File, u64)> = FILES.iter().rev().filter_map(open).collect();
    files.dedup_by_key(|(_, inode)| *inode);
    files.reverse();
    files
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn line(seq: u64) -> String {
        format!("{{\"seq\":{seq},\"at_ms\":1,\"kind\":\"cron\"}}\n")
    }

    fn lines(seqs: std::ops::RangeInclusive<u64>) -> String {
        seqs.map(line).collect()
    }

    #[test]
    fn it_is_read_in_parts_through_rotation_and_beside_the_writer() {
        let dir = std::env::temp_dir().join(format!("rpm-history-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("events.ndjson");
        fs::write(dir.join("events.ndjson.1"), lines(3..=5)).unwrap();
        fs::write(&path, lines(6..=8) + "{\"seq\":9,\"at").unwrap();
        let mut history = History::new(&dir).after(1);
        let mut read = |which| {
            let picked = history.read(which, &|_| true);
            let seq = |line: &Vec<u8>| serde_json::from_slice::<Head>(line).unwrap().seq;
            (picked.lines.iter().map(seq).collect::<Vec<_>>(), picked.lost)
        };
        assert_eq!(read(Which::First(2)), (vec![3, 4], 1), "number 2 is gone");
        assert_eq!(read(Which::First(2)), (vec![5, 6], 0));
        assert_eq!(read(Which::First(9)), (vec![7, 8], 0), "nine has no end yet");
        fs::write(&path, lines(6..=10)).unwrap();
        assert_eq!(read(Which::First(9)), (vec![9, 10], 0));
        fs::rename(&path, dir.join("events.ndjson.1")).unwrap();
        fs::write(&path, lines(11..=12)).unwrap();
        assert_eq!(read(Which::First(9)), (vec![11, 12], 0));
        // It was so slow that what comes next has been rotated away.
        fs::remove_file(dir.join("events.ndjson.1")).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, lines(20..=21)).unwrap();
        assert_eq!(read(Which::First(9)), (vec![20, 21], 7));
        fs::remove_dir_all(&dir).unwrap();
    }
}
