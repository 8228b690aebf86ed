//! Numbers that are noted about workers, in a file, faster than the state can be written.
//!
//! One has their calls that were received and may not be answered yet: a call that a daemon received and died over is one that nobody can
//! receive again, and its caller waits for an answer to that number. The other has those that were asked to end, by the start times of
//! their processes: whoever hears a second signal takes it for impatience.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rpm_core::WorkerId;

/// Numbers that are remembered: calls are answered within microseconds, one after the other, and that a worker was asked to end is in the
/// state some milliseconds later.
const ENTRIES: u64 = 1024;
/// The worker and the number, 8 bytes each.
const ENTRY: usize = 16;

/// The last numbers. That of an answered call stays until it is overwritten: to answer it again does nothing.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    next: AtomicU64,
}

impl Journal {
    /// That of the daemon before, if there was one. What it has written is there, however it died: the kernel has it.
    pub(crate) fn open(path: &Path) -> io::Result<Journal> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        Ok(Journal {
            file,
            next: AtomicU64::new(0),
        })
    }

    /// Notes a number about this worker: that of a call before anything is done about it, or that it was asked to end at once after that.
    pub(crate) fn note(&self, worker: WorkerId, number: u64) -> io::Result<()> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % ENTRIES;
        let mut entry = [0; ENTRY];
        entry[..8].copy_from_slice(&worker.0.to_ne_bytes());
        entry[8..].copy_from_slice(&number.to_ne_bytes());
        self.file.write_all_at(&entry, at * ENTRY as u64)
    }

    /// What was noted about this worker.
    pub(crate) fn of(&self, worker: WorkerId) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; ENTRIES as usize * ENTRY];
        let mut len = 0;
        while len < bytes.len() {
            match self.file.read_at(&mut bytes[len..], len as u64)? {
                0 => break,
                count => len += count,
            }
        }
        let (entries, _) = bytes[..len].as_chunks::<ENTRY>();
        let number = |half: &[u8]| half.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        let own = entries.iter().filter(|entry| number(&entry[..8]) == worker.0);
        Ok(own.map(|entry| number(&entry[8..])).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_calls_of_each_worker_are_found_by_the_next_daemon() {
        let path = std::env::temp_dir().join(format!("rpm-journal-{}", std::process::id()));
        let journal = Journal::open(&path).unwrap();
        assert!(journal.of(WorkerId(1)).unwrap().is_empty());
        for call in 0..ENTRIES + 3 {
            journal.note(WorkerId(1 + call % 2), 1000 + call).unwrap();
        }
        let next = Journal::open(&path).unwrap();
        let calls = next.of(WorkerId(2)).unwrap();
        assert_eq!(calls.len() as u64, ENTRIES / 2);
        assert!(calls.contains(&(1000 + ENTRIES + 1)) && !calls.contains(&1001));
        assert!(next.of(WorkerId(9)).unwrap().is_empty());
        std::fs::remove_file(&path).unwrap();
    }
}
