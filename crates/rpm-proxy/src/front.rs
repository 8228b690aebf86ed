//! A public address and what is behind it, as all threads see it.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

use crate::access_log::{AccessLog, LogSettings};
use crate::balance::Policy;
use crate::health::Check;
use crate::network::Network;
use crate::tls::{BadCertificate, Certificate, Tls};
use crate::upstream::{Common, Freed, Target, UpstreamFigures, Upstreams};

/// What [`Settings::max_head`] may be: heads of usual requests fit, and a connection cannot occupy much memory by one.
pub const HEAD_SIZES: RangeInclusive<usize> = 4 * 1024..=1024 * 1024;

/// How requests are passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which upstream a request goes to.
    pub policy: Policy,
    /// For a connection to an upstream.
    pub connect_timeout: Duration,
    /// For the head of an answer.
    pub response_timeout: Duration,
    /// For the head of an answer, over all attempts and all waiting.
    pub request_timeout: Option<Duration>,
    /// For the head of a request.
    pub header_timeout: Duration,
    /// How long a request waits for an upstream where there is none.
    pub hold_timeout: Duration,
    /// How often a request is tried again, at most.
    pub retries: u32,
    /// What these clients say of earlier proxies is true.
    pub trust_forwarded: Vec<Network>,
    /// Fields of clients are passed on whose names differ from those of the proxy by underscores alone.
    pub allow_underscores: bool,
    /// How long a client's connection may be idle.
    pub idle_timeout: Duration,
    /// How long a body may not move, in either direction, once the answer has begun.
    pub stream_timeout: Duration,
    /// How long neither side of a connection that has left HTTP may send anything; `ZERO`: for ever.
    pub tunnel_timeout: Duration,
    /// Longest body of a request, in bytes.
    pub max_body: u64,
    /// Largest head of a request or response, in bytes; one of [`HEAD_SIZES`].
    pub max_head: usize,
    /// Requests that an upstream may have at once.
    pub max_in_flight: Option<u32>,
    /// Requests that may wait when all have as many.
    pub queue_limit: u32,
    /// How long they may wait.
    pub queue_timeout: Duration,
    /// The name of a cookie by which a client stays with its worker.
    pub cookie: Option<String>,
    /// How long a new upstream is spared, where the policy looks at what they have.
    pub slow_start: Duration,
    /// Whether upstreams are asked how they are.
    pub check: Option<Check>,
    /// Connections that one address may have.
    pub max_connections: Option<u32>,
    /// Requests that a client may have open on a connection of HTTP/2.
    pub max_streams: u32,
    /// Connections from here begin with the PROXY protocol.
    pub proxy_protocol: Vec<Network>,
    /// Connections are passed on as they are.
    pub tcp: bool,
    /// Workers are spoken to in HTTP/2, in clear text and with prior knowledge.
    pub h2c: bool,
    /// Answers are compressed for clients that know gzip.
    pub compress: bool,
    /// Clients speak TLS: the certificates, of which the first is for those that name none.
    pub certificates: Vec<Certificate>,
    /// Every client is sent to `https` at this port.
    pub redirect: Option<u16>,
    /// A line for each request.
    pub access_log: Option<LogSettings>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            policy: Policy::default(),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(60),
            request_timeout: None,
            header_timeout: Duration::from_secs(20),
            hold_timeout: Duration::from_secs(10),
            retries: 2,
            trust_forwarded: Vec::new(),
            allow_underscores: false,
            idle_timeout: Duration::from_secs(75),
            stream_timeout: Duration::from_secs(600),
            tunnel_timeout: Duration::from_secs(3600),
            max_body: u64::MAX,
            max_head: 64 * 1024,
            max_in_flight: None,
            queue_limit: 1024,
            queue_timeout: Duration::from_secs(10),
            cookie: None,
            slow_start: Duration::ZERO,
            check: None,
            max_connections: None,
            max_streams: 256,
            proxy_protocol: Vec::new(),
            tcp: false,
            h2c: false,
            compress: false,
            certificates: Vec::new(),
            redirect: None,
            access_log: None,
        }
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A certificate.
    #[error(transparent)]
    Certificate(#[from] BadCertificate),
    /// [`Settings::max_head`].
    #[error(transparent)]
    MaxHead(#[from] BadHeadSize),
    /// The access log.
    #[error("{}: the access log cannot be opened ({why})", path.display())]
    Log {
        /// Its file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
}

/// A size outside of [`HEAD_SIZES`].
#[derive(Debug, thiserror::Error)]
#[error("max_head must be between {} and {} bytes, not {size}", HEAD_SIZES.start(), HEAD_SIZES.end())]
pub struct BadHeadSize {
    size: u64,
}

/// Converts a size that a user has given to one for [`Settings::max_head`].
///
/// # Errors
/// It is not one of [`HEAD_SIZES`].
pub fn head_size(size: u64) -> Result<usize, BadHeadSize> {
    let fits = usize::try_from(size)
        .ok()
        .filter(|size| HEAD_SIZES.contains(size));
    fits.ok_or(BadHeadSize { size })
}

/// Every request allows a fifth of one to be tried again, so that a failing app is not sent a multiple of its load…
const BUDGET_PART: i64 = 5;
/// …and so many are always allowed.
const BUDGET_RESERVE: i64 = 50;

/// What a front has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Answers by their status class: 1xx to 5xx.
    pub answers: [u64; 5],
    /// Requests that were tried once more.
    pub retries: u64,
    /// Requests that found no upstream in time.
    pub unavailable: u64,
    /// Clients that are connected.
    pub connections: u32,
    /// Clients that were not let in: their address has as many connections as it may.
    pub turned_away: u64,
    /// Answers by the time to their head: within each of [`BOUNDS_MS`], and beyond.
    pub times: [u64; BOUNDS_MS.len() + 1],
    /// All these times, in µs.
    pub time_us: u64,
    /// Requests that wait for an upstream with room.
    pub queued: u32,
    /// Bytes of bodies from clients, and to them.
    pub bytes: [u64; 2],
    /// Of each upstream.
    pub upstreams: Vec<UpstreamFigures>,
}

/// A public address.
#[derive(Debug)]
pub struct Front {
    settings: ArcSwap<Settings>,
    tls: ArcSwapOption<Tls>,
    log: ArcSwapOption<AccessLog>,
    pub(crate) upstreams: ArcSwap<Upstreams>,
    changed: watch::Sender<u64>,
    /// No upstream will come any more.
    ended: AtomicBool,
    pub(crate) freed: Arc<Freed>,
    bytes: [AtomicU64; 2],
    answers: [AtomicU64; 5],
    retries: AtomicU64,
    unavailable: AtomicU64,
    budget: AtomicI64,
    connections: AtomicU32,
    turned_away: AtomicU64,
    /// Of the addresses that have connections, how many. Only where that is limited.
    addresses: Mutex<HashMap<IpAddr, u32>>,
    /// Answers by the time to their head: within each of [`BOUNDS_MS`], and beyond.
    times: [AtomicU64; BOUNDS_MS.len() + 1],
    time_us: AtomicU64,
    origin: Instant,
}

/// Bounds of the histogram of times, in ms.
pub const BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 30_000];

