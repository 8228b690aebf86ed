//! The attempts of a request: finds an upstream, waits for one if there is none, and finds another one if the first fails.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::balance::{Chosen, Criteria, choose};
use crate::front::Front;
use crate::policy::rejection::{ALL_BUSY, NO_WORKER, Rejection, SLOW, UNANSWERED, UNREADABLE};
use crate::policy::retry::{Next, Retry, Unanswered};
use crate::settings::Settings;
use crate::trace::open::OpenSpan;
use crate::upstream::{InFlight, Upstream, UpstreamId};

/// Pause before another round when every upstream has failed a request.
const PAUSE: Duration = Duration::from_millis(20);

/// The attempts of one request.
#[derive(Debug)]
pub(crate) struct Attempts<'f> {
    front: &'f Front,
    settings: Arc<Settings>,
    client: IpAddr,
    sticky: Option<u32>,
    /// Upstreams that have failed the request.
    tried: Vec<UpstreamId>,
    left: u32,
    retry: Retry,
    /// When the response must have begun, over all attempts.
    until: Option<Instant>,
    /// If the request is sampled.
    span: Option<Rc<OpenSpan>>,
}

impl<'f> Attempts<'f> {
    pub(crate) fn new(
        front: &'f Front,
        settings: Arc<Settings>,
        (client, sticky): (IpAddr, Option<u32>),
        replayable: bool,
        span: Option<Rc<OpenSpan>>,
    ) -> Attempts<'f> {
        Attempts {
            front,
            span,
            client,
            sticky,
            tried: Vec::new(),
            left: settings.retries,
            retry: Retry::new(replayable),
            until: settings.request_timeout.map(|within| Instant::now() + within),
            settings,
        }
    }

    /// `time`, or what is left of the time for all attempts.
    pub(crate) fn within(&self, time: Duration) -> Duration {
        let left = self
            .until
            .map(|until| until.saturating_duration_since(Instant::now()));
        left.map_or(time, |left| left.min(time))
    }

    /// Assigns the request to an upstream. Waits if there is none, or if all are busy.
    pub(crate) async fn upstream(&mut self) -> Result<InFlight, Rejection> {
        let chosen = match self.choose() {
            Chosen::Upstream(in_flight) => Ok(in_flight),
            Chosen::Tried | Chosen::Busy | Chosen::NoUpstream => self.wait().await,
        };
        match (&chosen, &self.span) {
            (Ok(in_flight), Some(span)) => span.chosen(in_flight.upstream().key()),
            (Ok(_), None) => {}
            (Err(_), _) => self.front.count_unavailable(),
        }
        chosen
    }

    /// Records that the upstream is connected.
    pub(crate) fn connected(&self) {
        if let Some(span) = &self.span {
            span.connected();
        }
    }

    fn choose(&self) -> Chosen {
        let criteria = Criteria {
            policy: self.settings.policy,
            client: self.client,
            sticky: self.sticky,
            tried: &self.tried,
            max_in_flight: self.settings.max_in_flight,
            now_ms: self.front.ms_since_start(),
        };
        choose(&self.front.upstreams.load(), &criteria)
    }

    async fn wait(&mut self) -> Result<InFlight, Rejection> {
        let settings = Arc::clone(&self.settings);
        let now = Instant::now();
        let held = now + self.within(settings.hold_timeout);
        let queued = now + self.within(settings.queue_timeout);
        let mut changes = self.front.changes();
        let mut place = None;
        loop {
            changes.mark_unchanged();
            let freed = self.front.freed.notify.notified();
            match self.choose() {
                Chosen::Upstream(in_flight) => {
                    // One wake-up may stand for several free places.
                    if place.is_some() {
                        self.front.freed.notify.notify_one();
                    }
                    return Ok(in_flight);
                }
                Chosen::Tried => {
                    // All have failed. The replacement of a worker listens already and responds soon.
                    self.tried.clear();
                    sleep(PAUSE).await;
                }
                Chosen::NoUpstream if self.front.has_ended() => return Err(NO_WORKER),
                Chosen::NoUpstream => {
                    let changed = timeout_at(held, changes.changed()).await;
                    changed.map(drop).map_err(|_| NO_WORKER)?;
                }
                Chosen::Busy => {
                    if place.is_none() {
                        place = Some(self.front.queue().ok_or(ALL_BUSY)?);
                    }
                    let either = async {
                        tokio::select! {
                            () = freed => {}
                            _ = changes.changed() => {}
                        }
                    };
                    timeout_at(queued, either).await.map_err(|_| ALL_BUSY)?;
                }
            }
        }
    }

    /// Records a response of the upstream.
    pub(crate) fn answered(&self, upstream: &Upstream, status: u16, after: Duration) {
        let after = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        upstream.answered(status, after, self.front.ms_since_start());
        self.front.count_time(after);
    }

    /// Records a malformed response. Another upstream would send the same.
    pub(crate) fn bad_answer(&self, upstream: &Upstream, after: Duration) -> Rejection {
        self.answered(upstream, UNREADABLE.status, after);
        self.blame(upstream, UNREADABLE, UNREADABLE.why)
    }

    /// Records that the upstream did not respond in time.
    pub(crate) fn late(&self, upstream: &Upstream) -> Rejection {
        upstream.failed(self.front.ms_since_start());
        self.blame(upstream, SLOW, SLOW.why)
    }

    /// Records that the upstream did not respond. `Ok`: try again.
    pub(crate) fn unanswered(&mut self, upstream: &Upstream, failed: Unanswered) -> Result<(), Rejection> {
        match self.retry.next(failed) {
            Next::Free => return Ok(()),
            Next::Limited if self.spend(upstream) => return Ok(()),
            Next::Limited => {}
            Next::GiveUp => upstream.failed(self.front.ms_since_start()),
        }
        Err(self.blame(upstream, UNANSWERED, failed.why))
    }

    fn blame(&self, upstream: &Upstream, rejection: Rejection, why: &str) -> Rejection {
        upstream.blame(rejection.status, why, self.front.ms_since_start());
        rejection
    }

    /// Uses one of the remaining retries, if there is one.
    fn spend(&mut self, upstream: &Upstream) -> bool {
        upstream.failed(self.front.ms_since_start());
        self.tried.push(upstream.id());
        if self.left == 0 || self.within(Duration::MAX).is_zero() || !self.front.spend_retry() {
            return false;
        }
        self.left -= 1;
        true
    }
}
