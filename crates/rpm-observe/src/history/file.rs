//! The file of the history: a head, and a block of the same size for each app. Rows are written in place.
//!
//! Nothing is synchronised to disk by us: a process that is killed loses nothing that it has written, and a machine that loses power loses
//! the last half minute, for a row that was cut has a wrong checksum and is a gap.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::heat::{BUCKETS, HEAT_ROW, HEAT_ROWS, HeatWritten};
use super::row::{COUNT, ROW, checksum};
use super::tiers::{ROWS, Written};

/// Name of the file in `RPM_HOME`.
pub const FILE: &str = "history.bin";
/// Changes with every change of what is stored.
const MAGIC: &[u8; 8] = b"rpmhist2";
const HEAD: usize = 4096;
/// Bytes before the rows of a block: when it was last written (seconds), length and bytes of the app's name, the bounds of its durations, a
/// checksum.
const TITLE: usize = 512;
const NAME_AT: usize = 8;
const BOUNDS_AT: usize = TITLE - 2 - 4 * (BUCKETS - 1);
const NAME_MAX: usize = BOUNDS_AT - NAME_AT;
/// Where the rows of durations begin.
const HEAT_AT: usize = TITLE + ROWS;
const BLOCK: usize = 585_728;
/// The file has at most 73 MB: 4 KB + 124 · 572 KB.
pub(super) const MAX_APPS: usize = 124;
/// As long as the longest ring: then nothing of an app is left.
const FORGET_AFTER: u32 = 7 * 86_400;

const _: () = assert!(HEAT_AT + HEAT_ROWS <= BLOCK && HEAD + MAX_APPS * BLOCK <= 73_000_000);

/// Why the history cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It is not a history of this version, or is cut.
    #[error("{} cannot be read: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// It cannot be opened, read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There are too many apps.
    #[error("no history of {0}: there are {MAX_APPS} apps in it already")]
    Full(String),
    /// The name is too long.
    #[error("no history of {0}: its name is longer than {NAME_MAX} bytes")]
    Name(String),
}

/// A block.
#[derive(Clone, Debug, PartialEq)]
struct Title {
    last: u32,
    name: String,
    /// Upper bounds of the durations that answers are counted by, in milliseconds; 0: there are no more.
    bounds: Bounds,
}

/// Bounds of durations in milliseconds, and the rows of counts.
pub(super) type HeatRows = (Vec<f64>, Vec<u8>);

/// The bounds of durations, as they are stored.
type Bounds = [f32; BUCKETS - 1];

/// These bounds, as they are stored. `None`: there are too many, or none.
fn stored(bounds_ms: &[f64]) -> Option<Bounds> {
    let fit = !bounds_ms.is_empty() && bounds_ms.len() < BUCKETS;
    fit.then(|| std::array::from_fn(|at| bounds_ms.get(at).map_or(0.0, |bound| *bound as f32)))
}

impl Title {
    fn bytes(&self) -> [u8; TITLE] {
        let mut bytes = [0; TITLE];
        bytes[..4].copy_from_slice(&self.last.to_le_bytes());
        bytes[4..6].copy_from_slice(&(self.name.len() as u16).to_le_bytes());
        bytes[NAME_AT..NAME_AT + self.name.len()].copy_from_slice(self.name.as_bytes());
        for (place, bound) in bytes[BOUNDS_AT..TITLE - 2]
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip(self.bounds)
        {
            *place = bound.to_le_bytes();
        }
        let sum = checksum(&bytes[..TITLE - 2]);
        bytes[TITLE - 2..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8; TITLE]) -> Option<Title> {
        let sum = checksum(&bytes[..TITLE - 2]).to_le_bytes();
        let length = usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
        if bytes[TITLE - 2..] != sum || length == 0 || length > NAME_MAX {
            return None;
        }
        Some(Title {
            last: u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            name: String::from_utf8(bytes[NAME_AT..NAME_AT + length].to_vec()).ok()?,
            bounds: std::array::from_fn(|at| {
                let at = BOUNDS_AT + 4 * at;
                f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            }),
        })
    }
}

/// An open history.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    file: File,
    /// `None`: a block that was never used, or whose title is damaged.
    blocks: Vec<Option<Title>>,
}

