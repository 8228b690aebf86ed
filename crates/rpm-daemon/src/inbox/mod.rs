//! What reaches the supervisor: what has happened, and what other tasks ask of it. Each request has a type and a reply of its own, so what another
//! task can change is listed here.

pub(crate) mod ends;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rpm_core::protocol::Outcome;
use rpm_core::{InstanceId, SlotId, WorkerId};
use rpm_wire::api::{
    ApiError, ChangeReply, MessageRequest, ScrapedPage, SendRequest, SignalRequest, TargetsRequest,
    TriggerReply, TriggerRequest,
};
use tokio::sync::{mpsc, oneshot};

use crate::logs::LogSink;
use crate::node::agents::AgentEvent;
use crate::node::channel::ChannelEvent;
use crate::node::messages::Subscription;
use crate::node::prom_client::Answer;
use crate::orders::{Accepted, Change};
use crate::processes::ProcessEvent;
use crate::processes::health::HealthEvent;
use crate::processes::pages::{Reach, Target};
use crate::processes::progress::Watcher;
use crate::proxy::fronts::Parting;
use crate::sockets::calls::Called;
use crate::upkeep::FilesChanged;
use crate::view::View;

/// Something that happened.
pub(crate) enum Event {
    /// A process of a worker has ended.
    Process(ProcessEvent),
    /// A worker said something, or can say no more.
    Channel(ChannelEvent),
    /// A process of a worker waits until its call is answered.
    Called(Called),
    /// Files that are watched for an app have changed.
    FilesChanged(FilesChanged),
    /// An agent connected, spoke or left.
    Agent(AgentEvent),
    /// The health check of a worker needs something, or has an outcome.
    Health(HealthEvent),
    /// The worker of a slot behind the proxy fails its health check, with the reason, or passes it again.
    Upstream(SlotId, Option<String>),
    /// A worker that has drained has given its last page of metrics, or none.
    LastPage(WorkerId, Option<ScrapedPage>),
    /// Another task has a question, which is answered between two steps.
    Look(Look),
    /// Another task asks for something, which is done between two steps.
    Request(Request),
    /// Stop everything and exit.
    Terminate,
}

impl From<ProcessEvent> for Event {
    fn from(event: ProcessEvent) -> Event {
        Event::Process(event)
    }
}

impl From<ChannelEvent> for Event {
    fn from(event: ChannelEvent) -> Event {
        Event::Channel(event)
    }
}

impl From<Called> for Event {
    fn from(called: Called) -> Event {
        Event::Called(called)
    }
}

impl From<FilesChanged> for Event {
    fn from(changed: FilesChanged) -> Event {
        Event::FilesChanged(changed)
    }
}

impl From<AgentEvent> for Event {
    fn from(event: AgentEvent) -> Event {
        Event::Agent(event)
    }
}

impl From<HealthEvent> for Event {
    fn from(event: HealthEvent) -> Event {
        Event::Health(event)
    }
}

/// A question about what is known. It sees everything and can change nothing.
pub(crate) struct Look {
    pub(crate) fresh: Fresh,
    pub(crate) at: Box<dyn FnOnce(View<'_>) + Send>,
}

/// How recent the figures in a view have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fresh {
    /// As they were sampled last.
    Stored,
    /// CPU and memory as they are now.
    Usage,
    /// Connections, too.
    All,
}

