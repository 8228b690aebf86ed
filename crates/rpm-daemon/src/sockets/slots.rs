//! The one way to a slot, and the one way back: for workers that ask over their channel, that are started with slots, and whose own
//! sockets are captured.
//!
//! Two books are kept of slots. The core's decides: which slots are open, who holds each, and which of them get new connections. The
//! listeners' is a copy, for the kernel, the keeper and the connections that are handed over: eligibility follows from
//! [`Output::Steer`](rpm_core::protocol::Output::Steer), and the holder is copied here, after the core has heard what happened. The
//! listeners alone know what the core has closed and a worker still accepts from. [`Audit`] compares the two.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rpm_core::protocol::Input;
use rpm_core::{Core, GroupId, OpenSlot, SlotId, WorkerId};
use rpm_listen::{Captured, Grant, Listeners, OpenError, Opening, Request, Wanted};
use rpm_sys::user::User;

use crate::os::users::{UserError, other_user};
use crate::sockets::ports::Ports;
use crate::workers::users::rights_for;
use crate::workers::worker::Worker;

/// A slot, or a socket that all workers share, for a worker.
pub(crate) struct Ask<'a> {
    pub(crate) worker: WorkerId,
    /// The key under which the workers of the app know the address.
    pub(crate) key: &'a str,
    pub(crate) how: How<'a>,
}

/// How a worker comes by a slot.
pub(crate) enum How<'a> {
    /// A worker of node:cluster asks, perhaps again for what it has.
    Channel {
        wanted: &'a Wanted,
        /// It may overlap another address of the same app.
        beside: bool,
    },
    /// The user has named the address: the worker is started with it.
    Activation { wanted: &'a Wanted },
    /// The worker has bound a socket of its own, and is about to listen on it.
    Capture(Captured),
}

/// What a worker is to have.
#[derive(Clone, Copy)]
pub(crate) enum Lent<'a> {
    /// This socket, which is ours.
    Ours(BorrowedFd<'a>),
    /// The socket that it has already.
    Its,
}

/// What was opened, and passed to the worker.
pub(crate) struct Opened<T> {
    /// `None` for a socket that all workers share.
    pub(crate) slot: Option<SlotId>,
    /// It was there before.
    pub(crate) inherited: bool,
    pub(crate) passed: T,
}

/// Why a worker has nothing to listen on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOpened {
    #[error("its worker is gone")]
    Gone,
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the socket cannot be passed to the worker")]
    Pass(#[source] io::Error),
}

impl How<'_> {
    /// True if the program chose the address; false if it asked for any free port.
    fn is_fixed(&self) -> bool {
        match self {
            How::Channel { wanted, .. } | How::Activation { wanted } => wanted.is_fixed(),
            How::Capture(_) => true,
        }
    }
}

/// A copy of a socket of ours, which is passed to a worker later.
pub(crate) fn copied(lent: Lent<'_>) -> io::Result<OwnedFd> {
    match lent {
        Lent::Ours(socket) => socket.try_clone_to_owned(),
        Lent::Its => Err(io::ErrorKind::NotFound.into()),
    }
}

