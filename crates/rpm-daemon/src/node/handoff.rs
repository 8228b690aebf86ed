//! Connections that the daemon hands to a worker one by one (`newconn`): all of them on the data path `handoff`, and elsewhere what the
//! kernel cannot move. Who gets one, and what becomes of it if its worker refuses it or dies, is decided by [`rpm_core::handoff`], which keeps them;
//! here they are accepted and sent.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rpm_core::handoff::{self, Answer, Choice, Connection, LIMIT, Unplaced};
use rpm_core::{SlotId, Tick, WorkerId};
use rpm_listen::{Listeners, SteeringPolicy};
use rpm_sys::{sock_diag, socket};
use rpm_wire::channel;
use tracing::warn;

use crate::workers::worker::Outgoing;
use crate::workers::worker::{Awaiting, Channel, Worker, Workers};

/// Connections accepted before other events have their turn.
const BATCH: usize = 256;
/// When accepting failed (no descriptor is left) it is tried again after so long.
const RETRY: Duration = Duration::from_millis(50);
/// Between two looks at which connections are still open, and how many times as long as the last look took at least.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_SHARE: u32 = 50;
/// More than a daemon can hand over in a millisecond.
const NUMBERS_PER_MS: u64 = 1024;
/// Between two warnings that connections are closed.
const SURPLUS_PAUSE: Duration = Duration::from_secs(60);

/// What connections are accepted from, and whom they go to.
pub(crate) struct Context<'a> {
    /// Where they come in.
    pub(crate) listeners: &'a mut Listeners,
    /// Who gets them.
    pub(crate) workers: &'a mut Workers,
    /// The time of the core.
    pub(crate) now: Tick,
}

impl Context<'_> {
    fn has_channel(&self, worker: WorkerId) -> bool {
        let process = self.workers.get(&worker).and_then(|held| held.process());
        process.is_some_and(|process| process.channel.is_some())
    }

    fn may_be_handed(&self, worker: WorkerId) -> bool {
        let held = self.workers.get(&worker);
        held.is_some_and(|held| held.delivery.may_be_handed())
    }
}

/// Connections that are on their way to a worker, and, where the fewest decide, those that have arrived.
pub(crate) struct Handoffs {
    all: handoff::Handoffs<OwnedFd>,
    /// Slots at which connections may wait.
    waiting: BTreeSet<SlotId>,
    /// When to accept again.
    due: Option<Instant>,
    /// Nothing is accepted: another daemon is about to.
    paused: bool,
    /// Accepting has failed, and that was said.
    warned: bool,
    /// When it was last said that clients of a worker are closed because too many wait.
    surplus_said: Option<Instant>,
    open: BTreeMap<WorkerId, HashSet<u64>>,
    look_due: Option<Instant>,
}

impl Handoffs {
    /// None is on its way. Workers of a daemon before this one may still answer its numbers, so this one's begin with the time, by which no
    /// daemon has handed over so many. JavaScript has all of them exactly, until the year 2248.
    pub(crate) fn numbered_since(now_ms: u64) -> Handoffs {
        Handoffs {
            all: handoff::Handoffs::numbered_from(now_ms.saturating_mul(NUMBERS_PER_MS)),
            waiting: BTreeSet::new(),
            due: None,
            paused: false,
            warned: false,
            surplus_said: None,
            open: BTreeMap::new(),
            look_due: None,
        }
    }

    /// Whether to stop accepting, because another daemon is about to.
    pub(crate) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// For a connection that nobody keeps track of.
    pub(crate) fn number(&mut self) -> u64 {
        self.all.number()
    }

