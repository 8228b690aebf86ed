//! Loads: what traffic to send, and sending it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::client::{Client, Target};
use crate::schedule::Schedule;
use crate::{Pace, Report, Stop};

/// How a client uses its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A connection for every request (`Connection: close`).
    NewConnection,
    /// One connection per client, for as long as the server keeps it.
    KeepAlive,
}

/// The traffic to send. It ends at the first of: `lasting` is over, `requests` were sent, or the stop.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Where the server listens. On IPv4 loopback, clients use source addresses of their own, so that
    /// a long load does not run out of ports.
    pub target: SocketAddr,
    /// Path and query of the request.
    pub path: String,
    /// New connections or kept ones.
    pub kind: Kind,
    /// Clients that send at the same time.
    pub clients: usize,
    /// Closed or open loop.
    pub pace: Pace,
    /// For how long new requests are sent.
    pub lasting: Option<Duration>,
    /// How many requests are sent in all.
    pub requests: Option<u64>,
    /// From the beginning of a request to the last byte of its answer.
    pub timeout: Duration,
    /// The status that a good answer has.
    pub expect_status: u16,
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
        let shared = Arc::new(Shared {
            target: self.target(),
            schedule: Schedule::new(self.pace, self.lasting, self.requests, stop.clone()),
            report: Mutex::default(),
        });
        let mut clients = JoinSet::new();
        for _ in 0..self.clients {
            clients.spawn(drive(Arc::clone(&shared)));
        }
        Running { shared, clients }
    }

    fn target(&self) -> Target {
        // `::` and 0.0.0.0 are what servers bind; as a host name they help nobody.
        let host = match self.target.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => "localhost".to_owned(),
            IpAddr::V6(ip) if ip.is_unspecified() => "localhost".to_owned(),
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let keep_alive = self.kind == Kind::KeepAlive;
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let (path, port) = (&self.path, self.target.port());
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: {connection}\r\n\r\n");
        Target {
            address: self.target,
            request: request.into_bytes(),
            expect_status: self.expect_status,
            timeout: self.timeout,
            keep_alive,
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
async fn drive(shared: Arc<Shared>) {
    let mut client = Client::new();
    let start = shared.schedule.start();
    while let Some(due) = shared.schedule.next().await {
        let result = client.request(&shared.target).await;
        {
            let mut report = shared.report();
            report.connections += client.take_opened();
            match &result {
                Ok(()) => report.record_ok(&client.worker(), start, due),
                Err(failure) => report.record_failure(failure.outcome(), failure, start),
            }
        }
        client.settle(&shared.target, &result).await;
    }
}
