//! A public address and what is behind it, as all threads see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::balance::Policy;
use crate::upstream::{Target, UpstreamFigures, Upstreams};

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
    /// Of each upstream.
    pub upstreams: Vec<UpstreamFigures>,
}

/// A public address.
#[derive(Debug)]
pub struct Front {
    pub(crate) settings: Settings,
    pub(crate) upstreams: ArcSwap<Upstreams>,
    changed: watch::Sender<u64>,
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
        self.upstreams.store(Arc::new(Upstreams::new(targets, &before)));
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
