//! Listeners that outlive the daemon: the keeper holds the sockets, and what is known of them is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rpm_core::{AppId, GroupId, SlotId, WorkerId};
use rpm_keeper::{Keeper, Kept, NOBODY, Token};
use rpm_sys::ebpf::Tag;
use rpm_sys::socket;
use serde::{Deserialize, Serialize};

use crate::counting::{Count, Counting};
use crate::front::{front_slots, listen_again};
use crate::group::{FIRST_BACKLOG, Group, Slot};
use crate::handoff::Deal;
use crate::listeners::Listeners;
use crate::policy::Policy;
use crate::private::guard;
use crate::shared::{Shared, SharedKind};
use crate::steering::Steering;
use crate::table::StoredTable;

/// All that is known of the listeners, but their descriptors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    groups: Vec<StoredGroup>,
    shared: Vec<StoredShared>,
    next_group: u32,
    next_slot: u32,
    /// What counts connections.
    counts: Vec<Token>,
}

/// A socket that the keeper has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSocket {
    /// By which it is asked for.
    pub token: Token,
    /// What it is: the kernel gives no two sockets the same (`SO_COOKIE`).
    pub cookie: u64,
}

impl StoredSocket {
    fn of(fd: &Kept<OwnedFd>) -> Option<StoredSocket> {
        Some(StoredSocket {
            token: fd.token(),
            cookie: socket::cookie(fd).ok()?,
        })
    }

