//! Connections that the daemon hands to a worker one by one (`newconn`): all of them on the plane `handoff`, and elsewhere what the
//! kernel cannot move. A connection is kept until its worker has accepted it; if the worker refuses it or dies first, another one gets it.
//!
//! On the plane `handoff` a worker has at most [`WINDOW`] connections that it has not answered. When all have, none is accepted any
//! more: what comes waits in the backlog, as it would at a busy server.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rpm_core::{GroupId, SlotId, WorkerId};
use rpm_listen::Policy;
use rpm_sys::{sock_diag, socket};
use rpm_wire::channel;
use tracing::warn;

use crate::node::channel::Outgoing;
use crate::supervisor::Supervisor;
use crate::workers::worker::Awaiting;

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

/// Connections that are on their way to a worker, and, where the fewest decide, those that have arrived.
#[derive(Default)]
pub(crate) struct Handoffs {
    next: u64,
    pending: BTreeMap<u64, Pending>,
    /// How many of them each worker has.
    unanswered: BTreeMap<WorkerId, usize>,
    turn: usize,
    /// Those that no worker could have when they came, or when theirs died.
    homeless: VecDeque<(Errand, OwnedFd)>,
    /// Slots at which connections may wait.
    waiting: BTreeSet<SlotId>,
    /// When to accept again.
    due: Option<Instant>,
    /// Nothing is accepted: another daemon is about to.
    pub(crate) paused: bool,
    /// Accepting has failed, and that was said.
    complained: bool,
    open: BTreeMap<WorkerId, HashSet<u64>>,
    look_due: Option<Instant>,
}

struct Pending {
    connection: OwnedFd,
    worker: WorkerId,
    /// Where else it may go.
    others: Vec<SlotId>,
    errand: Errand,
}

/// What is known of a connection that is handed over, whichever worker is tried.
#[derive(Clone, Copy, Debug)]
struct Errand {
    /// Where it came to.
    group: Option<GroupId>,
    /// It counts when it has arrived.
    counted: bool,
    /// How long it is kept.
    until: Instant,
    refusals: u32,
}

