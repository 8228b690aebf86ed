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

use crate::counting::{Count, Counting, Spread};
use crate::front::{front_slots, listen_again};
use crate::group::{FIRST_BACKLOG, Group, Site, Slot, Tenure};
use crate::handoff::Deal;
use crate::listeners::Listeners;
use crate::policy::SteeringPolicy;
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
    /// worker that holds it. Also returns the slots that are lost.
    ///
    /// # Errors
    /// The sockets cannot be watched.
    pub fn take_over(
        stored: state::Listeners,
        from: Inheritance<'_>,
        mut take: impl FnMut(&StoredSocket, Option<WorkerId>) -> Option<Kept<OwnedFd>>,
    ) -> io::Result<(Listeners, Vec<SlotId>)> {
        let keeper = from.keeper;
        let mut listeners = Listeners::new(keeper.clone())?;
        let counts: Vec<Token> = stored.counts.into_iter().map(Token::from).collect();
        listeners.counting = Counting::taken_back(&counts, keeper);
        let take = |socket: &StoredSocket, holder: Option<WorkerId>| {
            take(socket, holder).filter(|taken| socket.is(taken))
        };
        let mut taking = Taking {
            from,
            take,
            lost: Vec::new(),
        };
        (listeners.next_group, listeners.next_slot) = (stored.next_group, stored.next_slot);
        for group in stored.groups {
            let id = GroupId(group.group);
            let count = match group.handoff || group.proxy {
                true => Count::Unwanted,
                false => listeners.counting.of(group.policy.into(), keeper),
            };
            let Some(group) = taking.group(group, count) else {
                continue;
            };
            let slots: Vec<SlotId> = group.slots.keys().copied().collect();
            listeners.groups.insert(id, group);
            for slot in slots {
                listeners.admit(id, slot)?;
            }
        }
        let known: Vec<Tag> = listeners
            .groups
            .values()
            .flat_map(|group| group.steering.tags())
            .collect();
        listeners.counting.end_all_but(&known);
        let shared = stored.shared.into_iter();
        listeners
            .shared
            .extend(shared.filter_map(|shared| taking.shared(shared)));
        Ok((listeners, taking.lost))
    }
}

/// What a daemon has that takes over listeners.
#[derive(Clone, Copy)]
pub struct Inheritance<'a> {
    /// Holds the sockets.
    pub keeper: &'a Keeper,
    /// Workers whose sockets cannot be taken, but that still serve: their addresses stay known, so that slots can be opened beside them.
    pub denied: &'a BTreeSet<WorkerId>,
    /// The number of the proxy's sockets per address.
    pub front: usize,
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
        retiring: match slot.tenure() {
            Tenure::Retiring { to, .. } => Some(numbers(to)),
            Tenure::Vacant | Tenure::Held(_) => None,
        },
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
    let mut slot = Slot::new(fd, stored.socket.cookie, private, stored.weight);
    if slot.is_private() {
        slot.guard();
    }
    // The keeper may know another holder: the daemon has died between the two.
    slot.set_tenure(match (stored.holder.map(WorkerId), &stored.retiring) {
        (Some(holder), Some(to)) => Tenure::Retiring {
            holder,
            to: slot_ids(to),
        },
        (Some(holder), None) => Tenure::Held(holder),
        (None, _) => Tenure::Vacant,
    });
    slot.rescued = stored.rescued;
    Some(slot)
}

fn slot_ids(numbers: &[u32]) -> Vec<SlotId> {
    numbers.iter().copied().map(SlotId).collect()
}

/// Takes back what the previous daemon had.
struct Taking<'a, T> {
    from: Inheritance<'a>,
    take: T,
    lost: Vec<SlotId>,
}

impl<T: FnMut(&StoredSocket, Option<WorkerId>) -> Option<Kept<OwnedFd>>> Taking<'_, T> {
    /// The sockets of the proxy: as many as it has, or none.
    fn front(&mut self, stored: &state::Group) -> Vec<Kept<OwnedFd>> {
        let taken = stored.front.iter();
        let kept: Vec<Kept<OwnedFd>> = taken
            .filter_map(|socket| (self.take)(&(*socket).into(), None))
            .collect();
        let whole = kept.len() == self.from.front;
        if stored.proxy && whole && kept.iter().all(|listener| listen_again(listener).is_ok()) {
            return kept;
        }
        // Clients must not queue at sockets that no thread accepts from.
        for listener in &kept {
            let _ = socket::unlisten(listener.as_fd());
        }
        Vec::new()
    }

    fn shared(&mut self, stored: state::Shared) -> Option<Shared> {
        let holders: BTreeSet<WorkerId> = stored.holders.into_iter().map(WorkerId).collect();
        let mut takers = [None].into_iter().chain(holders.iter().copied().map(Some));
        let socket = stored.socket.into();
        let fd = takers.find_map(|worker| (self.take)(&socket, worker))?;
        fd.belongs_to(NOBODY);
        Some(Shared {
            app: AppId(stored.app),
            key: stored.key,
            kind: stored.kind.into(),
            fd,
            holders,
            group: GroupId(stored.group),
        })
    }

    fn group(&mut self, stored: state::Group, count: Count) -> Option<Group> {
        let sockets = self.front(&stored);
        let (mut slots, mut foreign) = (BTreeMap::new(), BTreeMap::new());
        for slot in stored.slots {
            let (id, holder) = (SlotId(slot.slot), slot.holder.map(WorkerId));
            let taken = (self.take)(&slot.socket.into(), holder);
            match taken.and_then(|fd| take_slot(&stored.addr, &slot, fd)) {
                Some(taken) => drop(slots.insert(id, taken)),
                None => {
                    self.lost.push(id);
                    let denied = |worker: &WorkerId| !slot.private && self.from.denied.contains(worker);
                    foreign.extend(holder.filter(denied).map(|holder| (id, holder)));
                }
            }
        }
        let keeper = self.from.keeper;
        let policy = SteeringPolicy::from(stored.policy);
        let (spread, order) = (Spread { policy, count }, slot_ids(&stored.order));
        let steered = slots.iter().filter(|(_, slot)| !slot.is_private());
        let mut steered: BTreeMap<_, _> = steered.map(|(id, slot)| (*id, slot.fd.as_fd())).collect();
        if !steered.is_empty() {
            steered.extend(front_slots(&sockets));
        }
        let mut steering = match (steered.is_empty(), foreign.is_empty()) {
            (true, true) if slots.is_empty() => return None,
            (true, true) => Steering::Proxied,
            (true, false) => Steering::beside(spread, &order, keeper),
            (false, _) => {
                let table = stored.table.map(StoredTable::from);
                let known = spread.clone();
                let back = table.and_then(|table| Steering::taken_back(known, &steered, &table, keeper));
                back.unwrap_or_else(|| Steering::take_over(spread, &steered, &order, keeper))
            }
        };
        for (id, slot) in &slots {
            steering.weigh(*id, slot.weight);
        }
        let site = Site {
            app: AppId(stored.app),
            key: &stored.key,
            addr: stored.addr,
            v6only: stored.v6only,
        };
        let mut group = Group::steered_by(site, policy, steering, keeper);
        group.deal = stored.handoff.then(Deal::default);
        (group.slots, group.foreign, group.front) = (slots, foreign, sockets);
        // If the proxy's sockets were not kept, clients were refused from the death of the daemon until here.
        if group.slots.values().any(|slot| slot.is_private()) && group.open_front(self.from.front).is_err() {
            // Another process has taken the address in the meantime.
            self.lost.extend(
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
}
