//! `GET /metrics`: the daemon's figures as Prometheus text.
//!
//! Nothing is kept between two scrapes: a recorder is filled from the present state and rendered.

mod node;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use metrics::{Unit, counter, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;

use rpm_proxy::BOUNDS_MS;

use crate::view::View;

impl View<'_> {
    /// The present figures.
    pub(crate) fn metrics(&self) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        let rendered = recorder.handle();
        // There are none of a process that nobody has asked about lately; the next time there are.
        self.agents.measure();
        let (proxied, measured) = metrics::with_local_recorder(&recorder, || {
            describe();
            node::describe();
            self.worker_metrics();
            self.listener_metrics();
            counter!("rpm_rescued_connections_total").absolute(self.rescues);
            (self.proxy_metrics(), self.node_metrics())
        });
        rendered.render() + &proxied.text() + &measured.map(|it| it.text()).concat()
    }

    fn worker_metrics(&self) {
        let held = self.listeners.by_worker();
        for view in self.core.instances().filter(|view| !view.app.is_hidden()) {
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
    fn proxy_metrics(&self) -> Histogram<'static> {
        let mut times = Histogram {
            name: "rpm_proxy_answer_seconds",
            help: "Time to the head of an answer",
            bounds_ms: &PROXY_BOUNDS_MS,
            labels: &["app"],
            series: BTreeMap::new(),
        };
        for (app, _) in self.catalog().listed() {
            let name = self.catalog().label(app);
            for figures in self.fronts.figures(app) {
                for (class, count) in figures.answers.iter().enumerate() {
                    let status = format!("{}xx", class + 1);
                    counter!("rpm_proxy_answers_total", "app" => name.clone(), "status" => status)
                        .increment(*count);
                }
                counter!("rpm_proxy_retries_total", "app" => name.clone()).increment(figures.retries);
                counter!("rpm_proxy_unavailable_total", "app" => name.clone()).increment(figures.unavailable);
                counter!("rpm_proxy_broken_responses_total", "app" => name.clone()).increment(figures.broken);
                gauge!("rpm_proxy_connections", "app" => name.clone())
                    .increment(f64::from(figures.connections));
                counter!("rpm_proxy_turned_away_total", "app" => name.clone()).increment(figures.turned_away);
                gauge!("rpm_proxy_queued", "app" => name.clone()).increment(f64::from(figures.queued));
                for (way, bytes) in ["from_clients", "to_clients"].into_iter().zip(figures.bytes) {
                    counter!("rpm_proxy_body_bytes_total", "app" => name.clone(), "way" => way)
                        .increment(bytes);
                }
                times.add(vec![name.clone()], &figures.times, figures.time_us);
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
        for (app, _) in self.catalog().listed() {
            for group in self.listeners.groups(app) {
                for slot in &group.slots {
                    let id = slot.holder.and_then(|worker| self.instance_of(worker));
                    let labels = [
                        ("app", self.catalog().label(app)),
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

/// [`BOUNDS_MS`] as they are divided.
pub(super) const PROXY_BOUNDS_MS: [f64; BOUNDS_MS.len()] = {
    let mut bounds = [0.0; BOUNDS_MS.len()];
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = BOUNDS_MS[at] as f64;
        at += 1;
    }
    bounds
};

/// The proxy's figures: name, unit, whether it only grows, what it is.
const PROXY: [(&str, Unit, bool, &str); 13] = [
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
    (
        "rpm_proxy_broken_responses_total",
        Unit::Count,
        true,
        "Responses that their upstream began and did not finish",
    ),
];

/// What a histogram counted, for one set of labels.
#[derive(Debug, Default)]
struct Times {
    /// Within each bound, and beyond the last.
    counts: Vec<u64>,
    all_us: u64,
}

impl Times {
    fn add(&mut self, counts: &[u64], all_us: u64) {
        self.counts.resize(counts.len(), 0);
        for (count, more) in self.counts.iter_mut().zip(counts) {
            *count += more;
        }
        self.all_us += all_us;
    }
}

/// A histogram in the text format of Prometheus (<https://prometheus.io/docs/instrumenting/exposition_formats/>): a bucket holds those before
/// it. Without bounds it is a summary, which has a count and a sum alone. The recorder makes them of single measurements only, and these were
/// counted elsewhere.
struct Histogram<'a> {
    name: &'a str,
    help: &'a str,
    bounds_ms: &'a [f64],
    /// By the values of these labels.
    labels: &'a [&'a str],
    series: BTreeMap<Vec<String>, Times>,
}

impl Histogram<'_> {
    fn add(&mut self, labels: Vec<String>, counts: &[u64], all_us: u64) {
        self.series.entry(labels).or_default().add(counts, all_us);
    }

    fn text(&self) -> String {
        let Histogram { name, help, .. } = self;
        let mut text = String::new();
        if self.series.is_empty() {
            return text;
        }
        // Nothing can fail that is written to a string.
        let kind = match self.bounds_ms.is_empty() {
            true => "summary",
            false => "histogram",
        };
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (values, times) in &self.series {
            let pairs = self.labels.iter().zip(values);
            let labels: Vec<String> = pairs
                .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
                .collect();
            let labels = labels.join(",");
            let all: u64 = times.counts.iter().sum();
            if kind == "histogram" {
                let bounds = self.bounds_ms.iter().map(|ms| (ms / 1000.0).to_string());
                let bounds = bounds.chain(["+Inf".to_owned()]);
                let mut within = 0;
                for (le, count) in bounds.zip(&times.counts) {
                    within += count;
                    let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{le}\"}} {within}");
                }
            }
            let sum = times.all_us as f64 / 1e6;
            let _ = write!(
                text,
                "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {all}\n\n"
            );
        }
        text
    }
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
        let empty = || Histogram {
            name: "t_seconds",
            help: "How long",
            bounds_ms: &[1.0, 2.5, 1000.0],
            labels: &["app", "id"],
            series: BTreeMap::new(),
        };
        let mut histogram = empty();
        for (counts, all_us) in [([3, 0, 1, 0], 1_000_000), ([0, 0, 1, 1], 500_000)] {
            histogram.add(vec!["a \"b\"".to_owned(), "0".to_owned()], &counts, all_us);
        }
        let expected = r#"# HELP t_seconds How long
# TYPE t_seconds histogram
t_seconds_bucket{app="a \"b\"",id="0",le="0.001"} 3
t_seconds_bucket{app="a \"b\"",id="0",le="0.0025"} 3
t_seconds_bucket{app="a \"b\"",id="0",le="1"} 5
t_seconds_bucket{app="a \"b\"",id="0",le="+Inf"} 6
t_seconds_sum{app="a \"b\"",id="0"} 1.5
t_seconds_count{app="a \"b\"",id="0"} 6

"#;
        assert_eq!(histogram.text(), expected);
        assert!(empty().text().is_empty());
    }
}
