//! Going on where a daemon that is no more has stopped: its workers run, and the keeper holds what it had. And ending so that another binary goes
//! on.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use rpm_core::protocol::{Exit, Input};
use rpm_core::{Core, LeavingPhase, SlotId, Tick, WorkerId};
use rpm_listen::{Inheritance, Listeners, StoredSocket};
use rpm_sys::limits::Rlimit;
use rpm_sys::tree::Census;
use rpm_sys::{succession, survive};
use rpm_wire::api::ApiError;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Means, Supervisor, empty};
use crate::apps::app::{CLOSE_WITHIN, cpus};
use crate::apps::catalog::Catalog;
use crate::failure::{chain, failure};
use crate::inbox::{Event, HandOn, Successor};
use crate::orders::tickets::Tickets;
use crate::persist::stored::Stored;
use crate::persist::takeover::{Found, end_strays, end_unready, look};
use crate::persist::update::{KEPT_WITHIN, SUCCESSION_ENV, Succession, is_successor};
use crate::sockets::queues::await_traffic;
use crate::workers::users::give_sockets;
use crate::workers::worker::{Worker, exit_of};

impl Supervisor {
    /// A supervisor that has what the one before it had, and the events it is to be run with.
    ///
    /// # Errors
    /// The kernel does not let go of the sockets.
    pub(crate) fn take_over(means: Means, stored: Stored) -> io::Result<(Supervisor, mpsc::Receiver<Event>)> {
        let (mut supervisor, inbox) = empty(means)?;
        let keeper = supervisor.keeper.clone();
        supervisor.epoch = survive::monotonic().saturating_sub(stored.origin);
        supervisor.core = stored.core;
        supervisor.apps = stored.apps.into();
        supervisor.next_app = stored.next_app;
        supervisor.tickets = Tickets::from(stored.next_ticket);
        supervisor.rescues = stored.rescues;
        let census = Census::take();
        let mut survivors = BTreeMap::new();
        let mut ended = BTreeMap::new();
        for stored in stored.workers {
            let (id, pid) = (stored.id, stored.pid);
            supervisor.report(|journal, facts| journal.runs(facts, id, pid, false));
            match look(stored, &keeper, &census) {
                Some(Found::Runs(survivor)) => drop(survivors.insert(id, *survivor)),
                Some(Found::Ended(exit)) => drop(ended.insert(id, exit)),
                None => {}
            }
        }
        let denied: BTreeSet<WorkerId> = survivors
            .iter()
            .filter(|(_, it)| it.is_closed())
            .map(|(id, _)| *id)
            .collect();
        let take = |socket: &StoredSocket, holder: Option<WorkerId>| {
            let own = || {
                let survivor = holder.and_then(|worker| survivors.get(&worker))?;
                let found = survivor.find(socket)?;
                Some(keeper.keep(found, rpm_listen::owner(survivor.stored.id)))
            };
            keeper.take(socket.token).or_else(own)
        };
        let from = Inheritance {
            keeper: &keeper,
            denied: &denied,
            front: cpus() as usize,
        };
        let (listeners, lost) = Listeners::take_over(stored.listeners, from, take)?;
        supervisor.listeners = listeners;
        let alive: BTreeSet<WorkerId> = survivors.keys().copied().collect();
        supervisor.journal.took_over(is_successor(), alive.len());
        let without_keeper = survivors.iter().filter(|(_, survivor)| survivor.without_keeper);
        let without_keeper: BTreeSet<WorkerId> = without_keeper.map(|(id, _)| *id).collect();
        for survivor in survivors.into_values() {
            supervisor.launching().adopt(survivor, &census);
        }
        supervisor.actions.take_over(&supervisor.workers);
        // Those of ports whose clients are sent on are not among the listeners' own; what nobody wants of the rest is let go.
        supervisor.fronts.kept = keeper.take_rest();
        end_strays(&supervisor.home, &alive);
        supervisor.go_on(&alive, &lost, &ended);
        supervisor.orders().replace_without_keeper(&without_keeper);
        supervisor.orders().renew_observer(is_successor());
        supervisor.settle();
        give_sockets(supervisor.catalog(), &supervisor.listeners);
        Ok((supervisor, inbox))
    }

    /// Has the core go on, and tells it what has happened since.
    fn go_on(&mut self, alive: &BTreeSet<WorkerId>, lost: &[SlotId], ended: &BTreeMap<WorkerId, Exit>) {
        // Sockets of workers that have ended are still there: those that only waited for that are closed now.
        let dead: BTreeSet<WorkerId> = self
            .listeners
            .holders()
            .filter(|holder| !alive.contains(holder))
            .collect();
        let mut left = Vec::new();
        for worker in dead {
            left.extend(self.listeners.worker_gone(worker));
        }
        let now = self.now();
        self.core.take_over(now, lost);
        let groups: Vec<_> = self.listeners.ids().collect();
        for group in groups {
            let eligible = self.core.eligible(group).to_vec();
            if let Err(error) = self.listeners.steer(group, &eligible) {
                warn!(%group, %error, "cannot steer");
            }
        }
        for (worker, left, keeps) in draining(self.catalog(), now) {
            self.drains(|drains, context| {
                drains.resume(context, worker, left);
                if let Some(keeps) = keeps {
                    drains.refuse(context, worker, keeps);
                }
            });
        }
        for slot in closed_slots(&self.listeners, &self.core) {
            let to = self.listeners.eligible_with(slot).to_vec();
            self.close_slot(slot, &to);
        }
        for (connection, to) in left {
            self.hand_over([connection], &to);
        }
        let told = self.core.workers().filter(|view| view.ending);
        let told: Vec<WorkerId> = told.map(|view| view.id).filter(|id| alive.contains(id)).collect();
        self.ending().ask_again(told);
        let dead: Vec<_> = self
            .core
            .workers()
            .filter(|view| !alive.contains(&view.id))
            .collect();
        for view in dead {
            let worker = view.id;
            let exit = ended.get(&worker).copied().unwrap_or_else(|| exit_of(None));
            self.report(|journal, facts| journal.ended(facts, worker, exit));
            self.input(match view.spawned {
                Some(_) => Input::Exited { worker, exit },
                None => Input::SpawnFailed { worker },
            });
        }
        self.orders().undo_reloads();
        end_unready(&self.core, &self.workers);
        self.settle();
        self.upkeep.outdate();
        // The daemon before may have left what it knew of any.
        self.queues.assume_filled(self.listeners.open_slots());
        await_traffic(&self.listeners);
    }

