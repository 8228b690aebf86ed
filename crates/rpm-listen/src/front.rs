//! Addresses that the daemon's proxy serves: public sockets of the daemon, and behind them a private slot for each worker. During a reload
//! between the kernel's data path and the proxy, the proxy's sockets and the workers' own slots are in one group, and steering chooses
//! between them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rpm_core::{AppId, GroupId, SlotId, WorkerId};
use rpm_keeper::{Keeper, Kept, NOBODY};
use rpm_sys::socket;

use crate::captured::Captured;
use crate::counting::{Count, Spread};
use crate::group::{Group, Site, Slot};
use crate::listeners::{Listeners, Request};
use crate::open_error::OpenError;
use crate::owners::reserve;
use crate::policy::SteeringPolicy;
use crate::steering::Steering;

/// Backlog of the proxy's public sockets, and of private slots. The kernel's limit (`somaxconn`) also applies.
pub(crate) const BACKLOG: u32 = 4096;

/// A slot, as the proxy reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its id.
    pub slot: SlotId,
    /// Where the proxy connects.
    pub addr: SocketAddr,
    /// Its share of the requests, if they are weighted.
    pub weight: u32,
}

/// An address that the proxy serves, with its upstreams.
#[derive(Debug)]
pub struct Fronted<'l> {
    /// Its group.
    pub group: GroupId,
    /// The app that the address belongs to.
    pub app: AppId,
    /// The public sockets that clients connect to.
    listeners: &'l [Kept<OwnedFd>],
    v6only: bool,
    keeper: &'l Keeper,
    /// The eligible slots.
    pub upstreams: Vec<Upstream>,
    /// The slots that are not eligible.
    pub ineligible: Vec<Upstream>,
    /// The workers have the public address themselves again and get new clients. The proxy passes the connections it still gets on to that
    /// address.
    pub leaves: bool,
    /// No private slot is left.
    pub empty: bool,
    /// The workers that have private slots, eligible or not.
    pub workers: Vec<WorkerId>,
}

impl Fronted<'_> {
    /// Copies of the sockets that listen on the address.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn listeners(&self) -> io::Result<Vec<OwnedFd>> {
        self.listeners
            .iter()
            .map(|listener| listener.try_clone())
            .collect()
    }

    /// Opens `count` listeners on `port` of the same address, reusing those in `kept` that are bound there.
    ///
    /// # Errors
    /// Another process uses the port, or no descriptor is left.
    pub fn open_port(
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
            // No thread would accept from it.
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

    /// The public address.
    ///
    /// # Errors
    /// The kernel cannot tell it.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        let first = self.listeners.first().ok_or(io::ErrorKind::NotFound)?;
        socket::local_addr(first)
    }

    /// True if clients wait in the proxy's accept queues.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        let waits = |fd: &Kept<OwnedFd>| socket::accept_queue(fd.as_fd()).is_ok_and(|queue| queue.len > 0);
        self.listeners.iter().any(waits)
    }
}

/// The proxy's listeners get numbers from the top of the range, so that they never collide with slots.
fn front_slot(number: usize) -> SlotId {
    SlotId(u32::MAX - number as u32)
}

/// The proxy's listeners as members of a steering group.
pub(crate) fn front_slots(front: &[Kept<OwnedFd>]) -> impl Iterator<Item = (SlotId, BorrowedFd<'_>)> {
    let numbered = front.iter().enumerate();
    numbered.map(|(number, listener)| (front_slot(number), listener.as_fd()))
}

/// Listens on a kept socket again, even if the previous daemon shut it.
pub(crate) fn listen_again(listener: &Kept<OwnedFd>) -> io::Result<()> {
    socket::listen(listener.as_fd(), BACKLOG)
}

/// All sockets that the kernel steers between.
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
    /// Creates a group that the proxy serves, with `sockets` listeners.
    pub(crate) fn fronted(
        mut site: Site<'_>,
        policy: SteeringPolicy,
        sockets: usize,
        owner: Option<u32>,
        keeper: &Keeper,
    ) -> io::Result<Group> {
        // The sockets are bound to a port number like slots: whoever holds a socket whose port the kernel chose can bind it elsewhere.
        let reserved = reserve(owner, site.addr, site.v6only)?;
        if let Some(reserved) = &reserved {
            site.addr = socket::local_addr(reserved)?;
        }
        let front = (0..sockets).map(|_| Ok(keeper.keep(public(owner, site.addr, site.v6only)?, NOBODY)));
        let front = front.collect::<io::Result<Vec<Kept<OwnedFd>>>>()?;
        let mut group = Group::steered_by(site, policy, Steering::Proxied, keeper);
        group.front = front;
        Ok(group)
    }

    /// Makes the proxy listen on an address that workers have. The kernel does not steer clients to it yet.
    pub(crate) fn open_front(&mut self, count: usize) -> io::Result<()> {
        let owner = self.owner()?;
        let opened = (self.front.len()..count).try_for_each(|number| {
            let listener = self.keeper.keep(public(owner, self.addr, self.v6only)?, NOBODY);
            self.steering.add(front_slot(number), listener.as_fd(), 1)?;
            self.front.push(listener);
            Ok(())
        });
        if opened.is_err() {
            // All of them or none.
            let _ = self.close_front();
        }
        opened
    }

    /// Steers all clients to the proxy. This happens before slots join the group.
    pub(crate) fn steer_front(&mut self, count: Count) -> io::Result<()> {
        if self.front.is_empty() || !matches!(self.steering, Steering::Proxied) {
            return Ok(());
        }
        let all: Vec<SlotId> = (0..self.front.len()).map(front_slot).collect();
        let fds = front_slots(&self.front).collect();
        // The program of a previous daemon may still be attached.
        let spread = Spread {
            policy: self.policy,
            count,
        };
        let mut steering = Steering::take_over(spread, &fds, &all, &self.keeper);
        steering.steer(&all, members(&self.slots, &self.front))?;
        self.steering = steering;
        Ok(())
    }

    /// The sockets through which the kernel reaches these slots. Private slots are reached through the proxy's.
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

    /// True if all connections go to the proxy.
    pub(crate) fn is_served_by_proxy(&self) -> bool {
        !self.front.is_empty() && self.eligible.iter().all(|slot| self.is_private(*slot))
    }

    /// Stops the proxy from listening here. Connections that are still in its queues go to the slots, where the kernel can migrate them.
    fn close_front(&mut self) -> io::Result<()> {
        let front = std::mem::take(&mut self.front);
        let mut closed = Ok(());
        for (slot, listener) in front_slots(&front) {
            let leave = || socket::unlisten(listener);
            let left = self.steering.remove(slot, members(&self.slots, &front), leave);
            // An error must not keep the other sockets open.
            closed = closed.and(left);
        }
        closed
    }
}

