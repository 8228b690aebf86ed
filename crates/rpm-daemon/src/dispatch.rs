//! Requests of other tasks: each is carried out by the room that it concerns, and answered.

use std::path::PathBuf;

use rpm_core::protocol::{Command, Input};
use rpm_wire::api::{Action, ApiError};

use crate::apps::commands::Accepted;
use crate::inbox::{Begun, Change, Fresh, HandOn, Look, Request};
use crate::proxy::fronts::Parting;
use crate::supervisor::Supervisor;
use crate::workers::health::HealthEvent;

impl Change {
    /// Does it start workers?
    fn starts(&self) -> bool {
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
        }
    }
}

impl Supervisor {
    /// Carries out a request and answers it.
    pub(crate) fn on_request(&mut self, request: Request) {
        match request {
            Request::Change(change, reply) => reply.send(self.begin(change)),
            Request::ScaleTo(app, count, reply) => reply.send(self.command(Command::Scale { app, count })),
            Request::AwaitLeavers(instances, reply) => {
                let apps = self.catalog().apps_of(&instances);
                reply.send(self.leavers_gone(apps));
            }
            Request::Reset(request, reply) => reply.send(self.reset(&request.targets)),
            Request::Signal(request, reply) => reply.send(self.signal(&request.targets, &request.signal)),
            Request::SendLine(request, reply) => reply.send(self.send_line(&request)),
            Request::SendMessage(request, reply) => reply.send(self.send_message(&request)),
            Request::Subscribe(reply) => reply.send(self.subscribers.subscribe()),
            Request::Trigger(request, reply) => reply.send(self.trigger(&request)),
            Request::ProbeInterception(reply) => {
                self.interception.probe();
                reply.send(self.interception.denied().map(str::to_owned));
            }
            Request::PrepareUpdate(reply) => reply.send(self.prepare_update()),
            Request::Part(parting, reply) => {
                self.fronts.part(parting);
                reply.send(self.fronts.reached());
            }
            Request::HandOn(to, reply) => reply.send(self.try_hand_on(&to)),
            Request::Shutdown(reply) => reply.send(self.command(Command::Shutdown)),
        }
    }

    /// Answers a question.
    pub(crate) fn on_look(&mut self, look: Look) {
        match look.fresh {
            Fresh::Stored => {}
            Fresh::Usage => self.sampling.sample_usage(&mut self.workers),
            Fresh::All => self.sample(),
        }
        (look.at)(self.view());
    }

    /// The health check of a worker needs something, or has an outcome.
    pub(crate) fn on_health(&mut self, event: HealthEvent) {
        match event {
            // One that asks may have ended since.
            HealthEvent::WhereIs(worker, reply) => drop(reply.send(self.own_address(worker))),
            HealthEvent::Give(worker, connection, reply) => drop(reply.send(self.give(worker, connection))),
            HealthEvent::Unhealthy(worker, why) => {
                // One that was told to end cuts what it is asked: that is not why it was told.
                let launching = self.core.worker(worker).is_some_and(|view| view.launching);
                if let Some(held) = self.workers.get_mut(&worker).filter(|_| launching) {
                    held.trouble = Some(why);
                }
            }
            HealthEvent::Healthy(worker) => {
                if let Some(held) = self.workers.get_mut(&worker) {
                    held.trouble = None;
                }
                self.input(Input::Healthy { worker });
            }
        }
    }

    /// Begins a change.
    ///
    /// # Errors
    /// It cannot be, or what it starts cannot be stored.
    fn begin(&mut self, change: Change) -> Result<Begun, ApiError> {
        let mut watcher = self.steps.watch();
        if change.starts() {
            self.can_store()?;
        }
        let accepted = self.change_apps(change)?;
        watcher.apps = accepted
            .iter()
            .flat_map(|one| self.catalog().apps_of(&one.instances))
            .collect();
        Ok(Begun { accepted, watcher })
    }

    fn change_apps(&mut self, change: Change) -> Result<Vec<Accepted>, ApiError> {
        match change {
            Change::Start(request) => Ok(vec![self.start(request)?]),
            Change::Act(request) => self.together(|it| it.act(&request)),
            Change::Apply(request) => self.together(|it| it.apply(request)),
            Change::Scale(request) => Ok(vec![self.scale(&request)?]),
            Change::Reload(request) => self.together(|it| it.reload(&request)),
            Change::Rollback(request) => Ok(vec![self.rollback(&request)?]),
        }
    }

    fn prepare_update(&mut self) -> Result<PathBuf, ApiError> {
        self.nothing_begun()?;
        self.store.changed();
        self.store(true);
        Ok(self.home.root().to_owned())
    }

    /// As [`Supervisor::hand_on`]; if it is refused the clients of the proxy stay.
    fn try_hand_on(&mut self, to: &HandOn) -> Option<ApiError> {
        // Connections wait in the backlog meanwhile.
        self.handoffs.pause(true);
        let refused = self.hand_on(&to.binary, to.anyway);
        self.handoffs.pause(refused.is_none());
        if refused.is_some() {
            self.fronts.part(Parting::Stays);
        }
        refused
    }
}
