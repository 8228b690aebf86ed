//! What happens in one room and what it means for the others: the supervisor lends a room what it works with, and carries on what comes
//! out of it.

use std::os::fd::OwnedFd;

use rpm_core::protocol::Input;
use rpm_core::{AppId, InstanceId, SlotId, Tick, WorkerId};
use rpm_wire::api::{ApiError, MessageRequest, SendRequest, TriggerReply, TriggerRequest};
use rpm_wire::channel::{self, Dialect, FromWorker, Malformed};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::debug;

use crate::apps::catalog::Catalog;
use crate::drain::{self, Drains};
use crate::node::actions::send_line;
use crate::node::agents::{AgentEvent, NAMED_LIMIT, News};
use crate::node::cluster;
use crate::node::handoff::{self, Handoffs};
use crate::node::messages;
use crate::sockets::interception::{self, Intercepted};
use crate::sockets::ports::Ports;
use crate::supervisor::Supervisor;
use crate::view::View;
use crate::workers::starting::starved;
use crate::workers::worker::Awaiting;

impl Supervisor {
    /// Lends the drains what they go by, and tells the core what follows.
    pub(crate) fn drains<T>(&mut self, act: impl FnOnce(&mut Drains, &mut drain::Context<'_>) -> T) -> T {
        let mut context = drain::Context {
            agents: &mut self.agents,
            listeners: &mut self.listeners,
            workers: &self.workers,
            inputs: Vec::new(),
        };
        let made = act(&mut self.drains, &mut context);
        for input in context.inputs {
            self.input(input);
        }
        made
    }

    /// Something happened on the connection of a worker's agent.
    pub(crate) fn agent_event(&mut self, event: AgentEvent) {
        match self.agents.on_event(event, &mut self.workers) {
            Some(News::Arrived(worker)) => {
                self.store.changed();
                self.drains(|drains, context| drains.agent_arrived(context, worker));
            }
            Some(News::Drains(worker)) => self.drains.acknowledged(&self.agents, worker),
            Some(News::TooMany(worker)) => {
                let most = format!("more than {NAMED_LIMIT} processes name it");
                self.complaints.warn(worker, "an agent is not heard", &most);
            }
            None => {}
        }
    }

    /// The worker is gone: nobody speaks for it any more, and nothing of it drains.
    pub(crate) fn forget_agents(&mut self, worker: WorkerId) {
        self.agents.forget(worker);
        self.drains.end(worker);
        self.drains.release(&mut self.agents, worker);
    }

    /// Looks at the workers that start.
    pub(crate) fn look_at_starting(&mut self, now: Tick) {
        for input in starved(&self.core, &self.workers, now) {
            self.input(input);
        }
        for input in self.starting.look(&self.core, &self.workers) {
            self.input(input);
        }
    }

    /// Finds out what all workers use at this moment, as far as it was not found out a moment ago.
    pub(crate) fn sample(&mut self) {
        self.sampling.sample_usage(&mut self.workers);
        self.sampling.count_connections(&self.listeners, &self.workers);
    }

    /// Writes a line to the standard input of a process.
    pub(crate) fn send_line(&mut self, request: &SendRequest) -> Result<(), ApiError> {
        let ids = self.catalog().resolve(std::slice::from_ref(&request.target))?;
        let worker = ids.iter().find_map(|id| self.core.instance(*id)?.worker());
        let process = worker.and_then(|worker| self.workers.get(&worker)?.process());
        send_line(process, request)
    }

    /// Calls an action of the programs that a target means.
    pub(crate) fn trigger(
        &mut self,
        request: &TriggerRequest,
    ) -> Result<UnboundedReceiver<TriggerReply>, ApiError> {
        let targets = self.workers_of(&request.target)?;
        self.actions.call(request, targets, &mut self.workers)
    }

    /// Sends a message to the programs that a target means.
    pub(crate) fn send_message(&mut self, request: &MessageRequest) -> Result<(), ApiError> {
        let targets = self.workers_of(&request.target)?;
        messages::send(request, targets, &mut self.workers)
    }

    /// The workers that a target means and that run.
    fn workers_of(&self, target: &str) -> Result<Vec<WorkerId>, ApiError> {
        let ids = self.catalog().resolve(&[target.to_owned()])?;
        let worker = |id: InstanceId| self.core.instance(id)?.worker();
        Ok(ids.into_iter().filter_map(worker).collect())
    }

    /// Passes on the connections that the daemon accepts itself.
    pub(crate) fn accept_handoffs(&mut self) {
        let (handoffs, mut context) = self.handoffs();
        if handoffs.accept(&mut context) {
            self.sampler.traffic(self.now());
        }
    }

    /// Passes each connection to a worker behind one of these slots.
    pub(crate) fn hand_over(&mut self, connections: impl IntoIterator<Item = OwnedFd>, to: &[SlotId]) {
        let (handoffs, mut context) = self.handoffs();
        for connection in connections {
            handoffs.pass(&mut context, connection, to);
        }
    }

    /// A worker has accepted a connection, or refused it.
    pub(crate) fn handoff_answered(&mut self, number: u64, accepted: bool) {
        let (handoffs, mut context) = self.handoffs();
        handoffs.answered(&mut context, number, accepted);
    }

    fn handoffs(&mut self) -> (&mut Handoffs, handoff::Context<'_>) {
        let context = handoff::Context {
            listeners: &mut self.listeners,
            workers: &mut self.workers,
        };
        (&mut self.handoffs, context)
    }

    /// What a worker says over its channel.
    pub(crate) fn message(&mut self, worker: WorkerId, message: Result<FromWorker, Malformed>) {
        let message = match message {
            Ok(message) => message,
            Err(error) => return cluster::malformed(&mut self.ports(), worker, &error),
        };
        match message {
            FromWorker::Online => debug!(%worker, "the worker's runtime is up"),
            FromWorker::QueryServer(query) => cluster::query_server(&mut self.ports(), worker, query),
            FromWorker::Listening { .. } => {
                // Where no call is intercepted it has set its own backlog.
                for slot in self.listeners.slots_of(worker) {
                    self.listeners.listen_private(slot);
                }
                self.input(Input::Listening { worker });
                // Whoever has answered once is known to understand: later silence then means a frozen loop.
                self.probe(worker);
            }
            FromWorker::Close { key, .. } => cluster::closed(&mut self.ports(), worker, &key),
            FromWorker::ExitedAfterDisconnect { seq } => {
                self.send(worker, channel::ack(seq, Dialect::Node));
            }
            FromWorker::Ack { seq, accepted } => self.handoff_answered(seq, accepted.unwrap_or(false)),
            FromWorker::HandleAck => self.acknowledged(worker, true),
            FromWorker::HandleNack => self.acknowledged(worker, false),
            FromWorker::Handle { .. } => self.send(worker, channel::handle_ack()),
            FromWorker::Ready => self.input(Input::Ready { worker }),
            FromWorker::Message(message) => {
                self.subscribers.publish(worker, &message, &self.workers);
                self.actions.hear(worker, &message, &self.workers);
            }
            FromWorker::Internal { .. } => {}
        }
    }

    /// Nothing comes from the worker any more, and nothing gets there: it has ended, or disconnected itself.
    pub(crate) fn channel_ended(&mut self, worker: WorkerId) {
        if let Some(process) = self.workers.get_mut(&worker).and_then(|held| held.process_mut()) {
            process.channel = None;
        }
        self.handoffs.take_back(worker);
    }

    fn acknowledged(&mut self, worker: WorkerId, taken: bool) {
        let awaiting = self
            .workers
            .get_mut(&worker)
            .and_then(|w| w.channel_mut()?.acknowledge());
        match awaiting {
            Some(Awaiting::Ping) => self.input(Input::Responded { worker }),
            Some(Awaiting::Connection(number)) if !taken => self.handoff_answered(number, false),
            Some(Awaiting::Connection(_) | Awaiting::Listener) | None => {
                if !taken {
                    debug!(%worker, "a worker did not get a descriptor");
                }
            }
        }
    }

    fn send(&mut self, worker: WorkerId, bytes: Vec<u8>) {
        cluster::send(&mut self.ports(), worker, bytes, None, None);
    }

    /// A process of a worker waits until its call is answered.
    pub(crate) fn called(&mut self, worker: WorkerId, call: Intercepted) {
        interception::called(&mut self.ports(), worker, call);
    }

    /// The reload of an app is done: its new workers get the listeners that were kept from them until now.
    pub(crate) fn cut_over(&mut self, app: AppId) {
        let mut ports = self.ports();
        interception::let_go(&mut ports, app);
        cluster::cut_over(&mut ports, app);
    }

    /// What is there, and what it is called.
    pub(crate) fn catalog(&self) -> Catalog<'_> {
        Catalog::new(&self.core, &self.apps)
    }

    /// What is known now.
    pub(crate) fn view(&self) -> View<'_> {
        View {
            core: &self.core,
            apps: &self.apps,
            workers: &self.workers,
            listeners: &self.listeners,
            sampling: &self.sampling,
            handoffs: &self.handoffs,
            fronts: &self.fronts,
            agents: &self.agents,
            actions: &self.actions,
            interception: &self.interception,
            home: &self.home,
            log_starts: &self.log_starts,
            rescues: self.rescues,
            now: self.now(),
        }
    }

    /// What is needed to open, lend and close listeners.
    pub(crate) fn ports(&mut self) -> Ports<'_> {
        Ports {
            now: self.now(),
            core: &mut self.core,
            store: &mut self.store,
            apps: &mut self.apps,
            listeners: &mut self.listeners,
            workers: &mut self.workers,
            complaints: &mut self.complaints,
        }
    }
}
