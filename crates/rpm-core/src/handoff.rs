//! Connections that the shell hands to workers one by one: who gets one, how many a worker may have that it has not answered, and what
//! becomes of those whose worker refuses them or dies.
//!
//! [`Handoffs`] stands beside the core, as the [`QueueSampler`](crate::QueueSampler) does. It keeps the connections, and never looks at one: accepting
//! them, sending them and reading from them is the shell's business. A connection is kept until its worker has accepted it. If the worker
//! refuses it, or dies before it has read from it, another one gets it.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use crate::{GroupId, SlotId, Tick, WorkerId};

/// Connections that are on their way. Beyond that no worker gets more than [`WINDOW`], and none is kept that was accepted by another listener.
pub const LIMIT: usize = 4096;
/// How long a connection is kept while no worker can have it: for all to be frozen, or replaced.
pub const KEPT: Duration = Duration::from_secs(30);
/// Workers that may refuse it, as one does that closes its listener at that moment; then it is closed.
pub const REFUSALS: u32 = 8;
/// Connections that a worker may have without having answered. A frozen one keeps as many, so it is small. When all workers have as many,
/// none is accepted any more: what comes waits in the backlog, as it would at a busy server.
pub const WINDOW: usize = 8;
/// As [`WINDOW`], where the client decides which worker it comes to: twice the backlog of a server in Node, so that a burst of clients of one
/// address fits into it.
pub const CLIENTS_WINDOW: usize = 1024;

/// How the worker of a connection is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Any worker may have it, as long as it has not too many ([`WINDOW`]).
    ByRoom,
    /// The client's address decides. If its worker has too many ([`CLIENTS_WINDOW`]), no other one gets it.
    ByAddress,
}

/// A connection that needs a worker. It goes to the first slot that takes it ([`Connection::next`]); then it is [`Handoffs::sent`], otherwise
/// it is [`Handoffs::keep`]t.
#[derive(Debug)]
#[must_use]
pub struct Connection<C> {
    /// The connection itself.
    pub socket: C,
    candidates: VecDeque<SlotId>,
    origin: Origin,
}

/// What is known of a connection, whichever worker is tried.
#[derive(Clone, Copy, Debug)]
struct Origin {
    /// Where it came to.
    group: Option<GroupId>,
    /// It counts when it has arrived.
    counted: bool,
    /// How long it is kept.
    until: Tick,
    refusals: u32,
}

impl<C> Connection<C> {
    /// A connection that has just come to `group`. `counted`: the shell counts it while it is open ([`Answer::Arrived`]).
    pub fn new(socket: C, group: Option<GroupId>, counted: bool, now: Tick) -> Self {
        let origin = Origin {
            group,
            counted,
            until: now + KEPT,
            refusals: 0,
        };
        Connection {
            socket,
            candidates: VecDeque::new(),
            origin,
        }
    }

    /// Where it came to; `None`: to a slot that was closed since.
    #[must_use]
    pub fn group(&self) -> Option<GroupId> {
        self.origin.group
    }

    /// The next slot to try.
    #[expect(
        clippy::should_implement_trait,
        reason = "a connection is no iterator: it is sent to one of them"
    )]
    pub fn next(&mut self) -> Option<SlotId> {
        self.candidates.pop_front()
    }
}

/// What an answer means.
#[derive(Debug)]
#[must_use]
pub enum Answer<C> {
    /// Nothing: no such connection is on its way to that worker.
    Unknown,
    /// The connection belongs to its worker.
    Arrived {
        /// The connection.
        socket: C,
        /// The shell counts it while it is open.
        counted: bool,
    },
    /// It needs another worker.
    Refused(Connection<C>),
}

/// A connection that no worker could have before.
#[derive(Debug)]
#[must_use]
pub enum Unplaced<C> {
    /// It may be tried again.
    Again(Connection<C>),
    /// It was kept for long enough, or refused too often: it is to be closed.
    Over(C),
}

#[derive(Debug)]
struct Pending<C> {
    worker: WorkerId,
    connection: Connection<C>,
}

/// The connections that are on their way.
#[derive(Debug)]
pub struct Handoffs<C> {
    next: u64,
    pending: BTreeMap<u64, Pending<C>>,
    /// How many of them each worker has; none is 0.
    unanswered: BTreeMap<WorkerId, usize>,
    turn: usize,
    /// Those that no worker could have when they came, or when theirs died.
    unplaced: VecDeque<Connection<C>>,
}

impl<C> Handoffs<C> {
    /// None is on its way. Numbers begin at `first`: beyond all that a shell before this one has used for the same workers, whose answers
    /// may still come.
    #[must_use]
    pub fn numbered_from(first: u64) -> Self {
        Handoffs {
            next: first,
            pending: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            turn: 0,
            unplaced: VecDeque::new(),
        }
    }

