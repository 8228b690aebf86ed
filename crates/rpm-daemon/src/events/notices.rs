//! From what the core notices, and from ends of processes, to events.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rpm_core::protocol::{CrashVerdict, Exit, Failure, Notice, UndoCause};
use rpm_core::{EndsFor, GroupId, LeavingPhase, WorkerId};
use rpm_listen::Listeners;
use rpm_wire::events::{What, signal_name};

use super::Journal;
use crate::events::subject::{Facts, Of};
use crate::workers::worker::Worker;

impl Journal {
    /// The core says what has happened.
    pub(crate) fn notice(&mut self, facts: &Facts<'_>, notice: Notice) {
        match notice {
            // What it is for a reload comes behind it.
            Notice::Online { worker, silent } => {
                if self.known.get(&worker).is_none_or(|known| !known.candidate) {
                    self.tell(facts, Of::Worker(worker), What::Ready { silent });
                }
            }
            Notice::CandidateReady { worker } => {
                if let Some(known) = self.known.get_mut(&worker) {
                    known.candidate = false;
                }
                self.tell(facts, Of::Worker(worker), What::CandidateReady {});
            }
            Notice::Crashed {
                worker,
                exit,
                retry_in,
                failures,
                verdict,
            } => {
                let retry_in_ms = retry_in.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
                self.crashed(facts, worker, exit, (retry_in_ms, failures), verdict);
            }
            Notice::Draining { worker } => self.tell(facts, Of::Worker(worker), What::Draining {}),
            Notice::ReloadBegun {
                app,
                generation,
                instances,
            } => self.tell(
                facts,
                Of::App(app, Some(generation)),
                What::ReloadBegun { instances },
            ),
            Notice::ReloadDone {
                app,
                generation,
                returned,
            } => self.tell(
                facts,
                Of::App(app, Some(generation)),
                What::ReloadDone { returned },
            ),
            Notice::ReloadUndone {
                app,
                generation,
                cause,
            } => {
                let why = undone(facts, cause);
                self.tell(facts, Of::App(app, Some(generation)), What::ReloadUndone { why });
            }
            Notice::Scaled { app, from, to } => {
                self.tell(facts, Of::App(app, None), What::Scaled { from, to });
            }
            Notice::Deleted { instance, app } => {
                if !self.closes {
                    self.tell(facts, Of::Instance(app, instance), What::Deleted {});
                }
                self.crashes.forget((app, instance));
            }
            Notice::Stalled { slot, queued } => {
                if let Some(of) = facts.of_slot(slot) {
                    self.freezes.stalled(slot, of, queued, Instant::now());
                }
            }
            Notice::Recovered { slot } => {
                let told = self.freezes.recovered(slot, Instant::now());
                self.tell_all(facts, told);
            }
        }
    }

    fn crashed(
        &mut self,
        facts: &Facts<'_>,
        worker: WorkerId,
        exit: Option<Exit>,
        (retry_in_ms, failures): (Option<u64>, u32),
        verdict: CrashVerdict,
    ) {
        let (exit_code, signal) = parts(exit);
        let held = facts.workers.get(&worker);
        let app = held.and_then(|held| facts.core.app(held.app));
        let tail = held.map(|held| (held.logs.err.clone(), held.logs.err_from.clone()));
        let what = match verdict {
            CrashVerdict::Stopped => What::Exited {
                exit_code,
                signal,
                last_lines: Vec::new(),
            },
            CrashVerdict::Retry
            | CrashVerdict::NotReady
            | CrashVerdict::Errored { .. }
            | CrashVerdict::Reload => {
                let not_ready = [CrashVerdict::NotReady, CrashVerdict::Errored { not_ready: true }];
                What::Crashed {
                    exit_code,
                    signal,
                    not_ready: not_ready.contains(&verdict),
                    failures,
                    max_restarts: app.map_or(0, |app| app.config.policy.max_restarts),
                    retry_in_ms,
                    why: held.and_then(|held| held.trouble.clone()),
                    last_lines: Vec::new(),
                    repeats: 0,
                }
            }
        };
        let tail = tail.filter(|_| exit != Some(Exit::Code(0)));
        self.tell_draft(facts, Of::Worker(worker), what, tail);
        if let CrashVerdict::Errored { .. } = verdict {
            self.tell(facts, Of::Worker(worker), What::Errored { failures });
        }
        self.known.remove(&worker);
    }

