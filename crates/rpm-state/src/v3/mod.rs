//! The format before the present one, to be read only. It was what the programs of that time had in memory.

mod core;
mod listeners;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rpm_wire::api::AppSpec;
use serde::Deserialize;
use serde_json::Value;

pub use self::core::Impossible;

use crate::envelope;
use crate::v4::{self, Nanos};

/// Of these types.
pub(crate) const FORMAT: u32 = 3;

#[derive(Deserialize)]
pub(crate) struct State {
    version: String,
    boot_id: String,
    origin: Duration,
    core: core::Core,
    workers: Vec<Process>,
    listeners: listeners::Listeners,
    next_app: u32,
    next_ticket: u64,
    rescues: u64,
}

impl TryFrom<State> for v4::State {
    type Error = Impossible;

    fn try_from(old: State) -> Result<v4::State, Impossible> {
        Ok(v4::State {
            format: envelope::FORMAT,
            version: old.version,
            boot_id: old.boot_id,
            origin: Nanos::from(old.origin),
            core: v4::Core(old.core.try_into()?),
            workers: old.workers.into_iter().map(Process::into).collect(),
            listeners: old.listeners.into(),
            next_app: old.next_app,
            next_ticket: old.next_ticket,
            rescues: old.rescues,
        })
    }
}

#[derive(Deserialize)]
struct Process {
    id: u64,
    app: u32,
    instance: u32,
    pid: u32,
    start_ticks: u64,
    started_at_ms: u64,
    ending: bool,
    #[serde(default = "yes")]
    agent_seen: bool,
    token: String,
    logs: Logs,
    tokens: v4::Tokens,
    bereft: bool,
    #[serde(default)]
    listeners: BTreeSet<u32>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct Logs {
    out: PathBuf,
    err: PathBuf,
    #[serde(default)]
    both: Option<PathBuf>,
    out_from: u64,
    err_from: u64,
}

impl From<Process> for v4::Process {
    fn from(old: Process) -> v4::Process {
        v4::Process {
            id: old.id,
            app: old.app,
            instance: old.instance,
            pid: old.pid,
            start_ticks: old.start_ticks,
            started_at_ms: old.started_at_ms,
            ending: old.ending,
            agent_seen: old.agent_seen,
            token: old.token,
            logs: v4::Logs {
                out: old.logs.out,
                err: old.logs.err,
                both: old.logs.both,
                out_from: old.logs.out_from,
                err_from: old.logs.err_from,
            },
            tokens: old.tokens,
            without_keeper: old.bereft,
            listeners: old.listeners,
            actions: Vec::new(),
        }
    }
}

/// All apps; there was no header.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Apps(BTreeMap<u32, App>);

#[derive(Deserialize)]
struct App {
    name: String,
    revisions: Revisions,
    created_at_ms: u64,
    data: BTreeMap<String, Option<Value>>,
    agent_refused: bool,
    #[serde(default)]
    rests: bool,
    #[serde(default)]
    unwatched: bool,
}

#[derive(Deserialize)]
struct Revisions {
    known: BTreeMap<u32, Revision>,
    last: u32,
}

#[derive(Deserialize)]
struct Revision {
    given: Arc<AppSpec>,
    #[serde(default)]
    real: Option<Arc<AppSpec>>,
}

impl From<Apps> for v4::AppsDocument {
    fn from(old: Apps) -> v4::AppsDocument {
        let revision = |(number, old): (u32, Revision)| {
            let Revision { given, real } = old;
            (number, v4::Revision { given, real })
        };
        let app = |(id, old): (u32, App)| {
            let app = v4::StoredApp {
                name: old.name,
                revisions: old.revisions.known.into_iter().map(revision).collect(),
                last_revision: old.revisions.last,
                created_at_ms: old.created_at_ms,
                data: old.data,
                agent_refused: old.agent_refused,
                rests: old.rests,
                unwatched: old.unwatched,
            };
            (id, app)
        };
        v4::AppsDocument {
            format: envelope::FORMAT,
            // It was not said.
            version: String::new(),
            apps: old.0.into_iter().map(app).collect(),
        }
    }
}
