//! What the messages of a worker mean: to the core, to the listeners, to those who wait for answers.

use rpm_core::WorkerId;
use rpm_core::protocol::Input;
use rpm_wire::channel::{self, Dialect, FromWorker, Malformed};
use tracing::debug;

use crate::node::actions::Actions;
use crate::node::cluster;
use crate::node::handoff::{self, Handoffs};
use crate::node::heartbeat::probe;
use crate::node::messages::Subscribers;
use crate::node::prom_client::Questions;
use crate::sockets::ports::Ports;
use crate::workers::worker::Awaiting;

/// What the messages of workers concern: lent by the supervisor for those of one worker.
pub(crate) struct Hearing<'a> {
    pub(crate) ports: Ports<'a>,
    pub(crate) handoffs: &'a mut Handoffs,
    pub(crate) actions: &'a mut Actions,
    pub(crate) subscribers: &'a mut Subscribers,
    pub(crate) questions: &'a mut Questions,
}

impl Hearing<'_> {
    /// What a worker says over its channel.
    pub(crate) fn hear(&mut self, worker: WorkerId, message: Result<FromWorker, Malformed>) {
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                self.questions.unread(worker, &error.to_string());
                return cluster::malformed(&mut self.ports, worker, &error);
            }
        };
        match message {
            FromWorker::Online => debug!(%worker, "the worker's runtime is up"),
            FromWorker::QueryServer(query) => cluster::query_server(&mut self.ports, worker, query),
            FromWorker::Listening { .. } => self.listens(worker),
            FromWorker::Close { key, .. } => self.ports.close_key(worker, &key),
            FromWorker::ExitedAfterDisconnect { seq } => {
                self.send(worker, channel::ack(seq, Dialect::Node));
            }
            FromWorker::Ack { seq, accepted } => self.numbered(worker, seq, accepted.unwrap_or(false)),
            FromWorker::HandleAck => self.acknowledged(worker, true),
            FromWorker::HandleNack => self.acknowledged(worker, false),
            FromWorker::Handle { .. } => self.send(worker, channel::handle_ack()),
            FromWorker::Ready => self.ports.input(Input::Ready { worker }),
            FromWorker::Message(message) if self.questions.hear(worker, &message) => {}
            FromWorker::Message(message) => {
                self.subscribers.publish(worker, &message, self.ports.workers);
                if self.actions.hear(worker, &message, self.ports.workers) {
                    self.ports.store.changed();
                }
            }
            FromWorker::Internal { .. } => {}
        }
    }

    /// Nothing comes from the worker any more, and nothing gets there: it has ended, or disconnected itself.
    pub(crate) fn ended(&mut self, worker: WorkerId) {
        let held = self.ports.workers.get_mut(&worker);
        if let Some(process) = held.and_then(|held| held.process_mut()) {
            process.channel = None;
        }
        self.handoffs.take_back(worker);
        self.questions.forget(worker);
    }

    fn listens(&mut self, worker: WorkerId) {
        // Where no call is intercepted it has set its own backlog.
        for slot in self.ports.listeners.slots_of(worker) {
            self.ports.listeners.listen_private(slot);
        }
        self.ports.input(Input::Listening { worker });
        // Whoever has answered once is known to understand: later silence then means a frozen loop.
        if let Some(input) = probe(self.ports.workers, worker) {
            self.ports.note(input);
        }
    }

    /// A worker has answered a connection by its number: it has accepted it, or refused it.
    fn numbered(&mut self, worker: WorkerId, number: u64, accepted: bool) {
        let held = self.ports.workers.get_mut(&worker);
        let channel = held.and_then(|held| held.channel_mut());
        for lost in channel
            .map(|channel| channel.hear_number(number))
            .unwrap_or_default()
        {
            self.answered(worker, lost, false);
        }
        self.answered(worker, number, accepted);
    }

    /// A worker has accepted a connection, or refused it.
    fn answered(&mut self, worker: WorkerId, number: u64, accepted: bool) {
        let mut context = handoff::Context {
            now: self.ports.now,
            listeners: self.ports.listeners,
            workers: self.ports.workers,
        };
        self.handoffs.answered(&mut context, worker, number, accepted);
    }

    fn acknowledged(&mut self, worker: WorkerId, taken: bool) {
        let held = self.ports.workers.get_mut(&worker);
        match held.and_then(|held| held.channel_mut()?.acknowledge(taken)) {
            Some(Awaiting::Ping) => self.ports.note(Input::Responded { worker }),
            Some(Awaiting::Connection(number)) if !taken => self.answered(worker, number, false),
            Some(Awaiting::Connection(_) | Awaiting::Listener) | None => {
                if !taken {
                    debug!(%worker, "a worker did not get a descriptor");
                }
            }
        }
    }

    fn send(&mut self, worker: WorkerId, bytes: Vec<u8>) {
        cluster::send(&mut self.ports, worker, bytes, None, None);
    }
}
