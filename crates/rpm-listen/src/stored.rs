//! Listeners that outlive the daemon: the keeper holds the sockets, and the snapshot has the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rpm_core::{AppId, GroupId, SlotId, WorkerId};
use rpm_keeper::{Keeper, Kept, NOBODY, Token};
use rpm_state as state;
use rpm_sys::ebpf::Tag;
use rpm_sys::socket;

use crate::counting::{Count, Counting};
use crate::front::{front_slots, listen_again};
use crate::group::{FIRST_BACKLOG, Group, Slot};
use crate::handoff::Deal;
use crate::listeners::Listeners;
use crate::policy::SteeringPolicy;
use crate::private::guard;
use crate::shared::Shared;
use crate::steering::Steering;
use crate::table::StoredTable;

/// A socket that the keeper has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredSocket {
    /// Its token at the keeper.
    pub token: Token,
    /// The kernel's id of the socket (`SO_COOKIE`), which is never used twice.
    pub cookie: u64,
}

impl StoredSocket {
    fn of(fd: &Kept<OwnedFd>) -> Option<StoredSocket> {
        Some(StoredSocket {
            token: fd.token(),
            cookie: socket::cookie(fd).ok()?,
        })
    }

    /// True if `fd` is this socket.
    #[must_use]
    pub fn is(&self, fd: impl AsFd) -> bool {
        socket::cookie(fd).is_ok_and(|cookie| cookie == self.cookie)
    }
}

impl From<StoredSocket> for state::Socket {
    fn from(socket: StoredSocket) -> state::Socket {
        state::Socket {
            token: socket.token.into(),
            cookie: socket.cookie,
        }
    }
}

impl From<state::Socket> for StoredSocket {
    fn from(stored: state::Socket) -> StoredSocket {
        StoredSocket {
            token: stored.token.into(),
            cookie: stored.cookie,
        }
    }
}

impl Listeners {
    /// The state for the snapshot. A socket without a cookie would be left out; every socket has one.
    #[must_use]
    pub fn stored(&self) -> state::Listeners {
        state::Listeners {
            groups: self
                .groups
                .iter()
                .map(|(id, group)| stored_group(*id, group))
                .collect(),
            shared: self.shared.iter().filter_map(stored_shared).collect(),
            next_group: self.next_group,
            next_slot: self.next_slot,
            counts: self.counting.tokens().into_iter().map(u64::from).collect(),
        }
    }

