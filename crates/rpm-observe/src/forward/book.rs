//! The positions of a destination, as they are stored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::position::{Position, hash};
use super::record::About;
use crate::files;

/// The directory with the positions, in that of the daemon.
const DIRECTORY: &str = "forward";
/// The longest file with positions that is read, in bytes: 10,000 logs take 5 MB.
const BOOK_BYTES: u64 = 32 << 20;
/// Positions of a destination that is not configured are kept for so long.
const KEPT: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);

/// What is known of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub about: About,
    /// Everything before it was taken.
    pub position: Option<Position>,
}

/// What is known of all logs of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    /// Since when the destination is in force, in nanoseconds since 1970.
    pub begun_ns: u64,
    pub logs: BTreeMap<PathBuf, Entry>,
}

impl Book {
    pub(super) fn new(begun_ns: u64) -> Book {
        Book {
            begun_ns,
            logs: BTreeMap::new(),
        }
    }
}

/// Where the book of a destination lies.
#[derive(Clone, Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn of(home: &Path, name: &str) -> Place {
        Place(
            home.join(DIRECTORY)
                .join(format!("{:016x}.json", hash(name.as_bytes()))),
        )
    }

    /// The book; `None` if there is none. One that cannot be read is an error.
    pub(super) fn read(&self) -> Result<Option<Book>, String> {
        let wrong = |error: String| format!("cannot read the positions in {}: {error}", self.0.display());
        match files::read(&self.0, BOOK_BYTES) {
            Ok(text) => serde_json::from_str(&text)
                .map(Some)
                .map_err(|error| wrong(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// Replaces it.
    pub(super) fn write(&self, book: &Book) -> io::Result<()> {
        if let Some(directory) = self.0.parent() {
            files::make_directory(directory)?;
        }
        let text = serde_json::to_string(book).map_err(io::Error::other)?;
        files::write_for_good(&self.0, &text)
    }
}

/// Removes old books of destinations that are not there any more.
pub(super) fn tidy(home: &Path, names: &[String]) {
    let kept: Vec<PathBuf> = names.iter().map(|name| Place::of(home, name).0).collect();
    let entries = fs::read_dir(home.join(DIRECTORY)).into_iter().flatten().flatten();
    for path in entries
        .map(|entry| entry.path())
        .filter(|path| !kept.contains(path))
    {
        let written = path.metadata().and_then(|meta| meta.modified());
        let is_old = written.is_ok_and(|written| written.elapsed().is_ok_and(|age| age > KEPT));
        if is_old {
            // It is looked at again the next time.
            let _ = fs::remove_file(path);
        }
    }
}
