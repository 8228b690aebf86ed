//! What is said of a change: its outcome, and why it failed.

use std::path::PathBuf;

use rpm_core::protocol::{Exit, Failure, Outcome};
use rpm_core::{InstanceId, StateView};
use rpm_wire::api::{ApiError, ChangeReply};
use rpm_wire::shell::word;
use tokio::time::timeout;

use crate::events::notices::unserved;
use crate::failure::failure;
use crate::logs::{ANSWERED_WITHIN, LogSink, tail};
use crate::view::View;
use crate::workers::sampling::own_listeners;
use crate::workers::worker::{Logs, Worker};

/// Lines of a failing worker that are shown: Node has the source above the error, ten lines of the stack below it, and below those
/// the fields of the error.
const SHOWN_LINES: usize = 30;

impl View<'_> {
    /// The answer to a request whose outcome has come.
    pub(super) fn outcome(
        &self,
        concerned: &[InstanceId],
        mut notes: Vec<String>,
        outcome: &Outcome,
    ) -> Result<ChangeReply, Box<Failed>> {
        let app = concerned.first().and_then(|id| self.catalog().name_of(*id));
        let whole = |error: ApiError| {
            Box::new(Failed {
                logs: None,
                app: app.unwrap_or("the app").to_owned(),
                how: error.error.clone(),
                error,
            })
        };
        match outcome {
            Outcome::Done { silent, .. } => {
                notes.extend(silent.iter().map(|id| self.silence(*id)));
                Ok(self.brief_change(concerned, notes))
            }
            Outcome::Failed {
                failure: Failure::Superseded,
                ..
            } => Err(whole(failure(
                "another command replaced this one before it was done",
                None,
            ))),
            Outcome::Failed {
                failure: Failure::NoSuchApp,
                ..
            } => Err(whole(failure("the app is gone", None))),
            Outcome::Failed {
                instance,
                worker,
                failure: why,
            } => Err(Box::new(self.failed(*instance, *worker, *why))),
        }
    }

    /// These instances, with the figures of the last sample.
    pub(crate) fn brief_change(&self, instances: &[InstanceId], notes: Vec<String>) -> ChangeReply {
        let held = self.listeners.by_worker();
        let processes = instances
            .iter()
            .filter_map(|id| self.process(*id, &held, false))
            .collect();
        ChangeReply { processes, notes }
    }

    /// Where the last workers of these instances write.
    pub(super) fn logs_of(&self, instances: &[InstanceId]) -> Vec<PathBuf> {
        let workers = self.workers.values();
        let ours = workers.filter(|worker| instances.contains(&worker.instance));
        ours.flat_map(|worker| [worker.logs.out.clone(), worker.logs.err.clone()])
            .collect()
    }

    pub(crate) fn silence(&self, id: InstanceId) -> String {
        let view = self.core.instance(id);
        let own = view.map(|view| own_listeners(self.listeners, self.workers, view.app, &[view]));
        let own: Vec<String> = own
            .into_iter()
            .flatten()
            .map(|(_, addr)| addr.to_string())
            .collect();
        let name = self.catalog().name_of(id).unwrap_or("?");
        if own.is_empty() {
            format!(
                "{name} ({id}) is online and listens on nothing; it is steered to if it does later (for how long a start waits: --listen-timeout)"
            )
        } else {
            format!(
                "{name} ({id}) listens on its own, without balancing: {}",
                own.join(", ")
            )
        }
    }

    fn failed(
        &self,
        instance: Option<InstanceId>,
        worker: Option<rpm_core::WorkerId>,
        why: Failure,
    ) -> Failed {
        let name = instance
            .and_then(|id| self.catalog().name_of(id))
            .unwrap_or("the app");
        let id = instance.map(|id| id.to_string()).unwrap_or_default();
        // Forgotten if its successors have failed since: the oldest that is known tells the same story.
        let oldest = || {
            self.workers
                .values()
                .find(|worker| Some(worker.instance) == instance)
        };
        let itself = worker.and_then(|worker| self.workers.get(&worker));
        let held = itself.or_else(oldest);
        let trouble = held.and_then(|worker| worker.trouble.clone());
        let what = match why {
            Failure::Unserved { within, group } => unserved(self.listeners, itself, group, within),
            _ => deed(why),
        };
        let cause = trouble.map(|text| format!(": {text}")).unwrap_or_default();
        let state = instance
            .and_then(|id| self.core.instance(id))
            .map(|view| view.state);
        let serves = matches!(state, Some(StateView::Online { .. }));
        let given_up = matches!(state, Some(StateView::Stopped | StateView::Errored));
        let target = word(name);
        let hint = match why {
            Failure::Unserved { .. } => Some(format!(
                "the workers that ran before keep serving; `rpm reload {target} --allow-port-change` takes other addresses"
            )),
            _ if serves => Some("the workers that ran before keep serving".to_owned()),
            Failure::NotReady { .. } => {
                Some("raise --listen-timeout, or have it call process.send('ready') sooner".to_owned())
            }
            Failure::Exited(Exit::Code(0)) => Some(format!(
                "for a program that is to run once: `rpm delete {target}`, then `rpm start {} --no-autorestart` (with --cron-restart: on a schedule)",
                script(held)
            )),
            Failure::Exited(_) | Failure::Crashed(_) if given_up => Some(format!(
                "`rpm logs {target}` shows its output, `rpm delete {target}` removes it"
            )),
            Failure::Exited(_) | Failure::Crashed(_) => Some(format!(
                "it is still being restarted; `rpm logs {target}` shows its output, `rpm delete {target}` removes it"
            )),
            Failure::SpawnFailed => Some(format!(
                "it is still being started; `rpm delete {target}` removes it"
            )),
            Failure::Superseded | Failure::NoSuchApp => None,
        };
        let mut how = what
            .strip_suffix(" before it was ready")
            .unwrap_or(&what)
            .to_owned();
        if serves {
            how.push_str("; the workers that ran before keep serving");
        }
        Failed {
            app: name.to_owned(),
            how,
            error: ApiError {
                error: format!("{name} ({id}) {what}{cause}"),
                hint,
                last_lines: Vec::new(),
                unknown: None,
            },
            logs: held.map(|worker| worker.logs.clone()),
        }
    }
}

