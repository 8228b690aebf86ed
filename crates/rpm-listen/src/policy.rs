//! Steering policies: which eligible worker gets a connection.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{RngCore as _, SeedableRng as _};
use rpm_core::SlotId;

/// How connections are spread over the workers of an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SteeringPolicy {
    /// In turn; random with classic BPF.
    #[default]
    RoundRobin,
    /// The worker with the fewest connections; random with classic BPF.
    LeastConnections,
    /// By the client's address: a client always gets the same worker.
    IpHash,
    /// In turn, in proportion to each worker's weight; random by weight with classic BPF.
    Weighted,
}

impl From<SteeringPolicy> for rpm_state::Policy {
    fn from(policy: SteeringPolicy) -> rpm_state::Policy {
        match policy {
            SteeringPolicy::RoundRobin => rpm_state::Policy::RoundRobin,
            SteeringPolicy::LeastConnections => rpm_state::Policy::LeastConnections,
            SteeringPolicy::IpHash => rpm_state::Policy::IpHash,
            SteeringPolicy::Weighted => rpm_state::Policy::Weighted,
        }
    }
}

impl From<rpm_state::Policy> for SteeringPolicy {
    fn from(stored: rpm_state::Policy) -> SteeringPolicy {
        match stored {
            rpm_state::Policy::RoundRobin => SteeringPolicy::RoundRobin,
            rpm_state::Policy::LeastConnections => SteeringPolicy::LeastConnections,
            rpm_state::Policy::IpHash => SteeringPolicy::IpHash,
            rpm_state::Policy::Weighted => SteeringPolicy::Weighted,
        }
    }
}

/// The heaviest that a slot can be; taken as that if it is more. The lightest is 1.
pub const MAX_WEIGHT: u32 = 100;

/// Length of a rotation: a little less than the programs have room for, because scaled weights are rounded up.
const TURNS: u32 = 900;

/// Number of buckets that addresses are hashed into. Buckets are spread over workers about evenly for some tens of workers.
pub(crate) const BUCKETS: u32 = 256;

/// A rotation in which each slot appears as often as its weight says, mixed as evenly as possible: each turn goes to the slot that is
/// furthest behind its share.
pub(crate) fn mixed(slots: &[(SlotId, u32)]) -> Vec<SlotId> {
    let whole: u32 = slots.iter().map(|(_, weight)| *weight).sum();
    // A longer rotation is scaled down, with proportions as close as possible.
    let scaled = |(slot, weight): &(SlotId, u32)| match whole {
        0..=TURNS => (*slot, *weight),
        _ => (*slot, (weight * TURNS / whole).max(1)),
    };
    let slots: Vec<(SlotId, u32)> = slots.iter().map(scaled).take(TURNS as usize).collect();
    let total: i64 = slots.iter().map(|(_, weight)| i64::from(*weight)).sum();
    let mut behind: Vec<i64> = slots.iter().map(|_| 0).collect();
    let mut turns = Vec::new();
    for _ in 0..total {
        for (behind, (_, weight)) in behind.iter_mut().zip(&slots) {
            *behind += i64::from(*weight);
        }
        let furthest = (0..slots.len()).max_by_key(|at| (behind[*at], core::cmp::Reverse(*at)));
        let Some(at) = furthest else { break };
        behind[at] -= total;
        turns.push(slots[at].0);
    }
    turns
}

/// Slots with their weights.
pub(crate) fn weighed(slots: &[SlotId], weights: &BTreeMap<SlotId, u32>) -> Vec<(SlotId, u32)> {
    let weight = |slot: &SlotId| (*slot, weights.get(slot).copied().unwrap_or(1));
    slots.iter().map(weight).collect()
}

/// The slot of each bucket, by rendezvous hashing: the slot with the highest score. If a slot leaves, only its buckets move, and they
/// return with it. A new slot gets a share of the buckets of each.
pub(crate) fn buckets(slots: &[SlotId]) -> Vec<SlotId> {
    let best = |bucket| {
        slots
            .iter()
            .copied()
            .max_by_key(|slot| (score(bucket, *slot), *slot))
    };
    (0..BUCKETS).filter_map(best).collect()
}

/// The bucket of a client.
pub(crate) fn bucket_of(ip: IpAddr) -> usize {
    let bits = match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let folded = (bits >> 64) as u64 ^ bits as u64;
    let high = (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
    (high % BUCKETS) as usize
}

fn score(bucket: u32, slot: SlotId) -> u64 {
    SplitMix64::seed_from_u64(u64::from(bucket) << 32 | u64::from(slot.0)).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(ids: &[u32]) -> Vec<SlotId> {
        ids.iter().copied().map(SlotId).collect()
    }

    #[test]
    fn every_slot_has_about_its_share() {
        for count in [1, 2, 4, 8, 16] {
            let slots: Vec<SlotId> = (10..10 + count).map(SlotId).collect();
            let all = buckets(&slots);
            assert_eq!(all.len(), BUCKETS as usize);
            let fair = BUCKETS / count;
            for slot in slots {
                let share = all.iter().filter(|of| **of == slot).count() as u32;
                assert!((fair / 3..=3 * fair).contains(&share), "{share} of {count}");
            }
        }
        assert!(buckets(&[]).is_empty());
    }

    #[test]
    fn the_heavy_have_more_turns_but_not_in_a_row() {
        let ids = |weights: &[(u32, u32)]| {
            let slots: Vec<_> = weights
                .iter()
                .map(|(id, weight)| (SlotId(*id), *weight))
                .collect();
            mixed(&slots).iter().map(|slot| slot.0).collect::<Vec<_>>()
        };
        assert_eq!(ids(&[(1, 3), (2, 1)]), [1, 1, 2, 1]);
        assert_eq!(ids(&[(1, 1), (2, 1), (3, 1)]), [1, 2, 3]);
        assert_eq!(ids(&[(7, 5)]), [7; 5]);
        assert_eq!(ids(&[]), [0; 0]);
        let many: Vec<(u32, u32)> = (0..64).map(|id| (id, if id == 0 { 100 } else { 50 })).collect();
        let turns = ids(&many);
        assert!(turns.len() <= 1024 && turns.iter().filter(|id| **id == 0).count() >= 20);
    }

    #[test]
    fn what_others_have_stays_when_one_leaves_and_comes_back() {
        let before = buckets(&slots(&[1, 2, 3, 4]));
        let without = buckets(&slots(&[1, 2, 4]));
        for (then, now) in before.iter().zip(&without) {
            assert!(then == now || *then == SlotId(3));
        }
        assert_eq!(buckets(&slots(&[4, 3, 2, 1])), before, "whatever the order");
    }
}