impl Front {
    /// Without upstreams: requests wait.
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
            freed: Arc::default(),
            bytes: Default::default(),
            answers: Default::default(),
            retries: AtomicU64::new(0),
            unavailable: AtomicU64::new(0),
            budget: AtomicI64::new(BUDGET_RESERVE * BUDGET_PART),
            origin: Instant::now(),
        })
    }

    /// From the next request on, or connection, this holds.
    ///
    /// # Errors
    /// A certificate, the log's file or a limit cannot be used: what was set before holds on.
    pub fn set(&self, settings: Settings) -> Result<(), Unusable> {
        head_size(settings.max_head as u64)?;
        let tls = match (self.tls.load_full(), settings.certificates.as_slice()) {
            (_, []) => None,
            (Some(tls), same) if tls.certificates == same => Some(tls),
            (_, certificates) => Some(Arc::new(Tls::load(certificates)?)),
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

    /// What holds now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    pub(crate) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.load_full()
    }

    /// Where the next request is to be written, if it is.
    pub(crate) fn log(&self) -> Option<Arc<AccessLog>> {
        let log = self.log.load();
        log.as_ref().filter(|log| log.wants()).map(Arc::clone)
    }

    /// A client has come from this address; `None`: it has as many connections as it may.
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

    /// New requests go to these from now on. What others have been sent they finish; idle connections to them are ended.
    pub fn set_upstreams(&self, targets: &[Target]) {
        let before = self.upstreams.load();
        let common = Common {
            now_ms: self.now_ms(),
            slow_start_ms: u64::try_from(self.settings.load().slow_start.as_millis()).unwrap_or(u64::MAX),
            freed: Arc::clone(&self.freed),
        };
        self.upstreams
            .store(Arc::new(Upstreams::new(targets, &before, &common)));
        self.changed.send_modify(|version| *version += 1);
    }

    /// There will be no upstream any more: requests that wait for one are answered now, and so are others that find none.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.set_upstreams(&[]);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// What it has done so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let now = self.now_ms();
        let upstreams = self.upstreams.load();
        Figures {
            answers: [0, 1, 2, 3, 4].map(|class| self.answers[class].load(Ordering::Relaxed)),
            retries: self.retries.load(Ordering::Relaxed),
            unavailable: self.unavailable.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
            turned_away: self.turned_away.load(Ordering::Relaxed),
            times: std::array::from_fn(|bucket| self.times[bucket].load(Ordering::Relaxed)),
            time_us: self.time_us.load(Ordering::Relaxed),
            queued: self.freed.waiting.load(Ordering::Relaxed),
            bytes: [0, 1].map(|way| self.bytes[way].load(Ordering::Relaxed)),
            upstreams: upstreams.list.iter().map(|one| one.figures(now)).collect(),
        }
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn count_answer(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.answers[class].fetch_add(1, Ordering::Relaxed);
    }

    /// The head of an answer has taken so long.
    pub(crate) fn count_time(&self, us: u64) {
        let ms = us.div_ceil(1000);
        let bucket = BOUNDS_MS
            .iter()
            .position(|bound| ms <= *bound)
            .unwrap_or(BOUNDS_MS.len());
        self.times[bucket].fetch_add(1, Ordering::Relaxed);
        self.time_us.fetch_add(us, Ordering::Relaxed);
    }

    pub(crate) fn count_unavailable(&self) {
        self.unavailable.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of bodies: from a client, and to it.
    pub(crate) fn count_bytes(&self, (up, down): (u64, u64)) {
        if up > 0 {
            self.bytes[0].fetch_add(up, Ordering::Relaxed);
        }
        self.bytes[1].fetch_add(down, Ordering::Relaxed);
    }

    /// A place in the queue for requests that find all upstreams busy; `None`: it is full.
    pub(crate) fn queue(&self) -> Option<Place<'_>> {
        let before = self.freed.waiting.fetch_add(1, Ordering::AcqRel);
        let place = Place(&self.freed);
        (before < self.settings.load().queue_limit).then_some(place)
    }

    /// A request has come.
    pub(crate) fn earn_retry(&self) {
        if self.budget.load(Ordering::Relaxed) < BUDGET_RESERVE * BUDGET_PART {
            self.budget.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// May a request be tried once more?
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

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Place<'f>(&'f Freed);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A client that is connected.
#[derive(Debug)]
pub(crate) struct Admission {
    front: Arc<Front>,
    /// Counted for it.
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
