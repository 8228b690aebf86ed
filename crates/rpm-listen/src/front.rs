//! Addresses that the daemon's proxy serves: public sockets of its own, and behind them a private slot for each worker. Where workers that
//! have the address themselves come or go, by a reload, the proxy's sockets and theirs are of one group, and the kernel is told
//! which to choose.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rpm_core::{AppId, GroupId, SlotId, WorkerId};
use rpm_keeper::{Keeper, Kept, NOBODY};
use rpm_sys::{sock_diag, socket};

use crate::counting::Count;
use crate::group::{Group, Slot};
use crate::listeners::{Listeners, Request};
use crate::open_error::OpenError;
use crate::owners::reserve;
use crate::policy::SteeringPolicy;
use crate::private::{guard, unguard};
use crate::steering::Steering;

/// Clients that may wait while the proxy is busy, and connections of the proxy while a worker is; the kernel's own limit (somaxconn) holds
/// too.
const BACKLOG: u32 = 4096;

/// An address that the proxy serves, and what is behind it.
#[derive(Debug)]
pub struct Fronted<'l> {
    /// Its group.
    pub group: GroupId,
    /// Whose.
    pub app: AppId,
    /// Where clients come to.
    listeners: &'l [Kept<OwnedFd>],
    v6only: bool,
    keeper: &'l Keeper,
    /// The eligible slots: which, where it listens, and its weight.
    pub upstreams: Vec<(SlotId, SocketAddr, u32)>,
    /// Where workers listen that are not eligible.
    pub aside: Vec<(SlotId, SocketAddr, u32)>,
    /// The workers have the address themselves again, and new clients go to them. Those of before are passed on to the address.
    pub leaves: bool,
    /// None of its workers is left that only the proxy connects to.
    pub empty: bool,
    /// The workers that only the proxy connects to, eligible or not.
    pub workers: Vec<WorkerId>,
}

impl Fronted<'_> {
    /// The sockets that listen to the address.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn listeners(&self) -> io::Result<Vec<OwnedFd>> {
        self.listeners
            .iter()
            .map(|listener| listener.try_clone())
            .collect()
    }

    /// So many that listen to another port of the same address. Those of `kept` that are bound there are taken first.
    ///
    /// # Errors
    /// The port is used by somebody else, or no descriptor is left.
    pub fn beside(
        &self,
        port: u16,
        count: usize,
        kept: &mut Vec<Kept<OwnedFd>>,
    ) -> io::Result<Vec<Kept<OwnedFd>>> {
        let mut addr = self.addr()?;
        addr.set_port(port);
        let is_there = |fd: &mut Kept<OwnedFd>| socket::local_addr(fd).is_ok_and(|bound| bound == addr);
        let mut sockets: Vec<Kept<OwnedFd>> = kept.extract_if(.., is_there).collect();
        for too_many in sockets.drain(count.min(sockets.len())..) {
            // Nobody would accept from it.
            socket::unlisten(too_many)?;
        }
        sockets.iter().try_for_each(listen_again)?;
        let owner = self.listeners.first().map(socket::owner).transpose()?;
        if let Some(owner) = owner {
            sockets
                .iter()
                .try_for_each(|socket| socket::give(socket, owner))?;
        }
        for _ in sockets.len()..count {
            sockets.push(self.keeper.keep(public(owner, addr, self.v6only)?, NOBODY));
        }
        Ok(sockets)
    }

    /// The address.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        let first = self.listeners.first().ok_or(io::ErrorKind::NotFound)?;
        socket::local_addr(first)
    }

    /// Do clients wait to be accepted by the proxy?
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        let waits = |fd: &Kept<OwnedFd>| socket::accept_queue(fd.as_fd()).is_ok_and(|queue| queue.len > 0);
        self.listeners.iter().any(waits)
    }
}

/// The listeners of the proxy are numbered from above where the kernel chooses between them and slots.
fn front_slot(number: usize) -> SlotId {
    SlotId(u32::MAX - number as u32)
}

