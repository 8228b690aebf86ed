//! Connections that the daemon hands to a worker one by one (`newconn`), where the kernel cannot move a
//! queue. A connection is kept until its worker has accepted it; if the worker refuses it or dies first,
//! another one gets it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rpm_core::{SlotId, WorkerId};
use rpm_wire::channel;
use tracing::warn;

use crate::channel::Outgoing;
use crate::supervisor::Supervisor;
use crate::worker::Awaiting;

/// Connections that are on their way; one more is closed.
const LIMIT: usize = 4096;

/// Connections that are on their way to a worker.
#[derive(Default)]
pub(crate) struct Handoffs {
    next: u64,
    pending: BTreeMap<u64, Pending>,
    turn: usize,
}

struct Pending {
    connection: OwnedFd,
    worker: WorkerId,
    /// Where else it may go.
    others: Vec<SlotId>,
}

impl Handoffs {
    /// For a connection that nobody keeps track of.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
}

impl Supervisor {
    /// Gives a connection to one of the workers behind these slots.
    pub(crate) fn hand_over_one(&mut self, connection: OwnedFd, to: &[SlotId]) {
        if self.handoffs.pending.len() >= LIMIT {
            warn!(
                limit = LIMIT,
                "too many connections are being handed over; one is closed"
            );
            return;
        }
        self.handoffs.turn = self.handoffs.turn.wrapping_add(1);
        let mut candidates = to.to_vec();
        if !candidates.is_empty() {
            let first = self.handoffs.turn % candidates.len();
            candidates.rotate_left(first);
        }
        self.try_next(connection, candidates);
    }

    fn try_next(&mut self, connection: OwnedFd, mut candidates: Vec<SlotId>) {
        while !candidates.is_empty() {
            let slot = candidates.remove(0);
            let Some(worker) = self.listeners.holder(slot) else {
                continue;
            };
            let Some(key) = self.listeners.key_of(slot).map(|(_, key)| key.to_owned()) else {
                continue;
            };
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
                self.handoffs.pending.insert(
                    number,
                    Pending {
                        connection,
                        worker,
                        others: candidates,
                    },
                );
                return;
            }
        }
        warn!("no worker could take a connection; it is closed");
    }

    /// The worker has accepted connection `number`, or refused it.
    pub(crate) fn handed(&mut self, number: u64, accepted: bool) {
        if let Some(pending) = self.handoffs.pending.remove(&number)
            && !accepted
        {
            self.try_next(pending.connection, pending.others);
        }
    }

    /// The worker is gone: what it had not accepted goes to others.
    pub(crate) fn retake(&mut self, worker: WorkerId) {
        let numbers: Vec<u64> = self
            .handoffs
            .pending
            .iter()
            .filter(|(_, p)| p.worker == worker)
            .map(|(n, _)| *n)
            .collect();
        for number in numbers {
            self.handed(number, false);
        }
    }
}
