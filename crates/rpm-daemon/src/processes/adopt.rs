//! Taking back a worker of the daemon before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use rpm_keeper::{Kept, Token};
use rpm_sys::Signal;
use rpm_sys::intercept::Notifications;
use rpm_sys::tree::Census;
use rpm_sys::usage;
use rpm_wire::api::AppSpec;
use tracing::{info, warn};

use crate::apps::delivery::Delivery;
use crate::persist::stored::StoredWorker;
use crate::persist::takeover::Survivor;
use crate::processes::Reports;
use crate::processes::launch::Launching;
use crate::sockets::calls;
use crate::workers::outputs::sources;
use crate::workers::sampling::cpu_of;
use crate::workers::worker::{Process, ProcessTree, UsageSample, Worker};

impl<E: Reports> Launching<'_, E> {
    /// Takes back a worker: its process, its channel, its output.
    pub(crate) fn adopt(&mut self, survivor: Survivor, census: &Census) {
        let Survivor {
            stored,
            pidfd,
            without_keeper,
            ..
        } = survivor;
        let Some((spec, delivery)) = self.version_of(&stored) else {
            return;
        };
        let age = usage::age(stored.start_ticks);
        let mut tokens = stored.tokens;
        tokens.process = pidfd.token();
        let take = |token: Option<Token>| token.and_then(|token| self.keeper.take(token));
        let pipes = [(1, take(tokens.out)), (2, take(tokens.err))];
        let [out, err] = pipes.map(|(number, kept)| {
            // A worker whose output nobody can read is ended by the system when it prints. One that has closed it needs nobody.
            let own = || pidfd.read_end(number).ok().filter(|_| without_keeper);
            kept.or_else(|| Some(self.keeper.keep(own()?, rpm_listen::owner(stored.id))))
        });
        (tokens.out, tokens.err) = (out.as_ref().map(Kept::token), err.as_ref().map(Kept::token));
        let channel = take(tokens.channel);
        let stdin = take(tokens.stdin);
        let mut process = Process {
            pid: stored.pid,
            start_ticks: stored.start_ticks,
            started: Instant::now().checked_sub(age).unwrap_or_else(Instant::now),
            started_at_ms: stored.started_at_ms,
            channel: channel.map(|socket| self.open_channel(stored.id, socket).taken_back()),
            ending: stored.ending,
            adopted: true,
            tokens,
            without_keeper,
            stdin,
            notifications: self.take_calls(&stored, delivery),
            // What it used before this is no share of the time since.
            usage: UsageSample {
                at: census.taken(),
                cpu: cpu_of(stored.pid, census),
                ..UsageSample::start()
            },
            pidfd,
        };
        let pipes = [(out, false), (err, true)];
        let pipes = pipes
            .into_iter()
            .filter_map(|(pipe, is_err)| Some((pipe?, is_err)));
        self.logs
            .add(sources(&spec, stored.instance, &stored.logs, pipes));
        // The daemon before may have died while it had stopped the worker for a moment.
        let _ = process.pidfd.send_signal(Signal::CONT);
        self.watch(stored.id, &mut process);
        info!(worker = %stored.id, pid = stored.pid, "taken back");
        let worker = Worker {
            id: stored.id,
            app: stored.app,
            instance: stored.instance,
            spec,
            delivery,
            logs: stored.logs,
            tree: ProcessTree::Running(Box::new(process)),
            trouble: None,
            agent_seen: stored.agent_seen,
            token: stored.token,
            malformed: 0,
            withheld: Vec::new(),
            held_back: Vec::new(),
            bound: BTreeSet::new(),
            listeners: stored.listeners,
            listened: Vec::new(),
            actions: stored.actions,
        };
        // Its agent tries to come back to where it was.
        let _ = self.agent_places.of(self.home, self.events, &worker.spec);
        self.ports.workers.insert(worker.id, worker);
    }

    /// What its processes call goes on being answered; those that called meanwhile wait.
    fn take_calls(&self, stored: &StoredWorker, delivery: Delivery) -> Option<Kept<Notifications>> {
        let token = stored.tokens.reports?;
        let Some(reports) = self.keeper.take_as(token, Notifications::taken_back) else {
            warn!(worker = %stored.id, "the reports of a worker's calls are gone: it can no longer listen");
            return None;
        };
        let journal = self.interception.journal().map(AsRef::as_ref);
        calls::answer_stuck(stored.id, delivery, &reports, journal);
        self.watch_calls(stored.id, reports.share());
        Some(reports)
    }

    fn version_of(&self, stored: &StoredWorker) -> Option<(Arc<AppSpec>, Delivery)> {
        let revisions = &self.ports.apps.get(&stored.app)?.revisions;
        let revision = self.ports.core.worker(stored.id).map(|worker| worker.revision);
        let version = revision.and_then(|revision| revisions.get(revision));
        let version = version.or_else(|| revisions.newest())?;
        Some((Arc::clone(version.spec()), version.delivery()))
    }
}