impl Store {
    /// Opens the history for writing, and makes it if there is none. `None`: another process writes it.
    pub(super) fn open(path: &Path) -> Result<Option<Store>, HistoryError> {
        let failed = |source| HistoryError::Io {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        if file.metadata().map_err(failed)?.len() == 0 {
            let mut head = [0; HEAD];
            head[..8].copy_from_slice(MAGIC);
            head[8] = COUNT as u8;
            head[9] = ROW as u8;
            file.write_all_at(&head, 0).map_err(failed)?;
        }
        Store::of(path, file).map(Some)
    }

    /// Opens the history to read it.
    pub(super) fn read_only(path: &Path) -> Result<Store, HistoryError> {
        let file = File::open(path).map_err(|source| HistoryError::Io {
            path: path.to_owned(),
            source,
        })?;
        Store::of(path, file)
    }

    fn of(path: &Path, file: File) -> Result<Store, HistoryError> {
        let failed = |source| HistoryError::Io {
            path: path.to_owned(),
            source,
        };
        let damaged = |why| HistoryError::Damaged {
            path: path.to_owned(),
            why,
        };
        let length = file.metadata().map_err(failed)?.len();
        let body = length
            .checked_sub(HEAD as u64)
            .ok_or_else(|| damaged("it is cut"))?;
        let mut head = [0; 10];
        file.read_exact_at(&mut head, 0).map_err(failed)?;
        if head[..8] != *MAGIC || usize::from(head[8]) != COUNT || usize::from(head[9]) != ROW {
            return Err(damaged("it was written by another version, or is no history"));
        }
        if body % BLOCK as u64 != 0 || body > (MAX_APPS * BLOCK) as u64 {
            return Err(damaged("it is cut"));
        }
        let mut blocks = Vec::new();
        for at in 0..(body / BLOCK as u64) as usize {
            let mut title = [0; TITLE];
            file.read_exact_at(&mut title, begin(at)).map_err(failed)?;
            blocks.push(Title::read(&title));
        }
        Ok(Store {
            path: path.to_owned(),
            file,
            blocks,
        })
    }

    /// True if what is written is still what others read: nobody has deleted or replaced the file.
    pub(super) fn is_in_place(&self) -> bool {
        let (Ok(ours), Ok(there)) = (self.file.metadata(), std::fs::metadata(&self.path)) else {
            return false;
        };
        (ours.dev(), ours.ino()) == (there.dev(), there.ino())
    }

    fn failed(&self, source: io::Error) -> HistoryError {
        HistoryError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn find(&self, app: &str) -> Option<usize> {
        let is = |title: &Option<Title>| title.as_ref().is_some_and(|title| title.name == app);
        self.blocks.iter().position(is)
    }

    /// The apps that have a history, in alphabetical order.
    pub(super) fn apps(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .blocks
            .iter()
            .flatten()
            .map(|title| title.name.clone())
            .collect();
        names.sort();
        names
    }

    /// The block of an app, which is made if there is none: from one that is free or forgotten, or at the end.
    pub(super) fn block(&mut self, app: &str, now: u32) -> Result<usize, HistoryError> {
        if let Some(at) = self.find(app) {
            return Ok(at);
        }
        if app.len() > NAME_MAX || app.is_empty() {
            return Err(HistoryError::Name(app.to_owned()));
        }
        let is_free = |title: &Option<Title>| {
            title
                .as_ref()
                .is_none_or(|title| now.saturating_sub(title.last) > FORGET_AFTER)
        };
        let at = match self.blocks.iter().position(is_free) {
            Some(at) => at,
            None if self.blocks.len() == MAX_APPS => return Err(HistoryError::Full(app.to_owned())),
            None => {
                let length = begin(self.blocks.len() + 1);
                self.file.set_len(length).map_err(|error| self.failed(error))?;
                self.blocks.push(None);
                self.blocks.len() - 1
            }
        };
        // The rows of another app must not be taken for those of this one.
        let zeros = vec![0; BLOCK];
        self.file
            .write_all_at(&zeros, begin(at))
            .map_err(|error| self.failed(error))?;
        self.title(
            at,
            Title {
                last: now,
                name: app.to_owned(),
                bounds: Bounds::default(),
            },
        )?;
        Ok(at)
    }

    fn title(&mut self, at: usize, title: Title) -> Result<(), HistoryError> {
        let written = self.file.write_all_at(&title.bytes(), begin(at));
        written.map_err(|error| self.failed(error))?;
        self.blocks[at] = Some(title);
        Ok(())
    }

    /// Writes rows of a block.
    pub(super) fn write(&mut self, at: usize, now: u32, rows: &[Written]) -> Result<(), HistoryError> {
        for row in rows {
            let place = begin(at) + (TITLE + row.place) as u64;
            let written = self.file.write_all_at(&row.bytes, place);
            written.map_err(|error| self.failed(error))?;
        }
        match &self.blocks[at] {
            // Once a minute is enough to know what is forgotten after a week.
            Some(title) if now.abs_diff(title.last) >= 60 => {
                let title = Title {
                    last: now,
                    ..title.clone()
                };
                self.title(at, title)
            }
            _ => Ok(()),
        }
    }

    /// Whether rows of durations have other bounds from now on: those of before go.
    pub(super) fn changes_bounds(&mut self, at: usize, bounds_ms: &[f64]) -> Result<bool, HistoryError> {
        let (Some(bounds), Some(title)) = (stored(bounds_ms), &self.blocks[at]) else {
            return Ok(false);
        };
        if title.bounds == bounds {
            return Ok(false);
        }
        let title = Title {
            bounds,
            ..title.clone()
        };
        let rows = begin(at) + HEAT_AT as u64;
        let cleared = self.file.write_all_at(&vec![0; HEAT_ROWS], rows);
        cleared.map_err(|error| self.failed(error))?;
        self.title(at, title)?;
        Ok(true)
    }

    /// Writes rows of durations.
    pub(super) fn write_heat(&self, at: usize, rows: &[HeatWritten]) -> Result<(), HistoryError> {
        for row in rows {
            let place = begin(at) + (HEAT_AT + row.place) as u64;
            let written = self.file.write_all_at(&row.bytes, place);
            written.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// The row of durations at a place of a block, if it can be read.
    pub(super) fn heat_row(&self, at: usize, place: usize) -> Option<[u8; HEAT_ROW]> {
        let mut bytes = [0; HEAT_ROW];
        let place = begin(at) + (HEAT_AT + place) as u64;
        self.file.read_exact_at(&mut bytes, place).ok().map(|()| bytes)
    }

    /// The bounds of an app's durations in milliseconds, and their rows; `None`: there are none.
    pub(super) fn heat(&self, app: &str) -> Result<Option<HeatRows>, HistoryError> {
        let found = self
            .find(app)
            .and_then(|at| Some((at, self.blocks[at].as_ref()?)));
        let Some((at, title)) = found.filter(|(_, title)| title.bounds[0] > 0.0) else {
            return Ok(None);
        };
        let mut bytes = vec![0; HEAT_ROWS];
        let read = self.file.read_exact_at(&mut bytes, begin(at) + HEAT_AT as u64);
        read.map_err(|error| self.failed(error))?;
        let bounds = title.bounds.into_iter().take_while(|bound| *bound > 0.0);
        Ok(Some((bounds.map(f64::from).collect(), bytes)))
    }

    /// The row at a place of a block, if it can be read.
    pub(super) fn row(&self, at: usize, place: usize) -> Option<[u8; ROW]> {
        let mut bytes = [0; ROW];
        let place = begin(at) + (TITLE + place) as u64;
        self.file.read_exact_at(&mut bytes, place).ok().map(|()| bytes)
    }

    /// The rows of an app; `None`: it has no history.
    pub(super) fn rows(&self, app: &str) -> Result<Option<Vec<u8>>, HistoryError> {
        let Some(at) = self.find(app) else { return Ok(None) };
        let mut bytes = vec![0; ROWS];
        let read = self.file.read_exact_at(&mut bytes, begin(at) + TITLE as u64);
        read.map_err(|error| self.failed(error))?;
        Ok(Some(bytes))
    }
}

/// Where a block begins.
fn begin(at: usize) -> u64 {
    (HEAD + at * BLOCK) as u64
}
