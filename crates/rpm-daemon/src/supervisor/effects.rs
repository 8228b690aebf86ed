//! Carrying out what the core decided.

use std::time::{Duration, Instant};

use rpm_core::SlotId;
use rpm_core::protocol::{Notice, Output};
use rpm_sys::Signal;
use rpm_wire::api::WorkerStage;
use tracing::{debug, info, warn};

use super::Supervisor;
use super::takeover::left_to_drain;
use crate::apps::app::Apps;
use crate::node::cluster;
use crate::node::heartbeat::probe;
use crate::node::rescue::Rescuing;
use crate::processes::health::check_health;
use crate::sockets::interception;
use crate::workers::worker::{Place, Worker};

impl Supervisor {
    pub(super) fn execute(&mut self, output: Output) {
        match output {
            Output::Spawn {
                worker,
                app,
                generation: _,
                revision,
                instance,
                number,
            } => {
                // A new instance has logs of its own, which are no changes of the app.
                if self.catalog().is_watched(app) {
                    self.upkeep.outdate();
                }
                self.launching()
                    .spawn(worker, app, revision, Place { instance, number });
            }
            Output::Terminate { worker } => {
                self.drains.release(&mut self.agents, worker);
                let held = self.workers.get(&worker);
                self.steps.report(self.catalog(), held, WorkerStage::Stopping);
                self.ending().ask_to_stop(worker);
            }
            Output::Kill { worker } => self.ending().end_tree(worker, Signal::KILL),
            Output::Steer { group, slots } => {
                if let Err(error) = self.listeners.steer(group, &slots) {
                    warn!(%group, %error, "cannot steer");
                }
            }
            Output::Rescue { slot, holder, to } => {
                let hearing = self.hearing();
                let mut rescuing = Rescuing {
                    ports: hearing.ports,
                    handoffs: hearing.handoffs,
                };
                let count = rescuing.rescue(slot, holder, &to);
                self.rescues += count;
                if count > 0 {
                    self.report(|journal, facts| journal.moved(facts, slot, count));
                }
            }
            Output::CloseSlot { slot, to } => self.close_slot(slot, &to),
            Output::Probe { worker } => {
                if let Some(input) = probe(&mut self.workers, worker) {
                    self.input(input);
                }
            }
            Output::CheckHealth { worker } => {
                if let Some(held) = self.workers.get(&worker) {
                    check_health(held, &self.events);
                }
            }
            Output::Drain { worker } => {
                // It may have served for a while since it began: its time is what is left.
                let until = self.core.worker(worker).and_then(|view| view.until);
                let within = until.map_or(Duration::ZERO, |until| left_to_drain(until, self.now()));
                self.drains(|drains, context| drains.drain(context, worker, within));
            }
            Output::RefuseNew { worker, keeps } => {
                self.drains(|drains, context| drains.refuse(context, worker, keeps));
            }
            Output::Done { ticket, outcome } => self.tickets.settle(ticket, outcome),
            Output::Notice(notice) => self.note(notice),
            Output::AppGone { app } => {
                self.listeners.close_shared(app);
                self.upkeep.outdate();
                self.apps.remove(&app);
                self.workers.retain(|_, worker| worker.app != app);
                self.tickets.forget(app);
            }
        }
    }

    pub(super) fn close_slot(&mut self, slot: SlotId, to: &[SlotId]) {
        match self.listeners.close(slot, to) {
            Ok(left) => {
                for (connection, to) in left {
                    self.hand_over([connection], &to);
                }
            }
            Err(error) => warn!(%slot, %error, "cannot close a listener properly"),
        }
    }

    fn note(&mut self, notice: Notice) {
        self.report(|journal, facts| journal.notice(facts, notice));
        match notice {
            Notice::Online { worker, silent } => {
                let held = self.workers.get(&worker);
                self.steps.report(self.catalog(), held, WorkerStage::Ready);
                self.put_away.soon(Instant::now());
                info!(app = app_of(held, &self.apps), %worker, silent, "online");
            }
            Notice::Crashed {
                worker,
                exit,
                retry_in,
                ..
            } => {
                let held = self.workers.get(&worker);
                let trouble = held.and_then(|held| held.trouble.clone()).unwrap_or_default();
                warn!(app = app_of(held, &self.apps), %worker, ?exit, ?retry_in, trouble, "worker failed");
            }
            Notice::CandidateReady { worker } => {
                let held = self.workers.get(&worker);
                info!(app = app_of(held, &self.apps), %worker, "the new worker is ready and serves");
            }
            Notice::Draining { worker } => {
                let held = self.workers.get(&worker);
                self.steps.report(self.catalog(), held, WorkerStage::Draining);
                info!(app = app_of(held, &self.apps), %worker, "draining");
            }
            Notice::ReloadDone { app, .. } => {
                info!(app = self.catalog().label(app), "reloaded");
                // Its new workers get the listeners that were kept from them until now.
                let mut ports = self.ports();
                interception::let_go(&mut ports, app);
                cluster::cut_over(&mut ports, app);
            }
            Notice::ReloadUndone { app, .. } => {
                warn!(
                    app = self.catalog().label(app),
                    "the reload was undone; the previous version keeps serving"
                );
            }
            Notice::Stalled { slot, queued } => {
                // The end-to-end tests that measure how exact steering is count this line.
                debug!(%slot, queued, "worker does not accept; out of steering");
            }
            Notice::Recovered { slot } => debug!(%slot, "worker accepts again; back in steering"),
            Notice::ReloadBegun { .. } | Notice::Scaled { .. } | Notice::Deleted { .. } => {}
        }
    }
}

/// What the app of a worker is called in the log.
fn app_of<'a>(held: Option<&Worker>, apps: &'a Apps) -> &'a str {
    let app = held.and_then(|held| apps.get(&held.app));
    app.map_or("?", |app| app.name.as_str())
}
