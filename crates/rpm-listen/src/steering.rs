//! Tells the kernel which slots are eligible: by an eBPF program with a table or, without any privilege, by a classic BPF program that is
//! attached again at every change.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rpm_core::SlotId;
use rpm_keeper::{Keeper, Kept, NOBODY};
use rpm_sys::ebpf::{self, MAX_SLOTS, Tag};
use rpm_sys::{cbpf, socket};

use crate::counting::Count;
use crate::policy::{MAX_WEIGHT, SteeringPolicy, buckets, mixed};
use crate::table::{StoredTable, Table};

/// The steering mechanism of a group, as shown to users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mechanism {
    /// `ebpf` or `cbpf`.
    pub name: &'static str,
    /// Why this one was chosen.
    pub reason: String,
}

/// The steering program of a group.
pub(crate) enum Steering {
    Ebpf(Table),
    Classic(GroupOrder),
    /// No program: the proxy connects to each slot by its own address.
    Apart,
}

/// The kernel's order of the group's sockets, which the result of a classic program indexes. Sockets are in the order of `listen()`; when
/// one leaves, the last takes its place.
pub(crate) struct GroupOrder {
    policy: SteeringPolicy,
    weights: BTreeMap<SlotId, u32>,
    slots: Vec<SlotId>,
    eligible: Vec<SlotId>,
    /// Sockets left while no daemon ran, so the order is unknown and every slot is eligible.
    lost: bool,
    why_not_ebpf: String,
}

impl Steering {
    /// Chooses eBPF if this kernel and user permit it, classic BPF otherwise.
    pub(crate) fn choose(policy: SteeringPolicy, count: Count, keeper: &Keeper) -> Steering {
        let selector = match &count {
            Count::By(counts) => ebpf::Selector::load_least(MAX_SLOTS, counts),
            Count::Unwanted | Count::Fails(_) => ebpf::Selector::load(MAX_SLOTS),
        };
        match selector {
            Ok(selector) if selector.can_migrate() => {
                let kept = selector.descriptors().map(|fd| keeper.keep_shared(fd, NOBODY));
                Steering::Ebpf(Table::new((policy, count), selector, kept.into()))
            }
            Ok(_) => {
                let why = "the kernel cannot migrate queues between sockets (needs 5.14)";
                Steering::classic(policy, why.to_owned())
            }
            Err(error) => Steering::classic(policy, error.to_string()),
        }
    }

    fn classic(policy: SteeringPolicy, why_not_ebpf: String) -> Steering {
        Steering::Classic(GroupOrder {
            policy,
            weights: BTreeMap::new(),
            slots: Vec::new(),
            eligible: Vec::new(),
            lost: false,
            why_not_ebpf,
        })
    }

    /// The kernel's order of the sockets; empty where it does not matter.
    pub(crate) fn order(&self) -> &[SlotId] {
        match self {
            Steering::Ebpf(_) | Steering::Apart => &[],
            Steering::Classic(order) => &order.slots,
        }
    }

