//! The files of alerts in the daemon's directory: the rules, until when nothing is sent, and what the next process has to know.

use std::path::{Path, PathBuf};
use std::{fs, io};

use rpm_wire::alerts::{MUTE_FILE, RULES_BYTES, RULES_FILE, Rule, Rules};

use super::kept::Kept;
use crate::files::{self, Changing};

/// What the next process has to know.
const STATE_FILE: &str = "alerts.state";
/// The longest of them that is read, in bytes.
const STATE_BYTES: u64 = 32 << 20;
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

/// The files.
#[derive(Debug)]
pub(crate) struct Book {
    home: PathBuf,
    rules: Changing,
}

impl Book {
    pub(crate) fn new(home: PathBuf) -> Book {
        let rules = Changing::new(home.join(RULES_FILE), RULES_BYTES);
        Book { home, rules }
    }

    /// The rules; none if there is no file.
    pub(crate) fn rules(&self) -> Result<Vec<Rule>, BookError> {
        self.parsed(self.rules.text())
    }

    /// The rules, if the file is another one than the last time.
    pub(crate) fn changed_rules(&mut self) -> Option<Result<Vec<Rule>, BookError>> {
        let text = self.rules.changed()?;
        Some(self.parsed(text))
    }

    /// When the rules that were read last were written, in milliseconds since the Unix epoch; 0 if there are none.
    pub(crate) fn rules_written_ms(&self) -> u64 {
        self.rules.written_ns() / 1_000_000
    }

    fn parsed(&self, text: io::Result<String>) -> Result<Vec<Rule>, BookError> {
        let path = || self.rules.path().to_owned();
        let text = text.map_err(|error| BookError::Unreadable(path(), error))?;
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let rules: Rules = serde_json::from_str(&text).map_err(|error| BookError::Wrong(path(), error))?;
        Ok(rules.rules)
    }

    /// The right to tell, which one process has as long as it holds this file; `None` while another one has it.
    pub(crate) fn turn(&self) -> Result<Option<fs::File>, BookError> {
        let path = self.home.join(LOCK_FILE);
        files::turn(&path).map_err(|error| BookError::Unwritable(path, error))
    }

    /// Until when nothing is sent, in milliseconds since the Unix epoch.
    pub(crate) fn muted_until(&self) -> Option<u64> {
        number(&self.home.join(MUTE_FILE))
    }

    /// Notes until when nothing is sent.
    pub(crate) fn mute(&self, until: Option<u64>) -> Result<(), BookError> {
        let path = self.home.join(MUTE_FILE);
        let done = match until {
            Some(until) => files::write(&path, &until.to_string()),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        done.map_err(|error| BookError::Unwritable(path, error))
    }

    /// What the process before has left; nothing if it has left nothing, or nothing that can be read.
    pub(crate) fn state(&self) -> Kept {
        let path = self.home.join(STATE_FILE);
        match files::read(&path, STATE_BYTES) {
            Ok(text) if text.is_empty() => Kept::default(),
            Ok(text) => serde_json::from_str(&text).unwrap_or_else(|error| {
                eprintln!(
                    "alerts: {} cannot be read ({error}): what was told before is forgotten",
                    path.display()
                );
                Kept::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(error) => {
                eprintln!(
                    "alerts: cannot read {} ({error}): what was told before is forgotten",
                    path.display()
                );
                Kept::default()
            }
        }
    }

    /// Leaves it for the next process, and for those who ask.
    pub(crate) fn write_state(&self, text: &str) -> Result<(), BookError> {
        let path = self.home.join(STATE_FILE);
        files::write(&path, text).map_err(|error| BookError::Unwritable(path, error))
    }
}

fn number(path: &Path) -> Option<u64> {
    files::read(path, NUMBER_BYTES).ok()?.trim().parse().ok()
}
