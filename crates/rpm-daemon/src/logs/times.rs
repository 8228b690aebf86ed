//! When what is in a log was written: an index beside the file, whose own format is PM2's and has no place for it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use rpm_wire::log_times::{self, INDEX_BYTES, RECORD, index_of};

use crate::home::read_small;
use crate::os::behalf::{Behalf, How};

/// Writes the index of one log.
#[derive(Debug, Default)]
pub(super) struct Clock {
    last: Option<(u64, u64)>,
}

impl Clock {
    /// What comes at `offset` is written at `now`. What comes in the same millisecond needs no record.
    pub(super) fn note(&mut self, log: &Path, behalf: &Behalf, offset: u64, now: u64) {
        let known = |(before, at)| at == now && before <= offset;
        if !self.last.is_some_and(known) {
            self.last = Some((offset, now));
            // Without a record the time is not known, and not shown.
            let _ = append(&index_of(log), behalf, offset, now);
        }
    }
}

fn append(index: &Path, behalf: &Behalf, offset: u64, at: u64) -> io::Result<()> {
    let mut file = behalf.open(index, How::AppendAndRead)?;
    if file.metadata()?.len() >= INDEX_BYTES {
        let mut all = Vec::new();
        // By the same descriptor: another file may have the name by now.
        (&file).take(2 * INDEX_BYTES).read_to_end(&mut all)?;
        file.set_len(0)?;
        file.write_all(&all[all.len() / RECORD / 2 * RECORD..])?;
    }
    file.write_all(&log_times::record(offset, at))
}

/// The log is empty, or another file now.
pub(super) fn forget(log: &Path) {
    let _ = fs::remove_file(index_of(log));
}

/// The index of one log, as it was when it was read.
#[derive(Debug, Default)]
pub(super) struct Times(log_times::Times);

impl Times {
    /// Reads it; without an index no time is known.
    pub(super) fn read(log: &Path) -> Times {
        let index = read_small(&index_of(log), 2 * INDEX_BYTES);
        Times(log_times::Times::parse(&index.unwrap_or_default()))
    }

    /// When what begins at `offset` was written.
    pub(super) fn at(&self, offset: u64) -> Option<u64> {
        self.0.at(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_last_write_at_or_before() {
        let log = std::env::temp_dir().join(format!("rpm-times-{}.log", std::process::id()));
        assert_eq!(Times::read(&log).at(0), None, "without an index");
        let mut clock = Clock::default();
        for (offset, at) in [(10, 1000), (20, 1000), (30, 1001), (40, 1002)] {
            clock.note(&log, &Behalf::default(), offset, at);
        }
        let times = Times::read(&log);
        let seen = [9, 10, 29, 30, 39, 40, 99].map(|offset| times.at(offset));
        let expected = [
            None,
            Some(1000),
            Some(1000),
            Some(1001),
            Some(1001),
            Some(1002),
            Some(1002),
        ];
        assert_eq!(seen, expected);
        // The file is emptied by somebody else, and written to in the same millisecond.
        clock.note(&log, &Behalf::default(), 0, 1002);
        clock.note(&log, &Behalf::default(), 7, 1003);
        let times = Times::read(&log);
        assert_eq!(
            [0, 7, 50].map(|offset| times.at(offset)),
            [Some(1002), Some(1003), Some(1003)]
        );
        forget(&log);
        assert_eq!(Times::read(&log).at(50), None);
    }

    #[test]
    fn an_index_keeps_its_newer_half() {
        let log = std::env::temp_dir().join(format!("rpm-many-times-{}.log", std::process::id()));
        let mut clock = Clock::default();
        let records = INDEX_BYTES / RECORD as u64;
        for number in 0..=records {
            clock.note(&log, &Behalf::default(), number, number + 1);
        }
        let times = Times::read(&log);
        assert_eq!(times.at(records), Some(records + 1));
        assert_eq!(times.at(records / 2), Some(records / 2 + 1));
        assert_eq!(times.at(records / 2 - 1), None);
        forget(&log);
    }
}