    /// Ends this program and leaves the apps to another, if nothing is under way that would be lost. Returns why that failed; `None`: try
    /// again. `asked.anyway`: what is under way does not end.
    pub(super) fn hand_on(&mut self, asked: &HandOn) -> Option<ApiError> {
        match (nothing_begun(self.catalog()), &asked.to) {
            (Ok(()), _) => {}
            // The next daemon goes on with it, as after a death.
            (Err(_), Successor::Next) if asked.anyway => {}
            (Err(_), Successor::Next) => return None,
            (Err(begun), Successor::Binary(_)) => return Some(begun),
        }
        let flushed = |worker: &Worker| {
            let process = worker.process();
            process.is_none_or(|process| {
                process
                    .channel
                    .as_ref()
                    .is_none_or(|channel| channel.is_flushed())
            })
        };
        let quiet = self.handoffs.is_quiet()
            && self.events.capacity() == self.events.max_capacity()
            && self.workers.values().all(flushed);
        if !quiet && !asked.anyway {
            return None;
        }
        // The next daemon takes for done what is decided.
        while !self.undone.is_empty() {
            self.store.hurry();
            self.settle();
        }
        self.store.changed();
        self.write_state(true);
        if let Err(error) = self.keeper.confirm(KEPT_WITHIN) {
            return Some(failure(
                format!(
                    "the apps would lose what the daemon holds for them: {}",
                    chain(&error)
                ),
                Some("the running daemon stays in charge; fix this, then try again"),
            ));
        }
        self.journal.flush(KEPT_WITHIN);
        match &asked.to {
            Successor::Binary(binary) => Some(become_binary(
                binary,
                self.succession.as_ref(),
                &mut self.listeners,
            )),
            Successor::Next => {
                info!("the apps are left to the next daemon");
                // As at a death: socket and state stay as they are, and with the process goes the lock.
                std::process::exit(0)
            }
        }
    }
}

/// Executes `binary` in the place of this program. Returns why that failed.
fn become_binary(binary: &Path, passed: Option<&Succession>, listeners: &mut Listeners) -> ApiError {
    let Some(passed) = passed else {
        return failure("this daemon cannot pass on its socket", None);
    };
    let numbers = [passed.lock.as_fd(), passed.listener.as_fd()].map(succession::number);
    let Rlimit { soft, hard } = passed.child_nofile;
    let [lock, listener] = numbers;
    let text = format!("{lock},{listener},{soft},{hard}");
    let mut env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    env.retain(|(key, _)| key != SUCCESSION_ENV);
    env.push((SUCCESSION_ENV.into(), text.into()));
    let argv = [binary.as_os_str(), OsStr::new("daemon")];
    let keep = [passed.lock.as_fd(), passed.listener.as_fd()];
    listeners.unguard_private();
    let error = succession::become_program(binary, &argv, &env, &keep);
    listeners.guard_private();
    failure(
        format!("{} cannot be executed: {error}", binary.display()),
        Some("the running daemon stays in charge"),
    )
}

/// Whether another binary can take over without undoing anything.
///
/// # Errors
/// What is under way.
pub(super) fn nothing_begun(catalog: Catalog<'_>) -> Result<(), ApiError> {
    let refused = |what| Err(failure(what, Some("then try `rpm update` again")));
    catalog.under_way().map_or(Ok(()), refused)
}

/// Slots that the core has closed: what it decides is written before it is done, and the daemon before died between the two.
fn closed_slots(listeners: &Listeners, core: &Core) -> Vec<SlotId> {
    let open = listeners.open_slots();
    open.filter(|slot| !core.has_slot(*slot)).collect()
}

/// How long a draining worker that the core terminates then may go on before it is told to close what it still has.
pub(super) fn left_to_drain(until: Tick, now: Tick) -> Duration {
    (until - now).saturating_sub(CLOSE_WITHIN)
}

/// Those that drain, which goes on when their agents come back: for how long, and, if they take no client any more, whether they keep those
/// that they have.
fn draining(catalog: Catalog<'_>, now: Tick) -> Vec<(WorkerId, Duration, Option<bool>)> {
    let apps = catalog.apps().keys();
    let leaving = apps.flat_map(|app| catalog.core().leaving(*app));
    let draining = leaving.filter_map(|view| match view.phase {
        LeavingPhase::Draining { refuses_new } => {
            let left = left_to_drain(view.until?, now);
            Some((view.worker, left, refuses_new.map(|how| how.keeps)))
        }
        LeavingPhase::Standby | LeavingPhase::Terminating => None,
    });
    draining.collect()
}
