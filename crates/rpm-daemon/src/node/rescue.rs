//! Moving connections away from a worker that does not accept them.

use rpm_core::{SlotId, WorkerId};
use rpm_listen::Rescued;
use rpm_sys::tree;
use tracing::{info, warn};

use crate::apps::catalog::Catalog;
use crate::apps::delivery::Delivery;
use crate::node::handoff::{self, Handoffs};
use crate::sockets::ports::Ports;
use crate::workers::worker::Worker;

/// What a rescue concerns: lent by the supervisor for one.
pub(crate) struct Rescuing<'a> {
    pub(crate) ports: Ports<'a>,
    pub(crate) handoffs: &'a mut Handoffs,
}

impl Rescuing<'_> {
    /// Moves what waits at a slot to these. How many connections were moved.
    pub(crate) fn rescue(&mut self, slot: SlotId, holder: Option<WorkerId>, to: &[SlotId]) -> u64 {
        let count = self.moved(slot, holder, to);
        // A busy worker's slot comes and goes unseen; connections that had to be moved are worth a line.
        if count > 0 {
            info!(%slot, count, "moved connections that a worker did not accept to others");
        }
        count
    }

    fn moved(&mut self, slot: SlotId, holder: Option<WorkerId>, to: &[SlotId]) -> u64 {
        if let Some(worker) = holder
            && self.ports.listeners.is_captured(slot)
            && !self.ports.closed_among(vec![slot], worker).is_empty()
        {
            // The program has closed its listener, which it tells nobody: nobody will ever accept there.
            self.ports.release_slot(slot, worker);
            return 0;
        }
        if let Some(worker) = holder.filter(|_| self.ports.listeners.is_handoff(slot)) {
            let held = self.ports.workers.get_mut(&worker);
            return held.map_or(0, |held| self.handoffs.take_back_unsent(held) as u64);
        }
        let migrates = self.ports.listeners.can_migrate(slot);
        if !migrates && !self.takes_connections(slot) {
            return 0;
        }
        let processes = holder
            .filter(|_| migrates)
            .and_then(|worker| self.ports.workers.get(&worker))
            .map(Worker::slot_holders)
            .unwrap_or_default();
        // While a program runs it would see EINVAL from the moment of the shutdown.
        let frozen: Result<Vec<_>, _> = processes.iter().map(|process| tree::freeze(process)).collect();
        let rescued = match frozen {
            Ok(_held) => self.ports.listeners.rescue(slot, to),
            Err(error) => {
                warn!(%slot, %error, "cannot stop a worker to move its queue");
                return 0;
            }
        };
        match rescued {
            Ok(Rescued::Moved(count)) => u64::from(count),
            Ok(Rescued::Taken(fds)) => {
                let count = fds.len() as u64;
                let mut context = handoff::Context {
                    now: self.ports.now,
                    listeners: self.ports.listeners,
                    workers: self.ports.workers,
                };
                for connection in fds {
                    self.handoffs.pass(&mut context, connection, to);
                }
                count
            }
            Err(error) => {
                warn!(%slot, %error, "cannot move a queue");
                0
            }
        }
    }

    /// Whether the workers behind the slot can be handed single connections.
    fn takes_connections(&self, slot: SlotId) -> bool {
        let app = self.ports.listeners.key_of(slot).map(|(app, _)| app);
        let catalog = Catalog::new(self.ports.core, self.ports.apps);
        app.and_then(|app| catalog.delivery(app))
            .is_some_and(Delivery::may_be_handed)
            && !self.ports.listeners.is_captured(slot)
    }
}
