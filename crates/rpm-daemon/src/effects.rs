//! Carrying out what the core decided.

use std::collections::VecDeque;

use rpm_core::protocol::{Input, Notice, Output};
use rpm_core::{AppId, SlotId, WorkerId};
use rpm_listen::Rescued;
use rpm_sys::{Signal, tree};
use rpm_wire::api::Stage;
use rpm_wire::channel;
use tracing::{debug, info, warn};

use crate::apps::app::PortSource;
use crate::node::channel::Outgoing;
use crate::supervisor::Supervisor;
use crate::workers::worker::{Awaiting, Worker};

impl Supervisor {
    pub(crate) fn execute(&mut self, output: Output) {
        match output {
            Output::Spawn {
                worker,
                app,
                generation: _,
                revision,
                instance,
                number,
            } => {
                self.spawn(worker, app, revision, (instance, number));
            }
            Output::Terminate { worker } => {
                self.drains.release(&mut self.agents, worker);
                self.step(worker, Stage::Stopping);
                self.ask_to_stop(worker);
            }
            Output::Kill { worker } => self.end_tree(worker, Signal::KILL),
            Output::Steer { group, slots } => {
                if let Err(error) = self.listeners.steer(group, &slots) {
                    warn!(%group, %error, "cannot steer");
                }
            }
            Output::Rescue { slot, holder, to } => self.rescue(slot, holder, &to),
            Output::CloseSlot { slot, to } => self.close_slot(slot, &to),
            Output::Probe { worker } => self.probe(worker),
            Output::CheckHealth { worker } => self.check_health(worker),
            Output::Drain { worker } => self.drains(|drains, context| drains.drain(context, worker)),
            Output::RefuseNew { worker, keeps } => {
                self.drains(|drains, context| drains.refuse(context, worker, keeps));
            }
            Output::Done { ticket, outcome } => {
                if let Some(waiting) = self.waiting.remove(&ticket) {
                    // Nobody waits any more if the request was cut.
                    let _ = waiting.send(outcome);
                }
            }
            Output::Notice(notice) => self.note(notice),
            Output::AppGone { app } => self.forget(app),
        }
    }

    fn rescue(&mut self, slot: SlotId, holder: Option<WorkerId>, to: &[SlotId]) {
        if let Some(worker) = holder
            && self.listeners.is_captured(slot)
            && !self.ports().closed_among(vec![slot], worker).is_empty()
        {
            // The program has closed its listener, which it tells nobody: nobody will ever accept there.
            self.listeners.drop_holder(slot);
            return self.input(Input::SlotReleased { slot, worker });
        }
        if let Some(worker) = holder.filter(|_| self.listeners.is_handoff(slot)) {
            let held = self.workers.get_mut(&worker);
            let count = held.map_or(0, |held| self.handoffs.take_back_unsent(held));
            return self.count_rescued(slot, count as u64);
        }
        let migrates = self.listeners.can_migrate(slot);
        if !migrates && !self.takes_connections(slot) {
            return;
        }
        let processes = holder
            .filter(|_| migrates)
            .and_then(|worker| self.workers.get(&worker))
            .map(Worker::slot_holders)
            .unwrap_or_default();
        // While a program runs it would see EINVAL from the moment of the shutdown.
        let frozen: Result<Vec<_>, _> = processes.iter().map(|process| tree::freeze(process)).collect();
        let rescued = match frozen {
            Ok(_held) => self.listeners.rescue(slot, to),
            Err(error) => return warn!(%slot, %error, "cannot stop a worker to move its queue"),
        };
        match rescued {
            Ok(Rescued::Moved(count)) => self.count_rescued(slot, u64::from(count)),
            Ok(Rescued::Taken(fds)) => {
                self.count_rescued(slot, fds.len() as u64);
                self.hand_over(fds, to);
            }
            Err(error) => warn!(%slot, %error, "cannot move a queue"),
        }
    }

    /// A busy worker's slot comes and goes unseen; connections that had to be moved are worth a line.
    fn count_rescued(&mut self, slot: SlotId, count: u64) {
        self.rescues += count;
        if count > 0 {
            info!(%slot, count, "moved connections that a worker did not accept to others");
        }
    }

    /// Whether the workers behind the slot can be handed single connections.
    fn takes_connections(&self, slot: SlotId) -> bool {
        let app = self.listeners.key_of(slot).map(|(app, _)| app);
        app.and_then(|app| self.catalog().port_source(app)) == Some(PortSource::Node)
            && !self.listeners.is_captured(slot)
    }

    pub(crate) fn close_slot(&mut self, slot: SlotId, to: &[SlotId]) {
        match self.listeners.close(slot, to) {
            Ok(left) => {
                for (connection, to) in left {
                    self.hand_over([connection], &to);
                }
            }
            Err(error) => warn!(%slot, %error, "cannot close a listener properly"),
        }
    }

