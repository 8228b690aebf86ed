//! Records that are sent together, and how far each log was read when they were.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::assemble::Room;
use super::position::Position;
use super::record::Record;

/// The most records in a batch, and bytes of its body, about: nginx takes 1 MiB by default.
pub(super) const BATCH_RECORDS: usize = 1_000;
pub(super) const BATCH_BYTES: usize = 700_000;

/// Records that are sent together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub records: Vec<Record>,
    /// How many bytes each takes in a request, about.
    sizes: Vec<usize>,
    bytes: usize,
    /// How many are of each log.
    of_logs: BTreeMap<PathBuf, usize>,
    pub since_ms: u64,
    /// How far each log was read when they had been taken.
    pub ends: BTreeMap<PathBuf, Position>,
}

impl Batch {
    pub(super) fn is_full(&self) -> bool {
        self.records.len() >= BATCH_RECORDS || self.bytes >= BATCH_BYTES
    }

    /// What is left for this log, which gets no more than its share of a batch for so many logs. `None` if it has that.
    pub(super) fn room(&self, log: &Path, logs: usize) -> Option<Room> {
        let share = (BATCH_RECORDS / logs.max(1)).max(1);
        let taken = self.of_logs.get(log).copied().unwrap_or(0);
        let left = BATCH_RECORDS.saturating_sub(self.records.len()).max(1);
        (taken < share).then(|| Room {
            records: left.min(share - taken),
            bytes: (BATCH_BYTES / logs.max(1))
                .min(BATCH_BYTES.saturating_sub(self.bytes))
                .max(1),
        })
    }

    /// Adds records of a log; `size` says how many bytes one takes.
    pub(super) fn add(&mut self, log: &Path, records: Vec<Record>, size: impl Fn(&Record) -> usize) {
        if records.is_empty() {
            return;
        }
        *self.of_logs.entry(log.to_owned()).or_default() += records.len();
        let begin = self.sizes.len();
        self.sizes.extend(records.iter().map(size));
        self.bytes += self.sizes[begin..].iter().sum::<usize>();
        self.records.extend(records);
    }

    /// Lines of these records.
    pub(super) fn lines(&self, numbers: &[usize]) -> u64 {
        let records = numbers.iter().filter_map(|number| self.records.get(*number));
        records.map(|record| u64::from(record.lines)).sum()
    }

    /// How many bytes each record takes in a request, about.
    pub(super) fn sizes(&self) -> &[usize] {
        &self.sizes
    }
}

/// How many of the first records of these sizes are sent together: at least one, at most `most`, and no more bytes than a request should have. What is read
/// at once may be more: it grows when it is written in the form of the receiver.
pub(super) fn part_of(sizes: impl Iterator<Item = usize>, most: usize) -> usize {
    let mut bytes = 0;
    let is_room = |(number, size): &(usize, usize)| {
        bytes += size;
        *number == 0 || (*number < most && bytes <= BATCH_BYTES)
    };
    sizes.enumerate().take_while(is_room).count()
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn parts_have_bounds() {
        let mut batch = Batch::default();
        for size in [1, BATCH_BYTES, 300_000, 300_000, 300_000, 1, 1, 1] {
            batch.add(Path::new("/a"), vec![record("one")], |_| size);
        }
        assert!(batch.is_full());
        let room = |log: &str, logs: usize| batch.room(Path::new(log), logs).map(|room| room.records);
        assert_eq!(
            (room("/a", 1), room("/a", 100), room("/a", 125)),
            (Some(992), Some(2), None)
        );
        assert_eq!((room("/b", 125), room("/b", 9_999)), (Some(8), Some(1)));
        let parts = |most: usize| {
            let (mut sizes, mut parts) = (batch.sizes(), Vec::new());
            while !sizes.is_empty() {
                parts.push(part_of(sizes.iter().copied(), most));
                sizes = &sizes[parts[parts.len() - 1]..];
            }
            parts
        };
        assert_eq!(parts(1_000), [1, 1, 2, 4]);
        assert_eq!(parts(3), [1, 1, 2, 3, 1]);
        assert_eq!(parts(1), [1; 8]);
        assert_eq!(part_of(std::iter::empty(), 1_000), 0);
    }
}
