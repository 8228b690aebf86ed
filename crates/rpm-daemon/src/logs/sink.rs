//! Destinations of log output, by path: files, or something else that has a name in a file system and may stop taking bytes. No write waits:
//! what is not taken is kept within a bound, and beyond that dropped, counted and marked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rpm_sys::epoll::Poller;
use tracing::warn;

use super::claims::Claim;
use super::times::{self, Clock};
use super::{Limit, rotation};
use crate::os::behalf::{Behalf, How};
use crate::os::clock::now_ms;

/// Kept of what a pipe or a terminal does not take now, in bytes.
const WAITING_BYTES: usize = 256 * 1024;

/// Between two tries to rotate a file that cannot be: its directory may be somebody else's.
const ROTATION_RETRY: Duration = Duration::from_secs(60);

/// All that take streams, by path: the streams of merged logs share one.
#[derive(Default)]
pub(super) struct Sinks {
    by_path: BTreeMap<PathBuf, Sink>,
}

struct Sink {
    /// No other thread writes to it meanwhile.
    _claim: Option<Claim>,
    path: PathBuf,
    behalf: Behalf,
    /// By which the poller names it.
    token: u64,
    /// How many streams it takes.
    streams: usize,
    file: Option<File>,
    /// The poller says when there is room.
    watched: bool,
    /// Not taken yet.
    waiting: Vec<u8>,
    /// Bytes that could not be written since the last success.
    lost: u64,
    /// The stream that has written last, if that was no end of a line.
    unfinished: Option<u64>,
    clock: Clock,
    /// It could not be rotated, and is not tried again before.
    rotates_from: Option<Instant>,
}

impl Sinks {
    /// One more stream goes there.
    pub(super) fn join(&mut self, path: &Path, token: u64, behalf: &Behalf, claim: Option<Claim>) {
        let sink = self.by_path.entry(path.to_owned());
        let sink = sink.or_insert_with(|| Sink::new(path, token, behalf, claim));
        sink.streams += 1;
        sink.appear();
    }

    /// One stream less.
    pub(super) fn leave(&mut self, path: &Path) {
        if let Some(sink) = self.by_path.get_mut(path) {
            sink.streams -= 1;
            if sink.is_done() {
                self.by_path.remove(path);
            }
        }
    }

    /// Does more than one stream go there?
    pub(super) fn is_shared(&self, path: &Path) -> bool {
        self.by_path.get(path).is_some_and(|sink| sink.streams > 1)
    }

    /// Writes bytes of the stream `by`.
    pub(super) fn store(&mut self, path: &Path, by: u64, bytes: &[u8], poller: &Poller) {
        if let Some(sink) = self.by_path.get_mut(path) {
            sink.store(by, bytes);
            sink.attend(poller);
        }
    }

    /// There is room in the one of that token.
    pub(super) fn go_on(&mut self, token: u64, poller: &Poller) {
        let Some(sink) = self.by_path.values_mut().find(|sink| sink.token == token) else {
            return;
        };
        if let Err(error) = sink.flush() {
            sink.lose(&error, 0);
        }
        sink.attend(poller);
        if sink.is_done() {
            let path = sink.path.clone();
            self.by_path.remove(&path);
        }
    }

    /// Length of the file. `None` if it is not a regular file, or if bytes wait or were lost, so that the length does not tell what was written.
    pub(super) fn length(&mut self, path: &Path) -> Option<u64> {
        self.by_path.get_mut(path)?.length()
    }

    /// True if the file has reached its limit: at the end of a line, or within a line at twice the limit.
    pub(super) fn is_full(&self, path: &Path, limit: Limit) -> bool {
        let Some(sink) = self.by_path.get(path) else {
            return false;
        };
        if sink.rotates_from.is_some_and(|from| from > Instant::now()) {
            return false;
        }
        let due = match sink.unfinished {
            None => limit.bytes,
            Some(_) => limit.bytes.saturating_mul(2),
        };
        let meta = sink.file.as_ref().and_then(|file| file.metadata().ok());
        meta.is_some_and(|meta| meta.is_file() && meta.len() >= due)
    }

    /// Rotates the file, for all streams that are written to it.
    pub(super) fn rotate(&mut self, path: &Path, keep: u32) {
        let Some(sink) = self.by_path.get_mut(path) else {
            return;
        };
        let done = sink.behalf.act(path, |path| {
            let done = rotation::rotate(path, keep);
            times::forget(path);
            done
        });
        sink.rotates_from = None;
        match done {
            // Somebody has removed it.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(path = %path.display(), %error, "cannot rotate a log; it keeps growing, and is tried again in a minute");
                sink.rotates_from = Some(Instant::now() + ROTATION_RETRY);
            }
            _ => {}
        }
        // The new file is there at once, for `tail -F`.
        drop(sink.behalf.open(path, How::Append));
        sink.close();
    }

    /// Opens all files again before the next bytes.
    pub(super) fn reopen(&mut self) {
        self.by_path.values_mut().for_each(Sink::close);
    }
}

/// Empties a regular file. Does nothing if it is missing, or of another kind.
pub(super) fn empty(path: &Path, behalf: &Behalf) {
    let forget = |path: &Path| {
        times::forget(path);
        Ok(())
    };
    let opened = behalf.open(path, How::Existing);
    let emptied = opened.and_then(|file| match file.metadata()?.is_file() {
        true => file.set_len(0).and_then(|()| behalf.act(path, forget)),
        false => Ok(()),
    });
    let nothing = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound || path.metadata().is_ok_and(|meta| !meta.is_file())
    };
    match emptied {
        Err(error) if !nothing(&error) => warn!(path = %path.display(), %error, "cannot empty a log"),
        Ok(()) | Err(_) => {}
    }
}

