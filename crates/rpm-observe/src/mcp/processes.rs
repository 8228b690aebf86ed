//! Processes, as a client gets to see them: the fields that are named here, and no others. Pure.

use rpm_wire::api::{ChangeReply, Other, Process, Status};
use schemars::JsonSchema;
use serde::Serialize;

use super::bounds::Room;
use super::secrets::Secrets;

/// A process.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ProcessView {
    id: u32,
    app: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    /// `online`, `launching`, `stopping`, `stopped`, `waiting restart` or `errored` (failed too often, and is not started any more).
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_seconds: Option<u64>,
    /// How often it was replaced, after crashes and by restarts and reloads.
    restarts: u32,
    /// Failures to start in a row.
    #[serde(skip_serializing_if = "is_zero")]
    failures: u32,
    /// If it does not serve: how its last process ended, its exit code or 128 + signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_exit: Option<i32>,
    /// Of one CPU.
    cpu_percent: f64,
    memory_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<u32>,
    /// Where it serves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    serves: Vec<String>,
    /// Other processes of the instance, while it is replaced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<OtherView>,
}

/// A process that comes or goes.
#[derive(Debug, Serialize, JsonSchema)]
struct OtherView {
    pid: u32,
    /// `launching`, `standby`, `draining` or `stopping`.
    phase: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<u32>,
    /// Until the phase ends at the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
}

/// Answer of `list`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Listing {
    processes: Vec<ProcessView>,
    /// How many more there are; `app` narrows the list.
    #[serde(skip_serializing_if = "is_none_left")]
    left_out: usize,
}

// How far a change is; without comments for documentation, as `tools::Stream`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Done,
    InProgress,
}

/// Answer of the tools that change something.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Changed {
    /// `done`, or `in_progress`: it goes on, and this call has not waited for its end.
    outcome: Outcome,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
    /// The processes concerned, as they are now.
    processes: Vec<ProcessView>,
    #[serde(skip_serializing_if = "is_none_left")]
    processes_left_out: usize,
    /// What is worth knowing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

pub(super) fn is_none_left(value: &usize) -> bool {
    *value == 0
}

/// The namespace of apps that have none of their own.
const USUAL_NAMESPACE: &str = "default";

impl From<Process> for ProcessView {
    fn from(process: Process) -> ProcessView {
        let is_usual = process.namespace.is_empty() || process.namespace == USUAL_NAMESPACE;
        let serves = process.serves.into_iter();
        ProcessView {
            id: process.id,
            app: process.name,
            namespace: (!is_usual).then_some(process.namespace),
            status: process.status.as_str(),
            pid: process.pid,
            uptime_seconds: process.uptime_ms.map(|ms| ms / 1000),
            restarts: process.restarts,
            failures: process.unstable_restarts,
            last_exit: (process.exit_code).filter(|_| process.status != Status::Online),
            cpu_percent: process.cpu_percent,
            memory_bytes: process.memory_bytes,
            connections: process.connections,
            serves: serves
                .map(|served| served.url.unwrap_or(served.address))
                .collect(),
            others: process.others.into_iter().map(OtherView::from).collect(),
        }
    }
}

impl From<Other> for OtherView {
    fn from(other: Other) -> OtherView {
        OtherView {
            pid: other.pid,
            phase: other.phase.as_str(),
            connections: other.connections,
            seconds_left: other.left_ms.map(|ms| ms / 1000),
        }
    }
}

pub(super) fn views(processes: Vec<Process>, room: &mut Room) -> (Vec<ProcessView>, usize) {
    room.first(processes.into_iter().map(ProcessView::from).collect())
}

impl Listing {
    /// Those of `app`, which is a name, a namespace or an id; all without it.
    pub(super) fn of(mut processes: Vec<Process>, app: Option<&str>) -> Listing {
        if let Some(app) = app {
            // As everywhere a name wins over a namespace, and that over an id.
            let ways: [fn(&Process, &str) -> bool; 3] = [
                |process, app| process.name == app,
                |process, app| process.namespace == app,
                |process, app| app.parse() == Ok(process.id),
            ];
            let way = ways
                .into_iter()
                .find(|is_meant| processes.iter().any(|it| is_meant(it, app)));
            processes.retain(|process| way.is_some_and(|is_meant| is_meant(process, app)));
        }
        let (processes, left_out) = views(processes, &mut Room::new());
        Listing { processes, left_out }
    }

    /// True if nothing was meant.
    pub(super) fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.left_out == 0
    }
}

impl Changed {
    pub(super) fn done(reply: ChangeReply, secrets: &Secrets) -> Changed {
        let (processes, processes_left_out) = views(reply.processes, &mut Room::new());
        Changed {
            outcome: Outcome::Done,
            advice: None,
            processes,
            processes_left_out,
            notes: reply.notes.iter().map(|note| secrets.legible(note)).collect(),
        }
    }

    /// The time to wait is over.
    pub(super) fn in_progress(advice: &'static str) -> Changed {
        Changed {
            outcome: Outcome::InProgress,
            advice: Some(advice),
            processes: Vec::new(),
            processes_left_out: 0,
            notes: Vec::new(),
        }
    }
}
