//! The agents: the preload in each Node worker that answers with `Connection: close` while it is drained.
//!
//! An agent connects to `$RPM_HOME/agent.sock` when its process first listens and names the worker by the token
//! in its environment. It is believed only if the kernel says that its process is that worker's.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rpm_agent::{Decoder, Figures, FromAgent, Open, ToAgent};
use rpm_core::WorkerId;
use rpm_sys::{scm, tree};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::{debug, warn};

use crate::os::threads;
use crate::workers::worker::{Process, Workers};

/// An agent says hello at once, or is none.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Connections to a socket of which nobody knows yet whose they are; more wait to be accepted. Each user has a socket of its own.
const UNNAMED_LIMIT: usize = 64;
/// Connections that name the same worker: one for each of its processes that listens.
pub(crate) const NAMED_LIMIT: usize = 256;
/// Messages that wait for an agent whose process does not read.
const OUTGOING_LIMIT: usize = 16;
/// Figures are reported for so long after somebody has asked for them: longer than Prometheus waits between two scrapes, mostly.
const MEASURED_FOR: Duration = Duration::from_secs(150);
/// They are asked for again when so much of it has gone by.
const MEASURE_AGAIN: Duration = Duration::from_secs(10);
/// A report older than this says nothing of now: a process reports every second.
const FRESH: Duration = Duration::from_secs(5);
/// Connections are numbered over all sockets.
static NEXT: AtomicU64 = AtomicU64::new(0);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What happened on an agent's connection.
pub(crate) enum AgentEvent {
    /// A process named itself.
    Hello {
        connection: u64,
        token: String,
        pid: u32,
        counts: bool,
        to: mpsc::Sender<ToAgent>,
        /// Told when it names a worker, dropped if it names none.
        named: oneshot::Sender<()>,
    },
    /// It said something else, and says more when that was heard.
    Said {
        connection: u64,
        message: FromAgent,
        heard: oneshot::Sender<()>,
    },
    /// It is gone.
    Gone { connection: u64 },
}

/// What the others have to know of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A worker has one more.
    Arrived(WorkerId),
    /// All agents of a worker have said that they drain.
    Drains(WorkerId),
    /// One was not taken: [`NAMED_LIMIT`] processes name this worker already.
    TooMany(WorkerId),
}

/// The agents, by connection. A worker has one in each process of its tree that listens.
#[derive(Default)]
pub(crate) struct Agents {
    all: BTreeMap<u64, Agent>,
    /// Children of workers, which have their token and serve no client of theirs: closed, they would come again and again.
    others: BTreeMap<u64, (WorkerId, mpsc::Sender<ToAgent>)>,
}

struct Agent {
    worker: WorkerId,
    to: mpsc::Sender<ToAgent>,
    /// What it reported last.
    open: Option<Open>,
    /// It reports.
    counts: bool,
    /// It was told to drain, and has not said that it does.
    awaited: bool,
    /// Since when figures are asked for again and again, and when they were the last time.
    asked: Cell<Option<(Instant, Instant)>>,
    /// The last ones, and since when they are known.
    figures: Option<(Instant, Box<Figures>)>,
}

impl Agent {
    fn measure(&self, now: Instant) {
        let asked = self.asked.get();
        let passed = asked.map(|(_, last)| now.saturating_duration_since(last));
        let lately = passed.is_some_and(|passed| passed < MEASURE_AGAIN);
        // The agent in Bun cannot. One that does not read has room left for what matters.
        if !self.counts || lately || self.to.capacity() <= OUTGOING_LIMIT / 2 {
            return;
        }
        let message = ToAgent::Measure {
            for_ms: u64::try_from(MEASURED_FOR.as_millis()).unwrap_or(u64::MAX),
            first: asked.is_none(),
        };
        if self.to.try_send(message).is_ok() {
            let goes_on = passed.is_some_and(|passed| passed < MEASURED_FOR);
            let since = asked.filter(|_| goes_on).map_or(now, |(since, _)| since);
            self.asked.set(Some((since, now)));
        }
    }

