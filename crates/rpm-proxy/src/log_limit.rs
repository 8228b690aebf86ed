//! Limits how often the same thing is logged.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Time between two log lines, in ms: what fails with every request must not fill the disk.
const INTERVAL_MS: u64 = 1000;

/// Admits one log line per second, and counts those that are left out.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    /// When the next line may be logged, in ms since the start of the proxy.
    next_ms: AtomicU64,
    left_out: AtomicU32,
}

impl LogLimit {
    /// A line may be logged now. Returns how many were left out since the last one.
    pub(crate) fn admit(&self, now_ms: u64) -> Option<u32> {
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        let ordering = Ordering::Relaxed;
        let claim = || {
            self.next_ms
                .compare_exchange(next_ms, now_ms + INTERVAL_MS, ordering, ordering)
        };
        if now_ms < next_ms || claim().is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_second_says_how_many_are_left_out() {
        let limit = LogLimit::default();
        let lines: Vec<_> = [0, 1, 500, 999, 1000, 1500, 9000, 9001]
            .map(|now| limit.admit(now))
            .into();
        assert_eq!(lines, [Some(0), None, None, None, Some(3), None, Some(1), None]);
    }
}