    /// Nothing is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.all.is_quiet()
    }

    /// When it wants to be called next.
    pub(crate) fn due(&self) -> Option<Instant> {
        let due = self.due.filter(|_| !self.paused);
        [due, self.look_due].into_iter().flatten().min()
    }

    /// When the first connection is given up that no worker can have.
    pub(crate) fn kept_until(&self) -> Option<Tick> {
        self.all.poll_timeout()
    }

    /// The connections that the worker has, where they are counted.
    pub(crate) fn open(&self, worker: WorkerId) -> usize {
        self.open.get(&worker).map_or(0, HashSet::len)
    }

    /// Connections have come to slots that are handed over.
    pub(crate) fn note_arrivals(&mut self, listeners: &Listeners) {
        let mut fired = Vec::new();
        if let Err(error) = listeners.arrivals().ready(&mut fired) {
            warn!(%error, "the detector of arrivals fails");
        }
        let slots = fired.into_iter().filter_map(|slot| u32::try_from(slot).ok());
        self.waiting.extend(slots.map(SlotId));
    }

    /// Accepts what waits, as far as workers have room, and says whether a connection was passed on.
    pub(crate) fn accept(&mut self, ctx: &mut Context<'_>) -> bool {
        let mut placed = self.place_again(ctx);
        if self.paused {
            return placed;
        }
        // Whatever it was due for is done now, also where nothing waits to be accepted.
        self.due = None;
        let mut left = BATCH;
        for slot in self.waiting.clone() {
            while left > 0 && self.has_room(ctx, slot) {
                match ctx.listeners.take_one(slot) {
                    Ok(Some(connection)) => {
                        left -= 1;
                        self.warned = false;
                        let counted = ctx.listeners.policy_of(slot) == SteeringPolicy::LeastConnections;
                        let group = ctx.listeners.group_with(slot);
                        self.place(ctx, slot, Connection::new(connection, group, counted, ctx.now));
                        placed = true;
                    }
                    Ok(None) => {
                        self.waiting.remove(&slot);
                        break;
                    }
                    Err(error) => {
                        self.cannot_accept(&error);
                        break;
                    }
                }
            }
        }
        if left == 0 {
            self.due = Some(Instant::now());
        }
        placed
    }

    /// Passes on those that no worker could have before, and says whether there were any.
    fn place_again(&mut self, ctx: &mut Context<'_>) -> bool {
        let mut placed = false;
        for _ in 0..self.all.unplaced() {
            let again = match self.all.next_unplaced(ctx.now) {
                Some(Unplaced::Again(connection)) => Some(connection),
                Some(Unplaced::Over(_)) => None,
                None => break,
            };
            // Nobody listens there any more, if there is no slot.
            let slot_of = |connection: &Connection<_>| ctx.listeners.a_slot_of(connection.group()?);
            let Some((connection, slot)) = again.and_then(|it| slot_of(&it).map(|slot| (it, slot))) else {
                warn!("no worker could take a connection; it is closed");
                continue;
            };
            if self.has_room(ctx, slot) {
                self.place(ctx, slot, connection);
                placed = true;
            } else {
                self.all.keep(connection);
            }
        }
        placed
    }

    fn cannot_accept(&mut self, error: &std::io::Error) {
        self.due = Some(Instant::now() + RETRY);
        if !self.warned {
            let hint = rpm_sys::limits::explain(error);
            warn!(%error, hint, "cannot accept connections; they wait");
            self.warned = true;
        }
    }

    /// May one of the workers that share the slot's connections have one more?
    fn has_room(&self, ctx: &Context<'_>, slot: SlotId) -> bool {
        let workers = ctx.listeners.eligible_with(slot).iter();
        let workers = workers.filter_map(|slot| ctx.listeners.holder(*slot));
        let workers = workers.filter(|worker| ctx.has_channel(*worker));
        self.all.has_room(choice(ctx.listeners.policy_of(slot)), workers)
    }

    /// Gives a connection to one of the workers that share those of the slot.
    fn place(&mut self, ctx: &mut Context<'_>, slot: SlotId, mut connection: Connection<OwnedFd>) {
        if !ctx.listeners.is_handoff(slot) {
            let to = ctx.listeners.eligible_with(slot).to_vec();
            self.all.in_turn(&mut connection, to);
            return self.send_to_first(ctx, connection);
        }
        let holders: BTreeMap<SlotId, WorkerId> = ctx
            .listeners
            .eligible_with(slot)
            .iter()
            .filter_map(|slot| Some((*slot, ctx.listeners.holder(*slot)?)))
            .collect();
        let handoffs = &*self;
        let load = |slot: SlotId| {
            let worker = holders.get(&slot);
            worker.map_or(u64::MAX, |worker| {
                (handoffs.open(*worker) + handoffs.all.unanswered(*worker)) as u64
            })
        };
        let slots = ctx.listeners.candidates(slot, connection.socket.as_fd(), load);
        let slots = slots.into_iter().map(|slot| (slot, holders.get(&slot).copied()));
        let choice = choice(ctx.listeners.policy_of(slot));
        if self.all.in_order(&mut connection, choice, slots.collect()) {
            self.send_to_first(ctx, connection);
        } else {
            self.close_surplus(slot);
        }
    }

    /// Says that a connection is closed, once in a while: a frozen worker has clients that come again and again.
    fn close_surplus(&mut self, slot: SlotId) {
        let now = Instant::now();
        if self.surplus_said.is_none_or(|said| now >= said + SURPLUS_PAUSE) {
            self.surplus_said = Some(now);
            warn!(%slot, "a worker does not accept, and too many of its clients wait; further ones are closed");
        }
    }

    /// What the workers of slots that are handed over have not answered: their queues.
    pub(crate) fn queues(&self, listeners: &Listeners) -> Vec<(SlotId, u32)> {
        let held = |slot: &SlotId| listeners.holder(*slot).is_some();
        let slots = listeners.handed_over().filter(held);
        slots
            .map(|slot| (slot, self.unanswered_at(listeners, slot)))
            .collect()
    }

    /// How many connections were handed to the slot's worker that it has not accepted.
    pub(crate) fn unanswered_at(&self, listeners: &Listeners, slot: SlotId) -> u32 {
        let worker = listeners.holder(slot);
        let count = worker.map_or(0, |worker| self.all.unanswered(worker));
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Gives a connection to one of the workers behind these slots.
    pub(crate) fn pass(&mut self, ctx: &mut Context<'_>, connection: OwnedFd, to: &[SlotId]) {
        if self.all.is_full() {
            warn!(
                limit = LIMIT,
                "too many connections are being handed over; one is closed"
            );
            return;
        }
        let group = to.iter().find_map(|slot| ctx.listeners.group_with(*slot));
        let counts = |slot: &SlotId| {
            ctx.listeners.is_handoff(*slot)
                && ctx.listeners.policy_of(*slot) == SteeringPolicy::LeastConnections
        };
        let counted = to.iter().any(counts);
        let mut connection = Connection::new(connection, group, counted, ctx.now);
        self.all.in_turn(&mut connection, to.to_vec());
        self.send_to_first(ctx, connection);
    }

    /// Sends a connection to the first of its slots whose worker takes it. One that only workers could have which take none is closed: its
    /// client would wait for nothing.
    fn send_to_first(&mut self, ctx: &mut Context<'_>, mut connection: Connection<OwnedFd>) {
        let (mut takers, mut others) = (0, 0);
        while let Some(slot) = connection.next() {
            let Some(worker) = ctx.listeners.holder(slot) else {
                continue;
            };
            if !ctx.may_be_handed(worker) {
                others += 1;
                continue;
            }
            takers += 1;
            let Some(key) = ctx.listeners.key_of(slot).map(|(_, key)| key.to_owned()) else {
                continue;
            };
            if let Some(owner) = ctx.listeners.owner_of(slot)
                && let Err(error) = socket::give(&connection.socket, owner)
            {
                warn!(%worker, %error, "cannot give a connection to the worker's user; another worker gets it");
                continue;
            }
            let Ok(copy) = connection.socket.try_clone() else {
                continue;
            };
            let number = self.all.number();
            let message = Outgoing {
                bytes: channel::newconn(number, &key),
                fd: Some(copy),
            };
            let held = ctx.workers.get_mut(&worker).and_then(|w| w.channel_mut());
            if held.is_some_and(|c| c.send(message, Some(Awaiting::Connection(number)))) {
                return self.all.sent(number, worker, connection);
            }
        }
        if takers > 0 || others == 0 {
            self.all.keep(connection);
        }
    }

    /// The worker has accepted connection `number`, or refused it.
    pub(crate) fn answered(&mut self, ctx: &mut Context<'_>, worker: WorkerId, number: u64, accepted: bool) {
        match self.all.handle_answer(worker, number, accepted) {
            Answer::Unknown => {}
            Answer::Refused(connection) => self.send_to_first(ctx, connection),
            Answer::Arrived { socket, counted } => {
                if counted && let Ok(inode) = socket::inode(&socket) {
                    self.open.entry(worker).or_default().insert(inode);
                    self.look_due.get_or_insert(Instant::now() + LOOK);
                }
            }
        }
    }

    /// Looks which of the connections that arrived are still open.
    pub(crate) fn count_open(&mut self, listeners: &Listeners) {
        if self.look_due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        let began = Instant::now();
        let workers: Vec<WorkerId> = self.open.keys().copied().collect();
        let ports: BTreeSet<u16> = workers
            .into_iter()
            .flat_map(|worker| listeners.ports_of(worker))
            .collect();
        let ports: Vec<u16> = ports.into_iter().collect();
        match sock_diag::open(&ports) {
            Ok(open) => self.open.retain(|_, inodes| {
                inodes.retain(|inode| open.contains(inode));
                !inodes.is_empty()
            }),
            Err(error) => {
                // All have as many then, and have turns.
                warn!(%error, "the connections of workers cannot be counted");
                self.open.clear();
            }
        }
        let pause = LOOK.max(began.elapsed() * LOOK_SHARE);
        let any = !self.open.is_empty();
        self.look_due = any.then(|| Instant::now() + pause);
    }

    /// The worker is gone: what it had not accepted goes to others.
    pub(crate) fn take_back(&mut self, worker: WorkerId) {
        self.all.handle_gone(worker, is_read);
        self.place_soon();
    }

    /// Those that have no worker are dealt with before anything else happens, which may take long.
    fn place_soon(&mut self) {
        if self.all.unplaced() > 0 {
            self.due = Some(Instant::now());
        }
    }

    /// The worker is frozen: what has not been sent to it yet goes to others. What has been it may take, as from a queue of its own.
    pub(crate) fn take_back_unsent(&mut self, worker: &mut Worker) -> usize {
        let unsent = worker.channel_mut().map(Channel::take_unsent).unwrap_or_default();
        for number in &unsent {
            self.all.release(*number, is_read);
        }
        self.place_soon();
        unsent.len()
    }
}

/// Whether the policy of a slot takes account of how many connections a worker has.
fn choice(policy: SteeringPolicy) -> Choice {
    match policy {
        SteeringPolicy::IpHash => Choice::ByAddress,
        SteeringPolicy::RoundRobin | SteeringPolicy::LeastConnections | SteeringPolicy::Weighted => {
            Choice::ByRoom
        }
    }
}

/// True if its worker has read from the connection.
fn is_read(connection: &OwnedFd) -> bool {
    socket::bytes_read(connection).is_ok_and(|count| count > 0)
}