    /// For how long it has owed a report, if that is too long: its event loop is blocked.
    fn silence(&self, now: Instant) -> Option<Duration> {
        let (reported, _) = self.figures.as_ref()?;
        silence(*reported, self.asked.get()?, now)
    }
}

/// What the processes of a worker have reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) figures: Figures,
    /// They are as now; else only what is counted up still holds.
    pub(crate) fresh: bool,
    /// One of the processes is asked for reports, and has sent none for so long.
    pub(crate) silent: Option<Duration>,
}

/// For how long a process has owed a report that has sent one at `reported` and was asked for them since `first`, at `last` for the last time.
fn silence(reported: Instant, (first, last): (Instant, Instant), now: Instant) -> Option<Duration> {
    let passed = now.saturating_duration_since(reported.max(first));
    let is_asked = now.saturating_duration_since(last) < MEASURED_FOR;
    (is_asked && passed >= FRESH).then_some(passed)
}

impl Agents {
    /// Somebody wants figures of all workers: they come every second from now on.
    pub(crate) fn measure(&self) {
        let now = Instant::now();
        self.all.values().for_each(|agent| agent.measure(now));
    }

    /// What the processes of the worker together have reported; `None`: nothing yet.
    pub(crate) fn figures(&self, worker: WorkerId) -> Option<Reported> {
        let ours = self.all.values().filter(|agent| agent.worker == worker);
        let reported = ours.filter_map(|agent| Some((agent, agent.figures.as_ref()?)));
        let each = reported.map(|(agent, (at, figures))| Reported {
            figures: **figures,
            fresh: at.elapsed() < FRESH,
            silent: agent.silence(Instant::now()),
        });
        each.reduce(|one, other| Reported {
            figures: one.figures + other.figures,
            fresh: one.fresh && other.fresh,
            silent: one.silent.max(other.silent),
        })
    }

    /// Has the worker one?
    pub(crate) fn has(&self, worker: WorkerId) -> bool {
        self.all.values().any(|agent| agent.worker == worker)
    }

