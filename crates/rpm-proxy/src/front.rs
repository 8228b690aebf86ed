//! A public address and what is behind it, as all threads see it.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

use crate::access_log::AccessLog;
use crate::settings::{BadHeadSize, Settings, head_size};
use crate::tls::{BadCertificate, Tls};
use crate::upstream::{Common, Freed, Target, UpstreamFigures, Upstreams};

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
