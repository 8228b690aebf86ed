//! The index beside a log file that says when what is in it was written. The daemon writes it; whoever reads the log may read it, too.

use std::path::{Path, PathBuf};

/// Length of a record in bytes: an offset in the log, and the time of what begins there in milliseconds since 1970. Native byte order: the index is
/// read on the machine that wrote it.
pub const RECORD: usize = 16;
/// When an index has become so long, the daemon drops its older half.
pub const INDEX_BYTES: u64 = 256 * 1024;

/// `.<log>.times`: watching passes over what begins with a dot.
#[must_use]
pub fn index_of(log: &Path) -> PathBuf {
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    log.with_file_name(format!(".{name}.times"))
}

/// A record.
#[must_use]
pub fn record(offset: u64, at: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(&offset.to_ne_bytes());
    record[8..].copy_from_slice(&at.to_ne_bytes());
    record
}

/// The index of one log, as it was when it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Offsets rise.
    records: Vec<(u64, u64)>,
}

impl Times {
    /// Reads records; a part of one at the end is left out.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Times {
        let (fields, _) = bytes.as_chunks::<8>();
        let number = |at: usize| u64::from_ne_bytes(fields[at]);
        let mut records: Vec<(u64, u64)> = Vec::new();
        for at in (0..fields.len() / 2).map(|record| record * 2) {
            let record = (number(at), number(at + 1));
            // Offsets fall where the file was emptied: what is before that is of lines that are gone.
            if records.last().is_some_and(|last| last.0 > record.0) {
                records.clear();
            }
            records.push(record);
        }
        Times { records }
    }

    /// The last record at or before `offset`: its offset, and when what begins there was written.
    #[must_use]
    pub fn before(&self, offset: u64) -> Option<(u64, u64)> {
        let after = self.records.partition_point(|record| record.0 <= offset);
        after.checked_sub(1).map(|before| self.records[before])
    }

    /// The first record: what stands before its offset was written before that.
    #[must_use]
    pub fn first(&self) -> Option<(u64, u64)> {
        self.records.first().copied()
    }

    /// When what begins at `offset` was written.
    #[must_use]
    pub fn at(&self, offset: u64) -> Option<u64> {
        self.before(offset).map(|(_, at)| at)
    }
}
