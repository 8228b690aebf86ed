//! The attempts of a request: finds an upstream, waits for one if there is none, and finds another one if the first fails.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::balance::{Chosen, Criteria, choose};
use crate::front::Front;
use crate::policy::rejection::{ALL_BUSY, NO_CONNECTION, NO_WORKER, Rejection, SLOW, UNANSWERED, UNREADABLE};
use crate::policy::retry::{Next, Retry, Unanswered, is_local};
use crate::queue::QueuePlace;
use crate::settings::Settings;
use crate::target::UpstreamId;
use crate::trace::open::OpenSpan;
use crate::upstream::{InFlight, Upstream};

/// Pause before another round when every upstream has failed a request.
const PAUSE: Duration = Duration::from_millis(20);

/// Why a request failed, for the log.
const ENDED: &str = "connection closed before the response";
const OUT_OF_TIME: &str = "its time is over (--request-timeout)";

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
            Chosen::Tried | Chosen::Busy(_) | Chosen::NoUpstream => self.wait().await,
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
            let offer = place.as_ref().and_then(QueuePlace::take_offer);
            match self.choose() {
                Chosen::Upstream(in_flight) => {
                    self.pass_on(offer.filter(|offer| *offer != in_flight.upstream().id()));
                    return Ok(in_flight);
                }
                Chosen::Busy(wanted) => {
                    if self.queue_up(&mut place, wanted)? {
                        self.pass_on(offer);
                        continue;
                    }
                    let Some(place) = &place else { continue };
                    timeout_at(queued, self.room(place, &mut changes))
                        .await
                        .map_err(|_| ALL_BUSY)?;
                }
                Chosen::Tried => {
                    // All have failed. The replacement of a worker listens already and responds soon.
                    self.tried.clear();
                    self.wait_for_none(place.as_ref(), offer);
                    sleep(PAUSE).await;
                }
                Chosen::NoUpstream if self.front.has_ended() => return Err(NO_WORKER),
                Chosen::NoUpstream => {
                    self.wait_for_none(place.as_ref(), offer);
                    let changed = timeout_at(held, changes.changed()).await;
                    changed.map(drop).map_err(|_| NO_WORKER)?;
                }
            }
        }
    }

    /// Waits in the queue for these upstreams. True: it has not done so until now, so one of them may have had a free place since the request
    /// looked, and it must look again.
    fn queue_up(
        &self,
        place: &mut Option<QueuePlace<'f>>,
        wanted: Vec<UpstreamId>,
    ) -> Result<bool, Rejection> {
        let place = match place {
            Some(place) => place,
            None => place.insert(self.front.join_queue().ok_or(ALL_BUSY)?),
        };
        Ok(place.wait_for(wanted))
    }

    /// Resolves when an upstream may have room: one was offered, they have changed, or one is not ejected any more.
    async fn room(&self, place: &QueuePlace<'_>, changes: &mut watch::Receiver<u64>) {
        let returns = self.front.next_return();
        tokio::select! {
            () = place.woken() => {}
            _ = changes.changed() => {}
            () = sleep(returns.unwrap_or_default()), if returns.is_some() => {}
        }
    }

    /// The request waits for something else than room.
    fn wait_for_none(&self, place: Option<&QueuePlace<'_>>, offer: Option<UpstreamId>) {
        if let Some(place) = place {
            place.wait_for(Vec::new());
        }
        self.pass_on(offer);
    }

    /// Offers an upstream that the request does not take to the next one.
    fn pass_on(&self, offer: Option<UpstreamId>) {
        if let Some(offer) = offer {
            self.front.queue.offer(offer);
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
        if self.is_over() {
            return self.out_of_time(upstream);
        }
        upstream.late(self.settings.response_timeout, self.front.ms_since_start());
        self.blame(upstream, SLOW, SLOW.why)
    }

    /// The time for all attempts has passed.
    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    /// Rejects the request because its time has passed. That is no failure of the upstream: this attempt has not had the time that one may
    /// take, and most of it may have passed in the queue or at another upstream.
    fn out_of_time(&self, upstream: &Upstream) -> Rejection {
        self.blame(upstream, SLOW, OUT_OF_TIME)
    }

    /// Records that no connection to the upstream could be made. `Ok`: try again.
    pub(crate) fn unconnected(&mut self, upstream: &Upstream, error: &io::Error) -> Result<(), Rejection> {
        if error.kind() == io::ErrorKind::TimedOut && self.is_over() {
            return Err(self.out_of_time(upstream));
        }
        if !is_local(error) {
            let why = format!("cannot connect ({error})");
            return self.failed(upstream, Unanswered::UNCONNECTED, &why);
        }
        if self.spend(upstream) {
            return Ok(());
        }
        self.front.log_shortage(error);
        Err(NO_CONNECTION)
    }

    /// Records that the upstream closed the connection before it responded. `Ok`: try again.
    pub(crate) fn unanswered(&mut self, upstream: &Upstream, failed: Unanswered) -> Result<(), Rejection> {
        self.failed(upstream, failed, ENDED)
    }

    fn failed(&mut self, upstream: &Upstream, failed: Unanswered, why: &str) -> Result<(), Rejection> {
        let next = self.retry.next(failed);
        if next == Next::Free {
            return Ok(());
        }
        upstream.failed(self.front.ms_since_start());
        if next == Next::Limited && self.spend(upstream) {
            return Ok(());
        }
        Err(self.blame(upstream, UNANSWERED, why))
    }

    fn blame(&self, upstream: &Upstream, rejection: Rejection, why: &str) -> Rejection {
        upstream.blame(rejection.status, why, self.front.ms_since_start());
        rejection
    }

    /// Uses one of the remaining retries, if there is one.
    fn spend(&mut self, upstream: &Upstream) -> bool {
        self.tried.push(upstream.id());
        if self.left == 0 || self.is_over() || !self.front.spend_retry() {
            return false;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::target::Target;

    /// Two upstreams with room for one request each, and a request for each of them.
    fn full() -> (Arc<Front>, [InFlight; 2]) {
        let front = Front::new();
        let settings = Settings {
            max_in_flight: Some(1),
            ..Settings::default()
        };
        front.set(settings).expect("nothing can fail");
        front.set_upstreams(&[0, 1].map(|id| Target {
            id: UpstreamId(id),
            addr: ([127, 0, 0, 1], 1).into(),
            weight: 1,
            key: id,
            reserved: false,
        }));
        let both = [0, 1].map(|key| match request(&front, Some(key)).choose() {
            Chosen::Upstream(in_flight) => in_flight,
            other => panic!("there is room: {other:?}"),
        });
        (front, both)
    }

    /// A request, perhaps of a client that is bound to the worker with this key.
    fn request(front: &Front, sticky: Option<u32>) -> Attempts<'_> {
        let client = (Ipv4Addr::LOCALHOST.into(), sticky);
        Attempts::new(front, front.settings(), client, true, None)
    }

    #[tokio::test]
    async fn a_free_place_goes_to_one_that_can_take_it() {
        let (front, [first, _second]) = full();
        let (mut bound, mut free) = (request(&front, Some(1)), request(&front, None));
        let (mut bound, mut free) = (pin!(bound.upstream()), pin!(free.upstream()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(bound.as_mut().poll(&mut context).is_pending());
        assert!(free.as_mut().poll(&mut context).is_pending());
        drop(first);
        assert!(bound.as_mut().poll(&mut context).is_pending());
        assert!(matches!(free.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_not_made_in_the_time_of_the_request_is_no_failure() {
        for (request_timeout, waited, status, blamed) in
            [(1, 1, 504, false), (1, 0, 502, true), (60, 1, 502, true)]
        {
            let (front, [first, _second]) = full();
            let settings = Settings {
                retries: 0,
                request_timeout: Some(Duration::from_secs(request_timeout)),
                ..Settings::default()
            };
            front.set(settings).expect("nothing can fail");
            let upstream = first.upstream();
            for _ in 0..5 {
                let mut request = request(&front, None);
                tokio::time::advance(Duration::from_secs(waited)).await;
                let error = io::Error::from(io::ErrorKind::TimedOut);
                let rejection = request
                    .unconnected(upstream, &error)
                    .expect_err("no retry is left");
                assert_eq!(rejection.status, status, "{request_timeout} {waited}");
            }
            let is_ejected = upstream.is_ejected(front.ms_since_start());
            assert_eq!(is_ejected, blamed, "{request_timeout} {waited}");
        }
    }

    /// Whenever the place becomes free: before the request has joined the queue, before it has looked again, or after that.
    #[tokio::test]
    async fn a_place_that_is_free_meanwhile_is_seen() {
        let is_chosen = |chosen| matches!(chosen, Chosen::Upstream(_));
        for (before_it_joins, before_it_looks) in [(true, false), (false, true), (false, false)] {
            let (front, [first, _second]) = full();
            let (mut first, mut place) = (Some(first), None);
            let request = request(&front, None);
            let Chosen::Busy(wanted) = request.choose() else {
                panic!("both are full");
            };
            assert_eq!(wanted, [UpstreamId(0), UpstreamId(1)]);
            drop(first.take_if(|_| before_it_joins));
            let looks_again = request.queue_up(&mut place, wanted.clone());
            assert!(looks_again.expect("there is room in the queue"));
            drop(first.take_if(|_| before_it_looks));
            if first.is_none() {
                assert!(is_chosen(request.choose()), "{before_it_joins} {before_it_looks}");
                continue;
            }
            assert!(!is_chosen(request.choose()));
            let looks_again = request.queue_up(&mut place, wanted);
            assert!(!looks_again.expect("there is room in the queue"));
            drop(first);
            let place = place.expect("it has queued up");
            assert_eq!(place.take_offer(), Some(UpstreamId(0)));
            assert!(is_chosen(request.choose()));
        }
    }

    #[tokio::test]
    async fn an_offer_that_is_not_taken_is_passed_on() {
        let (front, [first, second]) = full();
        let (mut free, mut bound) = (request(&front, None), request(&front, Some(0)));
        let (mut free, mut bound) = (pin!(free.upstream()), pin!(bound.upstream()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(free.as_mut().poll(&mut context).is_pending());
        assert!(bound.as_mut().poll(&mut context).is_pending());
        // The first one is offered one of them, and finds both free when it looks. In turn it takes the other.
        drop((first, second));
        front.upstreams.load().next_turn();
        let Poll::Ready(Ok(taken)) = free.as_mut().poll(&mut context) else {
            panic!("both are free");
        };
        assert_eq!(taken.upstream().id(), UpstreamId(1));
        assert!(matches!(bound.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
    }

    #[tokio::test]
    async fn who_waits_for_an_ejected_worker_goes_elsewhere() {
        let (front, [first, _second]) = full();
        let mut bound = request(&front, Some(1));
        let mut bound = pin!(bound.upstream());
        let mut context = Context::from_waker(Waker::noop());
        assert!(bound.as_mut().poll(&mut context).is_pending());
        drop(first);
        assert!(
            bound.as_mut().poll(&mut context).is_pending(),
            "it is bound to the other"
        );
        let upstream = Arc::clone(&front.upstreams.load().list[1]);
        assert_eq!(front.next_return(), None);
        // Six times in a row, each when the last ejection ends: for half a minute from now.
        let mut now_ms = front.ms_since_start();
        for ms in [0, 500, 1000, 2000, 4000, 8000] {
            now_ms += ms;
            (0..5).for_each(|_| upstream.failed(now_ms));
        }
        assert!(front.next_return().is_some());
        let Poll::Ready(Ok(in_flight)) = bound.as_mut().poll(&mut context) else {
            panic!("the other has room");
        };
        assert_eq!(in_flight.upstream().id(), UpstreamId(0));
    }

    #[tokio::test]
    async fn a_worker_whose_ejection_ends_is_seen_by_who_waits() {
        let (front, [first, _second]) = full();
        let upstream = Arc::clone(first.upstream());
        (0..5).for_each(|_| upstream.failed(front.ms_since_start()));
        drop(first);
        let mut free = request(&front, None);
        // Much less than it would wait in the queue.
        let in_flight = tokio::time::timeout(Duration::from_secs(5), free.upstream()).await;
        let in_flight = in_flight.expect("the ejection has ended").expect("it has room");
        assert_eq!(in_flight.upstream().id(), UpstreamId(0));
    }
}
