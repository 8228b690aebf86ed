//! Commands that were given to the core: who waits for their outcomes.

use std::collections::BTreeMap;

use rpm_core::protocol::Outcome;
use rpm_core::{AppId, Revision, Ticket};
use tokio::sync::oneshot;

/// The commands that are not settled yet.
#[derive(Default)]
pub(crate) struct Tickets {
    next: u64,
    waiting: BTreeMap<Ticket, oneshot::Sender<Outcome>>,
    /// The last reload of each app that one was asked for: what it goes to, and its ticket.
    reloads: BTreeMap<AppId, (Revision, Ticket)>,
}

impl Tickets {
    /// `next`: the first that was not issued before.
    pub(crate) fn from(next: u64) -> Tickets {
        Tickets {
            next,
            ..Tickets::default()
        }
    }

    /// The ticket that is issued next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn issue(&mut self) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        ticket
    }

    /// Whoever waited for it before does so no more.
    pub(crate) fn wait_for(&mut self, ticket: Ticket) -> oneshot::Receiver<Outcome> {
        let (done, outcome) = oneshot::channel();
        self.waiting.insert(ticket, done);
        outcome
    }

    /// The command is settled.
    pub(crate) fn settle(&mut self, ticket: Ticket, outcome: Outcome) {
        if let Some(waiting) = self.waiting.remove(&ticket) {
            // The requester may have disconnected.
            let _ = waiting.send(outcome);
        }
    }

    /// This is the ticket of a reload of the app to this revision.
    pub(crate) fn note_reload(&mut self, app: AppId, revision: Revision, ticket: Ticket) {
        self.reloads.insert(app, (revision, ticket));
    }

    /// The last reload of the app, if that goes to this revision, is not settled, and the requester has disconnected.
    pub(crate) fn abandoned_reload(&self, app: AppId, revision: Revision) -> Option<Ticket> {
        let (_, ticket) = *self.reloads.get(&app).filter(|(to, _)| *to == revision)?;
        self.waiting.get(&ticket)?.is_closed().then_some(ticket)
    }

    pub(crate) fn forget(&mut self, app: AppId) {
        self.reloads.remove(&app);
    }
}
