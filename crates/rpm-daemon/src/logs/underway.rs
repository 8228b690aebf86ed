//! Output that was taken from a pipe and may not be in its files yet. It is moved into a file of its own by the kernel, without a
//! moment at which it is only in the memory of a daemon that may be killed; the next daemon writes what is missing.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::pipe::{SpliceFlags, splice};

use super::sink::Sinks;
use super::stream::Stream;

/// The pipe's inode, then how long its files were; native byte order: it is read on this machine.
const HEADER: usize = 24;
/// Files of one stream at most.
const SINKS: usize = 2;
/// Instead of a length: there is no file whose length tells what was written.
const UNKNOWN: u64 = u64::MAX;

/// The file for what is under way. Without one (no space, a file system that cannot) output is read as from any pipe.
#[derive(Debug)]
pub(super) struct Underway {
    file: Option<File>,
}

/// What a daemon that was killed had under way.
#[derive(Debug)]
pub(super) struct Left {
    pipe: u64,
    before: [u64; SINKS],
    bytes: Vec<u8>,
}

impl Underway {
    /// Opens the file, with what is left in it.
    pub(super) fn open(path: &Path) -> (Underway, Option<Left>) {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .ok()
            .filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()));
        let left = file.as_ref().and_then(|mut file| {
            let mut stored = Vec::new();
            file.read_to_end(&mut stored).ok()?;
            file.set_len(0).ok()?;
            Left::parse(&stored)
        });
        (Underway { file }, left)
    }

    /// Moves what is in the stream's pipe into `buffer`, by way of the file.
    pub(super) fn take(
        &self,
        stream: &mut Stream,
        sinks: &mut Sinks,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        match &self.file {
            Some(file) => match through(file, stream, sinks, buffer) {
                Ok(count) => Ok(count),
                Err(error) if is_transient(&error) => Err(error),
                Err(_) => Ok(rustix::io::read(&stream.pipe, buffer)?),
            },
            None => Ok(rustix::io::read(&stream.pipe, buffer)?),
        }
    }

    /// All of it is written.
    pub(super) fn written(&self) {
        if let Some(file) = &self.file {
            // Otherwise the next daemon sees by the lengths of the files that nothing is missing.
            let _ = file.set_len(0);
        }
    }
}

/// Nothing has gone wrong: there is nothing to read now.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn through(file: &File, stream: &Stream, sinks: &mut Sinks, buffer: &mut [u8]) -> io::Result<usize> {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&inode(&stream.pipe)?.to_ne_bytes());
    for (field, length) in header[8..].chunks_exact_mut(8).zip(stream.lengths(sinks)) {
        field.copy_from_slice(&length.unwrap_or(UNKNOWN).to_ne_bytes());
    }
    file.write_all_at(&header, 0)?;
    // The beginning of a line that is in no file yet comes first.
    let held = stream.held();
    file.write_all_at(held, HEADER as u64)?;
    let begin = (HEADER + held.len()) as u64;
    let mut end = begin;
    let count = splice(
        stream.pipe.as_fd(),
        None,
        file.as_fd(),
        Some(&mut end),
        buffer.len(),
        SpliceFlags::NONBLOCK,
    )?;
    file.read_exact_at(&mut buffer[..count], begin)?;
    Ok(count)
}

fn inode(pipe: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(pipe)?.st_ino)
}

impl Left {
    fn parse(stored: &[u8]) -> Option<Left> {
        let (header, bytes) = stored.split_at_checked(HEADER)?;
        let (fields, _) = header.as_chunks::<8>();
        let [pipe, first, second] = fields else {
            return None;
        };
        (!bytes.is_empty()).then(|| Left {
            pipe: u64::from_ne_bytes(*pipe),
            before: [u64::from_ne_bytes(*first), u64::from_ne_bytes(*second)],
            bytes: bytes.to_vec(),
        })
    }

    /// Whether it came from this pipe.
    pub(super) fn is_of(&self, pipe: impl AsFd) -> bool {
        inode(pipe).is_ok_and(|inode| inode == self.pipe)
    }

    /// What the file of that number lacks of `bytes`, which are these as they are written; its length now.
    pub(super) fn lacking<'b>(&self, sink: usize, now: Option<u64>, bytes: &'b [u8]) -> &'b [u8] {
        let before = self.before.get(sink).copied().filter(|before| *before != UNKNOWN);
        let (Some(before), Some(now)) = (before, now) else {
            return &[];
        };
        let there = usize::try_from(now.saturating_sub(before)).unwrap_or(usize::MAX);
        bytes.get(there..).unwrap_or_default()
    }

    /// The bytes, as they came.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
