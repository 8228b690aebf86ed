//! Chooses the upstream for a request.

use std::net::IpAddr;
use std::sync::Arc;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{RngCore as _, SeedableRng as _};

use crate::latency::usual_us;
use crate::target::UpstreamId;
use crate::upstream::{InFlight, Upstream, Upstreams};

/// How requests are distributed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamPolicy {
    /// In turn.
    #[default]
    RoundRobin,
    /// To the one with the fewest requests in flight.
    LeastInFlight,
    /// To the better of two random ones, by latency times requests in flight (peak EWMA).
    Latency,
    /// By the client's address.
    IpHash,
    /// In turn, and to each in proportion to its weight.
    Weighted,
}

/// What the choice depends on.
pub(crate) struct Criteria<'a> {
    pub(crate) policy: UpstreamPolicy,
    pub(crate) client: IpAddr,
    /// The key of the worker that its cookie names.
    pub(crate) sticky: Option<u32>,
    /// Upstreams that have failed this request.
    pub(crate) tried: &'a [UpstreamId],
    /// Most requests in flight of an upstream.
    pub(crate) max_in_flight: Option<u32>,
    pub(crate) now_ms: u64,
}

/// The result of a choice.
#[derive(Debug)]
pub(crate) enum Chosen {
    /// This upstream has the request now.
    Upstream(InFlight),
    /// All upstreams have failed the request.
    Tried,
    /// These upstreams may serve the request, and have as many as they may.
    Busy(Vec<UpstreamId>),
    /// There is no upstream.
    NoUpstream,
}

/// Chooses an upstream for a request.
///
/// An ejected one is chosen only if all are ejected: a client is better off with an attempt than without, and the attempt shows whether the
/// upstream works again.
pub(crate) fn choose(set: &Upstreams, criteria: &Criteria<'_>) -> Chosen {
    let untried = |one: &&Arc<Upstream>| !criteria.tried.contains(&one.id());
    let sound = |one: &&Arc<Upstream>| untried(one) && !one.is_ejected(criteria.now_ms);
    let room = |one: &&Arc<Upstream>| criteria.max_in_flight.is_none_or(|max| one.in_flight() < max);
    let belongs = |one: &&Arc<Upstream>| criteria.sticky == Some(one.key());
    let open = |one: &&Arc<Upstream>| !one.is_reserved() || belongs(one);
    if !set.list.iter().any(|one| open(&one)) {
        return Chosen::NoUpstream;
    }
    let any_sound = set.list.iter().any(|one| open(&one) && sound(&one));
    let fit = |one: &&Arc<Upstream>| open(one) && if any_sound { sound(one) } else { untried(one) };
    if !set.list.iter().any(|one| fit(&one)) {
        return Chosen::Tried;
    }
    // A client that is bound to a worker waits for it, even if others have room.
    let owner = owner(criteria, set.list.iter().filter(fit));
    let is_free = |one: &&Arc<Upstream>| owner.is_none_or(|owner| owner.id() == one.id());
    let eligible = set.list.iter().filter(|one| fit(one) && is_free(one));
    while let Some(chosen) = prefer(set, criteria, &eligible.clone().filter(room)) {
        if let Some(in_flight) = chosen.begin_below(criteria.max_in_flight) {
            return Chosen::Upstream(in_flight);
        }
        // Another thread has taken the last place.
    }
    Chosen::Busy(eligible.map(|one| one.id()).collect())
}

/// The upstream that the client is bound to, by its cookie or its address.
fn owner<'u>(
    criteria: &Criteria<'_>,
    fit: impl Iterator<Item = &'u Arc<Upstream>> + Clone,
) -> Option<&'u Arc<Upstream>> {
    let by_cookie = criteria
        .sticky
        .and_then(|key| fit.clone().find(|one| one.key() == key));
    let by_address = || match criteria.policy {
        UpstreamPolicy::IpHash => {
            let client = bits(criteria.client);
            fit.max_by_key(|one| mixed(client ^ mixed(u64::from(one.key()))))
        }
        UpstreamPolicy::RoundRobin
        | UpstreamPolicy::LeastInFlight
        | UpstreamPolicy::Latency
        | UpstreamPolicy::Weighted => None,
    };
    by_cookie.or_else(by_address)
}

