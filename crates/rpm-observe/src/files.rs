//! Files in the daemon's directory that this program reads and writes: for their owner alone, replaced as a whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The text of a file, no more than so many bytes of it.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}

/// Replaces a file as a whole. After a loss of power it may be the file before it, or empty.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    replace(path, text, |_| Ok(()))
}

/// The same, but it outlives a loss of power.
pub(crate) fn write_for_good(path: &Path, text: &str) -> io::Result<()> {
    replace(path, text, File::sync_data)
}

fn replace(path: &Path, text: &str, sync: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let done = options
        .open(&beside)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| sync(&file)))
        .and_then(|()| fs::rename(&beside, path));
    if done.is_err() {
        let _ = fs::remove_file(&beside);
    }
    done
}

/// Makes a directory if it is not there.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Waits for a file that one process holds at a time, so that of two that change something neither undoes the other. Held until it is
/// dropped.
pub(crate) fn hold(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(path)?;
    file.lock()?;
    Ok(file)
}

/// A right that one process has as long as it holds this file; `None` while another one has it.
pub(crate) fn turn(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// A time of a file, in nanoseconds since 1970; 0 for one before that.
pub(crate) fn nanoseconds(seconds: i64, rest: i64) -> u64 {
    u64::try_from(i128::from(seconds) * 1_000_000_000 + i128::from(rest)).unwrap_or(0)
}

/// By what a changed file is known.
type Version = (u64, i64, i64, u64);

/// A file that is read again when it is another one.
#[derive(Debug)]
pub(crate) struct Changing {
    path: PathBuf,
    most: u64,
    /// What was read last; at first nothing.
    read: Option<Version>,
}

impl Changing {
    pub(crate) fn new(path: PathBuf, most: u64) -> Changing {
        Changing {
            path,
            most,
            read: None,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// When what was read last was written, in nanoseconds since 1970; 0 if there was nothing.
    pub(crate) fn written_ns(&self) -> u64 {
        self.read
            .map_or(0, |(_, seconds, rest, _)| nanoseconds(seconds, rest))
    }

    /// Its text; empty if there is none.
    pub(crate) fn text(&self) -> io::Result<String> {
        match read(&self.path, self.most) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read,
        }
    }

    /// Its text, if it is another one than the last time.
    pub(crate) fn changed(&mut self) -> Option<io::Result<String>> {
        let meta = fs::metadata(&self.path).ok();
        let version = meta.map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()));
        if version == self.read {
            return None;
        }
        let text = self.text();
        // A file that could not be read for a moment is tried again.
        if text.is_ok() {
            self.read = version;
        }
        Some(text)
    }
}
