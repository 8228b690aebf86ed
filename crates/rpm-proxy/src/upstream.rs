//! Upstreams: the private listeners of workers, and their counters.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::warn;

use crate::address::Address;
use crate::ejection::Ejection;
use crate::latency::Latency;
use crate::log_limit::LogLimit;
use crate::queue::Queue;
use crate::target::{Target, UpstreamId};
use crate::turns::{self, Progress, Turns};

/// An upstream and its counters.
#[derive(Debug)]
pub struct Upstream {
    target: Target,
    in_flight: AtomicU32,
    /// Time to the head of a response.
    latency: Latency,
    ejection: Ejection,
    requests: AtomicU64,
    /// For failed requests.
    log: LogLimit,
    /// For weights.
    turns: Turns,
    /// It fails its health checks.
    ill: AtomicBool,
    /// [`Target::reserved`], which may change.
    reserved: AtomicBool,
    /// When it was added, in ms since the start of the proxy, and how long it gets fewer requests.
    since_ms: u64,
    slow_start_ms: u64,
    /// Requests that wait for this upstream or others of its front.
    queue: Arc<Queue>,
}

/// What the new upstreams of a front share.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewUpstream {
    pub(crate) now_ms: u64,
    pub(crate) slow_start_ms: u64,
    pub(crate) queue: Arc<Queue>,
}

/// Counters of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamFigures {
    /// Which.
    pub id: UpstreamId,
    /// Requests that it was sent.
    pub requests: u64,
    /// Requests in flight.
    pub in_flight: u32,
    /// Moving average of the time to the head of a response, in µs.
    pub latency_us: u64,
    /// How often it was ejected.
    pub ejections: u32,
    /// It is ejected now.
    pub ejected: bool,
    /// It fails its health checks.
    pub ill: bool,
    /// The number that cookies hold.
    pub key: u32,
}

impl Upstream {
    fn new(target: Target, common: &NewUpstream) -> Upstream {
        Upstream {
            target,
            in_flight: AtomicU32::new(0),
            latency: Latency::default(),
            ejection: Ejection::default(),
            requests: AtomicU64::new(0),
            log: LogLimit::default(),
            turns: Turns::default(),
            ill: AtomicBool::new(false),
            reserved: AtomicBool::new(target.reserved),
            since_ms: common.now_ms,
            slow_start_ms: common.slow_start_ms,
            queue: Arc::clone(&common.queue),
        }
    }

    /// Which.
    #[must_use]
    pub fn id(&self) -> UpstreamId {
        self.target.id
    }

    /// Only clients whose cookie names it are sent there.
    pub(crate) fn is_reserved(&self) -> bool {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> Address {
        self.target.addr
    }

    fn weight(&self) -> u32 {
        self.target.weight.max(1)
    }

    pub(crate) fn in_flight(&self) -> u32 {
        // In one order with the length of the queue: see `Queue::offer`.
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(crate) fn latency(&self) -> &Latency {
        &self.latency
    }

    pub(crate) fn key(&self) -> u32 {
        self.target.key
    }

    /// Requests in flight. A new upstream counts as if it had more, so that it gets fewer at first.
    pub(crate) fn load(&self, now_ms: u64) -> u64 {
        let age = now_ms.saturating_sub(self.since_ms);
        let in_flight = u64::from(self.in_flight()) + 1;
        if self.slow_start_ms == 0 || age >= self.slow_start_ms {
            in_flight - 1
        } else {
            in_flight * self.slow_start_ms / (age + 1)
        }
    }

    pub(crate) fn is_ejected(&self, now_ms: u64) -> bool {
        self.ill.load(Ordering::Relaxed) || self.ejection.until_ms(now_ms).is_some()
    }

    /// Sets whether it fails its health checks, and returns the old value.
    pub(crate) fn set_ill(&self, ill: bool) -> bool {
        let was_ill = self.ill.swap(ill, Ordering::Relaxed);
        if was_ill != ill {
            self.queue.wake_all();
        }
        was_ill
    }

    /// Records that it accepts connections.
    pub(crate) fn connected(&self) {
        self.ejection.connected();
    }

    /// Counts a request in flight until the result is dropped. `None`: it has `max` of them.
    pub(crate) fn begin_below(self: &Arc<Self>, max: Option<u32>) -> Option<InFlight> {
        // Never above `max`, not even for a moment: a request that waits would see no room, and would not hear that there is some again.
        let more = |count: u32| max.is_none_or(|max| count < max).then(|| count + 1);
        self.in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .ok()?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        Some(InFlight(Arc::clone(self)))
    }

    /// Records a response that came after so many µs.
    pub(crate) fn answered(&self, status: u16, after_us: u64, now_ms: u64) {
        self.latency.add(after_us, now_ms);
        if self.ejection.answered(status, now_ms) {
            self.wake_others();
        }
    }

    /// Records that there was no response within this time, which is a failure.
    pub(crate) fn late(&self, after: Duration, now_ms: u64) {
        self.latency
            .add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX), now_ms);
        self.failed(now_ms);
    }

