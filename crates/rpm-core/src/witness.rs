//! Whether a draining worker has anything left: who says it, and when that is believed.
//!
//! [`Drains`] stands beside the core, as the [`QueueSampler`](crate::QueueSampler) does. The shell looks (at queues, at what agents report, at the
//! kernel's table of connections) and says what it has seen; this decides what must be looked at next, what an agent must be told, and when
//! [`Input::Drained`](crate::protocol::Input::Drained) or [`Input::DrainFailed`](crate::protocol::Input::DrainFailed) is true. How an agent
//! is spoken to and how the kernel is asked is the shell's business.
//!
//! An agent reports a change up to 20 ms late, or later if its event loop is busy, and the connection that was just taken from the queue
//! would be missed. So it is asked once more when the queue has been seen empty: what it reports after that answer counts everything that
//! was ever accepted.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::{Tick, WorkerId};

/// An agent whose event loop turns has answered by then. From then on, as often, the kernel is asked whether its worker has any connection:
/// one that has is waited for, and one that has none is asked to end.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// An agent that lost the daemon is back by then: it tries once a second.
pub const RETURN_WITHIN: Duration = Duration::from_secs(5);
/// A handshake that began before the slot left steering has ended by then, its first retransmissions included.
pub const HANDSHAKES_WITHIN: Duration = Duration::from_millis(3500);
/// Time between the ends of two workers whose sockets the shell cannot take back. When such a socket leaves its group, the kernel may choose
/// any of the group for a moment: none of the others may be about to go then.
pub const FOREIGN_PAUSE: Duration = Duration::from_secs(1);

/// Who says at first what a draining worker still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its agent, which was told to drain.
    Agent,
    /// Its agent, which has lost its connection and is about to come back.
    ReturningAgent,
    /// The kernel: the program has no agent.
    Kernel,
}

/// What is known of a worker that begins to drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Who says at first what it still has.
    pub source: Source,
    /// When this is over it is told to close what it still has.
    pub within: Duration,
    /// It has a socket that the shell cannot take back.
    pub foreign: bool,
}

/// What a look at a draining worker has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Connections that wait in its slots.
    pub queued: u32,
    /// A handshake may be half-open at one of its addresses.
    pub half_open: bool,
    /// Its connections, as its agents have reported since they last answered; `None`: not all have.
    pub reported: Option<u64>,
    /// Its connections, as the kernel counts them ([`Drains::to_look_at`]), which is done after its queues were looked at; `None`: the
    /// kernel does not say, which does not mean that there are none.
    pub counted: Option<u64>,
    /// Its last page of metrics is wanted, and was not read yet.
    pub page_due: bool,
}

/// What the shell has to do for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Look again.
    Wait,
    /// Tell its agents to drain, once more.
    TellToDrain {
        /// The time left.
        within: Duration,
    },
    /// Tell its agents to close what it still has: its time is over.
    TellToClose,
    /// Read its last page of metrics, if that was not begun: it has nothing left, and what it has counted would be lost with it.
    ReadPage,
    /// It has nothing left. It is not among the draining workers any more.
    Drained,
    /// It cannot drain, or nothing more can be done for it. Neither is it.
    Failed,
}

/// The draining workers.
#[derive(Debug, Default)]
pub struct Drains {
    running: BTreeMap<WorkerId, Drain>,
    /// Those that were told to refuse new clients, and whether they keep those that they have.
    refusing: BTreeMap<WorkerId, bool>,
    /// When a worker with a foreign socket was last let go.
    foreign_left: Option<Tick>,
}

#[derive(Debug)]
struct Drain {
    since: Tick,
    /// The agent should have answered by then.
    answer_by: Tick,
    deadline: Tick,
    witness: Witness,
    /// At some moment since it began no handshake was half-open.
    settled: bool,
    /// Its agent was told to close.
    closing: bool,
    foreign: bool,
}

/// Who says what a draining worker still has, and how fresh its word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Witness {
    /// Its agent, which has not answered yet.
    Expected,
    /// Its agent, by its last report.
    Agent,
    /// Its agent, which was asked again and has not answered.
    Asked,
    /// Its agent, by reports made since it answered.
    Answered,
    /// The kernel.
    Kernel,
}

/// What follows for a worker whose queue is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Wait(Witness),
    Ask,
    Drained,
}