    /// A process has ended. Of those that were not asked to the core says what follows.
    pub(crate) fn ended(&mut self, facts: &Facts<'_>, worker: WorkerId, exit: Exit) {
        let Some(known) = self.known.get(&worker) else {
            return;
        };
        let view = facts.core.instance(known.instance);
        let own = view.filter(|view| view.worker() == Some(worker));
        let mut leaving = facts.core.leaving_of(known.instance);
        let leaves = leaving.any(|it| it.worker == worker && it.phase != LeavingPhase::Standby);
        let cause = match own.map(|view| view.ends_for) {
            Some(Some(EndsFor::Failure { .. }) | None) => return,
            Some(Some(EndsFor::Stop)) => "stop",
            Some(Some(EndsFor::Restart)) => "restart",
            Some(Some(EndsFor::Delete)) if self.closes => "shutdown",
            Some(Some(EndsFor::Delete)) => "delete",
            None if !leaves => return,
            None if known.candidate => "undone",
            None => "replaced",
        };
        let (exit_code, signal) = parts(Some(exit));
        let what = What::Stopped {
            cause: cause.to_owned(),
            exit_code,
            signal,
        };
        self.tell(facts, Of::Worker(worker), what);
        self.known.remove(&worker);
    }
}

fn parts(exit: Option<Exit>) -> (Option<i32>, Option<String>) {
    match exit {
        Some(Exit::Code(code)) => (Some(code), None),
        Some(Exit::Signal(number)) => (None, Some(signal_name(number))),
        None => (None, None),
    }
}

fn undone(facts: &Facts<'_>, cause: UndoCause) -> String {
    match cause {
        UndoCause::Superseded => "another command for the app came".to_owned(),
        UndoCause::Unwanted => "a command, or the next reload, has ended it".to_owned(),
        UndoCause::Failed {
            instance,
            worker,
            failure,
        } => {
            let trouble = facts.workers.get(&worker).and_then(|held| held.trouble.clone());
            let why = trouble.map(|text| format!(": {text}")).unwrap_or_default();
            let failed = failed(facts, failure, worker);
            format!("the new worker of instance {instance} {failed}{why}")
        }
    }
}

/// Where a worker of a reload did not listen, and where it does.
pub(crate) fn unserved(
    listeners: &Listeners,
    worker: Option<&Worker>,
    group: GroupId,
    within: Duration,
) -> String {
    let missing = listeners.place_of(group);
    let missing = missing.unwrap_or_else(|| "an address of the version before it".to_owned());
    let now = worker
        .into_iter()
        .flat_map(|held| listeners.addresses_of(held.id));
    // It may have ended since, for this.
    let then = worker.into_iter().flat_map(|held| held.listened.iter().copied());
    let places: BTreeSet<String> = now.chain(then).map(|addr| addr.to_string()).collect();
    let instead = match places.is_empty() {
        true => String::new(),
        false => format!(" (it listens on {})", Vec::from_iter(places).join(", ")),
    };
    format!(
        "did not listen on {missing} within {} s, where the version before it does{instead}",
        within.as_secs_f64()
    )
}

fn failed(facts: &Facts<'_>, failure: Failure, worker: WorkerId) -> String {
    let how = |exit: Exit| match exit {
        Exit::Code(code) => format!("exited with code {code}"),
        Exit::Signal(number) => format!("was killed by {}", signal_name(number)),
    };
    match failure {
        Failure::SpawnFailed => "could not be started".to_owned(),
        Failure::Exited(exit) => format!("{} before it was ready", how(exit)),
        Failure::Crashed(exit) => format!("was ready, then {} before the reload was done", how(exit)),
        Failure::NotReady { within } => format!("was not ready within {} ms", within.as_millis()),
        Failure::Unserved { within, group } => {
            unserved(facts.listeners, facts.workers.get(&worker), group, within)
        }
        Failure::Superseded | Failure::NoSuchApp => "was changed by another command".to_owned(),
    }
}
