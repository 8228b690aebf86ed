//! Private slots: TCP listeners of workers on loopback addresses, to which only the proxy connects.
//! `guard.rs` keeps others out.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};

use rpm_core::{SlotId, WorkerId};
use rpm_sys::{sock_diag, socket};

use crate::front::BACKLOG;
use crate::group::{Group, Slot};
use crate::guard;
use crate::listeners::Listeners;

impl Listeners {
    /// Listens on a private slot, and returns whether it does; `false` for other slots. The backlog is that of clients rather than the one
    /// that the worker asked for: all clients may come at once, and a connection that finds no room is tried again only after a second.
    pub fn listen_private(&mut self, slot: SlotId) -> bool {
        let mut slots = self
            .groups
            .values_mut()
            .filter_map(|group| group.slots.get_mut(&slot));
        let Some(held) = slots.find(|held| held.is_private()) else {
            return false;
        };
        // A worker may have ended its listening.
        if !socket::accept_queue(&held.fd).is_ok_and(|queue| queue.listening) {
            held.guard();
        }
        socket::listen(held.fd.as_fd(), BACKLOG).is_ok()
    }

    /// Opens private slots to all local clients, because the next daemon may be a version that does not mark its packets. One that does
    /// guards them again. (Sinks are closed with this process.)
    pub fn unguard_private(&self) {
        let slots = self.groups.values().flat_map(|group| group.slots.values());
        slots
            .filter(|slot| slot.is_private())
            .for_each(|slot| guard::lift(slot.fd.as_fd()));
    }

    /// Guards private slots again after a take-over that failed.
    pub fn guard_private(&mut self) {
        let slots = self
            .groups
            .values_mut()
            .flat_map(|group| group.slots.values_mut());
        slots.filter(|slot| slot.is_private()).for_each(Slot::guard);
    }

    /// The private address of the worker's slot, if the proxy is in front of it.
    #[must_use]
    pub fn private_address(&self, worker: WorkerId) -> Option<SocketAddr> {
        let slots = self.groups.values().flat_map(|group| group.slots.values());
        let mut own = slots.filter(|slot| slot.holder() == Some(worker));
        own.find_map(|slot| slot.private)
    }
}

impl Slot {
    /// Closes a private slot to all but the proxy. It is alone at its address.
    pub(crate) fn guard(&mut self) {
        self.sink = None;
        self.sink = guard::close(self.fd.as_fd());
    }
}

impl Group {
    /// Opens a private slot. It has the public port, because programs check that they got the port they asked for, on a loopback address.
    pub(crate) fn open_private(&mut self, slot: SlotId, weight: u32, owner: Option<u32>) -> io::Result<()> {
        let port = self.addr.port();
        let used: BTreeSet<SocketAddr> = sock_diag::listeners_on(port)?
            .into_iter()
            .map(|it| it.addr)
            .collect();
        let drawn = std::iter::repeat_with(|| private(port)).take(ATTEMPTS);
        let fd = first_free(owner, drawn.filter(|addr| !used.contains(addr)))?;
        let sink = guard::close(fd.as_fd());
        socket::listen(fd.as_fd(), BACKLOG)?;
        self.put(slot, fd, weight, true)?.sink = sink;
        Ok(())
    }
}

/// Random addresses that are tried. No attacker can occupy most of the 4 million.
const ATTEMPTS: usize = 64;

/// Binds a socket at the first address that is free. An address on which a socket is bound without listening is taken, too.
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

/// A random address between 127.64.0.0 and 127.127.255.255. If it were predictable, a local user could bind it first.
fn private(port: u16) -> SocketAddr {
    let drawn = RandomState::new().hash_one(port);
    let bits = Ipv4Addr::new(127, 64, 0, 0).to_bits() | (drawn as u32 & 0x003f_ffff);
    SocketAddr::new(Ipv4Addr::from_bits(bits).into(), port)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpListener};

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
        let squatter = TcpListener::bind(any).unwrap();
        let squatted = squatter.local_addr().unwrap();
        let free = private(squatted.port());
        let fd = first_free(None, [squatted, squatted, free].into_iter()).unwrap();
        assert_eq!(socket::local_addr(&fd).unwrap(), free);
        let error = first_free(None, [squatted].into_iter()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
