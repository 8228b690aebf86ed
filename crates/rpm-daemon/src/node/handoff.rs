//! Connections that the daemon hands to a worker one by one (`newconn`): all of them on the data path `handoff`, and elsewhere what the
//! kernel cannot move. A connection is kept until its worker has accepted it; if the worker refuses it or dies first, another one gets it.
//!
//! On the data path `handoff` a worker has at most [`WINDOW`] connections that it has not answered. When all have, none is accepted any
//! more: what comes waits in the backlog, as it would at a busy server.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rpm_core::{GroupId, SlotId, WorkerId};
use rpm_listen::{Listeners, SteeringPolicy};
use rpm_sys::{sock_diag, socket};
use rpm_wire::channel;
use tracing::warn;

use crate::workers::worker::Outgoing;
use crate::workers::worker::{Awaiting, Channel, Worker, Workers};

/// Connections that are on their way; one more is closed.
const LIMIT: usize = 4096;
/// How long a connection is kept while no worker can have it: for all to be frozen, or replaced.
const KEPT: Duration = Duration::from_secs(30);
/// Workers that may refuse it, as one does that closes its listener at that moment; then it is closed.
const REFUSALS: u32 = 8;
/// Connections that a worker may have without having answered. A frozen one keeps as many, so it is small.
const WINDOW: usize = 8;
/// Connections accepted before other events have their turn.
const BATCH: usize = 256;
/// When accepting failed (no descriptor is left) it is tried again after so long.
const RETRY: Duration = Duration::from_millis(50);
/// Between two looks at which connections are still open, and how many times as long as the last look took at least.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_SHARE: u32 = 50;

/// What connections are accepted from, and whom they go to.
pub(crate) struct Context<'a> {
    /// Where they come in.
    pub(crate) listeners: &'a mut Listeners,
    /// Who gets them.
    pub(crate) workers: &'a mut Workers,
}

impl Context<'_> {
    fn has_channel(&self, worker: WorkerId) -> bool {
        let process = self.workers.get(&worker).and_then(|held| held.process());
        process.is_some_and(|process| process.channel.is_some())
    }
}

/// Connections that are on their way to a worker, and, where the fewest decide, those that have arrived.
#[derive(Default)]
pub(crate) struct Handoffs {
    next: u64,
    pending: BTreeMap<u64, Pending>,
    /// How many of them each worker has.
    unanswered: BTreeMap<WorkerId, usize>,
    turn: usize,
    /// Those that no worker could have when they came, or when theirs died.
    unplaced: VecDeque<(Origin, OwnedFd)>,
    /// Slots at which connections may wait.
    waiting: BTreeSet<SlotId>,
    /// When to accept again.
    due: Option<Instant>,
    /// Nothing is accepted: another daemon is about to.
    paused: bool,
    /// Accepting has failed, and that was said.
    warned: bool,
    open: BTreeMap<WorkerId, HashSet<u64>>,
    look_due: Option<Instant>,
}

struct Pending {
    connection: OwnedFd,
    worker: WorkerId,
    /// Where else it may go.
    others: Vec<SlotId>,
    origin: Origin,
}

/// What is known of a connection that is handed over, whichever worker is tried.
#[derive(Clone, Copy, Debug)]
struct Origin {
    /// Where it came to.
    group: Option<GroupId>,
    /// It counts when it has arrived.
    counted: bool,
    /// How long it is kept.
    until: Instant,
    refusals: u32,
}

impl Origin {
    fn new(group: Option<GroupId>, counted: bool) -> Origin {
        Origin {
            group,
            counted,
            until: Instant::now() + KEPT,
            refusals: 0,
        }
    }

    fn is_over(&self) -> bool {
        self.refusals >= REFUSALS || self.until <= Instant::now()
    }
}

