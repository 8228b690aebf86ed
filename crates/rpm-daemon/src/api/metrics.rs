//! `GET /metrics`: the daemon's figures as Prometheus text.
//!
//! Nothing is kept between two scrapes: a recorder is filled from the present state and rendered.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use metrics::{Unit, counter, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;

use rpm_proxy::{BOUNDS_MS, Figures};

use crate::view::View;

impl View<'_> {
    /// The present figures.
    pub(crate) fn metrics(&self) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        let rendered = recorder.handle();
        let times = metrics::with_local_recorder(&recorder, || {
            describe();
            self.worker_metrics();
            self.listener_metrics();
            counter!("rpm_rescued_connections_total").absolute(self.rescues);
            self.proxy_metrics()
        });
        let help = "Time to the head of an answer";
        rendered.render() + &histogram("rpm_proxy_answer_seconds", help, &times)
    }

    fn worker_metrics(&self) {
        let held = self.listeners.by_worker();
        for view in self.core.instances() {
            let Some(process) = self.process(view.id, &held, false) else {
                continue;
            };
            let labels = [("app", process.name.clone()), ("id", process.id.to_string())];
            gauge!("rpm_workers", "app" => process.name.clone(), "state" => process.status.as_str())
                .increment(1.0);
            counter!("rpm_restarts_total", &labels).absolute(u64::from(process.restarts));
            gauge!("rpm_worker_cpu_percent", &labels).set(process.cpu_percent);
            gauge!("rpm_worker_memory_bytes", &labels).set(process.memory_bytes as f64);
            if let Some(count) = process.connections {
                gauge!("rpm_worker_connections", &labels).set(f64::from(count));
            }
        }
    }

    /// The proxy's figures. An app may have several addresses: what has the same labels adds up. Times are a histogram, which is returned.
    fn proxy_metrics(&self) -> BTreeMap<String, Times> {
        let mut times: BTreeMap<String, Times> = BTreeMap::new();
        for app in self.apps.keys() {
            let name = self.catalog().label(*app);
            for figures in self.fronts.figures(*app) {
                for (class, count) in figures.answers.iter().enumerate() {
                    let status = format!("{}xx", class + 1);
                    counter!("rpm_proxy_answers_total", "app" => name.clone(), "status" => status)
                        .increment(*count);
                }
                counter!("rpm_proxy_retries_total", "app" => name.clone()).increment(figures.retries);
                counter!("rpm_proxy_unavailable_total", "app" => name.clone()).increment(figures.unavailable);
                gauge!("rpm_proxy_connections", "app" => name.clone())
                    .increment(f64::from(figures.connections));
                counter!("rpm_proxy_turned_away_total", "app" => name.clone()).increment(figures.turned_away);
                gauge!("rpm_proxy_queued", "app" => name.clone()).increment(f64::from(figures.queued));
                for (way, bytes) in ["from_clients", "to_clients"].into_iter().zip(figures.bytes) {
                    counter!("rpm_proxy_body_bytes_total", "app" => name.clone(), "way" => way)
                        .increment(bytes);
                }
                times.entry(name.clone()).or_default().add(&figures);
                for upstream in figures.upstreams {
                    let labels = [("app", name.clone()), ("slot", upstream.id.0.to_string())];
                    counter!("rpm_proxy_requests_total", &labels).absolute(upstream.requests);
                    gauge!("rpm_proxy_in_flight", &labels).set(f64::from(upstream.in_flight));
                    gauge!("rpm_proxy_latency_seconds", &labels).set(upstream.latency_us as f64 / 1e6);
                    gauge!("rpm_proxy_ejected", &labels).set(f64::from(u8::from(upstream.ejected)));
                    counter!("rpm_proxy_ejections_total", &labels).absolute(u64::from(upstream.ejections));
                }
            }
        }
        times
    }

    fn listener_metrics(&self) {
        for app in self.apps.keys() {
            for group in self.listeners.groups(*app) {
                for slot in &group.slots {
                    let id = slot.holder.and_then(|worker| self.instance_of(worker));
                    let labels = [
                        ("app", self.catalog().label(*app)),
                        ("address", group.addr.to_string()),
                        ("slot", slot.slot.to_string()),
                        ("id", id.map(|id| id.to_string()).unwrap_or_default()),
                    ];
                    gauge!("rpm_accept_queue", &labels).set(f64::from(slot.queue.len));
                    gauge!("rpm_slot_eligible", &labels).set(f64::from(u8::from(slot.eligible)));
                    counter!("rpm_slot_rescued_total", &labels).absolute(slot.rescued);
                    if let Some(steered) = slot.steered {
                        counter!("rpm_steered_connections_total", &labels).absolute(steered);
                    }
                    if let Some(connections) = slot.connections {
                        gauge!("rpm_slot_connections", &labels).set(connections as f64);
                    }
                }
            }
        }
    }
}