impl Witness {
    /// `left`: connections of the worker by this witness; `None` if it has not said.
    fn judge(self, left: Option<u64>) -> Verdict {
        match (self, left) {
            (Witness::Agent, Some(0)) => Verdict::Ask,
            (Witness::Answered | Witness::Kernel, Some(0)) => Verdict::Drained,
            (Witness::Answered, Some(_)) => Verdict::Wait(Witness::Agent),
            (
                Witness::Expected | Witness::Agent | Witness::Asked | Witness::Answered | Witness::Kernel,
                _,
            ) => Verdict::Wait(self),
        }
    }
}

impl Drain {
    /// True if the kernel says what its worker still has, or its agent has been silent for too long.
    fn asks_kernel(&self, now: Tick) -> bool {
        match self.witness {
            Witness::Kernel => true,
            Witness::Expected => now >= self.answer_by,
            Witness::Agent | Witness::Asked | Witness::Answered => false,
        }
    }

    fn tell_to_drain(&self, now: Tick) -> Action {
        Action::TellToDrain {
            within: self.deadline - now,
        }
    }

    fn look(&mut self, seen: &Seen, now: Tick) -> Action {
        if self.witness == Witness::Expected {
            return self.look_at_silent(seen, now);
        }
        self.settled = self.settled || now - self.since >= HANDSHAKES_WITHIN || !seen.half_open;
        let closes = !self.closing && now >= self.deadline;
        self.closing |= closes;
        if closes && self.witness == Witness::Kernel {
            return Action::Failed;
        }
        if !self.settled || seen.queued > 0 {
            return if closes { Action::TellToClose } else { Action::Wait };
        }
        let left = match self.witness {
            Witness::Kernel => seen.counted,
            Witness::Expected | Witness::Agent | Witness::Asked | Witness::Answered => seen.reported,
        };
        match self.witness.judge(left) {
            Verdict::Drained => return Action::Drained,
            Verdict::Wait(witness) => self.witness = witness,
            // It is asked at the next look.
            Verdict::Ask if closes => {}
            Verdict::Ask => {
                self.witness = Witness::Asked;
                return self.tell_to_drain(now);
            }
        }
        if closes { Action::TellToClose } else { Action::Wait }
    }

    /// Its agent has not answered. That its event loop is busy does not mean that no client waits for it: as long as it has connections it
    /// has its time.
    fn look_at_silent(&mut self, seen: &Seen, now: Tick) -> Action {
        if !self.asks_kernel(now) {
            return Action::Wait;
        }
        self.answer_by = now + ANSWER_WITHIN;
        // What the kernel does not say is taken for some.
        let has_clients = seen.queued > 0 || seen.counted != Some(0);
        if now >= self.deadline || !has_clients {
            Action::Failed
        } else {
            Action::Wait
        }
    }
}

impl Drains {
    /// No worker drains.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// A worker begins to drain.
    pub fn begin(&mut self, worker: WorkerId, start: &Start, now: Tick) {
        let (witness, patience) = match start.source {
            Source::Agent => (Witness::Expected, ANSWER_WITHIN),
            Source::ReturningAgent => (Witness::Expected, RETURN_WITHIN),
            Source::Kernel => (Witness::Kernel, Duration::ZERO),
        };
        let drain = Drain {
            since: now,
            answer_by: now + patience,
            deadline: now + start.within,
            witness,
            settled: false,
            closing: false,
            foreign: start.foreign,
        };
        self.running.insert(worker, drain);
    }

    /// A worker does not drain any more.
    pub fn end(&mut self, worker: WorkerId) {
        self.running.remove(&worker);
    }

    /// A draining worker is to refuse new clients. False if it does not drain: that has failed already, and was said.
    pub fn refuse(&mut self, worker: WorkerId, keeps: bool) -> bool {
        let drains = self.running.contains_key(&worker);
        if drains {
            self.refusing.insert(worker, keeps);
        }
        drains
    }

    /// Whether a worker that was told to refuse new clients keeps those that it has; `None`: it was not told.
    #[must_use]
    pub fn refuses(&self, worker: WorkerId) -> Option<bool> {
        self.refusing.get(&worker).copied()
    }

    /// A worker may end by itself. False if it never was to refuse new clients.
    pub fn release(&mut self, worker: WorkerId) -> bool {
        self.refusing.remove(&worker).is_some()
    }

