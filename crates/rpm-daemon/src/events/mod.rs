//! The journal: what has happened to the apps and to the daemon, in `$RPM_HOME/events.ndjson`, for `GET /v1/events`.
//!
//! The event loop hands an event over and goes on: a thread numbers and writes it ([`writer`]), and who follows reads the file ([`history`]).
//! So an event that somebody has seen is written, its number is never used again, and a reader that is slow costs nothing. What happens
//! again and again is reported a few times at once, then after growing pauses with the count ([`pace`]).

mod crashes;
mod file;
mod freezes;
pub(crate) mod history;
pub(crate) mod notices;
mod pace;
pub(crate) mod subject;
pub(crate) mod wanted;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rpm_core::{AppId, InstanceId, SlotId, WorkerId};
use rpm_wire::events::{Subject, What};
use tokio::sync::{oneshot, watch};

use crate::events::crashes::Crashes;
use crate::events::freezes::Freezes;
use crate::events::history::History;
use crate::events::subject::{Facts, Of};
use crate::events::writer::{Draft, Writer};
use crate::home::Home;
use crate::logs::{Begin, LogSink};
use crate::os::clock::now_ms;

/// How long the daemon, when it ends, waits for what is not written yet.
const END_WITHIN: Duration = Duration::from_secs(1);

/// What is reported, and what was seen of it so far.
pub(crate) struct Journal {
    dir: PathBuf,
    writer: Writer,
    known: BTreeMap<WorkerId, Known>,
    crashes: Crashes,
    freezes: Freezes,
    /// The daemon is about to end, and all apps with it: they are not deleted by anybody.
    pub(crate) closes: bool,
}

/// A worker, as it was when its process started: that is asked for when it has gone.
#[derive(Clone, Copy, Debug)]
struct Known {
    app: AppId,
    instance: InstanceId,
    generation: u32,
    pid: u32,
    /// A reload has started it, and it is not proved ready.
    candidate: bool,
    /// The last answer to its health check was no good one.
    unhealthy: bool,
}

impl Journal {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// No thread can be made.
    pub(crate) fn start(home: &Home, logs: &LogSink) -> io::Result<Journal> {
        Ok(Journal {
            dir: home.root().to_owned(),
            writer: Writer::start(home.root(), logs.clone())?,
            known: BTreeMap::new(),
            crashes: Crashes::default(),
            freezes: Freezes::default(),
            closes: false,
        })
    }

    /// Something happened to the daemon itself.
    fn tell_daemon(&self, what: What) {
        let subject = Subject {
            pid: Some(std::process::id()),
            ..Subject::default()
        };
        self.writer.write(Draft::new(now_ms(), subject, what));
    }

    /// The daemon was started, and has nothing of one before it.
    pub(crate) fn began(&self) {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.tell_daemon(What::DaemonStarted { version });
    }

    /// The daemon has taken over from another one, which was updated or has died.
    pub(crate) fn took_over(&self, updated: bool, workers: usize) {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        self.tell_daemon(match updated {
            true => What::DaemonUpdated { version, workers },
            false => What::DaemonTakenOver { version, workers },
        });
    }

    /// Something happened to an app, an instance or a worker.
    pub(crate) fn tell(&mut self, facts: &Facts<'_>, of: Of, what: What) {
        self.tell_draft(facts, of, what, None);
    }

    /// The same; `tail`: the file that has its standard error, and where its own lines begin there.
    fn tell_draft(&mut self, facts: &Facts<'_>, of: Of, what: What, tail: Option<(PathBuf, Begin)>) {
        let subject = facts.subject(of, &self.known);
        let draft = Draft {
            tail,
            ..Draft::new(now_ms(), subject, what)
        };
        let told = match self.place(facts, of) {
            Some(place) => self.crashes.pass(place, draft, Instant::now()),
            None => vec![draft],
        };
        told.into_iter().for_each(|draft| self.writer.write(draft));
    }

    fn place(&self, facts: &Facts<'_>, of: Of) -> Option<(AppId, InstanceId)> {
        match of {
            Of::App(..) => None,
            Of::Instance(app, instance) => Some((app, instance)),
            Of::Worker(worker) => {
                let known = self.known.get(&worker).map(|known| (known.app, known.instance));
                let held = || facts.workers.get(&worker).map(|held| (held.app, held.instance));
                known.or_else(held)
            }
        }
    }

    /// A worker's process runs; `false`: it did so before this daemon.
    pub(crate) fn runs(&mut self, facts: &Facts<'_>, worker: WorkerId, pid: u32, fresh: bool) {
        let Some(view) = facts.core.worker(worker) else {
            return;
        };
        let Some(instance) = facts.core.instance(view.instance) else {
            return;
        };
        let candidate = instance.candidate == Some(worker);
        self.known.insert(
            worker,
            Known {
                app: instance.app,
                instance: instance.id,
                generation: view.generation.0,
                pid,
                candidate,
                unhealthy: false,
            },
        );
        if fresh {
            let restarts = instance.restarts;
            let what = What::Started { restarts, candidate };
            self.tell(facts, Of::Worker(worker), what);
        }
    }

    /// A worker was asked about its health: why it is not well, if it is not.
    pub(crate) fn health(&mut self, facts: &Facts<'_>, worker: WorkerId, ill: Option<&str>) {
        let Some(known) = self.known.get_mut(&worker) else {
            return;
        };
        let was_ill = std::mem::replace(&mut known.unhealthy, ill.is_some());
        match ill {
            Some(_) if was_ill => {}
            Some(why) => self.tell(facts, Of::Worker(worker), What::Unhealthy { why: why.to_owned() }),
            None => self.tell(facts, Of::Worker(worker), What::Healthy {}),
        }
    }

    /// Connections that waited in this slot were moved to other workers.
    pub(crate) fn moved(&mut self, facts: &Facts<'_>, slot: SlotId, connections: u64) {
        if let Some(of) = facts.of_slot(slot) {
            let told = self.freezes.moved(slot, of, connections, Instant::now());
            self.tell_all(facts, told);
        }
    }

    fn tell_all(&mut self, facts: &Facts<'_>, told: Vec<(Of, What)>) {
        for (of, what) in told {
            self.tell(facts, of, what);
        }
    }

    /// When [`Journal::on_time`] is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        [self.crashes.due(), self.freezes.due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Reports what has waited for its time.
    pub(crate) fn on_time(&mut self, facts: &Facts<'_>, now: Instant) {
        let told = self.freezes.on_time(now, |slot| facts.core.is_stalled(slot));
        self.tell_all(facts, told);
        for draft in self.crashes.on_time(now) {
            self.writer.write(draft);
        }
    }

    /// What is written, for who reads it.
    pub(crate) fn history(&self) -> History {
        History::new(&self.dir)
    }

    /// The number of the last event that is written, as it changes.
    pub(crate) fn written(&self) -> watch::Receiver<u64> {
        self.writer.written()
    }

    /// Resolves when all that was reported so far is written, or given up.
    pub(crate) fn synced(&self) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        self.writer.then(move || {
            // Who asked may have gone.
            let _ = done.send(());
        });
        wait
    }

    /// Writes all that was reported, held back or not, and waits for that, though no longer than this.
    pub(crate) fn flush(&mut self, within: Duration) {
        for draft in self.crashes.all() {
            self.writer.write(draft);
        }
        self.writer.flush(within);
    }

    /// The daemon ends.
    pub(crate) fn end(&mut self) {
        self.tell_daemon(What::DaemonStopped {});
        self.flush(END_WITHIN);
        self.writer.stop();
    }
}
