//! The files of alerts in the daemon's directory: the rules, until when nothing is sent, and which event was the last.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rpm_wire::alerts::{MUTE_FILE, RULES_BYTES, RULES_FILE, Rule, Rules};

/// The last event that was looked at.
const SEQ_FILE: &str = "alerts.seq";
/// The file that the process which tells has locked.
const LOCK_FILE: &str = "alerts.lock";
/// The longest of the other files, in bytes.
const NUMBER_BYTES: u64 = 64;

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// It cannot be read.
    #[error("cannot read {0}: {1}")]
    Unreadable(PathBuf, #[source] io::Error),
    /// It is not what `rpm start` writes.
    #[error("{0} is not a file with rules: {1}; start the ecosystem file again, which writes it")]
    Wrong(PathBuf, #[source] serde_json::Error),
    /// It cannot be written.
    #[error("cannot write {0}: {1}")]
    Unwritable(PathBuf, #[source] io::Error),
}

/// By what a changed file is known.
type Version = (u64, i64, i64, u64);

/// The files.
#[derive(Debug)]
pub(crate) struct Book {
    home: PathBuf,
    /// The rules that were read last; at first none.
    read: Option<Version>,
}

impl Book {
    pub(crate) fn new(home: PathBuf) -> Book {
        Book { home, read: None }
    }

    /// The rules; none if there is no file.
    pub(crate) fn rules(&self) -> Result<Vec<Rule>, BookError> {
        let path = self.home.join(RULES_FILE);
        let text = match read(&path, RULES_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(BookError::Unreadable(path, error)),
        };
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let rules: Rules = serde_json::from_str(&text).map_err(|error| BookError::Wrong(path, error))?;
        Ok(rules.rules)
    }

    /// The rules, if the file is another one than the last time.
    pub(crate) fn changed_rules(&mut self) -> Option<Result<Vec<Rule>, BookError>> {
        let meta = fs::metadata(self.home.join(RULES_FILE)).ok();
        let version = meta.map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()));
        if version == self.read {
            return None;
        }
        let rules = self.rules();
        // A file that could not be read for a moment is tried again.
        if !matches!(rules, Err(BookError::Unreadable(..))) {
            self.read = version;
        }
        Some(rules)
    }

    /// The right to tell, which one process has as long as it holds this file; `None` while another one has it.
    pub(crate) fn turn(&self) -> Result<Option<fs::File>, BookError> {
        let path = self.home.join(LOCK_FILE);
        let mut options = fs::OpenOptions::new();
        let file = options
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path);
        let file = file.map_err(|error| BookError::Unwritable(path.clone(), error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(BookError::Unwritable(path, error)),
        }
    }

    /// Until when nothing is sent, in milliseconds since the Unix epoch.
    pub(crate) fn muted_until(&self) -> Option<u64> {
        number(&self.home.join(MUTE_FILE))
    }

    /// Notes until when nothing is sent.
    pub(crate) fn mute(&self, until: Option<u64>) -> Result<(), BookError> {
        let path = self.home.join(MUTE_FILE);
        let done = match until {
            Some(until) => write(&path, &until.to_string()),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        done.map_err(|error| BookError::Unwritable(path, error))
    }

    /// The last event that was looked at.
    pub(crate) fn last_seq(&self) -> Option<u64> {
        number(&self.home.join(SEQ_FILE))
    }

    /// Notes it. On a full disk an event may be told again after a restart.
    pub(crate) fn note_seq(&self, seq: u64) {
        let _ = write(&self.home.join(SEQ_FILE), &seq.to_string());
    }
}

fn read(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}

fn number(path: &Path) -> Option<u64> {
    read(path, NUMBER_BYTES).ok()?.trim().parse().ok()
}

/// Replaces a file as a whole, for its owner alone.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let done = options
        .open(&beside)
        .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
        .and_then(|()| fs::rename(&beside, path));
    if done.is_err() {
        let _ = fs::remove_file(&beside);
    }
    done
}