impl Drop for Group {
    /// The proxy's threads and the keeper hold copies of the sockets for a moment longer; shutting them keeps clients from queueing there.
    fn drop(&mut self) {
        if !self.keeper.lets_go() {
            return;
        }
        for listener in &self.front {
            // This fails only for a socket that does not listen.
            let _ = socket::unlisten(listener.as_fd());
        }
    }
}

/// Opens a public socket for an address.
pub(crate) fn public(owner: Option<u32>, addr: SocketAddr, v6only: bool) -> io::Result<OwnedFd> {
    let listener = socket::bind_tcp_for(owner, addr, v6only)?;
    socket::listen(listener.as_fd(), BACKLOG)?;
    Ok(listener)
}

impl Listeners {
    /// Opens a slot: a private one if the proxy serves the address for the worker, and its `own` socket if it has one.
    pub(crate) fn open_slot(
        &mut self,
        group: GroupId,
        own: Option<Captured>,
        by: &Request<'_>,
    ) -> Result<SlotId, OpenError> {
        if by.proxy > 0 {
            return self.enter(group, |open, slot| {
                open.belong_to(by.owner())?;
                open.open_front(by.proxy)?;
                open.open_private(slot, by.weight, by.owner())
            });
        }
        let count = self.counting_of(group, by.policy);
        self.enter(group, |open, slot| match own {
            Some(own) => {
                open.steer_front(count)?;
                open.adopt(slot, own.fd, own.backlog, by.weight)
            }
            None => {
                open.belong_to(by.owner())?;
                open.steer_front(count)?;
                open.open(slot, by.weight, by.owner())
            }
        })
    }

    /// The counter for a group that the kernel starts to steer.
    pub(crate) fn counting_of(&mut self, group: GroupId, policy: SteeringPolicy) -> Count {
        match self.groups.get(&group).map(|group| &group.steering) {
            Some(Steering::Proxied) => self.counting.of(policy, &self.keeper),
            Some(Steering::Ebpf(_) | Steering::Classic(_)) | None => Count::Unwanted,
        }
    }

    /// All addresses that the proxy serves.
    pub fn fronted(&self) -> impl Iterator<Item = Fronted<'_>> {
        let fronted = |(_, group): &(&GroupId, &Group)| !group.front.is_empty();
        self.groups.iter().filter(fronted).map(|(id, group)| {
            let upstream = |slot: &SlotId| {
                let held = group.slots.get(slot)?;
                Some(Upstream {
                    slot: *slot,
                    addr: held.private?,
                    weight: held.weight,
                })
            };
            let mut upstreams: Vec<_> = group.eligible.iter().filter_map(upstream).collect();
            let others = group.slots.keys().filter(|slot| !group.eligible.contains(slot));
            let ineligible = others.filter_map(upstream).collect();
            let private = group.slots.values().filter(|held| held.is_private());
            let leaves = upstreams.is_empty() && !group.eligible.is_empty();
            // Where the kernel may still choose the proxy's sockets, passing connections on could loop.
            if leaves && !group.steering.is_lost() {
                upstreams.push(Upstream {
                    slot: front_slot(0),
                    addr: reachable(group.addr),
                    weight: 1,
                });
            }
            Fronted {
                group: *id,
                app: group.app,
                listeners: &group.front,
                v6only: group.v6only,
                keeper: &group.keeper,
                upstreams,
                ineligible,
                leaves,
                empty: !group.slots.values().any(|held| held.is_private()),
                workers: private.filter_map(|held| held.holder()).collect(),
            }
        })
    }

    /// Ends the proxy's service of the address: the workers have it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn close_front(&mut self, group: GroupId) -> io::Result<()> {
        self.groups.get_mut(&group).map_or(Ok(()), Group::close_front)
    }
}

/// An address at which a process of this machine reaches a listener of `addr`.
#[must_use]
pub fn reachable(mut addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    addr
}
