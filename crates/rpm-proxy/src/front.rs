//! A public address and its upstreams, shared by all threads.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use rpm_tls::{BadCertificate, Certificate, Reloaded, Terms, Tls};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::access_log::AccessLog;
use crate::log_limit::LogLimit;
use crate::queue::{Queue, QueuePlace};
use crate::settings::{BadHeadSize, Settings, head_size};
use crate::target::Target;
use crate::upstream::{NewUpstream, Upstream, UpstreamFigures, Upstreams};

/// The protocols that a client may choose from by ALPN.
const PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1", b"http/1.0"];

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] BadCertificate),
    /// [`Settings::max_head`] is out of bounds.
    #[error(transparent)]
    MaxHead(#[from] BadHeadSize),
    /// The access log cannot be opened.
    #[error("{}: cannot open the access log ({why})", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// The cause.
        why: io::Error,
    },
}

/// One retry is allowed per so many requests, so that a failing app does not get a multiple of its load.
const BUDGET_PART: i64 = 5;
/// Retries that are always allowed.
const BUDGET_RESERVE: i64 = 50;

/// Counters of a front.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Responses by status class: 1xx to 5xx.
    pub answers: [u64; 5],
    /// Retries.
    pub retries: u64,
    /// Requests for which no upstream was found in time.
    pub unavailable: u64,
    /// Responses that their upstream began and did not finish.
    pub broken: u64,
    /// Connected clients.
    pub connections: u32,
    /// Refused connections: the address had as many as it may.
    pub turned_away: u64,
    /// Responses by the time to their head: within each of [`BOUNDS_MS`], and beyond.
    pub times: [u64; BOUNDS_MS.len() + 1],
    /// The sum of these times, in µs.
    pub time_us: u64,
    /// Requests that wait for an upstream with room.
    pub queued: u32,
    /// Requests that an upstream has, or one that is an upstream no more.
    pub in_flight: u32,
    /// Bytes of bodies from clients, and to them.
    pub bytes: [u64; 2],
    /// Counters of each upstream.
    pub upstreams: Vec<UpstreamFigures>,
}

/// Why a response that had begun did not end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unfinished {
    /// The upstream closed the connection, or sent a malformed body.
    BrokeOff,
    /// The upstream sent nothing for [`Settings::stream_timeout`].
    Stalled,
}

/// A public address.
#[derive(Debug)]
pub struct Front {
    settings: ArcSwap<Settings>,
    tls: ArcSwapOption<Tls>,
    log: ArcSwapOption<AccessLog>,
    pub(crate) upstreams: ArcSwap<Upstreams>,
    changed: watch::Sender<u64>,
    /// No upstream will be added any more.
    ended: AtomicBool,
    pub(crate) queue: Arc<Queue>,
    bytes: [AtomicU64; 2],
    answers: [AtomicU64; 5],
    retries: AtomicU64,
    unavailable: AtomicU64,
    broken: AtomicU64,
    budget: AtomicI64,
    connections: AtomicU32,
    turned_away: AtomicU64,
    /// Connections per client address, if they are limited.
    addresses: Mutex<HashMap<IpAddr, u32>>,
    /// [`Figures::times`].
    times: [AtomicU64; BOUNDS_MS.len() + 1],
    time_us: AtomicU64,
    /// For connections that cannot be opened.
    shortage: LogLimit,
    origin: Instant,
}

/// Bounds of the histogram of times, in ms.
pub const BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 30_000];

impl Front {
    /// A front without upstreams: requests wait.
    #[must_use]
    pub fn new() -> Arc<Front> {
        Arc::new(Front {
            settings: ArcSwap::default(),
            tls: ArcSwapOption::empty(),
            log: ArcSwapOption::empty(),
            connections: AtomicU32::new(0),
            turned_away: AtomicU64::new(0),
            addresses: Mutex::default(),
            times: Default::default(),
            time_us: AtomicU64::new(0),
            upstreams: ArcSwap::default(),
            changed: watch::Sender::new(0),
            ended: AtomicBool::new(false),
            queue: Arc::default(),
            bytes: Default::default(),
            answers: Default::default(),
            retries: AtomicU64::new(0),
            unavailable: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            budget: AtomicI64::new(BUDGET_RESERVE * BUDGET_PART),
            shortage: LogLimit::default(),
            origin: Instant::now(),
        })
    }

    /// Applies settings, from the next request or connection on.
    ///
    /// # Errors
    /// A certificate, the log's file or a limit cannot be used. The old settings stay.
    pub fn set(&self, settings: Settings) -> Result<(), Unusable> {
        head_size(settings.max_head as u64)?;
        let tls = match (self.tls.load_full(), settings.certificates.as_slice()) {
            (_, []) => None,
            (Some(tls), same) if tls.certificates() == same => Some(tls),
            (_, certificates) => Some(Arc::new(Tls::load(terms(certificates), log_reload)?)),
        };
        let log = match (self.log.load_full(), &settings.access_log) {
            (_, None) => None,
            (Some(log), Some(same)) if log.settings == *same => Some(log),
            (_, Some(wanted)) => {
                let opened = AccessLog::open(wanted);
                let path = wanted.path.clone();
                Some(Arc::new(opened.map_err(|why| Unusable::Log { path, why })?))
            }
        };
        self.tls.store(tls);
        self.log.store(log);
        self.settings.store(Arc::new(settings));
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    /// The current settings.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    pub(crate) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.load_full()
    }

    /// The log, if this request is logged.
    pub(crate) fn log(&self) -> Option<Arc<AccessLog>> {
        let log = self.log.load();
        log.as_ref().filter(|log| log.wants()).map(Arc::clone)
    }