    /// The workers to look at, and whether the kernel must count the connections of each.
    pub fn to_look_at(&self, now: Tick) -> impl Iterator<Item = (WorkerId, bool)> + '_ {
        let each = self.running.iter();
        each.map(move |(worker, drain)| (*worker, drain.asks_kernel(now)))
    }

    /// True if the look must tell about half-open handshakes.
    #[must_use]
    pub fn awaits_handshakes(&self) -> bool {
        self.running.values().any(|drain| !drain.settled)
    }

    /// A look at all was begun at `now`, and this was seen of one.
    pub fn handle_look(&mut self, worker: WorkerId, seen: &Seen, now: Tick) -> Action {
        let Some(drain) = self.running.get_mut(&worker) else {
            return Action::Wait;
        };
        let (foreign, action) = (drain.foreign, drain.look(seen, now));
        match action {
            // One that refuses clients takes no request for its page either.
            Action::Drained if seen.page_due && self.refuses(worker).is_none() => Action::ReadPage,
            Action::Drained if foreign && self.waits_for_others(worker, now) => Action::Wait,
            Action::Drained | Action::Failed => {
                self.end(worker);
                action
            }
            Action::Wait | Action::TellToDrain { .. } | Action::TellToClose | Action::ReadPage => action,
        }
    }

    /// An agent of a worker has connected. An answer that was awaited on an old connection does not come any more, and it may not have heard
    /// that it drains: it may be that of a process that was started since.
    pub fn handle_connected(&mut self, worker: WorkerId, now: Tick) -> Action {
        let Some(drain) = self.running.get_mut(&worker) else {
            return Action::Wait;
        };
        match drain.witness {
            Witness::Asked | Witness::Answered => drain.witness = Witness::Agent,
            Witness::Expected | Witness::Agent => {}
            Witness::Kernel => return Action::Wait,
        }
        drain.tell_to_drain(now)
    }

    /// All agents of a worker have answered that they drain; `count`: they report its connections.
    pub fn handle_answer(&mut self, worker: WorkerId, count: bool) {
        if let Some(drain) = self.running.get_mut(&worker) {
            drain.witness = match drain.witness {
                _ if !count => Witness::Kernel,
                Witness::Asked => Witness::Answered,
                Witness::Expected | Witness::Agent | Witness::Answered | Witness::Kernel => Witness::Agent,
            };
        }
    }

    /// No agent of a worker could be told what [`Drains::handle_look`] said. If it is connected again it reports unasked, and the deadline
    /// stands; but there is no one else to close anything.
    pub fn handle_untold(&mut self, worker: WorkerId, action: Action) -> Action {
        match action {
            Action::TellToClose => {
                self.end(worker);
                Action::Failed
            }
            Action::TellToDrain { .. } => {
                if let Some(drain) = self.running.get_mut(&worker)
                    && drain.witness == Witness::Asked
                {
                    drain.witness = Witness::Agent;
                }
                Action::Wait
            }
            Action::Wait | Action::ReadPage | Action::Drained | Action::Failed => Action::Wait,
        }
    }

    /// True if a worker with a foreign socket must not end yet ([`FOREIGN_PAUSE`]).
    fn waits_for_others(&mut self, worker: WorkerId, now: Tick) -> bool {
        // One that refuses new clients has closed its listeners already.
        if self.refusing.contains_key(&worker) {
            return false;
        }
        let waits = self.foreign_left.is_some_and(|last| now - last < FOREIGN_PAUSE);
        if !waits {
            self.foreign_left = Some(now);
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_report_of_nothing_is_not_believed() {
        assert_eq!(Witness::Agent.judge(Some(0)), Verdict::Ask);
        assert_eq!(Witness::Asked.judge(Some(0)), Verdict::Wait(Witness::Asked));
        assert_eq!(Witness::Answered.judge(None), Verdict::Wait(Witness::Answered));
        assert_eq!(Witness::Answered.judge(Some(0)), Verdict::Drained);
    }

    #[test]
    fn a_connection_that_shows_up_late_begins_it_again() {
        assert_eq!(Witness::Answered.judge(Some(1)), Verdict::Wait(Witness::Agent));
        assert_eq!(Witness::Agent.judge(Some(1)), Verdict::Wait(Witness::Agent));
        assert_eq!(Witness::Agent.judge(None), Verdict::Wait(Witness::Agent));
    }

    #[test]
    fn the_kernel_is_believed_at_once_and_an_agent_must_answer_first() {
        assert_eq!(Witness::Kernel.judge(Some(0)), Verdict::Drained);
        assert_eq!(Witness::Kernel.judge(Some(2)), Verdict::Wait(Witness::Kernel));
        assert_eq!(Witness::Expected.judge(Some(0)), Verdict::Wait(Witness::Expected));
    }
}