    /// True if the kernel steers to all sockets, eligible or not, because their order is unknown.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Steering::Classic(order) => order.lost,
            Steering::Ebpf(_) | Steering::Apart => false,
        }
    }

    /// Attaches a program to sockets that listen already. `order` is the last known order of the kernel; it may contain sockets that have
    /// left since.
    pub(crate) fn take_over(
        (policy, count): (SteeringPolicy, Count),
        slots: &BTreeMap<SlotId, BorrowedFd<'_>>,
        order: &[SlotId],
        keeper: &Keeper,
    ) -> Steering {
        let mut steering = Steering::choose(policy, count, keeper);
        if let Steering::Ebpf(table) = &mut steering {
            let mut all = slots.iter();
            if let Err(error) = all.try_for_each(|(slot, fd)| table.take_in(*slot, *fd)) {
                // Without steering the workers still serve, and are supervised.
                let why = format!("the sockets could not be taken over: {error}");
                steering = Steering::classic(policy, why);
            }
        }
        if let Steering::Classic(classic) = &mut steering {
            (classic.slots, classic.lost) = survivors(order, slots);
        }
        steering
    }

    /// Takes back the program and table of the previous daemon. Nothing changes for clients. The sockets in the table are among these
    /// slots.
    pub(crate) fn taken_back(
        (policy, count): (SteeringPolicy, Count),
        slots: &BTreeMap<SlotId, BorrowedFd<'_>>,
        stored: &StoredTable,
        keeper: &Keeper,
    ) -> Option<Steering> {
        let kept: Option<Vec<Kept<OwnedFd>>> =
            stored.tokens.iter().map(|token| keeper.take(*token)).collect();
        let kept = kept?;
        let shared: Vec<Arc<OwnedFd>> = kept.iter().map(Kept::share).collect();
        let selector = ebpf::Selector::taken_back(shared.try_into().ok()?, MAX_SLOTS).ok()??;
        let mut table = Table::new((policy, count), selector, kept);
        table.attached = true;
        if table.take_back(slots, stored).is_ok() {
            return Some(Steering::Ebpf(table));
        }
        // A socket can be in one table only, and the program that is loaded instead needs them in its own.
        (0..MAX_SLOTS).for_each(|index| drop(table.selector.remove(index)));
        None
    }

    /// What the next daemon needs to know of the table.
    pub(crate) fn stored(&self) -> Option<StoredTable> {
        match self {
            Steering::Ebpf(table) if table.attached => Some(StoredTable {
                tokens: table.kept.iter().map(Kept::token).collect(),
                indexes: table.index.clone(),
            }),
            Steering::Ebpf(_) | Steering::Classic(_) | Steering::Apart => None,
        }
    }

    /// For a group whose sockets cannot be taken over: clients are steered to them, in the kernel's order, until new slots open.
    pub(crate) fn beside(
        (policy, count): (SteeringPolicy, Count),
        order: &[SlotId],
        keeper: &Keeper,
    ) -> Steering {
        let mut steering = Steering::choose(policy, count, keeper);
        match &mut steering {
            Steering::Ebpf(table) => table.waits = true,
            Steering::Classic(classic) => classic.slots = order.to_vec(),
            Steering::Apart => {}
        }
        steering
    }

    pub(crate) fn mechanism(&self, policy: SteeringPolicy) -> Mechanism {
        match self {
            Steering::Apart => Mechanism {
                name: "proxy",
                reason: format!(
                    "the daemon passes on each request, {}",
                    match policy {
                        SteeringPolicy::RoundRobin => "in exact rotation",
                        SteeringPolicy::LeastConnections => {
                            "to the worker with the fewest in flight (least-connections)"
                        }
                        SteeringPolicy::IpHash => "by the client's address (ip-hash)",
                        SteeringPolicy::Weighted => "in exact weighted rotation",
                    }
                ),
            },
            Steering::Ebpf(table) => Mechanism {
                name: "ebpf",
                reason: table.reason(),
            },
            Steering::Classic(order) => Mechanism {
                name: "cbpf",
                reason: format!(
                    "{} among {} workers by classic BPF; no eBPF: {}",
                    match order.policy {
                        SteeringPolicy::RoundRobin | SteeringPolicy::LeastConnections => "random",
                        SteeringPolicy::IpHash => "by the client's address (ip-hash)",
                        SteeringPolicy::Weighted => "random by weight",
                    },
                    if order.lost { "all" } else { "eligible" },
                    order.why_not_ebpf
                ),
            },
        }
    }

    /// True if shutting a slot migrates its queue to the targets.
    pub(crate) fn can_migrate(&self) -> bool {
        matches!(self, Steering::Ebpf(_))
    }

    /// Adds a slot that listens, with its weight.
    pub(crate) fn add(&mut self, slot: SlotId, fd: BorrowedFd<'_>, weight: u32) -> io::Result<()> {
        self.weigh(slot, weight);
        match self {
            Steering::Ebpf(table) => table.add(slot, fd),
            Steering::Classic(order) => {
                order.slots.push(slot);
                Ok(())
            }
            Steering::Apart => Ok(()),
        }
    }

    /// Sets the weight of a slot, if the policy uses weights.
    pub(crate) fn weigh(&mut self, slot: SlotId, weight: u32) {
        let weights = match self {
            Steering::Ebpf(table) => &mut table.weights,
            Steering::Classic(order) => &mut order.weights,
            Steering::Apart => return,
        };
        weights.insert(slot, weight.clamp(1, MAX_WEIGHT));
    }

    /// Steers new connections to `eligible`. `fd_of` returns the descriptor of a slot.
    pub(crate) fn steer<'a>(
        &mut self,
        eligible: &[SlotId],
        fd_of: impl Fn(SlotId) -> Option<BorrowedFd<'a>>,
    ) -> io::Result<()> {
        match self {
            Steering::Ebpf(table) => {
                table.selector.set_eligible(&match table.policy {
                    SteeringPolicy::RoundRobin | SteeringPolicy::LeastConnections => table.indexes(eligible),
                    SteeringPolicy::IpHash => table.indexes(&buckets(eligible)),
                    SteeringPolicy::Weighted => table.indexes(&mixed(&weighed(eligible, &table.weights))),
                });
                table.selector.set_migration_targets(&table.indexes(eligible));
                match eligible.first().and_then(|slot| fd_of(*slot)) {
                    Some(fd) => table.attach(fd),
                    None => Ok(()),
                }
            }
            Steering::Classic(order) => {
                order.eligible = eligible.to_vec();
                order.attach(&order.positions(eligible), fd_of)
            }
            Steering::Apart => Ok(()),
        }
    }

    /// Removes the slot. `leave` takes it out of the kernel's group by shutting it.
    pub(crate) fn remove<'a>(
        &mut self,
        slot: SlotId,
        fd_of: impl Fn(SlotId) -> Option<BorrowedFd<'a>>,
        leave: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        match self {
            Steering::Ebpf(table) => {
                table.weights.remove(&slot);
                table.take_out(slot)?;
                leave()
            }
            Steering::Classic(order) => order.remove(slot, fd_of, leave),
            Steering::Apart => leave(),
        }
    }

    /// Shuts a slot and listens again, which migrates its queue to `to`. eBPF only.
    pub(crate) fn bounce(
        &mut self,
        slot: SlotId,
        fd: BorrowedFd<'_>,
        backlog: u32,
        to: &[SlotId],
    ) -> io::Result<()> {
        let Steering::Ebpf(table) = self else {
            return Ok(());
        };
        let targets = table.indexes(to);
        table.selector.set_migration_targets(&targets);
        // It must be out of the array before the shutdown: a connection steered to a shut socket is reset.
        let index = table.index.get(&slot).copied();
        if let Some(index) = index {
            table.selector.remove(index)?;
        }
        socket::unlisten(fd)?;
        socket::listen(fd, backlog)?;
        match index {
            Some(index) => table.selector.insert(index, fd),
            None => Ok(()),
        }
    }

    /// Connections that the slot's worker has open, and those that wait; `None` where they are not counted.
    pub(crate) fn connections(&self, slot: SlotId) -> Option<u64> {
        match self {
            Steering::Ebpf(Table {
                count: Count::By(counts),
                tags,
                ..
            }) => tags.get(&slot).map(|(tag, _)| counts.connections(*tag)),
            Steering::Ebpf(_) | Steering::Classic(_) | Steering::Apart => None,
        }
    }

    /// The counters of all slots; empty where connections are not counted.
    pub(crate) fn tags(&self) -> Vec<Tag> {
        match self {
            Steering::Ebpf(table) => table.tags.values().map(|(tag, _)| *tag).collect(),
            Steering::Classic(_) | Steering::Apart => Vec::new(),
        }
    }

    /// Connections steered to the slot; `None` with classic BPF.
    pub(crate) fn steered(&self, slot: SlotId) -> Option<u64> {
        match self {
            Steering::Ebpf(table) => table
                .index
                .get(&slot)
                .map(|index| table.selector.counters(*index).steered),
            Steering::Classic(_) | Steering::Apart => None,
        }
    }
}

