//! What a daemon goes on from, between what is stored ([`rpm_state`]) and what it works with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rpm_core::{AppId, Core, InstanceId, WorkerId};
use rpm_keeper::Token;
use rpm_state::{AppsDocument, Listeners, Process, State};

use crate::apps::app::App;
use crate::logs::Begin;
use crate::workers::worker::{Logs, ProcessTree, Tokens, Worker};

/// What the daemon before this one left.
pub(crate) struct Stored {
    /// What the monotonic clock said at tick 0.
    pub(crate) origin: Duration,
    pub(crate) core: Core,
    pub(crate) apps: BTreeMap<AppId, App>,
    pub(crate) workers: Vec<StoredWorker>,
    pub(crate) listeners: Listeners,
    pub(crate) next_app: u32,
    pub(crate) next_ticket: u64,
    pub(crate) rescues: u64,
}

impl Stored {
    /// Apps that the state does not name are of no account.
    pub(crate) fn new(core: Core, state: State, apps: AppsDocument) -> Stored {
        let apps = apps.apps.into_iter().map(|(id, app)| (AppId(id), app));
        let apps = apps.filter(|(id, _)| core.app(*id).is_some());
        Stored {
            origin: state.origin.into(),
            apps: apps.map(|(id, app)| (id, App::from(app))).collect(),
            workers: state.workers.into_iter().map(StoredWorker::from).collect(),
            listeners: state.listeners,
            next_app: state.next_app,
            next_ticket: state.next_ticket,
            rescues: state.rescues,
            core,
        }
    }
}

/// A worker that has a process.
pub(crate) struct StoredWorker {
    pub(crate) id: WorkerId,
    pub(crate) app: AppId,
    pub(crate) instance: InstanceId,
    pub(crate) pid: u32,
    /// With the pid it names the process.
    pub(crate) start_ticks: u64,
    pub(crate) started_at_ms: u64,
    pub(crate) ending: bool,
    pub(crate) agent_seen: bool,
    pub(crate) token: String,
    pub(crate) logs: Logs,
    pub(crate) tokens: Tokens,
    /// It is to be replaced: much that it needs is gone.
    pub(crate) without_keeper: bool,
    /// Its processes that have called `listen`.
    pub(crate) listeners: BTreeSet<u32>,
    /// The names of the actions that its program offers.
    pub(crate) actions: Vec<String>,
}

impl StoredWorker {
    /// `None`: it has no process.
    pub(crate) fn of(worker: &Worker) -> Option<StoredWorker> {
        let ProcessTree::Running(process) = &worker.tree else {
            return None;
        };
        Some(StoredWorker {
            id: worker.id,
            app: worker.app,
            instance: worker.instance,
            pid: process.pid,
            start_ticks: process.start_ticks,
            started_at_ms: process.started_at_ms,
            ending: process.ending,
            agent_seen: worker.agent_seen,
            token: worker.token.clone(),
            logs: worker.logs.clone(),
            tokens: process.tokens,
            without_keeper: process.without_keeper,
            listeners: worker.listeners.clone(),
            actions: worker.actions.clone(),
        })
    }
}

impl From<StoredWorker> for Process {
    fn from(worker: StoredWorker) -> Process {
        Process {
            id: worker.id.0,
            app: worker.app.0,
            instance: worker.instance.0,
            pid: worker.pid,
            start_ticks: worker.start_ticks,
            started_at_ms: worker.started_at_ms,
            ending: worker.ending,
            agent_seen: worker.agent_seen,
            token: worker.token,
            logs: worker.logs.into(),
            tokens: worker.tokens.into(),
            without_keeper: worker.without_keeper,
            listeners: worker.listeners,
            actions: worker.actions,
        }
    }
}

impl From<Process> for StoredWorker {
    fn from(stored: Process) -> StoredWorker {
        StoredWorker {
            id: WorkerId(stored.id),
            app: AppId(stored.app),
            instance: InstanceId(stored.instance),
            pid: stored.pid,
            start_ticks: stored.start_ticks,
            started_at_ms: stored.started_at_ms,
            ending: stored.ending,
            agent_seen: stored.agent_seen,
            token: stored.token,
            logs: stored.logs.into(),
            tokens: stored.tokens.into(),
            without_keeper: stored.without_keeper,
            listeners: stored.listeners,
            actions: stored.actions,
        }
    }
}

impl From<Logs> for rpm_state::Logs {
    fn from(logs: Logs) -> rpm_state::Logs {
        rpm_state::Logs {
            out: logs.out,
            err: logs.err,
            both: logs.both,
            // Where nothing was written yet: what the next daemon writes begins where it does.
            out_from: logs.out_from.get().unwrap_or(0),
            err_from: logs.err_from.get().unwrap_or(0),
        }
    }
}

impl From<rpm_state::Logs> for Logs {
    fn from(stored: rpm_state::Logs) -> Logs {
        Logs {
            out: stored.out,
            err: stored.err,
            both: stored.both,
            out_from: Begin::at(stored.out_from),
            err_from: Begin::at(stored.err_from),
        }
    }
}

impl From<Tokens> for rpm_state::Tokens {
    fn from(tokens: Tokens) -> rpm_state::Tokens {
        let number = |token: Option<Token>| token.map(u64::from);
        rpm_state::Tokens {
            process: tokens.process.into(),
            channel: number(tokens.channel),
            out: number(tokens.out),
            err: number(tokens.err),
            reports: number(tokens.reports),
            stdin: number(tokens.stdin),
        }
    }
}

impl From<rpm_state::Tokens> for Tokens {
    fn from(stored: rpm_state::Tokens) -> Tokens {
        let token = |number: Option<u64>| number.map(Token::from);
        Tokens {
            process: stored.process.into(),
            channel: token(stored.channel),
            out: token(stored.out),
            err: token(stored.err),
            reports: token(stored.reports),
            stdin: token(stored.stdin),
        }
    }
}