    /// Asks the worker's event loop for a sign of life: over the channel where there is one, else by
    /// whether the process sleeps (waits for something) rather than runs or is stopped.
    pub(crate) fn probe(&mut self, worker: WorkerId) {
        let Some(held) = self.workers.get_mut(&worker) else {
            return;
        };
        let ports = held.ports;
        if let Some(channel) = held.channel_mut() {
            if !channel.pinged() {
                channel.send(
                    Outgoing {
                        bytes: channel::ping(),
                        fd: None,
                    },
                    Some(Awaiting::Ping),
                );
            }
            return;
        }
        let pid = held.process().map(|process| process.pid);
        let sleeps = pid.is_some_and(|pid| rpm_sys::usage::state(pid).is_ok_and(|state| state == 'S'));
        if ports != PortSource::Node && sleeps {
            self.input(Input::Responded { worker });
        }
    }

    fn note(&mut self, notice: Notice) {
        match notice {
            Notice::Online { worker, silent } => {
                self.step(worker, Stage::Ready);
                self.put_away.soon(std::time::Instant::now());
                info!(app = self.app_name(worker), %worker, silent, "online");
            }
            Notice::Crashed {
                worker,
                exit,
                retry_in,
            } => {
                let trouble = self
                    .workers
                    .get(&worker)
                    .and_then(|w| w.trouble.clone())
                    .unwrap_or_default();
                warn!(app = self.app_name(worker), %worker, ?exit, ?retry_in, trouble, "worker failed");
            }
            Notice::CandidateReady { worker } => {
                info!(app = self.app_name(worker), %worker, "the new worker is ready and serves");
            }
            Notice::Draining { worker } => {
                self.step(worker, Stage::Draining);
                info!(app = self.app_name(worker), %worker, "draining");
            }
            Notice::ReloadDone { app } => {
                info!(app = self.catalog().label(app), "reloaded");
                self.cut_over(app);
            }
            Notice::ReloadUndone { app } => {
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
        }
    }

    fn app_name(&self, worker: WorkerId) -> &str {
        let app = self
            .workers
            .get(&worker)
            .and_then(|worker| self.apps.get(&worker.app));
        app.map_or("?", |app| app.name.as_str())
    }

    fn forget(&mut self, app: AppId) {
        self.listeners.close_shared(app);
        self.upkeep.outdate();
        self.apps.remove(&app);
        self.workers.retain(|_, worker| worker.app != app);
        self.reloads.remove(&app);
    }
}

/// Does this change what the next daemon must know, before it is done? `each`: of each worker that is started, too.
fn is_lasting(output: &Output, each: bool) -> bool {
    match output {
        Output::CheckHealth { .. }
        | Output::Terminate { .. }
        | Output::Drain { .. }
        | Output::RefuseNew { .. }
        | Output::Kill { .. }
        | Output::CloseSlot { .. }
        | Output::Done { .. }
        | Output::AppGone { .. } => true,
        _ if is_ready(output) => true,
        Output::Spawn { .. } => each,
        Output::Steer { .. } | Output::Rescue { .. } | Output::Probe { .. } | Output::Notice(_) => false,
    }
}

/// How many of these, from the first on, may be done before the next daemon knows of any. Clients are steered to a worker that has become ready
/// when that is written: the next daemon ends one that it does not know, or believes to be starting.
pub(crate) fn passing(undone: &VecDeque<Output>, each: bool) -> usize {
    let become_ready = undone.iter().any(is_ready);
    let waits = |output: &Output| is_lasting(output, each) || (become_ready && is_steer(output));
    undone.iter().take_while(|output| !waits(output)).count()
}

/// Is a worker ready?
fn is_ready(output: &Output) -> bool {
    matches!(
        output,
        Output::Notice(Notice::Online { .. } | Notice::CandidateReady { .. })
    )
}

/// Do clients go elsewhere from here on?
fn is_steer(output: &Output) -> bool {
    matches!(output, Output::Steer { .. })
}

/// Is a process asked to end?
pub(crate) fn is_question(output: &Output) -> bool {
    matches!(output, Output::Terminate { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_there_are_a_worker_is_written_before_it_has_clients() {
        let worker = WorkerId(7);
        let steer = || Output::Steer {
            group: rpm_core::GroupId(1),
            slots: Vec::new(),
        };
        let online = Output::Notice(Notice::Online {
            worker,
            silent: false,
        });
        let proved = Output::Notice(Notice::CandidateReady { worker });
        for each in [false, true] {
            assert_eq!(passing(&[steer(), steer()].into(), each), 2);
            for ready in [&online, &proved] {
                // The core says where clients go before it says why.
                assert_eq!(passing(&[steer(), ready.clone()].into(), each), 0);
                assert_eq!(passing(&[ready.clone(), steer()].into(), each), 0);
            }
        }
    }
}