    /// Is this the one?
    #[must_use]
    pub fn is(&self, fd: impl AsFd) -> bool {
        socket::cookie(fd).is_ok_and(|cookie| cookie == self.cookie)
    }
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
    front: Vec<StoredSocket>,
    /// The table of the eBPF program.
    table: Option<StoredTable>,
    /// The kernel's order of the slots, where steering depends on it.
    order: Vec<SlotId>,
    slots: Vec<StoredSlot>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredSlot {
    slot: SlotId,
    socket: StoredSocket,
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
    socket: StoredSocket,
    holders: BTreeSet<WorkerId>,
}

impl Listeners {
    /// What a successor must know. A socket that has no cookie is left out, which cannot be.
    #[must_use]
    pub fn stored(&self) -> Stored {
        let slot = |(id, slot): (&SlotId, &Slot)| {
            Some(StoredSlot {
                slot: *id,
                socket: StoredSocket::of(&slot.fd)?,
                holder: slot.holder(),
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
            front: group.front.iter().filter_map(StoredSocket::of).collect(),
            table: group.steering.stored(),
            order: group.steering.order().to_vec(),
            slots: group.slots.iter().filter_map(slot).collect(),
        };
        let shared = |shared: &Shared| {
            Some(StoredShared {
                group: shared.group,
                app: shared.app,
                key: shared.key.clone(),
                kind: shared.kind.clone(),
                socket: StoredSocket::of(&shared.fd)?,
                holders: shared.holders.clone(),
            })
        };
        Stored {
            groups: self.groups.iter().map(group).collect(),
            shared: self.shared.iter().filter_map(shared).collect(),
            next_group: self.next_group,
            next_slot: self.next_slot,
            counts: self.counting.tokens(),
        }
    }

    /// Takes charge of what a predecessor had. `take` gives the socket back, from the keeper or, if that has died too, from the worker that holds it.
    /// Returns also the slots that are gone. Of workers in `denied` nothing can be taken, though they serve on: their addresses
    /// stay known, so that others can be opened beside them. `front` is how many sockets the proxy has for an address.
    ///
    /// # Errors
    /// The kernel refuses to watch them.
    pub fn take_over(
        stored: Stored,
        denied: &BTreeSet<WorkerId>,
        mut take: impl FnMut(&StoredSocket, Option<WorkerId>) -> Option<Kept<OwnedFd>>,
        (keeper, front): (&Keeper, usize),
    ) -> io::Result<(Listeners, Vec<SlotId>)> {
        let mut listeners = Listeners::new(keeper.clone())?;
        listeners.counting = Counting::taken_back(&stored.counts, keeper);
        let mut take = |socket: &StoredSocket, holder: Option<WorkerId>| {
            take(socket, holder).filter(|taken| socket.is(taken))
        };
        (listeners.next_group, listeners.next_slot) = (stored.next_group, stored.next_slot);
        let mut lost = Vec::new();
        for group in stored.groups {
            let id = group.group;
            let count = match group.handoff || group.proxy {
                true => Count::Unwanted,
                false => listeners.counting.of(group.policy, keeper),
            };
            let Some(group) = take_group((group, count, front), keeper, denied, &mut take, &mut lost) else {
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
            let mut holders = [None].into_iter().chain(shared.holders.iter().copied().map(Some));
            let fd = holders.find_map(|worker| take(&shared.socket, worker));
            if let Some(fd) = &fd {
                fd.belongs_to(NOBODY);
            }
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

/// The sockets of the proxy: as many as it has, or none.
fn take_front(
    stored: &StoredGroup,
    count: usize,
    take: &mut impl FnMut(&StoredSocket, Option<WorkerId>) -> Option<Kept<OwnedFd>>,
) -> Vec<Kept<OwnedFd>> {
    let taken = stored.front.iter().filter_map(|socket| take(socket, None));
    let kept: Vec<Kept<OwnedFd>> = taken.collect();
    if stored.proxy && kept.len() == count && kept.iter().all(|listener| listen_again(listener).is_ok()) {
        return kept;
    }
    // Nobody is to wait at those that are not used.
    for listener in &kept {
        let _ = socket::unlisten(listener.as_fd());
    }
    Vec::new()
}

/// Is the socket what it was? A worker that shares it may have bound it elsewhere, or ended its listening.
fn is_as_stored(addr: &SocketAddr, slot: &StoredSlot, fd: &Kept<OwnedFd>) -> bool {
    let is_there = |bound: SocketAddr| match slot.private {
        true => bound.ip().is_loopback(),
        false => bound == *addr,
    };
    let is_in_place = socket::tcp(fd).is_some() && socket::local_addr(fd).is_ok_and(is_there);
    let listens = || socket::accept_queue(fd.as_fd()).is_ok_and(|queue| queue.listening);
    is_in_place && (slot.retiring.is_some() || listens() || socket::listen(fd.as_fd(), FIRST_BACKLOG).is_ok())
}

/// The slot, if the socket is what it was.
fn take_slot(addr: &SocketAddr, stored: &StoredSlot, fd: Kept<OwnedFd>) -> Option<Slot> {
    if !is_as_stored(addr, stored, &fd) {
        return None;
    }
    let private = stored.private.then(|| socket::local_addr(&fd)).transpose().ok()?;
    if private.is_some() {
        guard(fd.as_fd());
    }
    let mut slot = Slot::new(fd, stored.socket.cookie, (private, stored.weight), None);
    // The keeper may know another one: the daemon has died between the two.
    slot.held_by(stored.holder);
    slot.retiring.clone_from(&stored.retiring);
    slot.rescued = stored.rescued;
    Some(slot)
}

fn take_group(
    (stored, count, front): (StoredGroup, Count, usize),
    keeper: &Keeper,
    denied: &BTreeSet<WorkerId>,
    take: &mut impl FnMut(&StoredSocket, Option<WorkerId>) -> Option<Kept<OwnedFd>>,
    lost: &mut Vec<SlotId>,
) -> Option<Group> {
    let sockets = take_front(&stored, front, take);
    let (mut slots, mut foreign) = (BTreeMap::new(), BTreeMap::new());
    for slot in stored.slots {
        match take(&slot.socket, slot.holder).and_then(|fd| take_slot(&stored.addr, &slot, fd)) {
            Some(taken) => drop(slots.insert(slot.slot, taken)),
            None => {
                lost.push(slot.slot);
                let holder = slot
                    .holder
                    .filter(|worker| !slot.private && denied.contains(worker));
                foreign.extend(holder.map(|holder| (slot.slot, holder)));
            }
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
        (true, false) => Steering::beside((stored.policy, count), &stored.order, keeper),
        (false, _) => {
            let table = stored.table.as_ref();
            let known = (stored.policy, count.clone());
            let back = table.and_then(|table| Steering::taken_back(known, &steered, table, keeper));
            back.unwrap_or_else(|| {
                Steering::take_over((stored.policy, count), &steered, &stored.order, keeper)
            })
        }
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
        keeper: keeper.clone(),
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
