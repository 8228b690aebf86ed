//! The figures of processes under the names that `pm2-metrics` gives them, with its labels, so that boards made for it go on.

use std::collections::BTreeMap;

use metrics::{Label, describe_gauge, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;
use rpm_wire::api::{AppSpec, Details, Process, Status};
use rpm_wire::pm2::Versions;
use serde_json::Value;

/// The names that every process has, and what they are.
const NAMES: [(&str, &str); 7] = [
    ("pm2_up", "1 if the process is online"),
    ("pm2_cpu", "Share of one CPU in percent"),
    ("pm2_memory", "Resident memory in bytes"),
    ("pm2_uptime", "Seconds since the process was started"),
    ("pm2_instances", "Processes of its app"),
    ("pm2_restarts", "Restarts"),
    (
        "pm2_prev_restart_delay",
        "Back-off before the last restart in milliseconds",
    ),
];

/// In the text format of Prometheus.
pub(crate) fn figures(processes: &[Process], versions: fn(&AppSpec) -> Versions) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let rendered = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        for (name, what) in NAMES {
            describe_gauge!(name, what);
        }
        let mut apps: BTreeMap<&str, (Versions, usize)> = BTreeMap::new();
        for process in processes {
            let of_app = || process.spec.as_deref().map(versions).unwrap_or_default();
            apps.entry(&process.name).or_insert_with(|| (of_app(), 0)).1 += 1;
        }
        for process in processes {
            let (versions, instances) = &apps[process.name.as_str()];
            figures_of(process, versions, *instances);
        }
    });
    rendered.render()
}

fn figures_of(process: &Process, versions: &Versions, instances: usize) {
    let labels = labels(process, versions);
    let set = |name: String, value: f64| gauge!(name, labels.iter()).set(value);
    let online = process.status == Status::Online;
    let details = process.details.as_deref();
    for (name, value) in [
        ("pm2_up", Some(f64::from(u8::from(online)))),
        ("pm2_cpu", Some(process.cpu_percent)),
        ("pm2_memory", Some(process.memory_bytes as f64)),
        ("pm2_uptime", Some((process.uptime_ms.unwrap_or(0) / 1000) as f64)),
        ("pm2_instances", Some(instances as f64)),
        ("pm2_restarts", Some(f64::from(process.restarts))),
        (
            "pm2_prev_restart_delay",
            details.and_then(|details| details.restart_delay_ms.map(|ms| ms as f64)),
        ),
    ] {
        if let Some(value) = value {
            set(name.to_owned(), value);
        }
    }
    for (said, value) in details.into_iter().flat_map(monitored) {
        let name = name_of(said);
        if NAMES.iter().all(|(taken, _)| *taken != name) {
            describe_gauge!(name.clone(), said.to_owned());
            set(name, value);
        }
    }
}

/// What the program says of itself as @pm2/io does (`axm:monitor`), as far as it is a number.
fn monitored(details: &Details) -> impl Iterator<Item = (&str, f64)> {
    details.offer.monitor.iter().filter_map(|(name, figure)| {
        let value = figure.get("value").unwrap_or(figure);
        Some((name.as_str(), number(value)?))
    })
}

/// A number, or a text that begins with one (`12.5 ms`).
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => {
            let text = text.trim_start();
            let is_of_number = |letter: char| letter.is_ascii_digit() || matches!(letter, '.' | '-' | '+');
            let end = text.find(|letter| !is_of_number(letter)).unwrap_or(text.len());
            text[..end].parse().ok()
        }
        value => value.as_f64(),
    }
}

/// `Event Loop Latency p95` becomes `pm2_event_loop_latency_p95`.
fn name_of(said: &str) -> String {
    let plain = |letter: char| match letter.is_ascii_alphanumeric() {
        true => letter.to_ascii_lowercase(),
        false => '_',
    };
    format!("pm2_{}", said.chars().map(plain).collect::<String>())
}

fn labels(process: &Process, versions: &Versions) -> Vec<Label> {
    let interpreter = process
        .spec
        .as_deref()
        .and_then(|spec| spec.interpreter.as_deref());
    let interpreter = interpreter.and_then(|path| path.rsplit('/').next());
    let or_unknown = |version: &Option<String>| version.clone().unwrap_or_else(|| "N/A".to_owned());
    vec![
        Label::new("id", process.id.to_string()),
        Label::new("name", process.name.clone()),
        Label::new("version", or_unknown(&versions.app)),
        Label::new("instance", process.instance.to_string()),
        Label::new("interpreter", interpreter.unwrap_or("none").to_owned()),
        Label::new("node_version", or_unknown(&versions.node)),
    ]
}
