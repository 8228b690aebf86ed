//! What is left of a log for the receiver.

use std::io;

use super::super::disk::Disk;
use super::super::position::{after, place};
use super::{KNOWN_MS, Log};

impl<D: Disk> Log<D> {
    /// Bytes that the receiver has not taken yet.
    pub(in super::super) fn behind(&self, disk: &D) -> u64 {
        let present = disk.look(&self.path, self.follow()).ok();
        let Some(from) = self.acked.or(self.cursor) else {
            return present.map_or(0, |present| present.len);
        };
        if let Some(present) = present
            && present.identity.is(&from.file)
        {
            return present.len.saturating_sub(from.offset);
        }
        let chain = disk
            .chain(&self.path, self.follow())
            .ok()
            .flatten()
            .unwrap_or_default();
        let rest =
            place(&chain, &from.file).map_or(0, |place| chain[place].meta.len.saturating_sub(from.offset));
        rest + after(&chain, &from).iter().map(|seen| seen.meta.len).sum::<u64>()
    }

    /// What becomes of it when its app is gone.
    pub(in super::super) fn rest(&self, disk: &D, now_ms: u64) -> Rest {
        let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let chain = match disk.look(&self.path, self.follow()) {
            Err(error) if is_missing(&error) => disk.chain(&self.path, self.follow()),
            _ => return Rest::Something,
        };
        let has_none = match chain {
            Ok(Some(chain)) => chain.is_empty(),
            Ok(None) => false,
            Err(error) => is_missing(&error),
        };
        // What was read and is on its way is settled first.
        if !has_none || self.acked != self.cursor() {
            return Rest::Something;
        }
        let Some(acked) = self.acked else {
            return Rest::Nothing;
        };
        if let Some(file) = &self.open {
            let is_read = disk.meta(file).is_ok_and(|meta| meta.len <= acked.offset);
            return if is_read { Rest::Nothing } else { Rest::Something };
        }
        let (len, since_ms) = self.still;
        let is_known = since_ms > 0 && now_ms.abs_diff(self.seen_ms) <= KNOWN_MS;
        match is_known && len <= acked.offset {
            true => Rest::Nothing,
            false => Rest::Lost,
        }
    }
}

/// What is left of a log whose app is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Rest {
    /// Files, or bytes of one that is open.
    Something,
    /// Everything was taken.
    Nothing,
    /// Its files are gone, and something in them may not have been read.
    Lost,
}
