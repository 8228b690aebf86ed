//! Which file of a log is read, and from where: at first, after it was emptied, and when it is not there any more.

use std::io;
use std::path::Path;

use super::super::disk::{Disk, Meta, SIBLINGS, Seen};
use super::super::position::{Position, behind_passed, first, next, place, since};
use super::super::prints::{begun, is_as_it_was, moved};
use super::{Gathered, KNOWN_MS, Log, Look, MISSING};

impl<D: Disk> Log<D> {
    /// Finds out where a log begins that has no position, though nothing is read now.
    /// True if files before that are missing.
    pub(in super::super) fn find(&mut self, disk: &D) -> io::Result<bool> {
        let mut gathered = Gathered::default();
        if self.cursor.is_none() {
            self.begin(disk, &mut gathered)?;
            self.close();
        }
        Ok(gathered.gap)
    }

    /// The cursor, with its file open. `None` if there is nothing to read, or the files change at this moment.
    pub(super) fn place(
        &mut self,
        disk: &D,
        look: Look,
        gathered: &mut Gathered,
    ) -> io::Result<Option<Position>> {
        let now_ms = look.now_ms;
        let Some(cursor) = self.cursor else {
            return self.begin(disk, gathered);
        };
        if self.open.is_some() {
            return Ok(Some(cursor));
        }
        // Of a file that was empty when it was seen nothing is known but its inode, if it has no birth.
        let is_vague = cursor.file.born == 0 && cursor.head.len == 0;
        match disk.look(&self.path, self.follow()) {
            Ok(meta) if meta.identity.is(&cursor.file) && !is_vague => {
                return self.opened(disk, &self.path.clone(), cursor);
            }
            Err(_) if self.was_listed(MISSING, now_ms) => return Ok(None),
            Err(_) => self.listed = Some((MISSING, now_ms)),
            Ok(_) => {}
        }
        let Some(chain) = disk.chain(&self.path, self.follow())? else {
            return Ok(None);
        };
        let since_ns = cursor.written_ns.max(self.begun_ns);
        let older = since(behind_passed(&chain, &cursor), since_ns)
            .iter()
            .find(|seen| seen.meta.len > 0);
        let older = older.filter(|seen| is_vague && !seen.meta.identity.is(&cursor.file));
        if let Some(older) = older {
            self.pass_over(older, look.now_ns, cursor.generation, gathered);
            return Ok(None);
        }
        if let Some(place) = place(&chain, &cursor.file) {
            return self.opened(disk, &chain[place].path, cursor);
        }
        if let Some(next) = next(&chain, &cursor) {
            self.pass_over(next, look.now_ns, cursor.generation, gathered);
        }
        Ok(None)
    }

    /// Goes on with a file though the one before is gone.
    fn pass_over(&mut self, next: &Seen, now_ns: u64, generation: u64, gathered: &mut Gathered) {
        let position = Position::start(next.meta.identity, next.meta.written_ns, generation);
        gathered.records = self.settle(now_ns);
        gathered.gap = true;
        gathered.more = true;
        self.leave_for(position);
    }

    fn begin(&mut self, disk: &D, gathered: &mut Gathered) -> io::Result<Option<Position>> {
        disk.look(&self.path, self.follow())?;
        let Some(chain) = disk.chain(&self.path, self.follow())? else {
            return Ok(None);
        };
        let seen = match self.at_end {
            true => chain.last(),
            false => first(&chain, self.begun_ns),
        };
        let Some(seen) = seen else {
            return Ok(None);
        };
        let position = Position::start(seen.meta.identity, seen.meta.written_ns, 0);
        let Some(mut position) = self.opened(disk, &seen.path, position)? else {
            return Ok(None);
        };
        if self.at_end
            && let Some(file) = &self.open
        {
            let meta = disk.meta(file)?;
            position = moved(disk, file, &position, meta.len, &meta)?;
        }
        // There may be older ones, which are too many.
        gathered.gap |= !self.at_end && chain.len() > SIBLINGS && chain[0].meta.written_ns >= self.begun_ns;
        // From here on it has a position, whatever is taken.
        self.acked = Some(position);
        self.cursor = Some(position);
        Ok(Some(position))
    }

    /// Opens the file that was seen under this name, if it still has it.
    fn opened(&mut self, disk: &D, path: &Path, cursor: Position) -> io::Result<Option<Position>> {
        let file = disk.open(path, self.follow())?;
        if !disk.meta(&file)?.identity.is(&cursor.file) {
            return Ok(None);
        }
        // At its beginning nothing was read yet by which it could be known again.
        let cursor = begun(disk, &file, cursor)?;
        self.cursor = self.cursor.map(|_| cursor);
        self.open = Some(file);
        self.listed = None;
        Ok(Some(cursor))
    }

    /// What stands in the file is not what was read. It was emptied: if it was copied before, the rest is in the copy, and the file itself comes after
    /// that. Or it is another one that has got the number of the one that was read, where files are known by nothing else.
    pub(super) fn restart(
        &mut self,
        disk: &D,
        look: Look,
        cursor: &Position,
        meta: &Meta,
        gathered: &mut Gathered,
    ) -> io::Result<()> {
        let Some(chain) = disk.chain(&self.path, self.follow())? else {
            return Ok(());
        };
        let generation = cursor.generation + 1;
        if let Some(copy) = self.copy(disk, &chain, cursor) {
            gathered.records = self.settle(look.now_ns);
            gathered.more = true;
            self.leave_for(Position {
                file: copy.identity,
                generation,
                ..*cursor
            });
            return Ok(());
        }
        let is_certain = cursor.file.born != 0 && cursor.file.born == meta.identity.born;
        let oldest = since(&chain, cursor.written_ns)
            .iter()
            .find(|seen| seen.meta.len > 0);
        let other = oldest.filter(|seen| !is_certain && !seen.meta.identity.is(&cursor.file));
        if let Some(other) = other {
            self.pass_over(other, look.now_ns, generation, gathered);
            return Ok(());
        }
        let unread = self.still.0 > cursor.offset;
        let is_known = look.now_ms.abs_diff(self.seen_ms) <= KNOWN_MS;
        gathered.restarted = true;
        gathered.gap = unread || !is_known;
        gathered.records = self.settle(look.now_ns);
        gathered.more = true;
        self.leave_for(Position {
            passed: cursor.passed,
            ..Position::start(cursor.file, meta.written_ns, generation)
        });
        Ok(())
    }

    /// The copy of the file that is read, from before it was emptied: the same bytes stand before the position.
    fn copy(&self, disk: &D, chain: &[Seen], cursor: &Position) -> Option<Meta> {
        let may_be = |seen: &&Seen| {
            cursor.offset > 0 && seen.meta.len >= cursor.offset && !seen.meta.identity.is(&cursor.file)
        };
        let is_it = |seen: &&Seen| {
            let file = disk.open(&seen.path, self.follow());
            file.and_then(|file| is_as_it_was(disk, &file, cursor))
                .unwrap_or(false)
        };
        let copy = chain.iter().rev().filter(may_be).find(is_it);
        copy.map(|seen| seen.meta)
    }
}
