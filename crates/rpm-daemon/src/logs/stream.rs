//! A worker's stream on its way from the pipe to what takes it.

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Zoned;
use rpm_keeper::Kept;
use rpm_sys::epoll::Poller;

use super::orders::Placed;
use super::parts::Parts;
use super::sink::Sinks;
use super::stamp::{LINE_LIMIT, Lines};
use super::underway::Left;
use super::{Limit, Style, tail};

/// Longest line that is kept together where several streams go to one file, in bytes.
const SHARED_LINE_LIMIT: usize = 256 * 1024;

pub(super) struct Stream {
    pub(super) pipe: Kept<OwnedFd>,
    token: u64,
    paths: Vec<PathBuf>,
    lines: Lines,
    parts: Parts,
    as_objects: bool,
    limit: Option<Limit>,
}

impl Stream {
    /// What takes it is joined; its tokens are those after `token`.
    pub(super) fn new(placed: Placed, token: u64, sinks: &mut Sinks) -> Stream {
        let Placed { source, claims } = placed;
        // Nothing of it is there yet.
        source.begin.note(|| tail::size(&source.path));
        let paths: Vec<PathBuf> = [Some(source.path), source.also].into_iter().flatten().collect();
        let mut claims = claims.into_iter();
        for (path, number) in paths.iter().zip(1..) {
            sinks.join(path, token + number, &source.behalf, claims.next());
        }
        Stream {
            pipe: source.pipe,
            token,
            paths,
            as_objects: matches!(source.style, Style::Json { .. }),
            lines: Lines::new(source.style),
            parts: Parts::default(),
            limit: source.limit,
        }
    }

    pub(super) fn name(&self) -> String {
        let first = self.paths.first();
        first.map_or_else(String::new, |path| path.display().to_string())
    }

    /// Writes what was read: whole lines alone where lines are more than bytes, or others write too.
    pub(super) fn store(&mut self, bytes: &[u8], sinks: &mut Sinks, poller: &Poller) {
        let styled = self.styled(bytes, sinks);
        let bytes = styled.as_deref().unwrap_or(bytes);
        for path in &self.paths {
            sinks.store(path, self.token, bytes, poller);
        }
    }

    /// As it is written; `None`: as it is.
    fn styled(&mut self, bytes: &[u8], sinks: &Sinks) -> Option<Vec<u8>> {
        let limit = if self.as_objects {
            LINE_LIMIT
        } else if self.paths.iter().any(|path| sinks.is_shared(path)) {
            SHARED_LINE_LIMIT
        } else {
            0
        };
        let whole = self.parts.whole(bytes, limit, Instant::now());
        let styled = self.lines.style(&whole, Zoned::now);
        styled.or_else(|| match whole {
            Cow::Borrowed(whole) => (whole.len() < bytes.len()).then(|| whole.to_vec()),
            Cow::Owned(whole) => Some(whole),
        })
    }

    /// When it has something to be written though its line has no end.
    pub(super) fn due(&self) -> Option<Instant> {
        self.parts.due().filter(|_| !self.as_objects)
    }

    /// Writes what is held.
    pub(super) fn release(&mut self, sinks: &mut Sinks, poller: &Poller) {
        let rest = self.parts.take();
        if rest.is_empty() {
            return;
        }
        let styled = self.lines.style(&rest, Zoned::now);
        for path in &self.paths {
            sinks.store(path, self.token, styled.as_deref().unwrap_or(&rest), poller);
        }
    }

    /// The beginning of a line that is not written yet.
    pub(super) fn held(&self) -> &[u8] {
        self.parts.held()
    }

    /// How long its files are; `None`: it is none, or cannot be opened.
    pub(super) fn lengths(&self, sinks: &mut Sinks) -> Vec<Option<u64>> {
        self.paths.iter().map(|path| sinks.length(path)).collect()
    }

    /// Writes what a daemon that was killed had read, where it is missing.
    pub(super) fn complete(&mut self, left: &Left, sinks: &mut Sinks, poller: &Poller) {
        let styled = self.styled(left.bytes(), sinks);
        let bytes = styled.as_deref().unwrap_or(left.bytes());
        for (number, path) in self.paths.iter().enumerate() {
            let lacking = left.lacking(number, sinks.length(path), bytes);
            sinks.store(path, self.token, lacking, poller);
        }
    }

    /// Its files that have grown too large, and how many of each are kept.
    pub(super) fn full(&self, sinks: &Sinks) -> Vec<(PathBuf, u32)> {
        let Some(limit) = self.limit else {
            return Vec::new();
        };
        let full = self.paths.iter().filter(|path| sinks.is_full(path, limit));
        full.map(|path: &PathBuf| (path.clone(), limit.keep)).collect()
    }

    /// There is nothing more to come.
    pub(super) fn finish(&mut self, sinks: &mut Sinks, poller: &Poller) {
        self.release(sinks, poller);
        self.paths
            .iter()
            .map(PathBuf::as_path)
            .for_each(|path: &Path| sinks.leave(path));
    }
}
