//! The file: lines are appended, numbered in order, and never written over; it is rotated when it is full.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rpm_wire::events::{Event, FILE_BYTES, FILES, Head, LINE_BYTES};

use crate::events::history::open_to_read;
use crate::home::private_file;
use crate::logs::rotation::rotate;

/// Files that are kept besides the one that is written to.
const KEPT_FILES: u32 = FILES.len() as u32 - 1;
/// How far from the end of a file its last line is looked for first: several lines.
const TAIL_BYTES: u64 = 4 * LINE_BYTES as u64;

/// `events.ndjson`, as the thread that writes it has it.
#[derive(Debug)]
pub(super) struct EventFile {
    dir: PathBuf,
    limit: u64,
    open: Option<Open>,
    /// The number of the last event that is written.
    seq: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: u64,
    len: u64,
}

impl EventFile {
    /// The file in this directory; it is opened when something is written.
    pub(super) fn new(dir: &Path) -> EventFile {
        EventFile {
            dir: dir.to_owned(),
            limit: FILE_BYTES,
            open: None,
            seq: last_seq(dir),
        }
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Writes an event, and gives it the next number. One that was not written has not used it.
    ///
    /// # Errors
    /// As `write(2)` and `open(2)`.
    pub(super) fn append(&mut self, mut event: Event) -> io::Result<()> {
        event.seq = self.seq + 1;
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        if line.len() > LINE_BYTES {
            return Err(io::Error::other("an event is too long"));
        }
        let open = self.opened()?;
        if let Err(error) = open.file.write_all(&line) {
            // A part of it may be there.
            if open.file.set_len(open.len).is_err() {
                self.open = None;
            }
            return Err(error);
        }
        open.len += line.len() as u64;
        self.seq += 1;
        Ok(())
    }

    fn opened(&mut self) -> io::Result<&mut Open> {
        let path = self.dir.join(FILES[FILES.len() - 1]);
        // Somebody may have moved or removed it.
        let is_there = |open: &Open| path.metadata().is_ok_and(|meta| meta.ino() == open.inode);
        self.open = self.open.take().filter(is_there);
        if self.open.as_ref().is_some_and(|open| open.len >= self.limit) {
            self.open = None;
            rotate(&path, KEPT_FILES)?;
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => open_whole(&path)?,
        };
        Ok(self.open.insert(open))
    }
}

/// Opens the file, without the beginning of a line that a daemon could not finish.
fn open_whole(path: &Path) -> io::Result<Open> {
    let file = private_file(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let whole = whole_lines(path, meta.len())?;
    if whole < meta.len() {
        file.set_len(whole)?;
    }
    Ok(Open {
        file,
        inode: meta.ino(),
        len: whole,
    })
}

/// Where the last whole line ends.
fn whole_lines(path: &Path, len: u64) -> io::Result<u64> {
    let Some(mut file) = open_to_read(path) else {
        return Ok(len);
    };
    let mut end = len;
    while end > 0 {
        let begin = end.saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        (&file).take(end - begin).read_to_end(&mut bytes)?;
        if let Some(newline) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + newline as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// The highest number that was used, as far as the files say: 0 if they say nothing.
fn last_seq(dir: &Path) -> u64 {
    let newest_first = FILES.iter().rev().map(|name| dir.join(name));
    newest_first
        .filter_map(|path| last_of(&path).ok().flatten())
        .next()
        .unwrap_or(0)
}

fn last_of(path: &Path) -> io::Result<Option<u64>> {
    let Some(mut file) = open_to_read(path) else {
        return Ok(None);
    };
    let len = file.metadata()?.len();
    for from in [len.saturating_sub(TAIL_BYTES), 0] {
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        (&file).take(len - from).read_to_end(&mut bytes)?;
        // What has no end is removed before anything is written, and its number was not used.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        let lines = bytes[..whole].split(|byte| *byte == b'\n');
        let heads = lines.filter_map(|line| serde_json::from_slice::<Head>(line).ok());
        let last = heads.map(|head| head.seq).max();
        if last.is_some() || from == 0 {
            return Ok(last);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use rpm_wire::events::{Subject, What, Which};

    use super::*;
    use crate::events::history::History;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let dir = std::env::temp_dir().join(format!("rpm-events-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            Scratch(dir)
        }

        fn path(&self) -> PathBuf {
            self.0.join("events.ndjson")
        }

        fn seqs(&self) -> Vec<u64> {
            let picked = History::new(&self.0).read(Which::First(usize::MAX), &|_| true);
            let seq = |line: &Vec<u8>| serde_json::from_slice::<Event>(line).unwrap().seq;
            picked.lines.iter().map(seq).collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn event() -> Event {
        Event {
            seq: 0,
            at_ms: 1,
            subject: Subject::default(),
            what: What::Cron {},
        }
    }

    fn written(dir: &Path, count: usize) -> EventFile {
        let mut file = EventFile::new(dir);
        for _ in 0..count {
            file.append(event()).unwrap();
        }
        file
    }

    #[test]
    fn numbers_go_on_over_daemons_and_only_the_owner_reads() {
        let scratch = Scratch::new("numbers");
        assert_eq!(written(&scratch.0, 3).seq(), 3);
        assert_eq!(written(&scratch.0, 2).seq(), 5);
        assert_eq!(scratch.seqs(), [1, 2, 3, 4, 5]);
        let mode = fs::metadata(scratch.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_full_file_is_rotated_few_are_kept_and_the_numbers_have_no_gap() {
        let scratch = Scratch::new("rotated");
        let mut file = EventFile::new(&scratch.0);
        file.limit = 100;
        for _ in 0..40 {
            file.append(event()).unwrap();
        }
        let seqs = scratch.seqs();
        let first = seqs[0];
        assert!(first > 1 && seqs.len() > 5, "{seqs:?}");
        assert_eq!(seqs, (first..=40).collect::<Vec<_>>());
        let names: Vec<bool> = FILES.iter().map(|name| scratch.0.join(name).exists()).collect();
        assert_eq!(names, [true; FILES.len()]);
        assert!(!scratch.0.join("events.ndjson.5").exists());
        drop(file);
        // As if the daemon had died between the two steps of a rotation.
        let _ = fs::remove_file(scratch.path());
        assert!(
            written(&scratch.0, 1).seq() > *seqs.last().unwrap() - 5,
            "it goes on behind those that are left"
        );
    }

    #[test]
    fn a_line_that_was_cut_goes_and_its_number_is_used_for_the_next() {
        let scratch = Scratch::new("cut");
        written(&scratch.0, 3);
        let whole = fs::read(scratch.path()).unwrap();
        for cut in [1, 5, whole.len() / 3 - 1] {
            fs::write(scratch.path(), &whole[..whole.len() - cut]).unwrap();
            assert_eq!(written(&scratch.0, 1).seq(), 3, "{cut}");
            assert_eq!(scratch.seqs(), [1, 2, 3], "{cut}");
        }
    }

    #[test]
    fn damage_is_no_obstacle() {
        let scratch = Scratch::new("damage");
        written(&scratch.0, 3);
        let mut bytes = fs::read(scratch.path()).unwrap();
        bytes.extend(b"\x00\xff not an event\n{\"seq\":\"x\"}\n\n");
        bytes.extend(vec![b'x'; 3 * TAIL_BYTES as usize]);
        fs::write(scratch.path(), &bytes).unwrap();
        assert_eq!(written(&scratch.0, 2).seq(), 5);
        assert_eq!(scratch.seqs(), [1, 2, 3, 4, 5]);
        // Nothing of the newest file is of use: the one before has the number.
        fs::rename(scratch.path(), scratch.0.join("events.ndjson.1")).unwrap();
        fs::write(scratch.path(), b"garbage").unwrap();
        assert_eq!(written(&scratch.0, 1).seq(), 6);
        assert_eq!(scratch.seqs(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn what_cannot_be_written_uses_no_number_and_leaves_no_part() {
        let scratch = Scratch::new("full");
        let mut file = written(&scratch.0, 1);
        let full = File::options().write(true).open("/dev/full").unwrap();
        let open = file.open.take().unwrap();
        file.open = Some(Open { file: full, ..open });
        assert!(file.append(event()).is_err());
        file.append(event()).unwrap();
        assert_eq!((file.seq(), scratch.seqs()), (2, vec![1, 2]));
    }

    #[test]
    fn one_that_is_removed_is_made_anew() {
        let scratch = Scratch::new("removed");
        let mut file = written(&scratch.0, 2);
        fs::remove_file(scratch.path()).unwrap();
        file.append(event()).unwrap();
        assert_eq!(scratch.seqs(), [3]);
    }

    #[test]
    fn a_pipe_in_its_place_is_not_written_to() {
        let scratch = Scratch::new("pipe");
        let made = std::process::Command::new("mkfifo")
            .arg(scratch.path())
            .status()
            .unwrap();
        assert!(made.success());
        let mut file = EventFile::new(&scratch.0);
        assert!(file.append(event()).is_err());
    }
}