    /// Do all of them report what is open?
    pub(crate) fn count(&self, worker: WorkerId) -> bool {
        let mut ours = self.all.values().filter(|agent| agent.worker == worker);
        ours.all(|agent| agent.counts)
    }

    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.all.retain(|_, agent| agent.worker != worker);
        self.others.retain(|_, (other, _)| *other != worker);
    }

    /// Connections that name the worker.
    fn naming(&self, worker: WorkerId) -> usize {
        let others = self.others.values().filter(|(other, _)| *other == worker);
        self.all.values().filter(|agent| agent.worker == worker).count() + others.count()
    }

    /// What all agents of the worker together reported; `None` as long as one has not, or there is none.
    pub(crate) fn open(&self, worker: WorkerId) -> Option<Open> {
        let ours = self.all.values().filter(|agent| agent.worker == worker);
        let mut ours = ours.peekable();
        ours.peek()?;
        ours.try_fold(Open::default(), |sum, agent| Some(sum + agent.open?))
    }

    /// What an event means for the worker whose agent it is about, if it means anything.
    pub(crate) fn on_event(&mut self, event: AgentEvent, workers: &mut Workers) -> Option<News> {
        match event {
            AgentEvent::Hello { .. } => self.greet(event, workers),
            AgentEvent::Said {
                connection,
                message,
                heard,
            } => {
                let news = self.hear(connection, message);
                drop(heard);
                news
            }
            AgentEvent::Gone { connection } => {
                self.others.remove(&connection);
                self.gone(connection).map(News::Drains)
            }
        }
    }

    fn greet(&mut self, hello: AgentEvent, workers: &mut Workers) -> Option<News> {
        let AgentEvent::Hello {
            connection,
            token,
            pid,
            counts,
            to,
            named,
        } = hello
        else {
            return None;
        };
        let held = workers.values_mut().find(|worker| worker.token == token)?;
        let worker = held.id;
        if self.naming(worker) >= NAMED_LIMIT {
            return Some(News::TooMany(worker));
        }
        // One that has gone since is found to have.
        let _ = named.send(());
        // A child of the worker inherits the token; its listeners are slots only if its calls are intercepted.
        if !held.process().is_some_and(|process| is_agent(process, pid)) {
            self.others.insert(connection, (worker, to));
            return None;
        }
        held.agent_seen = true;
        let agent = Agent {
            worker,
            to,
            open: None,
            counts,
            awaited: false,
            asked: Cell::new(None),
            figures: None,
        };
        self.all.insert(connection, agent);
        Some(News::Arrived(worker))
    }

    fn hear(&mut self, connection: u64, message: FromAgent) -> Option<News> {
        let agent = self.all.get_mut(&connection)?;
        match message {
            FromAgent::Open(open) => agent.open = Some(open),
            FromAgent::Figures(figures) => agent.figures = Some((Instant::now(), figures)),
            FromAgent::Draining {} => return self.drains(connection).map(News::Drains),
            FromAgent::Hello { .. } => {}
        }
        None
    }

    /// Tells each agent of the worker; `false` if there is none that reads.
    pub(crate) fn tell(&mut self, worker: WorkerId, message: ToAgent) -> bool {
        let mut told = false;
        for agent in self.all.values_mut().filter(|agent| agent.worker == worker) {
            let taken = agent.to.try_send(message).is_ok();
            agent.awaited |= taken && matches!(message, ToAgent::Drain { .. });
            told |= taken;
        }
        told
    }

    /// An agent is gone. Gives its worker if it was the last that was awaited, and there are others: they have said that they drain.
    fn gone(&mut self, connection: u64) -> Option<WorkerId> {
        let Agent { worker, awaited, .. } = self.all.remove(&connection)?;
        let mut ours = self
            .all
            .values()
            .filter(|agent| agent.worker == worker)
            .peekable();
        let others_drain = ours.peek().is_some() && !ours.any(|agent| agent.awaited);
        (awaited && others_drain).then_some(worker)
    }

    /// An agent says that it drains: the one with this connection. Gives its worker if no other one is awaited.
    fn drains(&mut self, connection: u64) -> Option<WorkerId> {
        let agent = self.all.get_mut(&connection)?;
        agent.awaited = false;
        // A report that was under way is of before the answer.
        agent.open = None;
        let worker = agent.worker;
        let mut ours = self.all.values().filter(|agent| agent.worker == worker);
        (!ours.any(|agent| agent.awaited)).then_some(worker)
    }
}

/// Listens for agents.
///
/// # Errors
/// The socket cannot be made.
pub(crate) fn listen<E: From<AgentEvent> + Send + 'static>(
    path: &Path,
    events: mpsc::Sender<E>,
) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    tokio::spawn(accept(listener, events));
    Ok(())
}

async fn accept<E: From<AgentEvent> + Send + 'static>(listener: UnixListener, events: mpsc::Sender<E>) {
    let unnamed = Arc::new(Semaphore::new(UNNAMED_LIMIT));
    // It is never closed.
    while let Ok(permit) = Arc::clone(&unnamed).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = NEXT.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(connection, stream, permit, events.clone()));
            }
            Err(error) => {
                warn!(%error, "cannot accept an agent; is the limit of open files (ulimit -n) reached?");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve<E: From<AgentEvent> + Send + 'static>(
    connection: u64,
    stream: UnixStream,
    permit: OwnedSemaphorePermit,
    events: mpsc::Sender<E>,
) {
    // Of those that name nobody there are so many until they are closed.
    let mut unnamed = Some(permit);
    if let Err(error) = converse(connection, &stream, &mut unnamed, &events).await {
        debug!(connection, %error, "an agent's connection ended");
    }
    if let Ok(stream) = stream.into_std() {
        threads::close(stream).await;
    }
    let _ = events.send(AgentEvent::Gone { connection }.into()).await;
}

