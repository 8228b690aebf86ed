//! Requests of other tasks: each is carried out by the room that it concerns, and answered. What the core wants done for it is done at the end of
//! the step.

use std::time::Instant;

use rpm_core::InstanceId;
use rpm_core::protocol::Command;
use rpm_wire::api::{ApiError, ChangeReply};

use super::Supervisor;
use super::takeover::nothing_begun;
use crate::inbox::{Asked, Begun, Fresh, Look, Request};
use crate::node::actions::send_line;
use crate::node::messages;
use crate::orders::Change;
use crate::orders::targets::{process_of, signal, workers_of};
use crate::processes::pages;
use crate::proxy::fronts::Parting;

impl Supervisor {
    /// Carries out a request and answers it.
    pub(super) fn on_request(&mut self, request: Request) {
        match request {
            Request::Change(change, reply) => reply.send(self.begin(change)),
            Request::AwaitLeavers(instances, reply) => {
                let apps = self.catalog().apps_of(&instances);
                reply.send(self.leavers.wait(apps));
            }
            Request::Reset(request, reply) => {
                let reset = self.orders().reset(&request.targets);
                reply.send(reset.map(|instances| self.shown(&instances, Vec::new())));
            }
            Request::Signal(request, reply) => {
                let sent = signal(self.catalog(), &self.workers, &request);
                reply.send(sent.map(|(instances, notes)| self.shown(&instances, notes)));
            }
            Request::SendLine(request, reply) => {
                let process = process_of(self.catalog(), &self.workers, &request.target);
                reply.send(process.and_then(|process| send_line(process, &request)));
            }
            Request::SendMessage(request, reply) => {
                let targets = workers_of(self.catalog(), &request.target);
                let send = |targets| messages::send(&request, targets, &mut self.workers);
                reply.send(targets.and_then(send));
            }
            Request::Subscribe(reply) => reply.send(self.subscribers.subscribe()),
            Request::Trigger(request, reply) => {
                let targets = workers_of(self.catalog(), &request.target);
                let call = |targets| self.actions.call(&request, targets, &mut self.workers);
                reply.send(targets.and_then(call));
            }
            Request::Scrape(reply) => reply.send(Asked {
                apps: pages::apps(self.catalog()),
                targets: pages::targets(&self.facts()),
                last: self.pages.ask(Instant::now()),
            }),
            Request::Give(worker, connection, reply) => {
                let places = (&self.listeners, &mut self.workers);
                reply.send(pages::give(places, &mut self.handoffs, worker, connection));
            }
            Request::AskPromClient(worker, reply) => {
                reply.send(self.questions.ask(worker, &mut self.workers));
            }
            Request::ProbeInterception(reply) => {
                self.interception.probe();
                reply.send(self.interception.denied().map(str::to_owned));
            }
            Request::PrepareUpdate(reply) => {
                let ready = nothing_begun(self.catalog());
                if ready.is_ok() {
                    self.store.changed();
                    self.write_state(true);
                }
                reply.send(ready.map(|()| self.home.root().to_owned()));
            }
            Request::Part(parting, reply) => {
                self.fronts.part(parting);
                reply.send(self.fronts.reached());
            }
            Request::HandOn(to, reply) => {
                // Connections wait in the backlog meanwhile.
                self.handoffs.pause(true);
                let refused = self.hand_on(&to);
                self.handoffs.pause(refused.is_none());
                if refused.is_some() {
                    self.fronts.part(Parting::Stays);
                }
                reply.send(refused);
            }
            Request::Shutdown(reply) => reply.send(self.orders().command(Command::Shutdown)),
        }
    }

    /// Answers a question.
    pub(super) fn on_look(&mut self, look: Look) {
        match look.fresh {
            Fresh::Stored => {}
            Fresh::Usage => self.sampling.sample_usage(&mut self.workers),
            Fresh::All => {
                self.sampling.sample_usage(&mut self.workers);
                self.sampling.count_connections(&self.listeners, &self.workers);
            }
        }
        (look.at)(self.view());
    }

    /// Begins a change.
    ///
    /// # Errors
    /// It cannot be, or what it starts cannot be stored.
    fn begin(&mut self, change: Change) -> Result<Begun, ApiError> {
        let mut watcher = self.steps.watch();
        if change.starts() {
            let (store, mut known) = self.stored();
            store.can_store(&mut known)?;
        }
        let mut accepted = Vec::new();
        let changed = self.orders().change(change, &mut accepted);
        watcher.apps = accepted
            .iter()
            .flat_map(|one| self.catalog().apps_of(&one.instances))
            .collect();
        changed?;
        Ok(Begun { accepted, watcher })
    }

    /// These instances as they are now.
    fn shown(&mut self, instances: &[InstanceId], notes: Vec<String>) -> ChangeReply {
        self.sampling.sample_usage(&mut self.workers);
        self.view().brief_change(instances, notes)
    }
}
