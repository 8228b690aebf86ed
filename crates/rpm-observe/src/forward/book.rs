//! The positions of a destination, as they are stored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rpm_wire::forward::Receiver;
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
    /// Files of it that were written to since then are sent, in nanoseconds since 1970.
    #[serde(default)]
    pub begun_ns: u64,
    /// Without a position it is sent from its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_end: bool,
}

/// What is known of all logs of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    /// Since when the destination is in force, in nanoseconds since 1970.
    pub begun_ns: u64,
    /// When it was known last which logs there are, in nanoseconds since 1970.
    #[serde(default)]
    pub listed_ns: u64,
    /// The apps whose logs were sent then; empty means all.
    #[serde(default)]
    pub apps: Vec<String>,
    /// Stands for the address that has taken something.
    #[serde(default)]
    pub proven: Option<u64>,
    /// Also those of apps that are not sent at present.
    pub logs: BTreeMap<PathBuf, Entry>,
}

impl Book {
    pub(super) fn new(begun_ns: u64) -> Book {
        Book {
            begun_ns,
            listed_ns: begun_ns,
            apps: Vec::new(),
            proven: None,
            logs: BTreeMap::new(),
        }
    }
}

/// A number for an address: what is known of one is not true of another.
pub(super) fn address(to: &Receiver) -> u64 {
    let address = match to {
        Receiver::Loki(http) | Receiver::Otlp(http) => http.url.clone(),
        Receiver::Elasticsearch { http, index } => format!("{}\0{index}", http.url),
        Receiver::Syslog(_) | Receiver::Journald(_) => to.shown(),
    };
    hash(format!("{}\0{address}", to.kind()).as_bytes())
}

/// Why there are no positions.
#[derive(Debug, thiserror::Error)]
pub(super) enum BookError {
    /// They may be there the next time.
    #[error("cannot read the positions in {0}: {1}")]
    Unreadable(PathBuf, #[source] io::Error),
    /// They are lost.
    #[error("the positions in {0} are damaged: {1}")]
    Damaged(PathBuf, String),
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

    /// The book; `None` if there is none.
    fn read(&self) -> Result<Option<Book>, BookError> {
        match files::read(&self.0, BOOK_BYTES) {
            Ok(text) => serde_json::from_str(&text)
                .map(Some)
                .map_err(|error| BookError::Damaged(self.0.clone(), error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(BookError::Damaged(self.0.clone(), error.to_string()))
            }
            Err(error) => Err(BookError::Unreadable(self.0.clone(), error)),
        }
    }

    /// The book. In the place of a damaged one, which is renamed (one of before is replaced), there is a new one, as if the destination had begun now, and
    /// what to say about it. While there is another error it is not known whether there is one.
    pub(super) fn open(&self, now_ns: u64) -> Result<(Option<Book>, Option<String>), BookError> {
        match self.read() {
            Ok(book) => Ok((book, None)),
            Err(error @ BookError::Unreadable(..)) => Err(error),
            Err(error @ BookError::Damaged(..)) => {
                let aside = self.0.with_extension("damaged");
                fs::rename(&self.0, &aside).map_err(|error| BookError::Unreadable(aside.clone(), error))?;
                let what = format!(
                    "{error}; the file is now {}, and logs are sent from the beginning of the present files",
                    aside.display()
                );
                Ok((Some(Book::new(now_ns)), Some(what)))
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_book_that_is_away_for_a_moment_is_not_a_damaged_one() {
        let home = std::env::temp_dir().join(format!("rpm-book-{}", std::process::id()));
        let place = Place::of(&home, "loki");
        assert_eq!(place.read().expect("there is none"), None);
        place.write(&Book::new(7)).expect("it is written");
        assert_eq!(place.read().expect("it is read"), Some(Book::new(7)));
        for bytes in [&b"{\"begun_ns\":7,\"lo"[..], b"", b"\xff\xfe"] {
            fs::write(&place.0, bytes).expect("it is written");
            let (book, what) = place.open(9).expect("there is a new one");
            assert_eq!(
                book,
                Some(Book::new(9)),
                "which is not the first: nothing begins at its end"
            );
            assert!(what.is_some_and(|what| what.contains("damaged")));
            let aside = fs::read(place.0.with_extension("damaged")).expect("it is renamed");
            assert_eq!(aside, bytes);
            assert_eq!(place.open(9).expect("there is none").0, None);
        }
        // What is no file cannot be read, and may be one the next time.
        fs::create_dir(&place.0).expect("a directory");
        let error = place.open(9).expect_err("it cannot be read");
        assert!(matches!(error, BookError::Unreadable(..)), "{error}");
        fs::remove_dir_all(&home).expect("it is ours");
        // What was stored before there was more to know.
        let old = r#"{"begun_ns":7,"logs":{"/a":{"about":{"app":"api"},"position":null}}}"#;
        let old: Book = serde_json::from_str(old).expect("it reads");
        let entry = &old.logs[Path::new("/a")];
        assert_eq!((old.proven, entry.at_end, entry.begun_ns), (None, false, 0));
    }
}