/// The listeners of the proxy, as the kernel chooses between them.
pub(crate) fn front_slots(front: &[Kept<OwnedFd>]) -> impl Iterator<Item = (SlotId, BorrowedFd<'_>)> {
    let numbered = front.iter().enumerate();
    numbered.map(|(number, listener)| (front_slot(number), listener.as_fd()))
}

/// Has a socket that was kept listen, also if the daemon before has closed it.
pub(crate) fn listen_again(listener: &Kept<OwnedFd>) -> io::Result<()> {
    socket::listen(listener.as_fd(), BACKLOG)
}

/// The sockets that the kernel chooses from.
pub(crate) fn members<'g>(
    slots: &'g BTreeMap<SlotId, Slot>,
    front: &'g [Kept<OwnedFd>],
) -> impl Fn(SlotId) -> Option<BorrowedFd<'g>> + Copy {
    move |slot| match slots.get(&slot) {
        Some(held) if held.is_private() => None,
        Some(held) => Some(held.fd.as_fd()),
        None => front
            .get((u32::MAX - slot.0) as usize)
            .map(|listener| listener.as_fd()),
    }
}

impl Group {
    /// One whose address the proxy serves, with so many sockets.
    pub(crate) fn fronted(
        (app, key): (AppId, &str),
        (addr, v6only): (SocketAddr, bool),
        policy: SteeringPolicy,
        (count, keeper): (usize, &Keeper),
        owner: Option<u32>,
    ) -> io::Result<Group> {
        // As slots, they are bound to a number: who has a socket whose port the kernel chose can bind it elsewhere.
        let reserved = reserve(owner, addr, v6only)?;
        let addr = match &reserved {
            Some(reserved) => socket::local_addr(reserved)?,
            None => addr,
        };
        let front = (0..count).map(|_| Ok(keeper.keep(public(owner, addr, v6only)?, NOBODY)));
        let front = front.collect::<io::Result<Vec<Kept<OwnedFd>>>>()?;
        Ok(Group {
            app,
            key: key.to_owned(),
            addr,
            v6only,
            policy,
            steering: Steering::Apart,
            slots: BTreeMap::new(),
            eligible: Vec::new(),
            foreign: BTreeMap::new(),
            deal: None,
            front,
            keeper: keeper.clone(),
        })
    }

    /// Has the proxy listen at the address too, where workers have it. Nobody is steered there yet.
    pub(crate) fn open_front(&mut self, count: usize) -> io::Result<()> {
        let owner = self.owner()?;
        let opened = (self.front.len()..count).try_for_each(|number| {
            let listener = self.keeper.keep(public(owner, self.addr, self.v6only)?, NOBODY);
            self.steering.add(front_slot(number), listener.as_fd(), 1)?;
            self.front.push(listener);
            Ok(())
        });
        if opened.is_err() {
            // All of them, or none.
            let _ = self.close_front();
        }
        opened
    }

    /// Has the kernel choose the proxy and nobody else, before there are others to choose from.
    pub(crate) fn steer_front(&mut self, count: Count) -> io::Result<()> {
        if self.front.is_empty() || !matches!(self.steering, Steering::Apart) {
            return Ok(());
        }
        let all: Vec<SlotId> = (0..self.front.len()).map(front_slot).collect();
        let fds = front_slots(&self.front).collect();
        // The program of a daemon before may still be there.
        let mut steering = Steering::take_over((self.policy, count), &fds, &all, &self.keeper);
        steering.steer(&all, members(&self.slots, &self.front))?;
        self.steering = steering;
        Ok(())
    }

    /// The sockets by which the kernel reaches these slots: the proxy's for those that are private.
    pub(crate) fn reached(&self, slots: &[SlotId]) -> Vec<SlotId> {
        let mut reached = slots.to_vec();
        reached.retain(|slot| !self.is_private(*slot));
        if reached.len() < slots.len() {
            reached.extend((0..self.front.len()).map(front_slot));
        }
        reached
    }

    pub(crate) fn is_private(&self, slot: SlotId) -> bool {
        self.slots.get(&slot).is_some_and(|held| held.is_private())
    }

    /// Do all connections go to the proxy?
    pub(crate) fn is_served_by_proxy(&self) -> bool {
        !self.front.is_empty() && self.eligible.iter().all(|slot| self.is_private(*slot))
    }

