//! Tells the kernel which slots are eligible: by an eBPF program with a table or, without any privilege, by a classic BPF program that is
//! attached again at every change.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rpm_core::SlotId;
use rpm_keeper::{Keeper, Kept, NOBODY};
use rpm_sys::ebpf::{self, MAX_SLOTS, Tag};
use rpm_sys::socket;

use crate::classic::GroupOrder;
use crate::counting::{Count, Spread};
use crate::policy::{MAX_WEIGHT, SteeringPolicy, buckets, mixed, weighed};
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
    Proxied,
}

impl Steering {
    /// Chooses eBPF if this kernel and user permit it, classic BPF otherwise.
    pub(crate) fn choose(spread: Spread, keeper: &Keeper) -> Steering {
        let policy = spread.policy;
        let selector = match &spread.count {
            Count::By(counts) => ebpf::Selector::load_least(MAX_SLOTS, counts),
            Count::Unwanted | Count::Fails(_) => ebpf::Selector::load(MAX_SLOTS),
        };
        match selector {
            Ok(selector) if selector.can_migrate() => {
                let kept = selector.descriptors().map(|fd| keeper.keep_shared(fd, NOBODY));
                Steering::Ebpf(Table::new(spread, selector, kept.into()))
            }
            Ok(_) => {
                let why = "the kernel cannot migrate queues between sockets (needs 5.14)";
                Steering::classic(policy, why.to_owned())
            }
            Err(error) => Steering::classic(policy, error.to_string()),
        }
    }

    fn classic(policy: SteeringPolicy, why_not_ebpf: String) -> Steering {
        Steering::Classic(GroupOrder::new(policy, why_not_ebpf))
    }

    /// The kernel's order of the sockets; empty where it does not matter.
    pub(crate) fn order(&self) -> &[SlotId] {
        match self {
            Steering::Ebpf(_) | Steering::Proxied => &[],
            Steering::Classic(order) => &order.slots,
        }
    }

    /// True if the kernel steers to all sockets, eligible or not, because their order is unknown.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Steering::Classic(order) => order.lost,
            Steering::Ebpf(_) | Steering::Proxied => false,
        }
    }

    /// Attaches a program to sockets that listen already. `order` is the last known order of the kernel; it may contain sockets that have
    /// left since.
    pub(crate) fn take_over(
        spread: Spread,
        slots: &BTreeMap<SlotId, BorrowedFd<'_>>,
        order: &[SlotId],
        keeper: &Keeper,
    ) -> Steering {
        let policy = spread.policy;
        let mut steering = Steering::choose(spread, keeper);
        if let Steering::Ebpf(table) = &mut steering {
            let mut all = slots.iter();
            if let Err(error) = all.try_for_each(|(slot, fd)| table.take_in(*slot, *fd)) {
                // Without steering the workers still serve, and are supervised.
                let why = format!("the sockets could not be taken over: {error}");
                steering = Steering::classic(policy, why);
            }
        }
        if let Steering::Classic(classic) = &mut steering {
            classic.take_over(order, slots);
        }
        steering
    }

    /// Takes back the program and table of the previous daemon. Nothing changes for clients. The sockets in the table are among these
    /// slots.
    pub(crate) fn taken_back(
        spread: Spread,
        slots: &BTreeMap<SlotId, BorrowedFd<'_>>,
        stored: &StoredTable,
        keeper: &Keeper,
    ) -> Option<Steering> {
        let kept: Option<Vec<Kept<OwnedFd>>> =
            stored.tokens.iter().map(|token| keeper.take(*token)).collect();
        let kept = kept?;
        let shared: Vec<Arc<OwnedFd>> = kept.iter().map(Kept::share).collect();
        let selector = ebpf::Selector::taken_back(shared.try_into().ok()?, MAX_SLOTS).ok()??;
        let mut table = Table::new(spread, selector, kept);
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
            Steering::Ebpf(_) | Steering::Classic(_) | Steering::Proxied => None,
        }
    }

    /// For a group whose sockets cannot be taken over: clients are steered to them, in the kernel's order, until new slots open.
    pub(crate) fn beside(spread: Spread, order: &[SlotId], keeper: &Keeper) -> Steering {
        let mut steering = Steering::choose(spread, keeper);
        match &mut steering {
            Steering::Ebpf(table) => table.waits = true,
            Steering::Classic(classic) => classic.slots = order.to_vec(),
            Steering::Proxied => {}
        }
        steering
    }

    pub(crate) fn mechanism(&self, policy: SteeringPolicy) -> Mechanism {
        match self {
            Steering::Proxied => Mechanism {
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
                reason: order.reason(),
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
            Steering::Proxied => Ok(()),
        }
    }

    /// Sets the weight of a slot, if the policy uses weights.
    pub(crate) fn weigh(&mut self, slot: SlotId, weight: u32) {
        let weights = match self {
            Steering::Ebpf(table) => &mut table.weights,
            Steering::Classic(order) => &mut order.weights,
            Steering::Proxied => return,
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
            Steering::Classic(order) => order.steer(eligible, fd_of),
            Steering::Proxied => Ok(()),
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
            Steering::Proxied => leave(),
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
            Steering::Ebpf(_) | Steering::Classic(_) | Steering::Proxied => None,
        }
    }

    /// The counters of all slots; empty where connections are not counted.
    pub(crate) fn tags(&self) -> Vec<Tag> {
        match self {
            Steering::Ebpf(table) => table.tags.values().map(|(tag, _)| *tag).collect(),
            Steering::Classic(_) | Steering::Proxied => Vec::new(),
        }
    }

    /// Connections steered to the slot; `None` with classic BPF.
    pub(crate) fn steered(&self, slot: SlotId) -> Option<u64> {
        match self {
            Steering::Ebpf(table) => table
                .index
                .get(&slot)
                .map(|index| table.selector.counters(*index).steered),
            Steering::Classic(_) | Steering::Proxied => None,
        }
    }
}