/// The best of the candidates.
fn prefer<'u>(
    set: &Upstreams,
    criteria: &Criteria<'_>,
    candidates: &(impl Iterator<Item = &'u Arc<Upstream>> + Clone),
) -> Option<&'u Arc<Upstream>> {
    let count = candidates.clone().count();
    if count < 2 {
        return candidates.clone().next();
    }
    let turn = set.next_turn();
    let nth = |number: usize| candidates.clone().nth(number);
    match criteria.policy {
        // For IpHash the candidates have been reduced to the client's own before.
        UpstreamPolicy::RoundRobin | UpstreamPolicy::IpHash => nth(turn % count),
        UpstreamPolicy::LeastInFlight => {
            let loads = candidates.clone().map(|one| one.load(criteria.now_ms));
            let least = loads.min()?;
            // Ties take turns. Another thread may have changed the loads since.
            let ties = candidates
                .clone()
                .filter(|one| one.load(criteria.now_ms) <= least);
            let count = ties.clone().count().max(1);
            ties.clone().nth(turn % count).or_else(|| nth(turn % count))
        }
        UpstreamPolicy::Latency => {
            let (first, second) = two(turn as u64, count);
            Some(quicker([nth(first)?, nth(second)?], candidates, criteria.now_ms))
        }
        UpstreamPolicy::Weighted => set.take_turn(candidates.clone()),
    }
}

/// The one of the two that is expected to respond first, by latency times requests in flight.
fn quicker<'u>(
    [first, second]: [&'u Arc<Upstream>; 2],
    candidates: &(impl Iterator<Item = &'u Arc<Upstream>> + Clone),
    now_ms: u64,
) -> &'u Arc<Upstream> {
    let is_stale = |one: &Upstream| one.latency().is_stale(now_ms);
    // What is usual is needed for those of which little is known.
    let usual = if is_stale(first) || is_stale(second) {
        let all = candidates.clone();
        usual_us(all.filter_map(|one| one.latency().average_us()))
    } else {
        0.0
    };
    let cost = |one: &Upstream| {
        let us = one.latency().expected_us(usual, now_ms);
        (us + 1.0) * (one.load(now_ms) as f64 + 1.0)
    };
    let chosen = if cost(second) < cost(first) { second } else { first };
    if is_stale(chosen) {
        chosen.latency().ask(now_ms);
    }
    chosen
}

/// Two different numbers below `count`, which is at least 2. They depend on `turn`.
fn two(turn: u64, count: usize) -> (usize, usize) {
    let drawn = mixed(turn);
    let first = (drawn >> 32) as usize % count;
    let other = drawn as u32 as usize % (count - 1);
    (first, if other >= first { other + 1 } else { other })
}

fn bits(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 ^ ip.to_bits() as u64,
    }
}

