//! What became of metrics and spans.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rpm_wire::receivers::{Receiving, Sent};

use crate::standing::Standing;

/// Counts of one signal: of data points, or of spans.
#[derive(Debug, Default)]
pub(super) struct Count {
    used: AtomicBool,
    pub(super) sent: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) failures: AtomicU64,
    /// How the receiver stands.
    pub(super) standing: Standing,
}

impl Count {
    /// It is exported.
    pub(super) fn set_used(&self, used: bool) {
        self.used.store(used, Ordering::Relaxed);
    }

    pub(super) fn add_sent(&self, count: u64) {
        self.sent.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_dropped(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts of both.
#[derive(Debug, Default)]
pub struct Exported {
    pub(super) metrics: Arc<Count>,
    pub(super) traces: Arc<Count>,
}

/// A figure: its name, what it is, and where it is found.
type Figure = (&'static str, &'static str, fn(&Count) -> &AtomicU64);

const FIGURES: [Figure; 3] = [
    (
        "rpm_otlp_sent_total",
        "Data points and spans that the OTLP receiver has taken",
        |count| &count.sent,
    ),
    (
        "rpm_otlp_dropped_total",
        "Data points and spans that were dropped: the receiver refused them, or did not take them in time",
        |count| &count.dropped,
    ),
    (
        "rpm_otlp_failures_total",
        "Requests to the OTLP receiver that failed and were repeated",
        |count| &count.failures,
    ),
];

impl Exported {
    /// The receivers of what is exported, and how they stand.
    pub(crate) fn receivers(&self) -> Vec<Receiving> {
        let signals = [(Sent::Metrics, &self.metrics), (Sent::Traces, &self.traces)];
        let used = signals
            .into_iter()
            .filter(|(_, count)| count.used.load(Ordering::Relaxed));
        used.map(|(what, count)| count.standing.shown(what, None, false))
            .collect()
    }

    /// As a part of a page of metrics; empty if nothing is exported.
    #[must_use]
    pub fn page(&self) -> String {
        let signals = [("metrics", &self.metrics), ("traces", &self.traces)];
        let used = signals
            .into_iter()
            .filter(|(_, count)| count.used.load(Ordering::Relaxed));
        let used: Vec<_> = used.collect();
        let mut page = String::new();
        for (name, what, figure) in FIGURES {
            if used.is_empty() {
                break;
            }
            // Writing to a string does not fail.
            let _ = writeln!(page, "# HELP {name} {what}\n# TYPE {name} counter");
            for (signal, count) in &used {
                let value = figure(count).load(Ordering::Relaxed);
                let _ = writeln!(page, "{name}{{signal=\"{signal}\"}} {value}");
            }
            page.push('\n');
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_what_is_exported() {
        let exported = Exported::default();
        assert_eq!(exported.page(), "");
        exported.traces.set_used(true);
        exported.traces.add_dropped(3);
        let page = exported.page();
        assert!(
            page.contains("rpm_otlp_dropped_total{signal=\"traces\"} 3\n"),
            "{page}"
        );
        assert!(!page.contains("metrics\"}"), "{page}");
    }
}
