//! An app, as a client gets to see it: the fields and settings that are named here, and no others. Pure.

use rpm_wire::api::{AppInfo, AppSpec, Circuit, ExecMode, ListenerInfo, SlotInfo};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::bounds::Room;
use super::processes::{ProcessView, is_none_left, views};

/// Answer of `describe`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Description {
    app: String,
    namespace: String,
    /// `cluster` (workers behind shared ports) or `fork` (one process).
    mode: &'static str,
    script: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    interpreter: Option<String>,
    /// How many arguments the script has; they are not shown.
    arguments: usize,
    directory: String,
    /// How connections reach the workers: `direct` (by the kernel), `handoff`, `proxy` or `none`.
    data_path: String,
    data_path_reason: String,
    /// Rises with each version that was reloaded.
    generation: u32,
    /// Options that differ from their defaults; durations in milliseconds, sizes in bytes.
    settings: Map<String, Value>,
    processes: Vec<ProcessView>,
    #[serde(skip_serializing_if = "is_none_left")]
    processes_left_out: usize,
    /// Files with the output of the first process.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    log_files: Vec<String>,
    listeners: Vec<ListenerView>,
}

/// A public address.
#[derive(Debug, Serialize, JsonSchema)]
struct ListenerView {
    address: String,
    /// What chooses the worker of a connection.
    steering: String,
    reason: String,
    slots: Vec<SlotView>,
    #[serde(skip_serializing_if = "is_none_left")]
    slots_left_out: usize,
}

/// A worker's part of a public address.
#[derive(Debug, Serialize, JsonSchema)]
struct SlotView {
    /// The id of the process.
    id: u32,
    /// It gets new connections.
    eligible: bool,
    /// Connections that wait to be accepted.
    queued: u32,
    /// Most that may wait.
    backlog: u32,
    /// Connections that were moved away, because it did not accept them.
    rescued: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxied: Option<ProxiedView>,
}

/// What the proxy knows of a worker.
#[derive(Debug, Serialize, JsonSchema)]
struct ProxiedView {
    requests: u64,
    in_flight: u32,
    latency_us: u64,
    /// How often it was left out because it failed.
    ejections: u32,
    /// `closed` (it gets requests), `open` (it has failed) or `ill` (it fails its health checks).
    circuit: &'static str,
}

/// Fields of a specification that are shown as settings, if they differ from their default.
pub(super) const SETTINGS: [&str; 40] = [
    "agent",
    "allow_port_change",
    "autorestart",
    "autostart",
    "balance",
    "cron_restart",
    "cron_timezone",
    "drain_timeout_ms",
    "exp_backoff_restart_delay_ms",
    "gid",
    "instances",
    "intercept",
    "keep_alive_timeout_ms",
    "kill_signal",
    "kill_timeout_ms",
    "listen",
    "listen_timeout_ms",
    "max_memory_restart",
    "max_restarts",
    "max_surge",
    "max_unavailable",
    "min_uptime_ms",
    "parallel",
    "policy",
    "ports",
    "prom_client",
    "proxy",
    "reload_timeout_ms",
    "restart_delay_ms",
    "shutdown_with_message",
    "source_map_support",
    "stop_exit_codes",
    "treekill",
    "uid",
    "wait_ready",
    "watch",
    "watch_after_ms",
    "weights",
    "increment_var",
    "instance_var",
];

/// Fields that are shown elsewhere, or not at all, because they may hold secrets or say little.
#[cfg(test)]
pub(super) const NO_SETTINGS: [&str; 13] = [
    "args",
    "cwd",
    "env",
    "exec_mode",
    "health_check",
    "interpreter",
    "interpreter_args",
    "logs",
    "metrics_path",
    "name",
    "namespace",
    "pid_file",
    "script",
];

/// The settings of an app that differ from their defaults.
pub(super) fn settings(spec: &AppSpec) -> Map<String, Value> {
    let written = |spec: &AppSpec| serde_json::to_value(spec).unwrap_or_default();
    let (spec, usual) = (written(spec), written(&AppSpec::default()));
    let differing = SETTINGS.iter().filter_map(|key| {
        let value = differing(spec.get(key)?, usual.get(key))?;
        Some(((*key).to_owned(), value))
    });
    differing.collect()
}

/// The value, unless it is the usual one; of an object, its fields that are not.
fn differing(value: &Value, usual: Option<&Value>) -> Option<Value> {
    if value.is_null() || Some(value) == usual {
        return None;
    }
    let Value::Object(fields) = value else {
        return Some(value.clone());
    };
    let fields = fields
        .iter()
        .filter_map(|(key, field)| Some((key.clone(), differing(field, usual.and_then(|it| it.get(key)))?)));
    Some(Value::Object(fields.collect()))
}

impl Description {
    pub(super) fn of(info: AppInfo) -> Description {
        let mut room = Room::half();
        let spec = info.spec;
        let first = info.processes.first();
        let log_files = first
            .into_iter()
            .flat_map(|it| [it.out_log.clone(), it.err_log.clone()]);
        let log_files = log_files.filter(|path| !path.is_empty()).collect();
        let listeners = info.listeners.into_iter();
        let listeners = listeners
            .map(|listener| ListenerView::of(listener, &mut room))
            .collect();
        let (processes, processes_left_out) = views(info.processes, &mut Room::half());
        Description {
            settings: settings(&spec),
            app: spec.name,
            namespace: spec.namespace,
            mode: match spec.exec_mode {
                ExecMode::Cluster => "cluster",
                ExecMode::Fork => "fork",
            },
            script: spec.script,
            interpreter: spec.interpreter,
            arguments: spec.args.len(),
            directory: spec.cwd,
            data_path: info.plane,
            data_path_reason: info.plane_reason,
            generation: info.generation,
            processes,
            processes_left_out,
            log_files,
            listeners,
        }
    }
}

impl ListenerView {
    /// All listeners are shown; their slots, as long as there is room.
    fn of(listener: ListenerInfo, room: &mut Room) -> ListenerView {
        let (slots, slots_left_out) = room.first(listener.slots.into_iter().map(SlotView::from).collect());
        ListenerView {
            address: listener.address,
            steering: listener.steering,
            reason: listener.reason,
            slots,
            slots_left_out,
        }
    }
}

impl From<SlotInfo> for SlotView {
    fn from(slot: SlotInfo) -> SlotView {
        SlotView {
            id: slot.instance,
            eligible: slot.eligible,
            queued: slot.queued,
            backlog: slot.backlog,
            rescued: slot.rescued,
            proxied: slot.proxied.map(|proxied| ProxiedView {
                requests: proxied.requests,
                in_flight: proxied.in_flight,
                latency_us: proxied.latency_us,
                ejections: proxied.ejections,
                circuit: match proxied.circuit {
                    Circuit::Closed => "closed",
                    Circuit::Open => "open",
                    Circuit::Ill => "ill",
                },
            }),
        }
    }
}