    /// Counts a client of this address. `None`: the address has as many connections as it may.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr, max: Option<u32>) -> Option<Admission> {
        if let Some(max) = max {
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            let count = addresses.entry(address).or_insert(0);
            if *count >= max {
                self.turned_away.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            *count += 1;
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        Some(Admission {
            front: Arc::clone(self),
            address: max.map(|_| address),
        })
    }

    /// Replaces the upstreams for new requests. Others finish the requests that they have; idle connections to them are closed.
    pub fn set_upstreams(&self, targets: &[Target]) {
        let before = self.upstreams.load();
        let common = NewUpstream {
            now_ms: self.ms_since_start(),
            slow_start_ms: u64::try_from(self.settings.load().slow_start.as_millis()).unwrap_or(u64::MAX),
            queue: Arc::clone(&self.queue),
        };
        self.upstreams
            .store(Arc::new(Upstreams::new(targets, &before, &common)));
        self.changed.send_modify(|version| *version += 1);
    }

    /// No upstream will be added any more: requests that wait for one are rejected at once, and so are new ones.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.set_upstreams(&[]);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The counters.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let now = self.ms_since_start();
        let upstreams = self.upstreams.load();
        Figures {
            answers: [0, 1, 2, 3, 4].map(|class| self.answers[class].load(Ordering::Relaxed)),
            retries: self.retries.load(Ordering::Relaxed),
            unavailable: self.unavailable.load(Ordering::Relaxed),
            broken: self.broken.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
            turned_away: self.turned_away.load(Ordering::Relaxed),
            times: std::array::from_fn(|bucket| self.times[bucket].load(Ordering::Relaxed)),
            time_us: self.time_us.load(Ordering::Relaxed),
            queued: self.queue.length(),
            in_flight: upstreams.in_flight(),
            bytes: [0, 1].map(|way| self.bytes[way].load(Ordering::Relaxed)),
            upstreams: upstreams.list.iter().map(|one| one.figures(now)).collect(),
        }
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Milliseconds since the front was made.
    pub(crate) fn ms_since_start(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn count_answer(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.answers[class].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the time to the head of a response.
    pub(crate) fn count_time(&self, us: u64) {
        let ms = us.div_ceil(1000);
        let bucket = BOUNDS_MS
            .iter()
            .position(|bound| ms <= *bound)
            .unwrap_or(BOUNDS_MS.len());
        self.times[bucket].fetch_add(1, Ordering::Relaxed);
        self.time_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Logs that the proxy cannot open connections, whatever the worker. At most once per second.
    pub(crate) fn log_shortage(&self, error: &io::Error) {
        if let Some(more) = self.shortage.admit(self.ms_since_start()) {
            warn!(%error, more, "cannot open a connection to a worker, which is not its fault");
        }
    }

    pub(crate) fn count_unavailable(&self) {
        self.unavailable.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a response that its upstream did not finish, and logs which one that was.
    pub(crate) fn unfinished(&self, upstream: &Upstream, status: u16, why: Unfinished) {
        let now = self.ms_since_start();
        self.broken.fetch_add(1, Ordering::Relaxed);
        let why = match why {
            Unfinished::BrokeOff => {
                upstream.failed(now);
                "response broke off"
            }
            // No failure: streams of events may be silent for long, and several end at once.
            Unfinished::Stalled => "response stalled",
        };
        upstream.blame(status, why, now);
    }

    /// Counts bytes of bodies: from a client, and to it.
    pub(crate) fn count_bytes(&self, (up, down): (u64, u64)) {
        if up > 0 {
            self.bytes[0].fetch_add(up, Ordering::Relaxed);
        }
        self.bytes[1].fetch_add(down, Ordering::Relaxed);
    }

    /// A place in the queue for requests while all upstreams are busy. `None`: the queue is full.
    pub(crate) fn join_queue(&self) -> Option<QueuePlace<'_>> {
        self.queue.join(self.settings.load().queue_limit)
    }

    /// Time until the next of the ejected upstreams is used again.
    pub(crate) fn next_return(&self) -> Option<Duration> {
        let now = self.ms_since_start();
        let next = self.upstreams.load().next_return(now);
        next.map(|next| Duration::from_millis(next.saturating_sub(now)))
    }

    /// Adds to the retry budget for a request.
    pub(crate) fn earn_retry(&self) {
        if self.budget.load(Ordering::Relaxed) < BUDGET_RESERVE * BUDGET_PART {
            self.budget.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes one retry from the budget; false if it is exhausted.
    pub(crate) fn spend_retry(&self) -> bool {
        let allowed = self.budget.fetch_sub(BUDGET_PART, Ordering::Relaxed) >= BUDGET_PART;
        if allowed {
            self.retries.fetch_add(1, Ordering::Relaxed);
        } else {
            self.budget.fetch_add(BUDGET_PART, Ordering::Relaxed);
        }
        allowed
    }
}

/// How clients are served by TLS.
fn terms(certificates: &[Certificate]) -> Terms {
    Terms {
        certificates: certificates.to_vec(),
        client_ca: None,
        protocols: PROTOCOLS,
    }
}

fn log_reload(reloaded: &Reloaded) {
    match reloaded {
        Reloaded::Replaced => info!("certificates replaced"),
        Reloaded::Kept(error) => {
            warn!(%error, "cannot use the changed certificates: the old ones stay in use");
        }
    }
}

/// A connected client, for as long as it is counted.
#[derive(Debug)]
pub(crate) struct Admission {
    front: Arc<Front>,
    /// The address that it is counted for.
    address: Option<IpAddr>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.front.connections.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let mut addresses = self
            .front
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&address);
            }
        }
    }
}