    /// Records a failure: no connection, no response, or a late one.
    pub(crate) fn failed(&self, now_ms: u64) {
        if self.ejection.failed(now_ms) {
            self.wake_others();
        }
    }

    /// It is ejected: requests that wait for it may go elsewhere.
    fn wake_others(&self) {
        self.queue.wake_all();
    }

    /// Logs that a request failed at this upstream, and why. At most once per second.
    pub(crate) fn blame(&self, status: u16, why: &str, now_ms: u64) {
        if let Some(more) = self.log.admit(now_ms) {
            warn!(
                instance = self.key(),
                addr = %self.addr(),
                status,
                more,
                "request failed at a worker: {why}"
            );
        }
    }

    pub(crate) fn figures(&self, now_ms: u64) -> UpstreamFigures {
        UpstreamFigures {
            id: self.target.id,
            requests: self.requests.load(Ordering::Relaxed),
            in_flight: self.in_flight(),
            latency_us: self.latency.average_us().unwrap_or(0.0).round() as u64,
            ejections: self.ejection.count(),
            ejected: self.is_ejected(now_ms),
            ill: self.ill.load(Ordering::Relaxed),
            key: self.key(),
        }
    }
}

/// Connects to an upstream.
///
/// # Errors
/// It is refused, or takes too long.
pub(crate) async fn connect(upstream: &Upstream, within: Duration) -> io::Result<TcpStream> {
    let connected = timeout(within, upstream.addr().connect()).await;
    let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Upstream>);

impl InFlight {
    pub(crate) fn upstream(&self) -> &Arc<Upstream> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.0.queue.offer(self.0.id());
    }
}

/// The upstreams of a front at one moment.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    pub(crate) list: Vec<Arc<Upstream>>,
    /// Those that were in a set before and still have requests in flight. A worker that was frozen comes back, with what it is serving.
    left: Vec<Weak<Upstream>>,
    turn: AtomicUsize,
    progress: Arc<Progress>,
}

impl Upstreams {
    /// A new set. Upstreams that were in the old one keep their counters, and so do those that left a set before and have requests in flight.
    pub(crate) fn new(targets: &[Target], before: &Upstreams, common: &NewUpstream) -> Upstreams {
        // There are no others that could take the load of the first ones.
        let common = if before.list.is_empty() {
            &NewUpstream {
                slow_start_ms: 0,
                ..common.clone()
            }
        } else {
            common
        };
        let left: Vec<Arc<Upstream>> = before.left.iter().filter_map(Weak::upgrade).collect();
        let all = || before.list.iter().chain(&left);
        let known = |target: &Target| {
            all().find(|old| old.target.is_same(target)).map_or_else(
                || Arc::new(Upstream::new(*target, common)),
                |old| {
                    old.reserved.store(target.reserved, Ordering::Relaxed);
                    Arc::clone(old)
                },
            )
        };
        let list: Vec<_> = targets.iter().map(known).collect();
        let is_gone = |old: &&Arc<Upstream>| !list.iter().any(|new| Arc::ptr_eq(old, new));
        Upstreams {
            left: all().filter(is_gone).map(Arc::downgrade).collect(),
            list,
            turn: AtomicUsize::new(0),
            progress: Arc::clone(&before.progress),
        }
    }