impl Sink {
    fn new(path: &Path, token: u64, behalf: &Behalf, claim: Option<Claim>) -> Sink {
        Sink {
            _claim: claim,
            path: path.to_owned(),
            behalf: behalf.clone(),
            token,
            streams: 0,
            file: None,
            watched: false,
            waiting: Vec::new(),
            lost: 0,
            unfinished: None,
            clock: Clock::default(),
            rotates_from: None,
        }
    }

    /// Creates the file before the first line, and again if it was removed. What fails here fails again at the next write, and is logged
    /// then.
    fn appear(&mut self) {
        let Ok(named) = self.behalf.open(&self.path, How::Append) else {
            return;
        };
        let identity = |file: &File| file.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
        if self
            .file
            .as_ref()
            .is_some_and(|file| identity(file) == identity(&named))
        {
            return;
        }
        self.close();
        // A pipe is kept open: its reader sees the end when no writer has it open.
        if named.metadata().is_ok_and(|meta| !meta.is_file()) {
            self.file = Some(named);
        }
    }

    fn close(&mut self) {
        // The poller forgets what is closed.
        self.file = None;
        self.watched = false;
    }

    fn open(&mut self) -> io::Result<&mut File> {
        match &mut self.file {
            Some(file) => Ok(file),
            closed => Ok(closed.insert(self.behalf.open(&self.path, How::Append)?)),
        }
    }

    /// Nobody has anything more for it, and it has nothing that it may still write.
    fn is_done(&self) -> bool {
        self.streams == 0 && self.waiting.is_empty()
    }

    fn length(&mut self) -> Option<u64> {
        if self.lost > 0 || !self.waiting.is_empty() {
            return None;
        }
        let meta = self.open().and_then(|file| file.metadata()).ok()?;
        meta.is_file().then_some(meta.len())
    }

    /// Writes bytes of a stream. A line that another one has begun is ended first.
    fn store(&mut self, by: u64, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        if self.unfinished.is_some_and(|other| other != by) {
            self.put(b"\n");
        }
        self.unfinished = (*last != b'\n').then_some(by);
        if let Some(length) = self.length() {
            self.clock.note(&self.path, &self.behalf, length, now_ms());
        }
        self.put(bytes);
    }

    /// What a full disk does not take is dropped at once, so that the program goes on; what a pipe or a terminal does not take now is
    /// kept within a bound. The gap is marked when bytes are taken again.
    fn put(&mut self, bytes: &[u8]) {
        let taken = match self.flush() {
            Ok(()) if self.waiting.is_empty() && self.lost == 0 => self.write(bytes),
            Ok(()) => Ok(0),
            Err(error) => Err(error),
        };
        match taken {
            Ok(taken) => self.keep(&bytes[taken..]),
            Err(error) => self.lose(&error, bytes.len()),
        }
    }

    /// Writes what was kept, and then the mark of a gap.
    fn flush(&mut self) -> io::Result<()> {
        if !self.waiting.is_empty() {
            let kept = std::mem::take(&mut self.waiting);
            let taken = self.write(&kept);
            self.waiting = kept;
            self.waiting.drain(..taken?);
        }
        if self.waiting.is_empty() {
            self.waiting = Vec::new();
            if self.lost > 0 {
                let mark = format!("\n[rpm: {} bytes of output were lost here]\n", self.lost);
                let taken = self.write(mark.as_bytes())?;
                if taken > 0 {
                    self.waiting.extend_from_slice(&mark.as_bytes()[taken..]);
                    self.lost = 0;
                }
            }
        }
        Ok(())
    }

    /// Returns how many bytes were taken. An error after the first byte shows up at the next write.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while taken < bytes.len() {
            match self.open()?.write(&bytes[taken..]) {
                Ok(0) => break,
                Ok(count) => taken += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || taken > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    /// Keeps whole lines, as many as there is room for; after a gap none until it is marked.
    fn keep(&mut self, bytes: &[u8]) {
        let room = match self.lost {
            0 => WAITING_BYTES.saturating_sub(self.waiting.len()),
            _ => 0,
        };
        let kept = match bytes.get(..room) {
            None => bytes.len(),
            Some(fitting) => fitting
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1),
        };
        self.waiting.extend_from_slice(&bytes[..kept]);
        if kept < bytes.len() {
            self.count(bytes.len() - kept, "its reader does not keep up");
        }
    }

    fn lose(&mut self, error: &io::Error, more: usize) {
        let waited = std::mem::take(&mut self.waiting).len();
        self.close();
        if waited + more > 0 {
            self.count(waited + more, error);
        }
    }

    fn count(&mut self, bytes: usize, why: impl std::fmt::Display) {
        if self.lost == 0 {
            let path = self.path.display();
            warn!(%path, error = %why, "losing output; free some space, make the file writable or read it");
        }
        self.lost += bytes as u64;
    }

    /// Has the poller say when there is room, as long as something waits for it.
    fn attend(&mut self, poller: &Poller) {
        let wanted = !self.waiting.is_empty() || self.lost > 0;
        let Some(file) = &self.file else { return };
        if wanted && !self.watched {
            // A regular file cannot be watched: it has room or fails.
            self.watched = poller.add_writable(file, self.token).is_ok();
        } else if !wanted && self.watched {
            let _ = poller.remove(file);
            self.watched = false;
        }
    }
}