impl Ports<'_> {
    /// Opens a slot for a worker: the one that its predecessor has left, if there is one, otherwise a new one. `pass` gives it to the
    /// worker. The core hears of every slot that is open, for nobody else has it closed.
    ///
    /// # Errors
    /// Nothing was opened, or what was opened is given back.
    pub(crate) fn open_slot<T>(
        &mut self,
        ask: Ask<'_>,
        pass: impl FnOnce(Lent<'_>) -> io::Result<T>,
    ) -> Result<Opened<T>, NotOpened> {
        let Ask { worker, key, how } = ask;
        let held = self.workers.get(&worker).ok_or(NotOpened::Gone)?;
        let (app, fixed) = (held.app, how.is_fixed());
        let is_own = matches!(how, How::Capture(_)) && !held.delivery.is_fronted();
        let known = self.known_slot(worker, key, &how);
        let inherited = known.is_some();
        let grant = match (known, how) {
            (Some(known), How::Channel { wanted, .. }) => {
                rights_for(self.workers, worker, wanted)?;
                known
            }
            (Some(known), How::Activation { .. } | How::Capture(_)) => known,
            (None, how) => self.open_new(worker, key, how)?,
        };
        let lent = match grant {
            _ if is_own && !inherited => Some(Lent::Its),
            Grant::Slot { slot, .. } => self.listeners.socket(slot).map(Lent::Ours),
            Grant::Shared { group } => self.listeners.shared_socket(group).map(Lent::Ours),
        };
        let passed = lent.map_or(Err(io::ErrorKind::NotFound.into()), pass);
        match grant {
            // A slot that its predecessor has left waits for the next try.
            Grant::Slot { .. } if inherited && passed.is_err() => {}
            Grant::Slot { slot, group } => {
                self.hold_slot(slot, group, worker, fixed);
                if passed.is_err() {
                    self.release_slot(slot, worker);
                }
            }
            Grant::Shared { group } => {
                self.input(Input::SharedHeld { group, worker, fixed });
                if passed.is_err() {
                    self.listeners.release_shared(app, key, worker);
                    self.input(Input::SharedReleased { group, worker });
                }
            }
        }
        Ok(Opened {
            slot: match grant {
                Grant::Slot { slot, .. } => Some(slot),
                Grant::Shared { .. } => None,
            },
            inherited,
            passed: passed.map_err(NotOpened::Pass)?,
        })
    }

    /// The worker has closed its listeners of `key`.
    pub(crate) fn close_key(&mut self, worker: WorkerId, key: &str) {
        let Some(app) = self.workers.get(&worker).map(|held| held.app) else {
            return;
        };
        let group = self.listeners.group(app, key);
        let slot = group.and_then(|group| self.core.slot_at(worker, group));
        let shared = self.listeners.shared_group(app, key);
        self.listeners.release_shared(app, key, worker);
        if let Some(slot) = slot {
            self.release_slot(slot, worker);
        }
        if let Some(group) = shared {
            self.input(Input::SharedReleased { group, worker });
        }
    }

    /// The worker has closed the listener at a slot of its own.
    pub(crate) fn release_slot(&mut self, slot: SlotId, worker: WorkerId) {
        self.input(Input::SlotReleased { slot, worker });
        self.listeners.set_holder(slot, self.core.holder(slot));
    }

    /// The worker has the slot.
    fn hold_slot(&mut self, slot: SlotId, group: GroupId, worker: WorkerId, fixed: bool) {
        self.input(Input::SlotHeld {
            slot,
            group,
            worker,
            fixed,
        });
        // One that the core has closed at once is the worker's until it is closed here.
        let holder = match self.core.has_slot(slot) {
            true => self.core.holder(slot),
            false => Some(worker),
        };
        self.listeners.set_holder(slot, holder);
    }

    /// A slot that is there for the worker.
    fn known_slot(&self, worker: WorkerId, key: &str, how: &How<'_>) -> Option<Grant> {
        let app = self.workers.get(&worker)?.app;
        let group = self.listeners.group(app, key)?;
        let own = match how {
            How::Channel { .. } => self.core.slot_at(worker, group),
            // Each socket is a slot of its own: processes of one worker may listen at one address.
            How::Activation { .. } | How::Capture(_) => None,
        };
        let slot = own.or_else(|| self.core.slot_for(worker, group));
        let slot = slot.or_else(|| self.slot_of_former(worker, group, key, how))?;
        self.listeners.socket(slot)?;
        Some(Grant::Slot { slot, group })
    }

    /// The slot that was left by a worker of another configuration, if the worker's own permits it: clients wait there.
    fn slot_of_former(&self, worker: WorkerId, group: GroupId, key: &str, how: &How<'_>) -> Option<SlotId> {
        let slot = self.core.slot_of_former(worker, group)?;
        let held = self.workers.get(&worker)?;
        let user = other_user(&held.spec).ok()?;
        let request = self.request(held, key, how, user.as_ref());
        self.listeners.suits(slot, &request).then_some(slot)
    }

    fn open_new(&mut self, worker: WorkerId, key: &str, how: How<'_>) -> Result<Grant, NotOpened> {
        let held = self.workers.get(&worker).ok_or(NotOpened::Gone)?;
        let user = match how {
            How::Channel { wanted, .. } => rights_for(self.workers, worker, wanted)?,
            How::Activation { .. } | How::Capture(_) => other_user(&held.spec)?,
        };
        let request = self.request(held, key, &how, user.as_ref());
        let opening = match how {
            How::Channel { wanted, .. } | How::Activation { wanted } => Opening::Address(wanted),
            How::Capture(captured) => Opening::Captured(captured),
        };
        Ok(self.listeners.open(opening, &request)?)
    }

    /// What the listeners have to know to open something for a worker.
    fn request<'a>(&self, held: &Worker, key: &'a str, how: &How<'_>, user: Option<&'a User>) -> Request<'a> {
        let (beside, handoff) = match how {
            How::Channel { beside, .. } => (*beside, held.delivery.is_handed()),
            How::Activation { .. } => (false, false),
            How::Capture(_) => (true, false),
        };
        Request {
            app: held.app,
            key,
            worker: held.id,
            beside,
            policy: self.policy(held.id),
            weight: self.weight(held.id),
            handoff,
            proxy: held.delivery.proxy_sockets(),
            user,
        }
    }
}

/// As many slots are compared for each step, on average, so that a step costs the same however many there are.
const COMPARED_PER_STEP: usize = 64;

