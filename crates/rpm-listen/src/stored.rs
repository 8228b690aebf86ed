//! Listeners that outlive the daemon: the workers hold the sockets, and what is known of them is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use rpm_core::{AppId, GroupId, SlotId, WorkerId};
use rpm_sys::ebpf::{Counts, Tag};
use rpm_sys::socket;
use serde::{Deserialize, Serialize};

use crate::counting::{Count, Counting};
use crate::front::{front_slots, listen_again};
use crate::group::{Group, Slot};
use crate::handoff::Deal;
use crate::listeners::Listeners;
use crate::policy::Policy;
use crate::shared::{Shared, SharedKind};
use crate::steering::Steering;

/// All that is known of the listeners, but their descriptors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    groups: Vec<StoredGroup>,
    shared: Vec<StoredShared>,
    next_group: u32,
    next_slot: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredGroup {
    group: GroupId,
    app: AppId,
    key: String,
    addr: SocketAddr,
    v6only: bool,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    handoff: bool,
    #[serde(default)]
    proxy: bool,
    /// The sockets of the proxy.
    #[serde(default)]
    front: Vec<u64>,
    /// The kernel's order of the slots, where steering depends on it.
    order: Vec<SlotId>,
    slots: Vec<StoredSlot>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredSlot {
    slot: SlotId,
    inode: u64,
    holder: Option<WorkerId>,
    retiring: Option<Vec<SlotId>>,
    rescued: u64,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    private: bool,
}

fn one() -> u32 {
    1
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredShared {
    group: GroupId,
    app: AppId,
    key: String,
    kind: SharedKind,
    inode: u64,
    holders: BTreeSet<WorkerId>,
}

impl Listeners {
    /// What a successor must know. A socket that has no inode is left out, which cannot be.
    #[must_use]
    pub fn stored(&self) -> Stored {
        let slot = |(id, slot): (&SlotId, &Slot)| {
            Some(StoredSlot {
                slot: *id,
                inode: socket::inode(slot.fd.as_fd()).ok()?,
                holder: slot.holder,
                retiring: slot.retiring.clone(),
                rescued: slot.rescued,
                weight: slot.weight,
                private: slot.is_private(),
            })
        };
        let group = |(id, group): (&GroupId, &Group)| StoredGroup {
            group: *id,
            app: group.app,
            key: group.key.clone(),
            addr: group.addr,
            v6only: group.v6only,
            policy: group.policy,
            handoff: group.deal.is_some(),
            proxy: group.slots.values().any(|slot| slot.is_private()),
            front: group
                .front
                .iter()
                .filter_map(|fd| socket::inode(fd).ok())
                .collect(),
            order: group.steering.order().to_vec(),
            slots: group.slots.iter().filter_map(slot).collect(),
        };
        let shared = |shared: &Shared| {
            Some(StoredShared {
                group: shared.group,
                app: shared.app,
                key: shared.key.clone(),
                kind: shared.kind.clone(),
                inode: socket::inode(shared.fd.as_fd()).ok()?,
                holders: shared.holders.clone(),
            })
        };
        Stored {
            groups: self.groups.iter().map(group).collect(),
            shared: self.shared.iter().filter_map(shared).collect(),
            next_group: self.next_group,
            next_slot: self.next_slot,
        }
    }

    /// Takes charge of what a predecessor had. `take` gives a copy of the socket with an inode that a worker holds.
    /// Returns also the slots that are gone. Of workers in `denied` nothing can be taken, though they serve on: their addresses
    /// stay known, so that others can be opened beside them. `counts` are those that the workers kept;
    /// `front` is how many sockets the proxy has for an address.
    ///
    /// # Errors
    /// The kernel refuses to watch them.
    pub fn take_over(
        stored: Stored,
        denied: &BTreeSet<WorkerId>,
        mut take: impl FnMut(WorkerId, u64) -> Option<OwnedFd>,
        (counts, front): (Option<Counts>, usize),
    ) -> io::Result<(Listeners, Vec<SlotId>)> {
        let mut listeners = Listeners::new()?;
        listeners.counting = Counting::taken_back(counts);
        (listeners.next_group, listeners.next_slot) = (stored.next_group, stored.next_slot);
        let mut lost = Vec::new();
        for group in stored.groups {
            let id = group.group;
            let count = match group.handoff || group.proxy {
                true => Count::Unwanted,
                false => listeners.counting.of(group.policy),
            };
            let Some(group) = take_group((group, count, front), denied, &mut take, &mut lost) else {
                continue;
            };
            for (slot, held) in &group.slots {
                let (fd, token) = (held.fd.as_fd(), u64::from(slot.0));
                match &group.deal {
                    Some(_) => listeners.arrivals.add(fd, token)?,
                    None => listeners.traffic.add(fd, token)?,
                }
                listeners.group_of.insert(*slot, id);
            }
            listeners.groups.insert(id, group);
        }
        let known: Vec<Tag> = listeners
            .groups
            .values()
            .flat_map(|group| group.steering.tags())
            .collect();
        listeners.counting.end_all_but(&known);
        for shared in stored.shared {
            let fd = shared
                .holders
                .iter()
                .find_map(|worker| take(*worker, shared.inode));
            listeners.shared.extend(fd.map(|fd| Shared {
                app: shared.app,
                key: shared.key,
                kind: shared.kind,
                fd,
                holders: shared.holders,
                group: shared.group,
            }));
        }
        Ok((listeners, lost))
    }
}

/// The sockets of the proxy that workers have kept: as many as it has, or none.
fn take_front(
    stored: &StoredGroup,
    count: usize,
    take: &mut impl FnMut(WorkerId, u64) -> Option<OwnedFd>,
) -> Vec<OwnedFd> {
    let mut kept = Vec::new();
    for inode in &stored.front {
        let mut keepers = stored.slots.iter().filter_map(|slot| slot.holder);
        kept.extend(keepers.find_map(|worker| take(worker, *inode)));
    }
    if stored.proxy && kept.len() == count && kept.iter().all(|listener| listen_again(listener).is_ok()) {
        return kept;
    }
    // Nobody is to wait at those that are not used.
    for listener in &kept {
        let _ = socket::unlisten(listener.as_fd());
    }
    Vec::new()
}

fn take_group(
    (stored, count, front): (StoredGroup, Count, usize),
    denied: &BTreeSet<WorkerId>,
    take: &mut impl FnMut(WorkerId, u64) -> Option<OwnedFd>,
    lost: &mut Vec<SlotId>,
) -> Option<Group> {
    let held = |slot: &StoredSlot| {
        let holder = slot
            .holder
            .filter(|worker| !slot.private && denied.contains(worker))?;
        Some((slot.slot, holder))
    };
    let foreign: BTreeMap<SlotId, WorkerId> = stored.slots.iter().filter_map(held).collect();
    let sockets = take_front(&stored, front, take);
    let mut slots = BTreeMap::new();
    for slot in stored.slots {
        let taken = slot.holder.and_then(|worker| take(worker, slot.inode));
        let addressed = taken.and_then(|fd| {
            let private = slot.private.then(|| socket::local_addr(&fd)).transpose();
            Some((private.ok()?, fd))
        });
        match addressed {
            Some((private, fd)) => drop(slots.insert(
                slot.slot,
                Slot {
                    cookie: socket::cookie(&fd).unwrap_or_default(),
                    private,
                    weight: slot.weight,
                    fd,
                    holder: slot.holder,
                    retiring: slot.retiring,
                    rescued: slot.rescued,
                },
            )),
            None => lost.push(slot.slot),
        }
    }
    let steered = slots.iter().filter(|(_, slot)| !slot.is_private());
    let mut steered: BTreeMap<_, _> = steered.map(|(id, slot)| (*id, slot.fd.as_fd())).collect();
    if !steered.is_empty() {
        steered.extend(front_slots(&sockets));
    }
    let mut steering = match (steered.is_empty(), foreign.is_empty()) {
        (true, true) if slots.is_empty() => return None,
        (true, true) => Steering::Apart,
        (true, false) => Steering::beside((stored.policy, count), &stored.order),
        (false, _) => Steering::take_over((stored.policy, count), &steered, &stored.order),
    };
    for (id, slot) in &slots {
        steering.weigh(*id, slot.weight);
    }
    let mut group = Group {
        app: stored.app,
        key: stored.key,
        addr: stored.addr,
        v6only: stored.v6only,
        policy: stored.policy,
        steering,
        slots,
        eligible: Vec::new(),
        foreign,
        deal: stored.handoff.then(Deal::default),
        front: sockets,
    };
    // Where its sockets were not kept clients of the proxy are refused from the death of the daemon until here.
    if group.slots.values().any(|slot| slot.is_private()) && group.open_front(front).is_err() {
        // Somebody has taken the address meanwhile.
        lost.extend(
            group
                .slots
                .extract_if(.., |_, slot| slot.is_private())
                .map(|(id, _)| id),
        );
        if group.slots.is_empty() && group.foreign.is_empty() {
            return None;
        }
    }
    Some(group)
}
