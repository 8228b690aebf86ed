//! What comes after the bytes of a file: more of them, nothing, or the next file.

use std::io;

use rpm_wire::log_times::Times;

use super::super::assemble::Tail;
use super::super::disk::{Disk, Identity, Meta};
use super::super::joined::Successor;
use super::super::position::{Position, next, place};
use super::{Log, MISSING, QUIET_MS, RELIST_MS, UNFINISHED_MS};

impl<D: Disk> Log<D> {
    /// True if the files need not be listed again: as long as the same file has the name, none is between it and the one that is read. If none has
    /// the name, one may have had it meanwhile.
    pub(super) fn was_listed(&self, state: (Identity, u64), now_ms: u64) -> bool {
        let is_so =
            |(before, at_ms)| before == state && (state != MISSING || now_ms.abs_diff(at_ms) < RELIST_MS);
        self.listed.is_some_and(is_so)
    }

    /// What comes after what is in the file now, and the file to go on with after its end.
    pub(super) fn tail(
        &mut self,
        disk: &D,
        meta: &Meta,
        cursor: &Position,
        now_ms: u64,
    ) -> io::Result<(Tail, Option<Successor>)> {
        if self.still.0 != meta.len || self.still.1 > now_ms || self.still.1 == 0 {
            self.still = (meta.len, now_ms);
        }
        let tail = match now_ms - self.still.1 {
            quiet if quiet >= UNFINISHED_MS => Tail::Ended,
            quiet if quiet >= QUIET_MS => Tail::Quiet,
            _ => Tail::Growing,
        };
        let present = disk.look(&self.path, self.follow());
        let state = present.map_or(MISSING, |present| (present.identity, present.len));
        if state.0.is(&cursor.file) || self.was_listed(state, now_ms) {
            return Ok((tail, None));
        }
        self.listed = Some((state, now_ms));
        let Some(chain) = disk.chain(&self.path, self.follow())? else {
            self.listed = None;
            return Ok((tail, None));
        };
        let known = Position {
            written_ns: meta.written_ns,
            ..*cursor
        };
        let Some(next) = next(&chain, &known) else {
            return Ok((tail, None));
        };
        // What the daemon writes to the next file it has written after everything in this one.
        self.listed = None;
        let settled = match &self.open {
            Some(file) => disk.meta(file)?.len == meta.len,
            None => false,
        };
        if place(&chain, &cursor.file).is_some() {
            self.following = Some(next.meta.identity);
        }
        let following = self.following;
        let successor = settled.then(|| Successor {
            start: Position::start(next.meta.identity, next.meta.written_ns, cursor.generation),
            goes_on: following.is_some_and(|seen| seen.is(&next.meta.identity)),
        });
        Ok((tail, successor))
    }

    /// When what is read was written, if it is in the present file: an index has no times of others.
    pub(super) fn times(&self, disk: &D, cursor: &Position) -> Times {
        let times = disk.times(&self.path, cursor.offset);
        match disk.look(&self.path, self.follow()) {
            Ok(meta) if meta.identity.is(&cursor.file) => times,
            _ => Times::default(),
        }
    }
}
