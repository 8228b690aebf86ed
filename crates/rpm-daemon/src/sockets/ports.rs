//! Listeners, the workers that hold them, and what the core knows of both.

use std::collections::HashSet;

use rpm_core::protocol::Input;
use rpm_core::{Core, SlotId, Tick, WorkerId};
use rpm_listen::{Listeners, OpenError};
use rpm_sys::sock_diag;
use rustix::io::Errno;

use crate::apps::app::{Apps, policy};
use crate::complaints::Complaints;
use crate::failure::limit_hint;
use crate::persist::state::Store;
use crate::workers::calls::Intercepted;
use crate::workers::worker::{WITHHELD_LIMIT, Worker, Workers};

/// What is needed to open, lend and close listeners: lent by the supervisor for one event.
pub(crate) struct Ports<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) store: &'a mut Store,
    pub(crate) now: Tick,
    pub(crate) apps: &'a mut Apps,
    pub(crate) listeners: &'a mut Listeners,
    pub(crate) workers: &'a mut Workers,
    pub(crate) complaints: &'a mut Complaints,
}

impl Ports<'_> {
    /// Tells the core; its outputs are carried out at the end of the step.
    pub(crate) fn input(&mut self, input: Input) {
        self.store.changed();
        self.core.handle(input, self.now);
    }

    /// The same, where it changes nothing that the next daemon must know.
    pub(crate) fn note(&mut self, input: Input) {
        self.core.handle(input, self.now);
    }

    /// Warns of a worker, unless that was said a moment ago. `what` is the kind, `why` its cause.
    pub(crate) fn complain(&mut self, worker: WorkerId, what: &'static str, why: &dyn std::fmt::Display) {
        self.complaints.warn(worker, what, why);
    }

    /// Is it a new worker of a reload that is not done, which may listen elsewhere than its predecessor?
    pub(crate) fn may_move(&self, worker: WorkerId) -> bool {
        let Some(held) = self.workers.get(&worker) else {
            return false;
        };
        let view = self.core.app(held.app);
        let may = view.as_ref().is_some_and(|app| app.config.allow_port_change);
        let reload = view.and_then(|app| app.reload);
        let generation = self.core.worker(worker).map(|view| view.generation);
        may && held.withheld.len() < WITHHELD_LIMIT
            && reload.is_some_and(|reload| Some(reload.generation) == generation)
    }

    /// Remembers why a worker does not get what it needs, with names instead of numbers.
    pub(crate) fn trouble(&mut self, worker: WorkerId, error: &OpenError) {
        let text = match error {
            OpenError::Ours { addr, held, app } => {
                let name = self.apps.get(app).map_or("?", |app| app.name.as_str());
                let own = self.workers.get(&worker).is_some_and(|w| w.app == *app);
                if own {
                    format!(
                        "{addr} is in use by another server of the same app, on {held} (a new version moves there by a \
                         reload if the app was started with --allow-port-change)"
                    )
                } else {
                    format!(
                        "{addr} is in use by the app {name:?}, which listens on {held}; stop it or use another port"
                    )
                }
            }
            OpenError::Foreign { .. } => format!("{error}; stop it or use another port"),
            OpenError::Io { source, .. } => format!("{error}{}: {source}", limit_hint(source)),
        };
        self.note_trouble(worker, text);
    }

    /// Remembers why a worker does not get what it needs.
    pub(crate) fn note_trouble(&mut self, worker: WorkerId, text: String) {
        self.complain(worker, "a worker cannot listen", &text);
        if let Some(held) = self.workers.get_mut(&worker) {
            held.trouble = Some(text);
        }
    }

    /// How connections to the worker's app are spread.
    pub(crate) fn policy(&self, worker: WorkerId) -> rpm_listen::SteeringPolicy {
        let held = self.workers.get(&worker);
        held.map(|held| policy(&held.spec)).unwrap_or_default()
    }

    /// The worker's part of the connections, where they are weighted.
    pub(crate) fn weight(&self, worker: WorkerId) -> u32 {
        let Some(held) = self.workers.get(&worker) else {
            return 1;
        };
        let number = self
            .core
            .instance(held.instance)
            .map_or(0, |view| view.number as usize);
        let weights = &held.spec.weights;
        let weight = number.checked_rem(weights.len()).and_then(|at| weights.get(at));
        weight.copied().unwrap_or(1)
    }

    /// Is the proxy to serve whatever this worker has for the network?
    pub(crate) fn is_fronted(&self, worker: WorkerId) -> bool {
        let held = self.workers.get(&worker);
        held.is_some_and(|held| held.delivery.is_fronted())
    }

    /// A worker behind the proxy would have a listener past it, without its TLS and its limits.
    pub(crate) fn refuse_bypass(&mut self, worker: WorkerId, intercepted: &Intercepted, why: &str) {
        let text = format!(
            "the proxy cannot serve one of its listeners ({why}), so `listen` is refused (EACCES); have it listen on a port \
             that the proxy can have, or at 127.0.0.1 what is not for clients, or leave --balance proxy out"
        );
        self.note_trouble(worker, text);
        intercepted.refused(Errno::ACCESS.raw_os_error());
    }

    /// The slots, of these, whose socket no process of the worker has any more. None, while one of them ends or cannot be looked at: what it
    /// does not hold then says nothing, and its replacement is to have the slots.
    pub(crate) fn closed_among(&self, mut slots: Vec<SlotId>, worker: WorkerId) -> Vec<SlotId> {
        if slots.is_empty() {
            return slots;
        }
        let holders = self
            .workers
            .get(&worker)
            .map(Worker::slot_holders)
            .unwrap_or_default();
        let sockets = holders
            .iter()
            .map(|process| sock_diag::sockets_surely_of(process.pid()));
        let Some(held) = sockets.collect::<Option<Vec<_>>>() else {
            return Vec::new();
        };
        let held: HashSet<u64> = held.into_iter().flatten().collect();
        let inode = |slot: &SlotId| rpm_sys::socket::inode(self.listeners.socket(*slot)?).ok();
        slots.retain(|slot| inode(slot).is_none_or(|inode| !held.contains(&inode)));
        slots
    }
}
