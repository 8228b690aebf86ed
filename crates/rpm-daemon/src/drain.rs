//! Draining: a worker that is out of steering serves what it has, and only then is asked to end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rpm_agent::ToAgent;
use rpm_core::WorkerId;
use rpm_core::protocol::Input;
use rpm_sys::sock_diag;

use crate::app::Plane;
use crate::supervisor::Supervisor;

/// Between two looks at what a draining worker still has.
pub(crate) const LOOK: Duration = Duration::from_millis(25);
/// A worker that does not acknowledge goes to the signal path.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(1);
/// A handshake that began before the slot left steering has ended by then, its first retransmissions included.
const HANDSHAKES_WITHIN: Duration = Duration::from_millis(3500);
/// Before its deadline, what a worker will not end by itself is closed politely.
const CLOSE_BEFORE: Duration = Duration::from_millis(200);

/// The workers that are being drained.
#[derive(Default)]
pub(crate) struct Drains {
    running: BTreeMap<WorkerId, Drain>,
    pub(crate) due: Option<Instant>,
}

struct Drain {
    since: Instant,
    deadline: Instant,
    witness: Witness,
    /// No handshake was half-open on its ports at some moment since.
    settled: bool,
    closing: bool,
}

/// Who says what a draining worker still has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Witness {
    /// Its agent, which has not acknowledged yet.
    Expected,
    /// Its agent.
    Agent,
    /// The kernel's socket table: the program has no agent.
    Kernel,
}

impl Drains {
    /// Until when the worker may take, if it is being drained.
    pub(crate) fn left(&self, worker: WorkerId) -> Option<Duration> {
        self.running
            .get(&worker)
            .map(|drain| drain.deadline.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn end(&mut self, worker: WorkerId) {
        self.running.remove(&worker);
        if self.running.is_empty() {
            self.due = None;
        }
    }
}

impl Supervisor {
    pub(crate) fn begin_drain(&mut self, worker: WorkerId) {
        let Some(held) = self.workers.get(&worker) else {
            return;
        };
        let (plane, within) = (held.plane, crate::app::drain_timeout(&held.spec));
        let deadline_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let witness = match plane {
            Plane::Cluster if self.tell(worker, ToAgent::Drain { deadline_ms }) => Witness::Expected,
            Plane::Cluster | Plane::Fork => return self.input(Input::DrainFailed { worker }),
            Plane::Passed | Plane::Copies => Witness::Kernel,
        };
        let since = Instant::now();
        let drain = Drain {
            since,
            deadline: since + within,
            witness,
            settled: false,
            closing: false,
        };
        self.drains.running.insert(worker, drain);
        self.drains.due = Some(since + LOOK);
    }

    pub(crate) fn drain_acknowledged(&mut self, worker: WorkerId) {
        if let Some(drain) = self.drains.running.get_mut(&worker) {
            drain.witness = Witness::Agent;
        }
    }

    /// Looks at every draining worker.
    pub(crate) fn look_at_drains(&mut self) {
        let workers: Vec<WorkerId> = self.drains.running.keys().copied().collect();
        for worker in workers {
            self.look_at_drain(worker);
        }
        self.drains.due = (!self.drains.running.is_empty()).then(|| Instant::now() + LOOK);
    }

    /// No connection is left, by the word of who knows.
    fn serves_nothing(&self, worker: WorkerId) -> bool {
        match self.drains.running.get(&worker).map(|drain| drain.witness) {
            Some(Witness::Agent) => {
                let open = self.agents.get(&worker).and_then(|agent| agent.open);
                open.is_some_and(|open| open.connections == 0)
            }
            Some(Witness::Kernel) => self.established(worker) == 0,
            Some(Witness::Expected) | None => false,
        }
    }

    fn look_at_drain(&mut self, worker: WorkerId) {
        let ports = self.listeners.ports_of(worker);
        let idle = self.listeners.queued(worker) == 0 && self.serves_nothing(worker);
        let Some(drain) = self.drains.running.get_mut(&worker) else {
            return;
        };
        let now = Instant::now();
        if drain.witness == Witness::Expected {
            if now.saturating_duration_since(drain.since) >= ACKNOWLEDGE_WITHIN {
                self.drains.end(worker);
                self.input(Input::DrainFailed { worker });
            }
            return;
        }
        drain.settled |= now.saturating_duration_since(drain.since) >= HANDSHAKES_WITHIN
            || ports
                .iter()
                .all(|port| sock_diag::half_open(*port).is_ok_and(|count| count == 0));
        if drain.settled && idle {
            self.drains.end(worker);
            return self.input(Input::Drained { worker });
        }
        if !drain.closing && now + CLOSE_BEFORE >= drain.deadline {
            drain.closing = true;
            self.tell(worker, ToAgent::Close {});
        }
    }
}