impl Errand {
    fn new(group: Option<GroupId>, counted: bool) -> Errand {
        Errand {
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
    /// For a connection that nobody keeps track of.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Nothing is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.homeless.is_empty()
    }

    /// When it wants to be called next.
    pub(crate) fn due(&self) -> Option<Instant> {
        let due = self.due.filter(|_| !self.paused);
        let kept = self.homeless.iter().map(|(errand, _)| errand.until).min();
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
}

impl Supervisor {
    /// Connections have come to slots that are handed over.
    pub(crate) fn on_arrivals(&mut self) {
        let mut fired = Vec::new();
        if let Err(error) = self.listeners.arrivals().ready(&mut fired) {
            warn!(%error, "the detector of arrivals fails");
        }
        let slots = fired.into_iter().filter_map(|slot| u32::try_from(slot).ok());
        self.handoffs.waiting.extend(slots.map(SlotId));
    }

    /// Accepts what waits, as far as workers have room.
    pub(crate) fn deal(&mut self) {
        self.house();
        if self.handoffs.paused {
            return;
        }
        // Whatever it was due for is done now, also where nothing waits to be accepted.
        self.handoffs.due = None;
        if self.handoffs.waiting.is_empty() {
            return;
        }
        let mut left = BATCH;
        for slot in self.handoffs.waiting.clone() {
            while left > 0 && self.has_room(slot) {
                match self.listeners.take_one(slot) {
                    Ok(Some(connection)) => {
                        left -= 1;
                        self.handoffs.complained = false;
                        let counted = self.listeners.policy_of(slot) == Policy::LeastConnections;
                        let errand = Errand::new(self.listeners.group_with(slot), counted);
                        self.deal_one(slot, connection, errand);
                    }
                    Ok(None) => {
                        self.handoffs.waiting.remove(&slot);
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
            self.handoffs.due = Some(Instant::now());
        }
    }

    /// Gives those that no worker could have one that can now.
    fn house(&mut self) {
        for _ in 0..self.handoffs.homeless.len() {
            let Some((errand, connection)) = self.handoffs.homeless.pop_front() else {
                break;
            };
            // Nobody listens there any more, if there is no slot.
            let slot = errand.group.and_then(|group| self.listeners.a_slot_of(group));
            let Some(slot) = slot.filter(|_| !errand.is_over()) else {
                warn!("no worker could take a connection; it is closed");
                continue;
            };
            if self.has_room(slot) {
                self.deal_one(slot, connection, errand);
            } else {
                self.handoffs.homeless.push_back((errand, connection));
            }
        }
    }

    fn cannot_accept(&mut self, error: &std::io::Error) {
        self.handoffs.due = Some(Instant::now() + RETRY);
        if !self.handoffs.complained {
            let hint = rpm_sys::limits::explain(error);
            warn!(%error, hint, "connections cannot be accepted, and wait");
            self.handoffs.complained = true;
        }
    }

    /// May one of the workers that share the slot's connections have one more?
    fn has_room(&self, slot: SlotId) -> bool {
        // Where the address decides each client has its worker, whoever else has room.
        let window = match self.listeners.policy_of(slot) {
            Policy::IpHash => LIMIT,
            Policy::RoundRobin | Policy::LeastConnections | Policy::Weighted => WINDOW,
        };
        let room = |slot: &SlotId| {
            let worker = self.listeners.holder(*slot);
            worker.is_some_and(|worker| self.handoffs.unanswered(worker) < window && self.hears(worker))
        };
        self.handoffs.pending.len() < LIMIT && self.listeners.eligible_with(slot).iter().any(room)
    }

    fn hears(&self, worker: WorkerId) -> bool {
        let process = self.workers.get(&worker).and_then(|held| held.process());
        process.is_some_and(|process| process.channel.is_some())
    }

    /// Gives a connection to one of the workers that share those of the slot.
    fn deal_one(&mut self, slot: SlotId, connection: OwnedFd, errand: Errand) {
        if !self.listeners.is_handoff(slot) {
            let to = self.listeners.eligible_with(slot).to_vec();
            return self.in_turn(connection, to, errand);
        }
        let policy = self.listeners.policy_of(slot);
        let holders: BTreeMap<SlotId, WorkerId> = self
            .listeners
            .eligible_with(slot)
            .iter()
            .filter_map(|slot| Some((*slot, self.listeners.holder(*slot)?)))
            .collect();
        let handoffs = &self.handoffs;
        let load = |slot: SlotId| {
            let worker = holders.get(&slot);
            worker.map_or(u64::MAX, |worker| {
                (handoffs.open(*worker) + handoffs.unanswered(*worker)) as u64
            })
        };
        let mut candidates = self.listeners.candidates(slot, connection.as_fd(), load);
        if policy != Policy::IpHash {
            // Those without room come last.
            let full = |slot: &SlotId| {
                let worker = holders.get(slot);
                worker.is_none_or(|worker| handoffs.unanswered(*worker) >= WINDOW)
            };
            candidates.sort_by_key(full);
        }
        let now = self.now();
        self.note_traffic(now);
        self.try_next(connection, candidates, errand);
    }

    /// What the workers of slots that are handed over have not answered: their queues.
    pub(crate) fn handed_queues(&self) -> Vec<(SlotId, u32)> {
        let held = |slot: &SlotId| self.listeners.holder(*slot).is_some();
        let slots = self.listeners.handed_over().filter(held);
        slots.map(|slot| (slot, self.on_their_way(slot))).collect()
    }

    /// How many connections were handed to the slot's worker that it has not accepted.
    pub(crate) fn on_their_way(&self, slot: SlotId) -> u32 {
        let worker = self.listeners.holder(slot);
        let count = worker.map_or(0, |worker| self.handoffs.unanswered(worker));
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Gives a connection to one of the workers behind these slots.
    pub(crate) fn hand_over_one(&mut self, connection: OwnedFd, to: &[SlotId]) {
        if self.handoffs.pending.len() + self.handoffs.homeless.len() >= LIMIT {
            warn!(
                limit = LIMIT,
                "too many connections are being handed over; one is closed"
            );
            return;
        }
        let group = to.iter().find_map(|slot| self.listeners.group_with(*slot));
        let counts = |slot: &SlotId| {
            self.listeners.is_handoff(*slot) && self.listeners.policy_of(*slot) == Policy::LeastConnections
        };
        let errand = Errand::new(group, to.iter().any(counts));
        self.in_turn(connection, to.to_vec(), errand);
    }

    /// Each of them is the first one in turn.
    fn in_turn(&mut self, connection: OwnedFd, mut candidates: Vec<SlotId>, errand: Errand) {
        self.handoffs.turn = self.handoffs.turn.wrapping_add(1);
        if !candidates.is_empty() {
            let first = self.handoffs.turn % candidates.len();
            candidates.rotate_left(first);
        }
        self.try_next(connection, candidates, errand);
    }

    fn try_next(&mut self, connection: OwnedFd, mut candidates: Vec<SlotId>, errand: Errand) {
        while !candidates.is_empty() {
            let slot = candidates.remove(0);
            let Some(worker) = self.listeners.holder(slot) else {
                continue;
            };
            let Some(key) = self.listeners.key_of(slot).map(|(_, key)| key.to_owned()) else {
                continue;
            };
            if let Some(owner) = self.listeners.owner_of(slot)
                && let Err(error) = socket::give(&connection, owner)
            {
                warn!(%worker, %error, "a connection cannot be made that of the worker's user; it does not get it");
                continue;
            }
            let Ok(copy) = connection.try_clone() else {
                continue;
            };
            let number = self.handoffs.next;
            let message = Outgoing {
                bytes: channel::newconn(number, &key),
                fd: Some(copy),
            };
            let held = self.workers.get_mut(&worker).and_then(|w| w.channel_mut());
            if held.is_some_and(|c| c.send(message, Some(Awaiting::Connection(number)))) {
                self.handoffs.next += 1;
                *self.handoffs.unanswered.entry(worker).or_default() += 1;
                self.handoffs.pending.insert(
                    number,
                    Pending {
                        connection,
                        worker,
                        others: candidates,
                        errand,
                    },
                );
                return;
            }
        }
        self.handoffs.homeless.push_back((errand, connection));
    }

    /// The worker has accepted connection `number`, or refused it.
    pub(crate) fn handed(&mut self, number: u64, accepted: bool) {
        let Some(pending) = self.handoffs.take(number) else {
            return;
        };
        if !accepted {
            let errand = Errand {
                refusals: pending.errand.refusals + 1,
                ..pending.errand
            };
            return self.try_next(pending.connection, pending.others, errand);
        }
        if pending.errand.counted
            && let Ok(inode) = socket::inode(&pending.connection)
        {
            let open = self.handoffs.open.entry(pending.worker).or_default();
            open.insert(inode);
            self.handoffs.look_due.get_or_insert(Instant::now() + LOOK);
        }
    }

    /// Looks which of the connections that arrived are still open.
    pub(crate) fn look_at_open(&mut self) {
        if self.handoffs.look_due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        let began = Instant::now();
        let workers: Vec<WorkerId> = self.handoffs.open.keys().copied().collect();
        let ports: BTreeSet<u16> = workers
            .into_iter()
            .flat_map(|worker| self.listeners.ports_of(worker))
            .collect();
        let ports: Vec<u16> = ports.into_iter().collect();
        match sock_diag::open(&ports) {
            Ok(open) => self.handoffs.open.retain(|_, inodes| {
                inodes.retain(|inode| open.contains(inode));
                !inodes.is_empty()
            }),
            Err(error) => {
                // All have as many then, and have turns.
                warn!(%error, "the connections of workers cannot be counted");
                self.handoffs.open.clear();
            }
        }
        let pause = LOOK.max(began.elapsed() * LOOK_SHARE);
        let any = !self.handoffs.open.is_empty();
        self.handoffs.look_due = any.then(|| Instant::now() + pause);
    }

    /// The worker is gone: what it had not accepted goes to others. A connection that it has read from belongs to it, even if its
    /// acknowledgement was lost with it: nobody else would ever see that request, and its client would wait for nothing.
    pub(crate) fn retake(&mut self, worker: WorkerId) {
        let numbers: Vec<u64> = self
            .handoffs
            .pending
            .iter()
            .filter(|(_, p)| p.worker == worker)
            .map(|(n, _)| *n)
            .collect();
        for number in numbers {
            self.give_back(number);
        }
    }

    /// The connection is nobody's again.
    fn give_back(&mut self, number: u64) {
        let Some(pending) = self.handoffs.take(number) else {
            return;
        };
        if socket::bytes_read(&pending.connection).is_ok_and(|count| count > 0) {
            return;
        }
        self.handoffs
            .homeless
            .push_back((pending.errand, pending.connection));
        // They are dealt with before anything else happens, which may take long.
        self.handoffs.due = Some(Instant::now());
    }

    /// The worker is frozen: what has not been sent to it yet goes to others. What has been it may take, as from a queue of its own.
    pub(crate) fn retake_unsent(&mut self, worker: WorkerId) -> usize {
        let channel = self.workers.get_mut(&worker).and_then(|held| held.channel_mut());
        let unsent = channel.map(|channel| channel.take_unsent()).unwrap_or_default();
        for number in &unsent {
            self.give_back(*number);
        }
        unsent.len()
    }
}