async fn converse<E: From<AgentEvent> + Send + 'static>(
    connection: u64,
    stream: &UnixStream,
    unnamed: &mut Option<OwnedSemaphorePermit>,
    events: &mpsc::Sender<E>,
) -> io::Result<()> {
    let pid = stream
        .peer_cred()?
        .pid()
        .and_then(|pid| u32::try_from(pid).ok())
        .unwrap_or(0);
    let (to, mut outgoing) = mpsc::channel::<ToAgent>(OUTGOING_LIMIT);
    let mut to = Some(to);
    let mut decoder = Decoder::new();
    let mut buffer = [0; 1024];
    let hello_by = tokio::time::Instant::now() + HELLO_WITHIN;
    loop {
        tokio::select! {
            ready = stream.readable() => {
                ready?;
                // Descriptors are of no use to us. Read without them the kernel would close them, here.
                let mut fds = Vec::new();
                let read = stream.try_io(Interest::READABLE, || scm::recv(stream, &mut buffer, &mut fds));
                if !fds.is_empty() {
                    threads::close(fds).await;
                }
                match read {
                    Ok(0) => return Ok(()),
                    Ok(count) => decoder.feed(&buffer[..count]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            },
            message = outgoing.recv(), if unnamed.is_none() => match message {
                Some(message) => write(stream, message.line().as_bytes()).await?,
                // Its worker has gone.
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(hello_by), if unnamed.is_some() => return Ok(()),
        }
        while let Some(message) = decoder.next() {
            let message = message.map_err(io::Error::other)?;
            let (heard, done) = oneshot::channel();
            let event = match (message, to.take()) {
                (FromAgent::Hello { token, counts, .. }, Some(to)) => AgentEvent::Hello {
                    connection,
                    token,
                    pid,
                    counts,
                    to,
                    named: heard,
                },
                (message, None) => AgentEvent::Said {
                    connection,
                    message,
                    heard,
                },
                (_, Some(_)) => return Err(io::Error::other("it did not say hello")),
            };
            let _ = events.send(event.into()).await;
            // One that says a lot has others heard in between.
            if done.await.is_ok() {
                *unnamed = None;
            } else if unnamed.is_some() {
                return Err(io::Error::other("it names no worker"));
            }
        }
    }
}

async fn write(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// May this process speak for the worker?
fn is_agent(process: &Process, pid: u32) -> bool {
    process.pid == pid || (process.notifications.is_some() && tree::is_below(pid, process.pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_and_says_nothing_is_silent() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        for (reported, first, last, now, expected) in [
            (100, 50, 95, 104, None),
            (100, 50, 95, 105, Some(5)),
            (100, 50, 130, 140, Some(40)),
            // The report is of before: it is waited for since it was asked for again.
            (100, 1_000, 1_000, 1_004, None),
            (100, 1_000, 1_000, 1_006, Some(6)),
            // Nobody asks any more.
            (100, 50, 95, 245, None),
        ] {
            let silent = silence(at(reported), (at(first), at(last)), at(now));
            assert_eq!(
                silent,
                expected.map(Duration::from_secs),
                "{reported} {first} {last} {now}"
            );
        }
    }

    #[test]
    fn a_worker_drains_when_the_last_that_was_awaited_is_gone() {
        let (to, _read) = mpsc::channel(OUTGOING_LIMIT);
        let worker = WorkerId(1);
        let agent = |awaited| Agent {
            worker,
            to: to.clone(),
            open: None,
            counts: true,
            awaited,
            asked: Cell::new(None),
            figures: None,
        };
        for (others, awaited, expected) in [
            (vec![false], true, Some(worker)),
            (vec![true], true, None),
            (vec![false], false, None),
            (vec![], true, None),
        ] {
            let mut agents = Agents::default();
            agents.all.insert(0, agent(awaited));
            let others = others.into_iter().map(agent);
            agents.all.extend((1..).zip(others));
            assert_eq!(agents.gone(0), expected);
        }
    }
}