impl GroupOrder {
    fn positions(&self, slots: &[SlotId]) -> Vec<u32> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, s)| self.lost || slots.contains(s))
            .map(|(i, _)| i as u32)
            .collect()
    }

    fn attach<'a>(
        &self,
        indexes: &[u32],
        fd_of: impl Fn(SlotId) -> Option<BorrowedFd<'a>>,
    ) -> io::Result<()> {
        // Every slot in the order listens, so the program can be attached through any of them.
        let Some(fd) = self.slots.iter().find_map(|slot| fd_of(*slot)) else {
            return Ok(());
        };
        match self.policy {
            _ if indexes.is_empty() => Ok(()),
            SteeringPolicy::RoundRobin | SteeringPolicy::LeastConnections => cbpf::attach_random(fd, indexes),
            SteeringPolicy::IpHash => {
                cbpf::attach_by_address(fd, &self.positions_of(&buckets(&self.at(indexes))))
            }
            SteeringPolicy::Weighted => {
                let mixed = mixed(&weighed(&self.at(indexes), &self.weights));
                cbpf::attach_random(fd, &self.positions_of(&mixed))
            }
        }
    }

    /// The slots at these positions.
    fn at(&self, indexes: &[u32]) -> Vec<SlotId> {
        let at = |index: &u32| self.slots.get(*index as usize).copied();
        indexes.iter().filter_map(at).collect()
    }

    /// The positions of these slots, in the same order.
    fn positions_of(&self, slots: &[SlotId]) -> Vec<u32> {
        let position = |slot: &SlotId| self.slots.iter().position(|other| other == slot);
        let positions = slots.iter().filter_map(position);
        positions.filter_map(|at| u32::try_from(at).ok()).collect()
    }

    /// Removes a slot; the last one takes its position. Meanwhile the program picks only positions whose meaning does not change.
    fn remove<'a>(
        &mut self,
        slot: SlotId,
        fd_of: impl Fn(SlotId) -> Option<BorrowedFd<'a>>,
        leave: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(at) = self.slots.iter().position(|s| *s == slot) else {
            return leave();
        };
        let last = self.slots.len() - 1;
        let mut steady = self.positions(&self.eligible);
        steady.retain(|i| (self.lost || *i as usize != at) && (*i as usize) < last);
        self.attach(&steady, &fd_of)?;
        leave()?;
        self.weights.remove(&slot);
        self.slots.swap_remove(at);
        self.lost &= self.slots.len() > 1;
        self.eligible.retain(|s| *s != slot);
        self.attach(&self.positions(&self.eligible), fd_of)
    }
}