    /// Takes over the listeners of a previous daemon. `take` returns a socket from the keeper or, if the keeper has died too, from the
    /// worker that holds it. Also returns the slots that are lost. Sockets of workers in `denied` cannot be taken, but those workers still
    /// serve: their addresses stay known, so that slots can be opened beside them. `front` is the number of the proxy's sockets per
    /// address.
    ///
    /// # Errors
    /// The sockets cannot be watched.
    pub fn take_over(
        stored: state::Listeners,
        denied: &BTreeSet<WorkerId>,
        mut take: impl FnMut(&StoredSocket, Option<WorkerId>) -> Option<Kept<OwnedFd>>,
        (keeper, front): (&Keeper, usize),
    ) -> io::Result<(Listeners, Vec<SlotId>)> {
        let mut listeners = Listeners::new(keeper.clone())?;
        let counts: Vec<Token> = stored.counts.into_iter().map(Token::from).collect();
        listeners.counting = Counting::taken_back(&counts, keeper);
        let mut take = |socket: &StoredSocket, holder: Option<WorkerId>| {
            take(socket, holder).filter(|taken| socket.is(taken))
        };
        (listeners.next_group, listeners.next_slot) = (stored.next_group, stored.next_slot);
        let mut lost = Vec::new();
        for group in stored.groups {
            let id = GroupId(group.group);
            let count = match group.handoff || group.proxy {
                true => Count::Unwanted,
                false => listeners.counting.of(group.policy.into(), keeper),
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
            let holders: BTreeSet<WorkerId> = shared.holders.into_iter().map(WorkerId).collect();
            let mut takers = [None].into_iter().chain(holders.iter().copied().map(Some));
            let socket = shared.socket.into();
            let fd = takers.find_map(|worker| take(&socket, worker));
            if let Some(fd) = &fd {
                fd.belongs_to(NOBODY);
            }
            listeners.shared.extend(fd.map(|fd| Shared {
                app: AppId(shared.app),
                key: shared.key,
                kind: shared.kind.into(),
                fd,
                holders,
                group: GroupId(shared.group),
            }));
        }
        Ok((listeners, lost))
    }
}

fn stored_group(id: GroupId, group: &Group) -> state::Group {
    let slots = group.slots.iter();
    state::Group {
        group: id.0,
        app: group.app.0,
        key: group.key.clone(),
        addr: group.addr,
        v6only: group.v6only,
        policy: group.policy.into(),
        handoff: group.deal.is_some(),
        proxy: group.slots.values().any(Slot::is_private),
        front: group
            .front
            .iter()
            .filter_map(|fd| Some(StoredSocket::of(fd)?.into()))
            .collect(),
        table: group.steering.stored().map(StoredTable::into),
        order: group.steering.order().iter().map(|slot| slot.0).collect(),
        slots: slots.filter_map(|(id, slot)| stored_slot(*id, slot)).collect(),
    }
}

fn stored_slot(id: SlotId, slot: &Slot) -> Option<state::Slot> {
    let numbers = |slots: &Vec<SlotId>| slots.iter().map(|slot| slot.0).collect();
    Some(state::Slot {
        slot: id.0,
        socket: StoredSocket::of(&slot.fd)?.into(),
        holder: slot.holder().map(|worker| worker.0),
        retiring: slot.retiring.as_ref().map(numbers),
        rescued: slot.rescued,
        weight: slot.weight,
        private: slot.is_private(),
    })
}

fn stored_shared(shared: &Shared) -> Option<state::Shared> {
    Some(state::Shared {
        group: shared.group.0,
        app: shared.app.0,
        key: shared.key.clone(),
        kind: (&shared.kind).into(),
        socket: StoredSocket::of(&shared.fd)?.into(),
        holders: shared.holders.iter().map(|worker| worker.0).collect(),
    })
}

/// The sockets of the proxy: as many as it has, or none.
fn take_front(
    stored: &state::Group,
    count: usize,
    take: &mut impl FnMut(&StoredSocket, Option<WorkerId>) -> Option<Kept<OwnedFd>>,
) -> Vec<Kept<OwnedFd>> {
    let taken = stored
        .front
        .iter()
        .filter_map(|socket| take(&(*socket).into(), None));
    let kept: Vec<Kept<OwnedFd>> = taken.collect();
    if stored.proxy && kept.len() == count && kept.iter().all(|listener| listen_again(listener).is_ok()) {
        return kept;
    }
    // Clients must not queue at sockets that no thread accepts from.
    for listener in &kept {
        let _ = socket::unlisten(listener.as_fd());
    }
    Vec::new()
}

/// Is the socket what it was? A worker that shares it may have bound it elsewhere, or ended its listening.
fn is_as_stored(addr: &SocketAddr, slot: &state::Slot, fd: &Kept<OwnedFd>) -> bool {
    let is_there = |bound: SocketAddr| match slot.private {
        true => bound.ip().is_loopback(),
        false => bound == *addr,
    };
    let is_in_place = socket::tcp(fd).is_some() && socket::local_addr(fd).is_ok_and(is_there);
    let listens = || socket::accept_queue(fd.as_fd()).is_ok_and(|queue| queue.listening);
    is_in_place && (slot.retiring.is_some() || listens() || socket::listen(fd.as_fd(), FIRST_BACKLOG).is_ok())
}

/// The slot, if the socket is what it was.
fn take_slot(addr: &SocketAddr, stored: &state::Slot, fd: Kept<OwnedFd>) -> Option<Slot> {
    if !is_as_stored(addr, stored, &fd) {
        return None;
    }
    let private = stored.private.then(|| socket::local_addr(&fd)).transpose().ok()?;
    if private.is_some() {
        guard(fd.as_fd());
    }
    let mut slot = Slot::new(fd, stored.socket.cookie, (private, stored.weight), None);
    // The keeper may know another one: the daemon has died between the two.
    slot.held_by(stored.holder.map(WorkerId));
    slot.retiring = stored.retiring.as_ref().map(|slots| slot_ids(slots));
    slot.rescued = stored.rescued;
    Some(slot)
}

fn slot_ids(numbers: &[u32]) -> Vec<SlotId> {
    numbers.iter().copied().map(SlotId).collect()
}

fn take_group(
    (stored, count, front): (state::Group, Count, usize),
    keeper: &Keeper,
    denied: &BTreeSet<WorkerId>,
    take: &mut impl FnMut(&StoredSocket, Option<WorkerId>) -> Option<Kept<OwnedFd>>,
    lost: &mut Vec<SlotId>,
) -> Option<Group> {
    let sockets = take_front(&stored, front, take);
    let (mut slots, mut foreign) = (BTreeMap::new(), BTreeMap::new());
    for slot in stored.slots {
        let (id, holder) = (SlotId(slot.slot), slot.holder.map(WorkerId));
        match take(&slot.socket.into(), holder).and_then(|fd| take_slot(&stored.addr, &slot, fd)) {
            Some(taken) => drop(slots.insert(id, taken)),
            None => {
                lost.push(id);
                let holder = holder.filter(|worker| !slot.private && denied.contains(worker));
                foreign.extend(holder.map(|holder| (id, holder)));
            }
        }
    }
    let (policy, order) = (SteeringPolicy::from(stored.policy), slot_ids(&stored.order));
    let steered = slots.iter().filter(|(_, slot)| !slot.is_private());
    let mut steered: BTreeMap<_, _> = steered.map(|(id, slot)| (*id, slot.fd.as_fd())).collect();
    if !steered.is_empty() {
        steered.extend(front_slots(&sockets));
    }
    let mut steering = match (steered.is_empty(), foreign.is_empty()) {
        (true, true) if slots.is_empty() => return None,
        (true, true) => Steering::Proxied,
        (true, false) => Steering::beside((policy, count), &order, keeper),
        (false, _) => {
            let table = stored.table.map(StoredTable::from);
            let known = (policy, count.clone());
            let back = table.and_then(|table| Steering::taken_back(known, &steered, &table, keeper));
            back.unwrap_or_else(|| Steering::take_over((policy, count), &steered, &order, keeper))
        }
    };
    for (id, slot) in &slots {
        steering.weigh(*id, slot.weight);
    }
    let mut group = Group {
        app: AppId(stored.app),
        key: stored.key,
        addr: stored.addr,
        v6only: stored.v6only,
        policy,
        steering,
        slots,
        eligible: Vec::new(),
        foreign,
        deal: stored.handoff.then(Deal::default),
        front: sockets,
        keeper: keeper.clone(),
    };
    // If the proxy's sockets were not kept, clients were refused from the death of the daemon until here.
    if group.slots.values().any(|slot| slot.is_private()) && group.open_front(front).is_err() {
        // Another process has taken the address in the meantime.
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