/// What a worker did instead of what it should.
fn deed(why: Failure) -> String {
    let ended = |exit: Exit| match exit {
        Exit::Code(code) => format!("exited with code {code}"),
        Exit::Signal(number) => format!("was killed by signal {number}"),
    };
    match why {
        Failure::SpawnFailed => "could not be started".to_owned(),
        Failure::Exited(exit) => format!("{} before it was ready", ended(exit)),
        Failure::Crashed(exit) => format!("was ready, then {} before the reload was complete", ended(exit)),
        Failure::NotReady { within } => format!("was not ready within {} ms", within.as_millis()),
        Failure::Unserved { .. } => "did not listen where the version before it does".to_owned(),
        Failure::Superseded | Failure::NoSuchApp => "was changed by another command".to_owned(),
    }
}

/// The script of a worker, as a word of a command.
fn script(worker: Option<&Worker>) -> String {
    worker.map_or_else(|| "app.js".to_owned(), |worker| word(&worker.spec.script))
}

/// Why a part of a change failed.
pub(super) struct Failed {
    /// The answer, if nothing else was changed.
    pub(super) error: ApiError,
    /// The app.
    pub(super) app: String,
    /// The cause in a few words, for an answer that names several apps.
    pub(super) how: String,
    /// Where the worker's last lines are.
    pub(super) logs: Option<Logs>,
}

/// The last lines of a worker. Where the file system that has them does not respond, that is said instead.
pub(super) async fn last_lines(sink: &LogSink, logs: &Logs) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, begin) in [(&logs.out, &logs.out_from), (&logs.err, &logs.err_from)] {
        let Some(from) = begin.get() else { continue };
        let volume = sink.volume(path);
        let path = path.clone();
        let read = volume.read(move || tail::last_lines(&path, from, SHOWN_LINES));
        let read = async { timeout(ANSWERED_WITHIN, read).await.ok().and_then(Result::ok) };
        let read = match volume.responds() {
            true => read.await,
            false => None,
        };
        lines.extend(read.unwrap_or_else(|| vec![format!("[rpm: {}]", volume.stalled())]));
    }
    lines.retain(|line| !line.trim().is_empty());
    let surplus = lines.len().saturating_sub(SHOWN_LINES);
    lines.split_off(surplus)
}