    /// The proxy listens here no more. What came to it since it looked last goes to the slots, where the kernel can.
    fn close_front(&mut self) -> io::Result<()> {
        let front = std::mem::take(&mut self.front);
        let mut closed = Ok(());
        for (slot, listener) in front_slots(&front) {
            let leave = || socket::unlisten(listener);
            let left = self.steering.remove(slot, members(&self.slots, &front), leave);
            // Also the others.
            closed = closed.and(left);
        }
        closed
    }
}

impl Drop for Group {
    /// The proxy's threads and the keeper have copies for a moment: nobody is to come meanwhile.
    fn drop(&mut self) {
        if !self.keeper.lets_go() {
            return;
        }
        for listener in &self.front {
            // What fails here has failed to listen before.
            let _ = socket::unlisten(listener.as_fd());
        }
    }
}

/// The public socket of an address.
pub(crate) fn public(owner: Option<u32>, addr: SocketAddr, v6only: bool) -> io::Result<OwnedFd> {
    let listener = socket::bind_tcp_for(owner, addr, v6only)?;
    socket::listen(listener.as_fd(), BACKLOG)?;
    Ok(listener)
}

impl Listeners {
    /// Opens a slot: a private one if the proxy serves the address for the worker.
    pub(crate) fn open_slot(&mut self, group: GroupId, by: &Request<'_>) -> Result<SlotId, OpenError> {
        match by.proxy {
            0 => {
                let count = self.counting_of(group, by.policy);
                self.enter(group, |open, slot| {
                    open.belong_to(by.owner())?;
                    open.steer_front(count)?;
                    open.open(slot, by.weight, by.owner())
                })
            }
            count => self.enter(group, |open, slot| {
                open.belong_to(by.owner())?;
                open.open_front(count)?;
                open.open_private(slot, by.weight, by.owner())
            }),
        }
    }

    /// How connections are counted if the kernel is to choose from now on where it did not.
    pub(crate) fn counting_of(&mut self, group: GroupId, policy: SteeringPolicy) -> Count {
        match self.groups.get(&group).map(|group| &group.steering) {
            Some(Steering::Apart) => self.counting.of(policy, &self.keeper),
            Some(Steering::Ebpf(_) | Steering::Classic(_)) | None => Count::Unwanted,
        }
    }

    /// All that the proxy serves.
    pub fn fronted(&self) -> impl Iterator<Item = Fronted<'_>> {
        let fronted = |(_, group): &(&GroupId, &Group)| !group.front.is_empty();
        self.groups.iter().filter(fronted).map(|(id, group)| {
            let upstream = |slot: &SlotId| {
                let held = group.slots.get(slot)?;
                Some((*slot, held.private?, held.weight))
            };
            let mut upstreams: Vec<_> = group.eligible.iter().filter_map(upstream).collect();
            let others = group.slots.keys().filter(|slot| !group.eligible.contains(slot));
            let aside = others.filter_map(upstream).collect();
            let private = group.slots.values().filter(|held| held.is_private());
            let leaves = upstreams.is_empty() && !group.eligible.is_empty();
            // Where the kernel may choose the proxy again nobody is passed on.
            if leaves && !group.steering.is_lost() {
                upstreams.push((front_slot(0), reachable(group.addr), 1));
            }
            Fronted {
                group: *id,
                app: group.app,
                listeners: &group.front,
                v6only: group.v6only,
                keeper: &group.keeper,
                upstreams,
                aside,
                leaves,
                empty: !group.slots.values().any(|held| held.is_private()),
                workers: private.filter_map(|held| held.holder()).collect(),
            }
        })
    }

    /// Has the slot listen, if it is one that only the proxy connects to, and says whether it does: for as many connections as there may be
    /// clients, and not as many as the worker has asked for. All clients may come at once, and a connection that finds no room is tried
    /// again only after a second.
    pub fn listen_private(&self, slot: SlotId) -> bool {
        let mut slots = self.groups.values().filter_map(|group| group.slots.get(&slot));
        let held = slots.find(|held| held.is_private());
        held.is_some_and(|held| socket::listen(held.fd.as_fd(), BACKLOG).is_ok())
    }

    /// Lets everyone connect to private slots: who takes over may be a daemon that marks nothing. One that does closes them again.
    pub fn unguard_private(&self) {
        let slots = self.groups.values().flat_map(|group| group.slots.values());
        slots
            .filter(|slot| slot.is_private())
            .for_each(|slot| unguard(slot.fd.as_fd()));
    }

    /// Closes them again: nobody has taken over.
    pub fn guard_private(&self) {
        let slots = self.groups.values().flat_map(|group| group.slots.values());
        slots
            .filter(|slot| slot.is_private())
            .for_each(|slot| guard(slot.fd.as_fd()));
    }

    /// Where only this worker listens, if the proxy is before it.
    #[must_use]
    pub fn private_address(&self, worker: WorkerId) -> Option<SocketAddr> {
        let slots = self.groups.values().flat_map(|group| group.slots.values());
        let mut own = slots.filter(|slot| slot.holder() == Some(worker));
        own.find_map(|slot| slot.private)
    }

    /// The proxy serves the address no more: its workers have it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn close_front(&mut self, group: GroupId) -> io::Result<()> {
        self.groups.get_mut(&group).map_or(Ok(()), Group::close_front)
    }
}

