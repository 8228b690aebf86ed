//! A public address and what is behind it, as all threads see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::balance::Policy;
use crate::upstream::{Common, Freed, Target, UpstreamFigures, Upstreams};

/// How requests are passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which upstream a request goes to.
    pub policy: Policy,
    /// For a connection to an upstream.
    pub connect_timeout: Duration,
    /// For the head of an answer.
    pub response_timeout: Duration,
    /// For the head of a request.
    pub header_timeout: Duration,
    /// How long a request waits for an upstream where there is none.
    pub hold_timeout: Duration,
    /// How often a request is tried again, at most.
    pub retries: u32,
    /// What clients say of earlier proxies is true.
    pub trust_forwarded: bool,
    /// How long a client's connection may be idle.
    pub idle_timeout: Duration,
    /// How long a body may not move, in either direction, once the answer has begun.
    pub stream_timeout: Duration,
    /// Longest body of a request, in bytes.
    pub max_body: u64,
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
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            policy: Policy::default(),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(20),
            hold_timeout: Duration::from_secs(10),
            retries: 2,
            trust_forwarded: false,
            idle_timeout: Duration::from_secs(75),
            stream_timeout: Duration::from_secs(600),
            max_body: u64::MAX,
            max_in_flight: None,
            queue_limit: 1024,
            queue_timeout: Duration::from_secs(10),
            cookie: None,
            slow_start: Duration::ZERO,
        }
    }
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
    pub(crate) settings: Settings,
    pub(crate) upstreams: ArcSwap<Upstreams>,
    changed: watch::Sender<u64>,
    pub(crate) freed: Arc<Freed>,
    bytes: [AtomicU64; 2],
    answers: [AtomicU64; 5],
    retries: AtomicU64,
    unavailable: AtomicU64,
    budget: AtomicI64,
    origin: Instant,
}

impl Front {
    /// Without upstreams: requests wait.
    #[must_use]
    pub fn new(settings: Settings) -> Arc<Front> {
        Arc::new(Front {
            settings,
            upstreams: ArcSwap::default(),
            changed: watch::Sender::new(0),
            freed: Arc::default(),
            bytes: Default::default(),
            answers: Default::default(),
            retries: AtomicU64::new(0),
            unavailable: AtomicU64::new(0),
            budget: AtomicI64::new(BUDGET_RESERVE * BUDGET_PART),
            origin: Instant::now(),
        })
    }

    /// New requests go to these from now on. What others have been sent they finish; idle connections to them are ended.
    pub fn set_upstreams(&self, targets: &[Target]) {
        let before = self.upstreams.load();
        let common = Common {
            now_ms: self.now_ms(),
            slow_start_ms: u64::try_from(self.settings.slow_start.as_millis()).unwrap_or(u64::MAX),
            freed: Arc::clone(&self.freed),
        };
        self.upstreams
            .store(Arc::new(Upstreams::new(targets, &before, &common)));
        self.changed.send_modify(|version| *version += 1);
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
        (before < self.settings.queue_limit).then_some(place)
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