/// A hash that spreads neighbouring numbers well.
pub(crate) fn mixed(number: u64) -> u64 {
    SplitMix64::seed_from_u64(number).next_u64()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::target::Target;
    use crate::upstream::NewUpstream;

    fn set(weights: &[u32]) -> Upstreams {
        Upstreams::new(&targets(weights), &Upstreams::default(), &NewUpstream::default())
    }

    fn targets(weights: &[u32]) -> Vec<Target> {
        let target = |(id, weight): (usize, &u32)| Target {
            id: UpstreamId(id as u32),
            addr: ([127, 0, 0, 1], 1).into(),
            weight: *weight,
            key: id as u32,
            reserved: false,
        };
        weights.iter().enumerate().map(target).collect()
    }

    fn chosen(set: &Upstreams, policy: UpstreamPolicy, client: u8, tried: &[UpstreamId]) -> Option<u32> {
        ask(set, &criteria(policy, client, tried))
    }

    fn criteria(policy: UpstreamPolicy, client: u8, tried: &[UpstreamId]) -> Criteria<'_> {
        Criteria {
            policy,
            client: [10, 0, 0, client].into(),
            sticky: None,
            tried,
            max_in_flight: None,
            now_ms: 0,
        }
    }

    fn ask(set: &Upstreams, criteria: &Criteria<'_>) -> Option<u32> {
        match choose(set, criteria) {
            Chosen::Upstream(in_flight) => Some(in_flight.upstream().id().0),
            Chosen::Tried | Chosen::Busy(_) | Chosen::NoUpstream => None,
        }
    }

    fn counts(set: &Upstreams, policy: UpstreamPolicy, times: u32) -> BTreeMap<u32, u32> {
        let mut counts = BTreeMap::new();
        for number in 0..times {
            let one = chosen(set, policy, number as u8, &[]).expect("there are some");
            *counts.entry(one).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn turns_and_weights_are_exact() {
        assert_eq!(
            counts(&set(&[1, 1, 1]), UpstreamPolicy::RoundRobin, 30),
            BTreeMap::from([(0, 10), (1, 10), (2, 10)])
        );
        assert_eq!(
            counts(&set(&[3, 1]), UpstreamPolicy::Weighted, 40),
            BTreeMap::from([(0, 30), (1, 10)])
        );
    }

    #[test]
    fn the_fewest_in_flight_wins_and_ties_take_turns() {
        let set = set(&[1, 1, 1]);
        let _busy = [
            set.list[0].begin_below(None),
            set.list[0].begin_below(None),
            set.list[2].begin_below(None),
        ];
        assert_eq!(
            counts(&set, UpstreamPolicy::LeastInFlight, 9),
            BTreeMap::from([(1, 9)])
        );
        let _one = set.list[1].begin_below(None);
        assert_eq!(
            counts(&set, UpstreamPolicy::LeastInFlight, 90),
            BTreeMap::from([(1, 45), (2, 45)])
        );
    }

    #[test]
    fn a_client_stays_with_its_upstream_while_it_is_there() {
        let four = set(&[1, 1, 1, 1]);
        let of = |client| chosen(&four, UpstreamPolicy::IpHash, client, &[]);
        assert!((0..200).all(|client| of(client) == of(client)));
        let first = UpstreamId(of(7).expect("one"));
        for client in 0..200 {
            let moved = chosen(&four, UpstreamPolicy::IpHash, client, &[first]);
            assert!(
                of(client) == Some(first.0) || moved == of(client),
                "only its clients move"
            );
        }
    }

    #[test]
    fn a_client_waits_for_its_upstream_when_that_has_no_room() {
        let four = set(&[1, 1, 1, 1]);
        let by_cookie = Criteria {
            sticky: Some(2),
            max_in_flight: Some(1),
            ..criteria(UpstreamPolicy::RoundRobin, 7, &[])
        };
        let by_address = Criteria {
            max_in_flight: Some(1),
            ..criteria(UpstreamPolicy::IpHash, 7, &[])
        };
        for criteria in [by_cookie, by_address] {
            let Chosen::Upstream(first) = choose(&four, &criteria) else {
                panic!("there is room");
            };
            let id = first.upstream().id();
            assert!(matches!(choose(&four, &criteria), Chosen::Busy(wanted) if wanted == [id]));
            drop(first);
            assert_eq!(ask(&four, &criteria), Some(id.0));
        }
    }

    #[test]
    fn a_reserved_one_is_there_for_clients_that_name_it_alone() {
        let targets = |reserved: u32| -> Vec<Target> {
            (0..3)
                .map(|id| Target {
                    id: UpstreamId(id),
                    addr: ([127, 0, 0, 1], 1).into(),
                    weight: 1,
                    key: id,
                    reserved: id == reserved,
                })
                .collect()
        };
        let before = Upstreams::new(&targets(9), &Upstreams::default(), &NewUpstream::default());
        let after = Upstreams::new(&targets(1), &before, &NewUpstream::default());
        assert!(
            Arc::ptr_eq(&before.list[1], &after.list[1]),
            "what is known of it stays"
        );
        assert_eq!(
            counts(&after, UpstreamPolicy::RoundRobin, 10),
            BTreeMap::from([(0, 5), (2, 5)])
        );
        let of_it = |tried| Criteria {
            sticky: Some(1),
            ..criteria(UpstreamPolicy::RoundRobin, 7, tried)
        };
        assert!((0..10).all(|_| ask(&after, &of_it(&[])) == Some(1)));
        let tried = [UpstreamId(0), UpstreamId(2)];
        assert!(matches!(
            choose(&after, &criteria(UpstreamPolicy::RoundRobin, 7, &tried)),
            Chosen::Tried
        ));
        let again = Upstreams::new(&targets(9), &after, &NewUpstream::default());
        assert_eq!(counts(&again, UpstreamPolicy::RoundRobin, 9).len(), 3);
    }

    #[test]
    fn ejected_ones_are_left_out_unless_all_are() {
        let set = set(&[1, 1]);
        (0..5).for_each(|_| set.list[0].failed(0));
        assert_eq!(
            counts(&set, UpstreamPolicy::RoundRobin, 10),
            BTreeMap::from([(1, 10)])
        );
        (0..5).for_each(|_| set.list[1].failed(0));
        assert_eq!(counts(&set, UpstreamPolicy::RoundRobin, 10).len(), 2);
        let all = [UpstreamId(0), UpstreamId(1)];
        assert_eq!(chosen(&set, UpstreamPolicy::RoundRobin, 1, &all), None);
        assert_eq!(
            chosen(&Upstreams::default(), UpstreamPolicy::RoundRobin, 1, &[]),
            None
        );
    }

    /// Who was left out may come back in the middle of a turn of the others.
    fn assert_within_a_turn(counts: &BTreeMap<u32, u32>, expected: [u32; 3]) {
        let near = |(id, expected)| counts.get(&id).is_some_and(|count| count.abs_diff(expected) <= 1);
        assert!((0..).zip(expected).all(near), "{counts:?}, not {expected:?}");
    }

    #[test]
    fn a_weighted_one_that_was_left_out_does_not_make_up_for_it() {
        let set = set(&[1, 1, 2]);
        (0..5).for_each(|_| set.list[0].failed(0));
        assert_eq!(
            counts(&set, UpstreamPolicy::Weighted, 9000),
            BTreeMap::from([(1, 3000), (2, 6000)])
        );
        let later = Criteria {
            now_ms: 600_000,
            ..criteria(UpstreamPolicy::Weighted, 1, &[])
        };
        let mut counts = BTreeMap::new();
        for _ in 0..40 {
            *counts
                .entry(ask(&set, &later).expect("there are some"))
                .or_insert(0) += 1;
        }
        assert_within_a_turn(&counts, [10, 10, 20]);
    }

    #[test]
    fn weights_hold_for_several_threads() {
        let set = set(&[3, 1]);
        let times = 100_000;
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| counts(&set, UpstreamPolicy::Weighted, times));
            }
        });
        let requests = set.list.iter().map(|one| one.figures(0).requests);
        let requests: Vec<u64> = requests.collect();
        let expected = u64::from(times);
        // Each thread may be in the middle of a turn.
        assert!(requests[1].abs_diff(expected) <= 8, "{requests:?}, not 3 to 1");
    }

    #[test]
    fn a_new_weighted_one_begins_where_the_others_are() {
        let before = set(&[1, 3]);
        counts(&before, UpstreamPolicy::Weighted, 1000);
        let after = Upstreams::new(&targets(&[1, 3, 4]), &before, &NewUpstream::default());
        assert!(Arc::ptr_eq(&before.list[1], &after.list[1]));
        assert_within_a_turn(&counts(&after, UpstreamPolicy::Weighted, 800), [100, 300, 400]);
    }

    /// Requests one after the other, every 10 ms for so long. Each takes as many µs as `latency` says of the upstream that is chosen.
    fn in_a_row(
        set: &Upstreams,
        ms: std::ops::Range<u64>,
        latency: impl Fn(u32) -> u64,
    ) -> BTreeMap<u32, u32> {
        let mut counts = BTreeMap::new();
        for now_ms in ms.step_by(10) {
            let criteria = Criteria {
                now_ms,
                ..criteria(UpstreamPolicy::Latency, 1, &[])
            };
            let Chosen::Upstream(in_flight) = choose(set, &criteria) else {
                panic!("there are some");
            };
            let one = in_flight.upstream();
            one.answered(200, latency(one.id().0), now_ms);
            *counts.entry(one.id().0).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn a_slow_one_is_asked_again_after_a_while() {
        let set = set(&[1, 1, 1, 1]);
        let slow = |id| if id == 3 { 50_000 } else { 500 };
        for (number, one) in set.list.iter().enumerate() {
            one.answered(200, slow(number as u32), 0);
        }
        let soon = in_a_row(&set, 0..20_000, slow);
        assert_eq!(soon.get(&3), None, "{soon:?}");
        assert!(soon.values().all(|count| *count > 400), "{soon:?}");
        let while_slow = in_a_row(&set, 20_000..320_000, slow);
        let asked = while_slow.get(&3).copied().unwrap_or(0);
        assert!((1..=20).contains(&asked), "{while_slow:?}");
        // It is as quick as the others again.
        in_a_row(&set, 320_000..440_000, |_| 500);
        let again = in_a_row(&set, 440_000..460_000, |_| 500);
        assert!(
            again.values().all(|count| *count > 300) && again.len() == 4,
            "{again:?}"
        );
    }

    #[test]
    fn one_that_does_not_respond_gets_few_requests() {
        let set = set(&[1, 1]);
        set.list.iter().for_each(|one| one.answered(200, 500, 0));
        let mut hanging = Vec::new();
        for now_ms in (10..60_000).step_by(10) {
            let criteria = Criteria {
                now_ms,
                ..criteria(UpstreamPolicy::Latency, 1, &[])
            };
            let Chosen::Upstream(in_flight) = choose(&set, &criteria) else {
                panic!("there are some");
            };
            match in_flight.upstream() {
                one if one.id().0 == 0 => one.answered(200, 500, now_ms),
                _ => hanging.push(in_flight),
            }
        }
        assert!((1..=10).contains(&hanging.len()), "{} hang", hanging.len());
    }

    #[test]
    fn a_new_one_counts_as_one_of_average_latency() {
        let set = set(&[1, 1, 1, 1]);
        set.list[..3].iter().for_each(|one| one.answered(200, 50_000, 0));
        let in_flight: Vec<_> = (0..400)
            .map(|_| choose(&set, &criteria(UpstreamPolicy::Latency, 1, &[])))
            .collect();
        let new = set.list[3].in_flight();
        assert!((80..=120).contains(&new), "{new} of {}", in_flight.len());
    }
}