/// Where somebody on this machine reaches a listener of this address.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    addr
}

impl Group {
    /// Opens a slot that only the proxy connects to: at the same port, for programs look whether they got it, and an address of this
    /// machine alone.
    pub(crate) fn open_private(&mut self, slot: SlotId, weight: u32, owner: Option<u32>) -> io::Result<()> {
        let port = self.addr.port();
        let used: BTreeSet<SocketAddr> = sock_diag::listeners_on(port)?
            .into_iter()
            .map(|it| it.addr)
            .collect();
        let drawn = std::iter::repeat_with(|| private(port)).take(ATTEMPTS);
        let fd = first_free(owner, drawn.filter(|addr| !used.contains(addr)))?;
        guard(fd.as_fd());
        socket::listen(fd.as_fd(), BACKLOG)?;
        self.put(slot, fd, weight, true)
    }
}

/// Addresses that are tried: nobody can hold most of those that there are.
const ATTEMPTS: usize = 64;

/// A socket at the first of these addresses that nobody has, be it bound only.
fn first_free(owner: Option<u32>, addrs: impl Iterator<Item = SocketAddr>) -> io::Result<OwnedFd> {
    let mut taken = io::ErrorKind::AddrInUse.into();
    for addr in addrs {
        match socket::bind_tcp_for(owner, addr, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = error,
            bound => return bound,
        }
    }
    Err(taken)
}

/// An address between 127.64.0.0 and 127.127.255.255 that nobody can know before: whoever could would bind it first.
fn private(port: u16) -> SocketAddr {
    let drawn = RandomState::new().hash_one(port);
    let bits = Ipv4Addr::new(127, 64, 0, 0).to_bits() | (drawn as u32 & 0x003f_ffff);
    SocketAddr::new(Ipv4Addr::from_bits(bits).into(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_workers_are_drawn_and_those_in_use_passed_over() {
        let mut drawn: Vec<SocketAddr> = (0..100).map(|_| private(80)).collect();
        let within = |addr: &SocketAddr| matches!(addr.ip(), IpAddr::V4(ip) if ip.octets()[0] == 127 && ip.octets()[1] >> 6 == 1);
        assert!(drawn.iter().all(within), "{drawn:?}");
        drawn.sort();
        drawn.dedup();
        assert!(drawn.len() > 90, "{drawn:?}");
        let any = SocketAddr::new(private(0).ip(), 0);
        let squatter = std::net::TcpListener::bind(any).unwrap();
        let squatted = squatter.local_addr().unwrap();
        let free = private(squatted.port());
        let fd = first_free(None, [squatted, squatted, free].into_iter()).unwrap();
        assert_eq!(socket::local_addr(&fd).unwrap(), free);
        let error = first_free(None, [squatted].into_iter()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