/// The proxy's figures: name, unit, whether it only grows, what it is.
const PROXY: [(&str, Unit, bool, &str); 12] = [
    (
        "rpm_proxy_answers_total",
        Unit::Count,
        true,
        "Answers by status class",
    ),
    (
        "rpm_proxy_body_bytes_total",
        Unit::Bytes,
        true,
        "Bytes of bodies, from clients and to them",
    ),
    (
        "rpm_proxy_connections",
        Unit::Count,
        false,
        "Clients that are connected",
    ),
    (
        "rpm_proxy_ejected",
        Unit::Count,
        false,
        "1 while an upstream is left out for its failures",
    ),
    (
        "rpm_proxy_ejections_total",
        Unit::Count,
        true,
        "Times that an upstream was left out",
    ),
    (
        "rpm_proxy_in_flight",
        Unit::Count,
        false,
        "Requests that an upstream has",
    ),
    (
        "rpm_proxy_latency_seconds",
        Unit::Seconds,
        false,
        "Moving average of the time to the head of an answer",
    ),
    (
        "rpm_proxy_queued",
        Unit::Count,
        false,
        "Requests that wait for an upstream with room",
    ),
    (
        "rpm_proxy_requests_total",
        Unit::Count,
        true,
        "Requests that an upstream was sent",
    ),
    (
        "rpm_proxy_retries_total",
        Unit::Count,
        true,
        "Requests that were tried once more",
    ),
    (
        "rpm_proxy_turned_away_total",
        Unit::Count,
        true,
        "Clients beyond the limit of their address",
    ),
    (
        "rpm_proxy_unavailable_total",
        Unit::Count,
        true,
        "Requests that found no upstream in time",
    ),
];

/// How long the answers of an app took.
#[derive(Debug, Default)]
struct Times {
    /// Within each of [`BOUNDS_MS`], and beyond.
    counts: [u64; BOUNDS_MS.len() + 1],
    all_us: u64,
}

impl Times {
    fn add(&mut self, figures: &Figures) {
        for (count, more) in self.counts.iter_mut().zip(figures.times) {
            *count += more;
        }
        self.all_us += figures.time_us;
    }
}

/// A histogram in the text format of Prometheus (<https://prometheus.io/docs/instrumenting/exposition_formats/>): a bucket holds those before
/// it. The recorder makes histograms of single measurements only, and these were counted by the proxy.
fn histogram(name: &str, help: &str, by_app: &BTreeMap<String, Times>) -> String {
    let mut text = String::new();
    if by_app.is_empty() {
        return text;
    }
    // Nothing can fail that is written to a string.
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} histogram\n");
    for (app, times) in by_app {
        let app = escaped(app);
        let bounds = BOUNDS_MS.map(|ms| (ms as f64 / 1000.0).to_string());
        let bounds = bounds.into_iter().chain(["+Inf".to_owned()]);
        let mut all = 0;
        for (le, count) in bounds.zip(times.counts) {
            all += count;
            let _ = writeln!(text, "{name}_bucket{{app=\"{app}\",le=\"{le}\"}} {all}");
        }
        let sum = times.all_us as f64 / 1e6;
        let _ = write!(
            text,
            "{name}_sum{{app=\"{app}\"}} {sum}\n{name}_count{{app=\"{app}\"}} {all}\n\n"
        );
    }
    text
}

/// The value of a label, as it stands between quotes.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn describe() {
    for (name, unit, grows, what) in PROXY {
        match grows {
            true => metrics::describe_counter!(name, unit, what),
            false => metrics::describe_gauge!(name, unit, what),
        }
    }
    use metrics::Unit::{Bytes, Count, Percent};
    metrics::describe_gauge!("rpm_workers", Count, "Instances by state");
    metrics::describe_counter!("rpm_restarts_total", Count, "Restarts of an instance");
    metrics::describe_gauge!("rpm_worker_cpu_percent", Percent, "Share of one CPU");
    metrics::describe_gauge!("rpm_worker_memory_bytes", Bytes, "Resident memory");
    metrics::describe_gauge!("rpm_worker_connections", Count, "Established connections");
    metrics::describe_gauge!(
        "rpm_slot_connections",
        Count,
        "Connections of a slot, open or waiting (least-connections)"
    );
    metrics::describe_gauge!("rpm_accept_queue", Count, "Connections waiting to be accepted");
    metrics::describe_gauge!(
        "rpm_slot_eligible",
        Count,
        "1 if new connections may go to the slot"
    );
    metrics::describe_counter!(
        "rpm_slot_rescued_total",
        Count,
        "Connections moved out of a slot's queue"
    );
    metrics::describe_counter!(
        "rpm_steered_connections_total",
        Count,
        "Connections steered to a slot (eBPF)"
    );
    metrics::describe_counter!(
        "rpm_rescued_connections_total",
        Count,
        "Connections moved, all slots"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_one_to_prometheus() {
        let mut times = Times::default();
        times.counts[0] = 3;
        times.counts[2] = 2;
        times.counts[BOUNDS_MS.len()] = 1;
        times.all_us = 1_500_000;
        let by_app = BTreeMap::from([("a \"b\"".to_owned(), times)]);
        let text = histogram("t_seconds", "How long", &by_app);
        let lines: Vec<&str> = text.lines().collect();
        let first = BOUNDS_MS[0] as f64 / 1000.0;
        assert_eq!(
            lines[..2],
            ["# HELP t_seconds How long", "# TYPE t_seconds histogram"]
        );
        assert_eq!(
            lines[2],
            format!("t_seconds_bucket{{app=\"a \\\"b\\\"\",le=\"{first}\"}} 3")
        );
        assert!(lines[4].ends_with("} 5"), "{text}");
        let last = &lines[2 + BOUNDS_MS.len()..];
        assert_eq!(
            last,
            [
                r#"t_seconds_bucket{app="a \"b\"",le="+Inf"} 6"#,
                r#"t_seconds_sum{app="a \"b\""} 1.5"#,
                r#"t_seconds_count{app="a \"b\""} 6"#,
                ""
            ]
        );
        assert!(histogram("t", "", &BTreeMap::new()).is_empty());
    }
}