fn weighed(slots: &[SlotId], weights: &BTreeMap<SlotId, u32>) -> Vec<(SlotId, u32)> {
    let weight = |slot: &SlotId| (*slot, weights.get(slot).copied().unwrap_or(1));
    slots.iter().map(weight).collect()
}

/// The order of the remaining sockets, and whether it is unknown. When a socket leaves, the last takes its position, so the result depends
/// on which left first.
fn survivors(order: &[SlotId], left: &BTreeMap<SlotId, BorrowedFd<'_>>) -> (Vec<SlotId>, bool) {
    let mut slots = order.to_vec();
    let gone: Vec<usize> = (0..slots.len())
        .filter(|at| !left.contains_key(&slots[*at]))
        .collect();
    let unknown = left.keys().any(|slot| !order.contains(slot));
    match gone[..] {
        [] if !unknown => (slots, false),
        [at] if !unknown => {
            slots.swap_remove(at);
            (slots, false)
        }
        _ => (left.keys().copied().collect(), left.len() > 1),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn the_order_is_known_if_at_most_one_has_left() {
        let null = std::fs::File::open("/dev/null").expect("it is there");
        let ids = |ids: &[u32]| ids.iter().copied().map(SlotId).collect::<Vec<_>>();
        let order = ids(&[4, 7, 5, 6]);
        let left = |left: &[u32]| {
            let slots = ids(left).into_iter().map(|slot| (slot, null.as_fd()));
            survivors(&order, &slots.collect())
        };
        assert_eq!(left(&[4, 5, 6, 7]), (order.clone(), false));
        assert_eq!(
            left(&[4, 5, 6]),
            (ids(&[4, 6, 5]), false),
            "the last takes its place"
        );
        assert_eq!(left(&[4, 5]), (ids(&[4, 5]), true));
        assert_eq!(left(&[5]), (ids(&[5]), false), "there is one way to order one");
        assert!(left(&[4, 5, 6, 7, 9]).1, "one that the order does not know");
    }
}
