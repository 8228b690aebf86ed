//! `GET /metrics`: the daemon's figures as Prometheus text.
//!
//! Nothing is kept between two scrapes: a recorder is filled from the present state and rendered.

use metrics::{counter, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;

use rpm_proxy::{BOUNDS_MS, Figures};

use crate::supervisor::Supervisor;

impl Supervisor {
    /// The present figures.
    pub(crate) fn metrics(&mut self) -> String {
        self.sample();
        let recorder = PrometheusBuilder::new().build_recorder();
        let rendered = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            self.worker_metrics();
            self.listener_metrics();
            self.proxy_metrics();
            counter!("rpm_rescued_connections_total").absolute(self.rescues);
        });
        rendered.render()
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

    fn proxy_metrics(&self) {
        for app in self.apps.keys() {
            let name = self.catalog().label(*app);
            for figures in self.fronts.figures(*app) {
                for (class, count) in figures.answers.iter().enumerate() {
                    let status = format!("{}xx", class + 1);
                    counter!("rpm_proxy_answers_total", "app" => name.clone(), "status" => status)
                        .absolute(*count);
                }
                counter!("rpm_proxy_retries_total", "app" => name.clone()).absolute(figures.retries);
                counter!("rpm_proxy_unavailable_total", "app" => name.clone()).absolute(figures.unavailable);
                gauge!("rpm_proxy_connections", "app" => name.clone()).set(f64::from(figures.connections));
                counter!("rpm_proxy_turned_away_total", "app" => name.clone()).absolute(figures.turned_away);
                gauge!("rpm_proxy_queued", "app" => name.clone()).set(f64::from(figures.queued));
                for (way, bytes) in ["from_clients", "to_clients"].into_iter().zip(figures.bytes) {
                    counter!("rpm_proxy_body_bytes_total", "app" => name.clone(), "way" => way)
                        .absolute(bytes);
                }
                times(&name, &figures);
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

/// The histogram of times, as Prometheus has it: the buckets hold those before them.
fn times(app: &str, figures: &Figures) {
    let bounds = BOUNDS_MS.map(|ms| (ms as f64 / 1000.0).to_string());
    let bounds = bounds.into_iter().chain(["+Inf".to_owned()]);
    let mut all = 0;
    for (le, count) in bounds.zip(figures.times) {
        all += count;
        counter!("rpm_proxy_answer_seconds_bucket", "app" => app.to_owned(), "le" => le).absolute(all);
    }
    counter!("rpm_proxy_answer_seconds_count", "app" => app.to_owned()).absolute(all);
    gauge!("rpm_proxy_answer_seconds_sum", "app" => app.to_owned()).set(figures.time_us as f64 / 1e6);
}

fn describe() {
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
