//! What changes the apps: requests of clients, and what is done without being asked, become commands of the core.

pub(crate) mod apply;
pub(crate) mod automatic;
pub(crate) mod check;
pub(crate) mod commands;
pub(crate) mod observe;
pub(crate) mod reload;
pub(crate) mod targets;
pub(crate) mod tickets;

use std::time::Instant;

use rpm_core::protocol::{Command, Input, Outcome};
use rpm_core::{AppId, Core, InstanceId, Tick};
use rpm_listen::Listeners;
use rpm_wire::api::{
    Action, ActionRequest, ApiError, ApplyRequest, ObserveRequest, ReloadRequest, RollbackRequest,
    ScaleRequest, StartRequest,
};
use rpm_wire::events::What;
use tokio::sync::oneshot;

use crate::apps::app::Apps;
use crate::apps::catalog::Catalog;
use crate::events::Journal;
use crate::events::subject::{Facts, Of};
use crate::home::Home;
use crate::orders::tickets::Tickets;
use crate::os::memory::PutAway;
use crate::persist::state::Store;
use crate::sockets::interception::Interception;
use crate::upkeep::Upkeep;
use crate::workers::sampling::room_for;
use crate::workers::worker::Workers;

/// A request that changes apps.
pub(crate) enum Change {
    Start(Box<StartRequest>),
    Act(ActionRequest),
    Apply(ApplyRequest),
    Scale(ScaleRequest),
    Reload(ReloadRequest),
    Rollback(RollbackRequest),
    Observe(ObserveRequest),
}

impl Change {
    /// Does it start workers?
    pub(crate) fn starts(&self) -> bool {
        match self {
            Change::Act(request) => match request.action {
                Action::Restart => true,
                Action::Stop | Action::Delete => false,
            },
            Change::Start(_)
            | Change::Apply(_)
            | Change::Scale(_)
            | Change::Reload(_)
            | Change::Rollback(_) => true,
            Change::Observe(request) => request.observe.is_some(),
        }
    }
}

/// A request that was understood: what it concerns, and its outcome to come.
pub(crate) struct Accepted {
    pub(crate) outcome: oneshot::Receiver<Outcome>,
    pub(crate) instances: Vec<InstanceId>,
    pub(crate) notes: Vec<String>,
    /// When it is done, all instances of this app are concerned, those that have come by then too.
    pub(crate) whole: Option<AppId>,
}

/// What is needed to give the core commands: lent by the supervisor for one request. What the core wants done for it is done at the end of the
/// step.
pub(crate) struct Orders<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) apps: &'a mut Apps,
    pub(crate) next_app: &'a mut u32,
    pub(crate) tickets: &'a mut Tickets,
    pub(crate) store: &'a mut Store,
    pub(crate) now: Tick,
    pub(crate) workers: &'a Workers,
    pub(crate) listeners: &'a Listeners,
    pub(crate) interception: &'a mut Interception,
    pub(crate) upkeep: &'a mut Upkeep,
    pub(crate) put_away: &'a mut PutAway,
    pub(crate) journal: &'a mut Journal,
    pub(crate) home: &'a Home,
}

impl Orders<'_> {
    /// Carries out a change, whose parts are put in `accepted`.
    ///
    /// # Errors
    /// It cannot be, or not as a whole: what is in `accepted` goes on.
    pub(crate) fn change(&mut self, change: Change, accepted: &mut Vec<Accepted>) -> Result<(), ApiError> {
        match change {
            Change::Start(request) => accepted.push(self.start(*request)?),
            Change::Act(request) => accepted.extend(self.act(&request)?),
            Change::Apply(request) => self.apply(request, accepted)?,
            Change::Scale(request) => accepted.push(self.scale(&request)?),
            Change::Reload(request) => accepted.extend(self.reload(&request)?),
            Change::Rollback(request) => accepted.push(self.rollback(&request)?),
            Change::Observe(request) => accepted.push(self.observe(&request)?),
        }
        Ok(())
    }

    /// Gives the core a command; the receiver resolves when it is settled.
    pub(crate) fn command(&mut self, command: Command) -> oneshot::Receiver<Outcome> {
        let ticket = self.tickets.issue();
        self.journal.closes |= command == Command::Shutdown;
        if let Command::Reload {
            app,
            config: Some(config),
            ..
        } = &command
        {
            self.tickets.note_reload(*app, config.revision, ticket);
        }
        if let Command::Reload { app, .. } | Command::Replace { app, .. } = &command {
            let workers = room_for(*app, self.workers);
            self.input(Input::Room { app: *app, workers });
        }
        let outcome = self.tickets.wait_for(ticket);
        self.input(Input::Command { ticket, command });
        outcome
    }

    /// Something happened to an app or an instance.
    fn report(&mut self, of: Of, what: What) {
        let facts = Facts {
            core: self.core,
            apps: self.apps,
            workers: self.workers,
            listeners: self.listeners,
        };
        self.journal.tell(&facts, of, what);
    }

    /// What is there, and what it is called.
    pub(crate) fn catalog(&self) -> Catalog<'_> {
        Catalog::new(self.core, self.apps)
    }

    /// Apps have changed: what is done for them without being asked is looked at again.
    fn apps_have_changed(&mut self) {
        self.upkeep.outdate();
        self.put_away.soon(Instant::now());
    }

    fn input(&mut self, input: Input) {
        self.store.changed();
        self.core.handle(input, self.now);
    }
}
