//! Loads: what traffic to send, and sending it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::client::{
    Answered, AnyHabit, Client, Exchange, Fate, Habit, Handshake, Leave, Shape, Target, Tls,
};
use crate::schedule::Schedule;
use crate::{Outcome, Pace, Report, Stop};

/// What a client sends, and how it uses its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A connection for every request (`Connection: close`).
    NewConnection,
    /// One connection per client, for as long as the server keeps it.
    KeepAlive,
    /// The same, with four requests at once.
    Pipelined,
    /// POST of 16 KiB with a length, on a kept connection. The answer must begin with the number of bytes received.
    Post,
    /// The same in eight chunks that come 50 ms apart.
    SlowUpload,
    /// An event stream; each event counts as a request. The server must number them: `data: 0`, `data: 1`, …
    EventStream,
    /// A WebSocket whose server must send every message back; each counts as a request. 20 ms between two.
    WebSocket,
    /// HTTP/2 in clear text with prior knowledge, four streams at a time on one connection.
    Http2,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] = [
        Kind::NewConnection,
        Kind::KeepAlive,
        Kind::Pipelined,
        Kind::Post,
        Kind::SlowUpload,
        Kind::EventStream,
        Kind::WebSocket,
        Kind::Http2,
    ];

    /// Its name in tables and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::NewConnection => "new",
            Kind::KeepAlive => "keep-alive",
            Kind::Pipelined => "pipelined",
            Kind::Post => "post",
            Kind::SlowUpload => "slow-upload",
            Kind::EventStream => "event-stream",
            Kind::WebSocket => "web-socket",
            Kind::Http2 => "http2",
        }
    }
}

/// The traffic to send. It ends at the first of: `lasting` is over, `requests` were sent, or the stop.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Where the server listens. On IPv4 loopback, clients use source addresses of their own, so that
    /// a long load does not run out of ports.
    pub target: SocketAddr,
    /// Path and query of the request.
    pub path: String,
    /// What the clients are like.
    pub kind: Kind,
    /// Clients that send at the same time.
    pub clients: usize,
    /// Closed or open loop.
    pub pace: Pace,
    /// For how long new requests are sent.
    pub lasting: Option<Duration>,
    /// How many requests are sent in all; of kinds that send several at once, how often they do.
    pub requests: Option<u64>,
    /// From the beginning of a request to the last byte of its answer.
    pub timeout: Duration,
    /// The status that a good answer has.
    pub expect_status: u16,
    /// How long a connection that lives long must be left open after the first [`Running::mark`] since it was opened, or, if it was
    /// opened between a mark and its [`Running::mark_end`], since then; without one the server has no reason to end it.
    pub holds: Duration,
    /// Clients speak TLS, and take any certificate.
    pub tls: bool,
}

impl Load {
    /// One client, `GET /`, a new connection per request, closed loop, no end, 10 s, status 200.
    #[must_use]
    pub fn new(target: SocketAddr) -> Self {
        Load {
            target,
            path: "/".to_owned(),
            kind: Kind::NewConnection,
            clients: 1,
            pace: Pace::Closed,
            lasting: None,
            requests: None,
            timeout: Duration::from_secs(10),
            expect_status: 200,
            holds: Duration::ZERO,
            tls: false,
        }
    }

    /// The same for a port of 127.0.0.1.
    #[must_use]
    pub fn local(port: u16) -> Self {
        Self::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Send it, and return when every request has its outcome.
    pub async fn run(&self, stop: &Stop) -> Report {
        self.start(stop).finish().await
    }

    /// Begin to send it from tasks of the current tokio runtime (which this must be called in).
    #[must_use = "dropping it ends the load"]
    pub fn start(&self, stop: &Stop) -> Running {
        let tls = self.tls.then(|| Box::new(Tls::new()) as Box<dyn Handshake>);
        self.start_clients(stop, tls, || AnyHabit::new(self.kind))
    }

    /// The same for the load of [`Load::new`], one of [`Kind::NewConnection`] in clear text. A program that starts no other links nothing of
    /// TLS, HTTP/2 and WebSocket.
    #[must_use = "dropping it ends the load"]
    pub fn start_simple(&self, stop: &Stop) -> Running {
        debug_assert!(self.kind == Kind::NewConnection && !self.tls, "{self:?}");
        self.start_clients(stop, None, || Exchange::new(Shape::Fresh))
    }

    fn start_clients<H: Habit>(
        &self,
        stop: &Stop,
        tls: Option<Box<dyn Handshake>>,
        habit: impl Fn() -> H,
    ) -> Running {
        let shared = Arc::new(Shared {
            target: self.target(tls),
            schedule: Schedule::new(self.paced(), self.lasting, self.requests, stop.clone()),
            report: Mutex::default(),
        });
        let mut clients = JoinSet::new();
        for _ in 0..self.clients {
            clients.spawn(drive(Arc::clone(&shared), Client::new(habit())));
        }
        Running { shared, clients }
    }

    /// Events come when the server sends them: a client that paused between them would read what has long been sent, and learn too late
    /// that its stream has ended.
    fn paced(&self) -> Pace {
        match (self.kind, self.pace) {
            (Kind::EventStream, Pace::Pausing { .. }) => Pace::Closed,
            (_, pace) => pace,
        }
    }

    fn target(&self, tls: Option<Box<dyn Handshake>>) -> Target {
        // `::` and 0.0.0.0 are what servers bind; as a host name they help nobody.
        let host = match self.target.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => "localhost".to_owned(),
            IpAddr::V6(ip) if ip.is_unspecified() => "localhost".to_owned(),
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Target {
            address: self.target,
            authority: format!("{host}:{}", self.target.port()),
            path: self.path.clone(),
            expect_status: self.expect_status,
            timeout: self.timeout,
            leave: Leave::new(self.holds),
            tls,
        }
    }
}

/// A load being sent. Dropping it aborts the requests in flight; [`Running::finish`] does not.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    target: Target,
    schedule: Schedule,
    report: Mutex<Report>,
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Says that from now on the server may have a reason to end connections that live long: a reload is about to begin.
    pub fn mark(&self) {
        self.shared.target.leave.mark();
    }

    /// Says that what is opened from now on goes to workers that stay: the reload has all its new ones.
    pub fn mark_end(&self) {
        self.shared.target.leave.mark_end();
    }

    /// The account up to now.
    #[must_use]
    pub fn so_far(&self) -> Report {
        self.shared.report().clone()
    }

    /// Wait for the end of the load and the outcome of every request.
    pub async fn finish(mut self) -> Report {
        while let Some(ended) = self.clients.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        let mut report = self.shared.report().clone();
        report.missed = self.shared.schedule.missed(report.outcomes.total());
        report
    }
}

/// One client, request by request.
async fn drive<H: Habit>(shared: Arc<Shared>, mut client: Client<H>) {
    let start = shared.schedule.start();
    let mut fates = Vec::new();
    while let Some(due) = shared.schedule.next().await {
        client.turn(&shared.target, &mut fates).await;
        {
            let mut report = shared.report();
            report.connections += client.take_opened();
            for Fate { result, worker } in &fates {
                match result {
                    Ok(Answered::First) => report.record_good(Outcome::Ok, worker, start, due),
                    Ok(Answered::Again) => report.record_good(Outcome::Resent, worker, start, due),
                    Err(failure) => report.record_failure(failure.outcome(), failure, start),
                }
            }
        }
        client.settle(&fates).await;
        fates.clear();
    }
}