    /// A number that no other connection has.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// True if nothing is on its way.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.unplaced.is_empty()
    }

    /// True if no connection more can be kept.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.pending.len() + self.unplaced.len() >= LIMIT
    }

    /// Connections that wait for a worker.
    #[must_use]
    pub fn unplaced(&self) -> usize {
        self.unplaced.len()
    }

    /// When the first of those is given up.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.unplaced.iter().map(|kept| kept.origin.until).min()
    }

    /// Connections that a worker has and has not answered.
    #[must_use]
    pub fn unanswered(&self, worker: WorkerId) -> usize {
        self.unanswered.get(&worker).copied().unwrap_or(0)
    }

    /// True if one of these workers may have one more.
    pub fn has_room(&self, choice: Choice, workers: impl IntoIterator<Item = WorkerId>) -> bool {
        workers.into_iter().any(|worker| self.may_have(choice, worker))
    }

    fn may_have(&self, choice: Choice, worker: WorkerId) -> bool {
        let window = match choice {
            Choice::ByAddress if self.pending.len() < LIMIT => CLIENTS_WINDOW,
            Choice::ByAddress | Choice::ByRoom => WINDOW,
        };
        self.unanswered(worker) < window
    }

    /// Gives a connection these slots to try, each of which is the first one in turn.
    pub fn in_turn(&mut self, connection: &mut Connection<C>, slots: Vec<SlotId>) {
        self.turn = self.turn.wrapping_add(1);
        let mut slots = VecDeque::from(slots);
        if !slots.is_empty() {
            slots.rotate_left(self.turn % slots.len());
        }
        connection.candidates = slots;
    }

    /// Gives a connection these slots to try, the best first, each with its worker. Those whose worker has no room, or that have none, come
    /// last. False if the address decides and its worker has no room: the connection is to be closed, as by a full backlog.
    #[must_use]
    pub fn in_order(
        &self,
        connection: &mut Connection<C>,
        choice: Choice,
        mut slots: Vec<(SlotId, Option<WorkerId>)>,
    ) -> bool {
        let is_full = |worker: WorkerId| !self.may_have(choice, worker);
        let may_be_sent = match choice {
            Choice::ByRoom => {
                slots.sort_by_key(|(_, worker)| worker.is_none_or(is_full));
                true
            }
            Choice::ByAddress => !slots.iter().find_map(|(_, worker)| *worker).is_some_and(is_full),
        };
        connection.candidates = slots.into_iter().map(|(slot, _)| slot).collect();
        may_be_sent
    }

    /// A connection was sent to this worker, under this number.
    pub fn sent(&mut self, number: u64, worker: WorkerId, connection: Connection<C>) {
        *self.unanswered.entry(worker).or_default() += 1;
        self.pending.insert(number, Pending { worker, connection });
    }

    /// No worker can have the connection now.
    pub fn keep(&mut self, connection: Connection<C>) {
        self.unplaced.push_back(connection);
    }

    /// The connection that has waited longest for a worker.
    pub fn next_unplaced(&mut self, now: Tick) -> Option<Unplaced<C>> {
        let kept = self.unplaced.pop_front()?;
        let is_over = kept.origin.refusals >= REFUSALS || kept.origin.until <= now;
        Some(match is_over {
            true => Unplaced::Over(kept.socket),
            false => Unplaced::Again(kept),
        })
    }

    /// A worker has accepted connection `number`, or refused it. Numbers are easy to guess: one that is another worker's means nothing.
    pub fn handle_answer(&mut self, worker: WorkerId, number: u64, accepted: bool) -> Answer<C> {
        let is_its = self
            .pending
            .get(&number)
            .is_some_and(|pending| pending.worker == worker);
        let Some(Pending { mut connection, .. }) = is_its.then(|| self.take(number)).flatten() else {
            return Answer::Unknown;
        };
        if accepted {
            return Answer::Arrived {
                socket: connection.socket,
                counted: connection.origin.counted,
            };
        }
        connection.origin.refusals += 1;
        Answer::Refused(connection)
    }

    /// A worker is gone: what it had not accepted waits for others. A connection that it has read from (`is_read`) belongs to it, even if its
    /// acknowledgement was lost with it: no other worker would ever see that request, and its client would wait for nothing.
    pub fn handle_gone(&mut self, worker: WorkerId, is_read: impl Fn(&C) -> bool) {
        let of = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.worker == worker);
        let numbers: Vec<u64> = of.map(|(number, _)| *number).collect();
        for number in numbers {
            self.release(number, &is_read);
        }
    }

    /// Connection `number` has no worker any more, and waits for another one, unless its worker has read from it.
    pub fn release(&mut self, number: u64, is_read: impl Fn(&C) -> bool) {
        if let Some(pending) = self.take(number)
            && !is_read(&pending.connection.socket)
        {
            self.unplaced.push_back(pending.connection);
        }
    }

    fn take(&mut self, number: u64) -> Option<Pending<C>> {
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
