//! What the agents in Node have measured, once somebody has asked for it.

use std::collections::BTreeMap;

use metrics::{Unit, counter, gauge};
use rpm_agent::{Figures, TIME_BOUNDS_MS};

use super::Histogram;
use crate::view::View;

impl View<'_> {
    /// The figures of each instance; what is counted with its time is returned.
    pub(super) fn node_metrics(&self) -> [Histogram<'static>; 2] {
        let mut responses = Histogram {
            name: "rpm_node_response_seconds",
            help: "Time from the head of a request to the end of its response, within the process",
            bounds_ms: &TIME_BOUNDS_MS,
            labels: &["app", "id"],
            series: BTreeMap::new(),
        };
        let mut collections = Histogram {
            name: "rpm_node_gc_seconds",
            help: "Garbage collections while it was measured",
            bounds_ms: &[],
            labels: &["app", "id"],
            series: BTreeMap::new(),
        };
        for view in self.core.instances() {
            let Some(reported) = view.worker().and_then(|worker| self.agents.figures(worker)) else {
                continue;
            };
            let labels = [self.catalog().label(view.app), view.id.0.to_string()];
            if reported.fresh {
                gauges(&labels, &reported.figures);
            }
            counters(&labels, &reported.figures);
            let figures = &reported.figures;
            responses.add(labels.to_vec(), &figures.times, figures.time_us);
            collections.add(labels.to_vec(), &[figures.gc_runs], figures.gc_us);
        }
        [responses, collections]
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn gauges([app, id]: &[String; 2], figures: &Figures) {
    let [median, p99, most] = figures.delay_us.map(seconds);
    for (name, value) in [
        (
            "rpm_node_event_loop_busy_ratio",
            f64::from(figures.busy_ppm) / 1e6,
        ),
        ("rpm_node_event_loop_delay_median_seconds", median),
        ("rpm_node_event_loop_delay_p99_seconds", p99),
        ("rpm_node_event_loop_delay_max_seconds", most),
        ("rpm_node_heap_used_bytes", figures.heap_used as f64),
        ("rpm_node_heap_limit_bytes", figures.heap_limit as f64),
        ("rpm_node_resources", figures.resources as f64),
    ] {
        gauge!(name, "app" => app.clone(), "id" => id.clone()).set(value);
    }
}

fn counters([app, id]: &[String; 2], figures: &Figures) {
    for (class, count) in figures.answers.iter().enumerate() {
        let status = format!("{}xx", class + 1);
        counter!("rpm_node_responses_total", "app" => app.clone(), "id" => id.clone(), "status" => status)
            .absolute(*count);
    }
}

pub(super) fn describe() {
    use Unit::{Bytes, Count, Percent, Seconds};
    for (name, unit, what) in [
        (
            "rpm_node_event_loop_busy_ratio",
            Percent,
            "Share of the last second in which the event loop was busy, from 0 to 1",
        ),
        (
            "rpm_node_event_loop_delay_median_seconds",
            Seconds,
            "How late the event loop was in the last two seconds: median",
        ),
        (
            "rpm_node_event_loop_delay_p99_seconds",
            Seconds,
            "The same: 99th percentile",
        ),
        (
            "rpm_node_event_loop_delay_max_seconds",
            Seconds,
            "The same: the most",
        ),
        ("rpm_node_heap_used_bytes", Bytes, "Heap of V8 that is used"),
        ("rpm_node_heap_limit_bytes", Bytes, "Heap at which V8 gives up"),
        (
            "rpm_node_resources",
            Count,
            "Sockets, timers and requests that keep the event loop alive",
        ),
    ] {
        metrics::describe_gauge!(name, unit, what);
    }
    metrics::describe_counter!(
        "rpm_node_responses_total",
        Count,
        "Responses of HTTP/1 while it was measured, by status class"
    );
}