/// What other tasks ask for.
pub(crate) enum Request {
    /// Change apps.
    Change(Change, Reply<Result<Begun, ApiError>>),
    /// Wait until nothing of the apps of these instances is on its way out.
    AwaitLeavers(Vec<InstanceId>, Reply<oneshot::Receiver<()>>),
    /// Count restarts from 0.
    Reset(TargetsRequest, Reply<Result<ChangeReply, ApiError>>),
    /// Send a signal to programs.
    Signal(SignalRequest, Reply<Result<ChangeReply, ApiError>>),
    /// Write to the standard input of a program.
    SendLine(SendRequest, Reply<Result<(), ApiError>>),
    /// Send a message to programs.
    SendMessage(MessageRequest, Reply<Result<(), ApiError>>),
    /// Follow the messages of programs.
    Subscribe(Reply<Result<Subscription, ApiError>>),
    /// Call an action of programs.
    Trigger(
        TriggerRequest,
        Reply<Result<mpsc::UnboundedReceiver<TriggerReply>, ApiError>>,
    ),
    /// The workers whose pages of metrics are to be read, and the last pages of others.
    Scrape(Reply<Asked>),
    /// Give a worker this connection; `false`: it cannot be given any.
    Give(WorkerId, OwnedFd, Reply<bool>),
    /// Ask a worker for its metrics over its channel: where the answer comes.
    AskPromClient(WorkerId, Reply<oneshot::Receiver<Answer>>),
    /// Find out why calls of programs cannot be intercepted, if they cannot.
    ProbeInterception(Reply<Option<String>>),
    /// Get ready for another binary: write the state, for it to read. The daemon's directory.
    PrepareUpdate(Reply<Result<PathBuf, ApiError>>),
    /// Have clients of the proxy go, or stay. What is received ends when the proxy's threads have done so.
    Part(Parting, Reply<Option<mpsc::Receiver<()>>>),
    /// End, and leave the apps to another daemon.
    HandOn(HandOn, Reply<Option<ApiError>>),
    /// End all workers.
    Shutdown(Reply<oneshot::Receiver<Outcome>>),
}

/// What is to be read for `GET /v1/scrape`.
pub(crate) struct Asked {
    /// The apps with pages.
    pub(crate) apps: Vec<String>,
    /// Their workers.
    pub(crate) targets: Vec<Target>,
    /// Pages of workers that have drained.
    pub(crate) last: Vec<ScrapedPage>,
}

/// A change that was begun.
pub(crate) struct Begun {
    /// What was accepted, each part with its outcome to come.
    pub(crate) accepted: Vec<Accepted>,
    /// The steps of the apps that it concerns.
    pub(crate) watcher: Watcher,
}

/// Who goes on after this program.
#[derive(Clone)]
pub(crate) enum Successor {
    /// This binary, at once and in its place.
    Binary(PathBuf),
    /// The daemon that somebody starts next. The apps serve on meanwhile.
    Next,
}

/// How this program ends without its apps.
pub(crate) struct HandOn {
    pub(crate) to: Successor,
    /// Even if something is under way that would be lost.
    pub(crate) anyway: bool,
}

/// Where the answer to a request goes.
pub(crate) struct Reply<T>(oneshot::Sender<T>);

impl<T> Reply<T> {
    pub(crate) fn send(self, answer: T) {
        // The requester may have disconnected.
        let _ = self.0.send(answer);
    }
}

/// A way into the supervisor from other tasks.
#[derive(Clone)]
pub struct Handle {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) logs: LogSink,
}

/// The daemon is about to exit.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the daemon is shutting down")]
pub struct ShuttingDown;

impl Handle {
    /// Has a request carried out between two steps of the supervisor.
    ///
    /// # Errors
    /// The daemon is shutting down.
    pub(crate) async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, ShuttingDown> {
        let (reply, answer) = oneshot::channel();
        self.send(Event::Request(request(Reply(reply)))).await?;
        answer.await.map_err(|_| ShuttingDown)
    }

    /// What `at` sees of the daemon between two steps.
    ///
    /// # Errors
    /// The daemon is shutting down.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        fresh: Fresh,
        at: impl FnOnce(View<'_>) -> T + Send + 'static,
    ) -> Result<T, ShuttingDown> {
        let (reply, answer) = oneshot::channel();
        // The requester may have disconnected.
        let at = Box::new(move |view: View<'_>| drop(reply.send(at(view))));
        self.send(Event::Look(Look { fresh, at })).await?;
        answer.await.map_err(|_| ShuttingDown)
    }

    async fn send(&self, event: Event) -> Result<(), ShuttingDown> {
        self.events.send(event).await.map_err(|_| ShuttingDown)
    }
}

impl Reach for Handle {
    async fn give(&self, worker: WorkerId, connection: OwnedFd) -> bool {
        let given = self.ask(|reply| Request::Give(worker, connection, reply)).await;
        given.unwrap_or(false)
    }

    async fn ask_prom_client(&self, worker: WorkerId) -> Option<Answer> {
        let asked = self.ask(|reply| Request::AskPromClient(worker, reply)).await;
        asked.ok()?.await.ok()
    }
}
