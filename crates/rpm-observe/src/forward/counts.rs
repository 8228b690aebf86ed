//! What became of the lines, for the metrics.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rpm_wire::receivers::{Receiving, Sent};

use crate::standing::Standing;

/// Of one destination.
#[derive(Debug, Default)]
pub(super) struct Count {
    forwarded: AtomicU64,
    refused: AtomicU64,
    failures: AtomicU64,
    gaps: AtomicU64,
    behind: AtomicU64,
    /// How the destination stands.
    pub(super) standing: Standing,
}

impl Count {
    /// Lines that were taken or refused, and whether the request is repeated.
    pub(super) fn add(&self, taken: u64, refused: u64, failed: bool) {
        self.forwarded.fetch_add(taken, Ordering::Relaxed);
        self.refused.fetch_add(refused, Ordering::Relaxed);
        self.failures.fetch_add(u64::from(failed), Ordering::Relaxed);
    }

    pub(super) fn add_gap(&self) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines that were taken, and refused.
    #[cfg(test)]
    pub(super) fn settled(&self) -> (u64, u64) {
        let [taken, refused] = [&self.forwarded, &self.refused].map(|count| count.load(Ordering::Relaxed));
        (taken, refused)
    }

    #[cfg(test)]
    pub(super) fn gaps(&self) -> u64 {
        self.gaps.load(Ordering::Relaxed)
    }

    pub(super) fn set_behind(&self, bytes: u64) {
        self.behind.store(bytes, Ordering::Relaxed);
    }
}

/// Of all destinations, by name.
#[derive(Debug, Default)]
pub struct Forwarded {
    by_name: Mutex<BTreeMap<String, Arc<Count>>>,
}

/// A metric: its name, what it says, its type, and the figure.
type Metric = (&'static str, &'static str, &'static str, fn(&Count) -> &AtomicU64);

const METRICS: [Metric; 5] = [
    (
        "rpm_logs_forwarded_lines_total",
        "Lines of logs that were taken",
        "counter",
        |count| &count.forwarded,
    ),
    (
        "rpm_logs_refused_lines_total",
        "Lines of logs that the receiver refused for good",
        "counter",
        |count| &count.refused,
    ),
    (
        "rpm_logs_forward_failures_total",
        "Requests with logs that failed and were repeated",
        "counter",
        |count| &count.failures,
    ),
    (
        "rpm_logs_gaps_total",
        "Log files that were removed or emptied before their end was sent",
        "counter",
        |count| &count.gaps,
    ),
    (
        "rpm_logs_behind_bytes",
        "Bytes of logs that were not taken yet",
        "gauge",
        |count| &count.behind,
    ),
];

impl Forwarded {
    /// The count of a destination; the same for every one of its name.
    pub(super) fn of(&self, name: &str) -> Arc<Count> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(by_name.entry(name.to_owned()).or_default())
    }

    /// Forgets destinations that are not there any more.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.retain(|name, _| is_there(name));
    }

    /// The destinations, and how they stand.
    pub(crate) fn receivers(&self) -> Vec<Receiving> {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = |(name, count): (&String, &Arc<Count>)| {
            let behind = count.behind.load(Ordering::Relaxed);
            Receiving {
                behind_bytes: Some(behind),
                ..count.standing.shown(Sent::Logs, Some(name), behind > 0)
            }
        };
        by_name.iter().map(shown).collect()
    }

    /// As a part of a page of metrics; empty without destinations.
    #[must_use]
    pub fn page(&self) -> String {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = String::new();
        if by_name.is_empty() {
            return page;
        }
        for (name, what, kind, figure) in METRICS {
            // Writing to a string does not fail.
            let _ = writeln!(page, "# HELP {name} {what}\n# TYPE {name} {kind}");
            for (destination, count) in by_name.iter() {
                let value = figure(count).load(Ordering::Relaxed);
                let _ = writeln!(page, "{name}{{destination=\"{}\"}} {value}", escaped(destination));
            }
            page.push('\n');
        }
        page
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_destination() {
        let forwarded = Forwarded::default();
        assert_eq!(forwarded.page(), "");
        forwarded.of("a \"b\"").add(5, 2, true);
        forwarded.of("a \"b\"").set_behind(7);
        let page = forwarded.page();
        for line in [
            "rpm_logs_forwarded_lines_total{destination=\"a \\\"b\\\"\"} 5\n",
            "rpm_logs_refused_lines_total{destination=\"a \\\"b\\\"\"} 2\n",
            "rpm_logs_forward_failures_total{destination=\"a \\\"b\\\"\"} 1\n",
            "rpm_logs_behind_bytes{destination=\"a \\\"b\\\"\"} 7\n",
            "# TYPE rpm_logs_behind_bytes gauge\n",
        ] {
            assert!(page.contains(line), "{line}: {page}");
        }
        forwarded.retain(|_| false);
        assert_eq!(forwarded.page(), "");
    }
}