impl Handoffs {
    /// Whether to stop accepting, because another daemon is about to.
    pub(crate) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// For a connection that nobody keeps track of.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Nothing is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.unplaced.is_empty()
    }

    /// When it wants to be called next.
    pub(crate) fn due(&self) -> Option<Instant> {
        let due = self.due.filter(|_| !self.paused);
        let kept = self.unplaced.iter().map(|(origin, _)| origin.until).min();
        [due, self.look_due, kept].into_iter().flatten().min()
    }

    /// The connections that the worker has, where they are counted.
    pub(crate) fn open(&self, worker: WorkerId) -> usize {
        self.open.get(&worker).map_or(0, HashSet::len)
    }

    fn unanswered(&self, worker: WorkerId) -> usize {
        self.unanswered.get(&worker).copied().unwrap_or(0)
    }

    fn take(&mut self, number: u64) -> Option<Pending> {
        let pending = self.pending.remove(&number)?;
        if let Some(count) = self.unanswered.get_mut(&pending.worker) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.unanswered.remove(&pending.worker);
            }
        }
        Some(pending)
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
                        let origin = Origin::new(ctx.listeners.group_with(slot), counted);
                        self.place(ctx, slot, connection, origin);
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
        for _ in 0..self.unplaced.len() {
            let Some((origin, connection)) = self.unplaced.pop_front() else {
                break;
            };
            // Nobody listens there any more, if there is no slot.
            let slot = origin.group.and_then(|group| ctx.listeners.a_slot_of(group));
            let Some(slot) = slot.filter(|_| !origin.is_over()) else {
                warn!("no worker could take a connection; it is closed");
                continue;
            };
            if self.has_room(ctx, slot) {
                self.place(ctx, slot, connection, origin);
                placed = true;
            } else {
                self.unplaced.push_back((origin, connection));
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
        // Where the address decides each client has its worker, whoever else has room.
        let window = match ctx.listeners.policy_of(slot) {
            SteeringPolicy::IpHash => LIMIT,
            SteeringPolicy::RoundRobin | SteeringPolicy::LeastConnections | SteeringPolicy::Weighted => {
                WINDOW
            }
        };
        let room = |slot: &SlotId| {
            let worker = ctx.listeners.holder(*slot);
            worker.is_some_and(|worker| self.unanswered(worker) < window && ctx.has_channel(worker))
        };
        self.pending.len() < LIMIT && ctx.listeners.eligible_with(slot).iter().any(room)
    }

    /// Gives a connection to one of the workers that share those of the slot.
    fn place(&mut self, ctx: &mut Context<'_>, slot: SlotId, connection: OwnedFd, origin: Origin) {
        if !ctx.listeners.is_handoff(slot) {
            let to = ctx.listeners.eligible_with(slot).to_vec();
            return self.pass_in_turn(ctx, connection, to, origin);
        }
        let policy = ctx.listeners.policy_of(slot);
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
                (handoffs.open(*worker) + handoffs.unanswered(*worker)) as u64
            })
        };
        let mut candidates = ctx.listeners.candidates(slot, connection.as_fd(), load);
        if policy != SteeringPolicy::IpHash {
            // Those without room come last.
            let full = |slot: &SlotId| {
                let worker = holders.get(slot);
                worker.is_none_or(|worker| handoffs.unanswered(*worker) >= WINDOW)
            };
            candidates.sort_by_key(full);
        }
        self.pass_to_first(ctx, connection, candidates, origin);
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
        let count = worker.map_or(0, |worker| self.unanswered(worker));
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Gives a connection to one of the workers behind these slots.
    pub(crate) fn pass(&mut self, ctx: &mut Context<'_>, connection: OwnedFd, to: &[SlotId]) {
        if self.pending.len() + self.unplaced.len() >= LIMIT {
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
        let origin = Origin::new(group, to.iter().any(counts));
        self.pass_in_turn(ctx, connection, to.to_vec(), origin);
    }

    /// Each of them is the first one in turn.
    fn pass_in_turn(
        &mut self,
        ctx: &mut Context<'_>,
        connection: OwnedFd,
        mut candidates: Vec<SlotId>,
        origin: Origin,
    ) {
        self.turn = self.turn.wrapping_add(1);
        if !candidates.is_empty() {
            let first = self.turn % candidates.len();
            candidates.rotate_left(first);
        }
        self.pass_to_first(ctx, connection, candidates, origin);
    }

    fn pass_to_first(
        &mut self,
        ctx: &mut Context<'_>,
        connection: OwnedFd,
        mut candidates: Vec<SlotId>,
        origin: Origin,
    ) {
        while !candidates.is_empty() {
            let slot = candidates.remove(0);
            let Some(worker) = ctx.listeners.holder(slot) else {
                continue;
            };
            let Some(key) = ctx.listeners.key_of(slot).map(|(_, key)| key.to_owned()) else {
                continue;
            };
            if let Some(owner) = ctx.listeners.owner_of(slot)
                && let Err(error) = socket::give(&connection, owner)
            {
                warn!(%worker, %error, "cannot give a connection to the worker's user; another worker gets it");
                continue;
            }
            let Ok(copy) = connection.try_clone() else {
                continue;
            };
            let number = self.next;
            let message = Outgoing {
                bytes: channel::newconn(number, &key),
                fd: Some(copy),
            };
            let held = ctx.workers.get_mut(&worker).and_then(|w| w.channel_mut());
            if held.is_some_and(|c| c.send(message, Some(Awaiting::Connection(number)))) {
                self.next += 1;
                *self.unanswered.entry(worker).or_default() += 1;
                self.pending.insert(
                    number,
                    Pending {
                        connection,
                        worker,
                        others: candidates,
                        origin,
                    },
                );
                return;
            }
        }
        self.unplaced.push_back((origin, connection));
    }

    /// The worker has accepted connection `number`, or refused it.
    pub(crate) fn answered(&mut self, ctx: &mut Context<'_>, number: u64, accepted: bool) {
        let Some(pending) = self.take(number) else {
            return;
        };
        if !accepted {
            let origin = Origin {
                refusals: pending.origin.refusals + 1,
                ..pending.origin
            };
            return self.pass_to_first(ctx, pending.connection, pending.others, origin);
        }
        if pending.origin.counted
            && let Ok(inode) = socket::inode(&pending.connection)
        {
            let open = self.open.entry(pending.worker).or_default();
            open.insert(inode);
            self.look_due.get_or_insert(Instant::now() + LOOK);
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

    /// The worker is gone: what it had not accepted goes to others. A connection that it has read from belongs to it, even if its
    /// acknowledgement was lost with it: nobody else would ever see that request, and its client would wait for nothing.
    pub(crate) fn take_back(&mut self, worker: WorkerId) {
        let numbers: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, p)| p.worker == worker)
            .map(|(n, _)| *n)
            .collect();
        for number in numbers {
            self.release(number);
        }
    }

    /// The connection is nobody's again.
    fn release(&mut self, number: u64) {
        let Some(pending) = self.take(number) else {
            return;
        };
        if socket::bytes_read(&pending.connection).is_ok_and(|count| count > 0) {
            return;
        }
        self.unplaced.push_back((pending.origin, pending.connection));
        // They are dealt with before anything else happens, which may take long.
        self.due = Some(Instant::now());
    }

    /// The worker is frozen: what has not been sent to it yet goes to others. What has been it may take, as from a queue of its own.
    pub(crate) fn take_back_unsent(&mut self, worker: &mut Worker) -> usize {
        let unsent = worker.channel_mut().map(Channel::take_unsent).unwrap_or_default();
        for number in &unsent {
            self.release(*number);
        }
        unsent.len()
    }
}