/// Compares the two books of slots after the steps of the event loop, in debug builds.
#[derive(Default)]
pub(crate) struct Audit {
    /// Steps since they were compared.
    steps: usize,
}

impl Audit {
    /// A step is over: everything that the core wanted is done.
    pub(crate) fn after_step(&mut self, core: &Core, listeners: &Listeners) {
        if !cfg!(debug_assertions) {
            return;
        }
        self.steps += 1;
        if self.steps.saturating_mul(COMPARED_PER_STEP) < core.slots().len() {
            return;
        }
        self.steps = 0;
        let found = disagreement(core, listeners);
        debug_assert_eq!(found, None, "the core and the listeners disagree");
    }
}

/// The first slot or group for which the two books differ, with what both say.
fn disagreement(core: &Core, listeners: &Listeners) -> Option<String> {
    let by_slot = |open: OpenSlot| (open.slot, open);
    let decided: BTreeMap<SlotId, OpenSlot> = core.slots().map(by_slot).collect();
    let copied: BTreeMap<SlotId, OpenSlot> = listeners.book().map(by_slot).collect();
    let differs = |slot: &&SlotId| decided.get(*slot) != copied.get(*slot);
    if let Some(slot) = decided.keys().chain(copied.keys()).find(differs) {
        let said = |book: &BTreeMap<SlotId, OpenSlot>| match book.get(slot) {
            None => "not open".to_owned(),
            Some(open) => {
                let holder = open.holder.map(|worker| format!("held by worker {worker}"));
                let holder = holder.unwrap_or_else(|| "vacant".to_owned());
                format!("{holder} in group {}", open.group)
            }
        };
        return Some(format!(
            "slot {slot} is {} to the core and {} to the listeners",
            said(&decided),
            said(&copied)
        ));
    }
    let mut groups = listeners.ids();
    let differs = |group: &GroupId| core.eligible(*group) != listeners.eligible(*group);
    let group = groups.find(differs)?;
    Some(format!(
        "group {group} goes to {:?} by the core and to {:?} by the listeners",
        core.eligible(group),
        listeners.eligible(group)
    ))
}

#[cfg(test)]
mod tests {
    use rpm_core::protocol::Command;
    use rpm_core::{AppId, Revision, Tick, Ticket};
    use rpm_keeper::Keeper;
    use rpm_listen::SteeringPolicy;
    use rpm_wire::api::AppSpec;

    use super::*;
    use crate::apps::app::config;
    use crate::apps::revision::Revisions;

    fn slot_of(listeners: &mut Listeners, worker: WorkerId) -> (SlotId, GroupId) {
        let wanted = Wanted::Tcp {
            addr: ([127, 0, 0, 1], 0).into(),
            v6only: false,
        };
        let request = Request {
            app: AppId(0),
            key: "key",
            worker,
            beside: false,
            policy: SteeringPolicy::RoundRobin,
            weight: 1,
            handoff: false,
            proxy: 0,
            user: None,
        };
        match listeners.open(Opening::Address(&wanted), &request) {
            Ok(Grant::Slot { slot, group }) => (slot, group),
            other => panic!("{other:?} is not a slot"),
        }
    }

    #[test]
    fn where_the_two_books_differ_both_views_are_named() {
        let mut core = Core::new(1);
        let mut tell = |input| {
            core.handle(input, Tick::default());
            while core.poll_output().is_some() {}
        };
        let revisions = Revisions::new(AppSpec::default());
        let version = revisions.newest().expect("the first");
        tell(Input::Command {
            ticket: Ticket(1),
            command: Command::Start {
                app: AppId(0),
                config: config(Revision(1), version, 1, true),
            },
        });
        let worker = WorkerId(1);
        tell(Input::Spawned { worker });
        let mut listeners = Listeners::new(Keeper::none()).expect("an epoll set");
        let (slot, group) = slot_of(&mut listeners, worker);
        let fixed = true;
        tell(Input::SlotHeld {
            slot,
            group,
            worker,
            fixed,
        });
        let vacant =
            "slot 0 is held by worker 1 in group 0 to the core and vacant in group 0 to the listeners";
        assert_eq!(disagreement(&core, &listeners).as_deref(), Some(vacant));
        listeners.set_holder(slot, core.holder(slot));
        let unsteered = "group 0 goes to [SlotId(0)] by the core and to [] by the listeners";
        assert_eq!(disagreement(&core, &listeners).as_deref(), Some(unsteered));
        listeners.steer(group, core.eligible(group)).expect("steered");
        assert_eq!(disagreement(&core, &listeners), None);
        let unknown = "slot 0 is not open to the core and held by worker 1 in group 0 to the listeners";
        assert_eq!(disagreement(&Core::new(1), &listeners).as_deref(), Some(unknown));
    }
}