    pub(crate) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// The one whose turn is due first by weight. It has this turn.
    pub(crate) fn take_turn<'u>(
        &self,
        candidates: impl Iterator<Item = &'u Arc<Upstream>>,
    ) -> Option<&'u Arc<Upstream>> {
        let counted = candidates.map(|one| (one, one.turns.count(one.weight(), &self.progress)));
        let due = |(one, count): &(&'u Arc<Upstream>, u64)| (*count, one.weight());
        let (first, count) = counted.min_by(|one, other| turns::compare(due(one), due(other)))?;
        first.turns.take(count, first.weight(), &self.progress);
        Some(first)
    }

    /// Requests in flight, those of upstreams that are in the set no more among them.
    pub(crate) fn in_flight(&self) -> u32 {
        let left = self.left.iter().filter_map(Weak::upgrade);
        let left: u32 = left.map(|one| one.in_flight()).sum();
        self.list.iter().map(|one| one.in_flight()).sum::<u32>() + left
    }

    /// When the next of those that are ejected is used again, in ms since the start of the proxy.
    pub(crate) fn next_return(&self, now_ms: u64) -> Option<u64> {
        self.list
            .iter()
            .filter_map(|one| one.ejection.until_ms(now_ms))
            .min()
    }

    pub(crate) fn has(&self, id: UpstreamId) -> bool {
        self.list.iter().any(|upstream| upstream.id() == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(id: u32) -> Target {
        Target {
            id: UpstreamId(id),
            addr: ([127, 0, 0, 1], 1).into(),
            weight: 1,
            key: id,
            reserved: false,
        }
    }

    fn upstream() -> Upstream {
        Upstream::new(target(1), &NewUpstream::default())
    }

    #[test]
    fn requests_that_find_no_room_are_not_counted() {
        let upstream = Arc::new(upstream());
        let _first = upstream.begin_below(Some(1)).expect("there is room");
        std::thread::scope(|threads| {
            let tries = threads.spawn(|| (0..5_000_000).all(|_| upstream.begin_below(Some(1)).is_none()));
            while !tries.is_finished() {
                assert_eq!(
                    upstream.in_flight(),
                    1,
                    "one that ends now would leave a place that nobody sees"
                );
            }
            assert!(tries.join().expect("it does not panic"));
        });
    }

    #[test]
    fn a_worker_that_was_frozen_comes_back_with_its_requests_in_flight() {
        let common = NewUpstream::default();
        let set = |ids: &[u32], before: &Upstreams| {
            let targets: Vec<Target> = ids.iter().map(|id| target(*id)).collect();
            Upstreams::new(&targets, before, &common)
        };
        let all = set(&[1, 2], &Upstreams::default());
        let in_flight = all.list[0].begin_below(Some(1)).expect("it has room");
        let without = set(&[2], &set(&[2], &all));
        assert!(without.list[0].begin_below(Some(1)).is_some());
        assert_eq!(without.in_flight(), 1);
        let again = set(&[1, 2], &without);
        assert_eq!(again.in_flight(), 1);
        assert!(again.list[0].begin_below(Some(1)).is_none(), "it is still busy");
        drop(in_flight);
        assert!(again.list[0].begin_below(Some(1)).is_some());
        // Nothing is kept of those that have no requests.
        drop((all, without));
        let few = set(&[2], &again);
        drop(again);
        assert_eq!(set(&[2], &few).left.iter().filter_map(Weak::upgrade).count(), 0);
    }

    #[test]
    fn a_response_that_is_late_is_a_slow_one_and_a_failure() {
        let upstream = upstream();
        upstream.answered(200, 10, 0);
        (0..5).for_each(|_| upstream.late(Duration::from_secs(1), 0));
        assert_eq!(upstream.figures(0).latency_us, 1_000_000);
        assert!(upstream.is_ejected(0));
    }

    #[test]
    fn a_new_one_warms_up() {
        let common = NewUpstream {
            now_ms: 1000,
            slow_start_ms: 500,
            ..NewUpstream::default()
        };
        let first = Upstreams::new(&[target(1)], &Upstreams::default(), &common);
        assert_eq!(first.list[0].load(1000), 0, "there is no other upstream");
        let second = Upstreams::new(&[target(1), target(2)], &first, &common);
        let loads = [1000, 1250, 1400, 1500].map(|now| second.list[1].load(now));
        assert!(loads.is_sorted_by(|a, b| a >= b) && loads[0] > 100, "{loads:?}");
        assert_eq!((loads[3], second.list[0].load(1000)), (0, 0));
    }

    #[test]
    fn what_is_known_survives_a_change_of_the_set() {
        let first = Upstreams::new(
            &[target(1), target(2)],
            &Upstreams::default(),
            &NewUpstream::default(),
        );
        let held = first.list[1].begin_below(Some(1)).expect("there is room");
        assert!(first.list[1].begin_below(Some(1)).is_none());
        let second = Upstreams::new(&[target(2), target(3)], &first, &NewUpstream::default());
        assert_eq!(second.list[0].in_flight(), 1);
        drop(held);
        assert_eq!(second.list[0].in_flight(), 0);
        assert!(!second.has(UpstreamId(1)));
    }
}
