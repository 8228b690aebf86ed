//! Private slots: TCP listeners of workers on loopback addresses, to which only the proxy connects.
//!
//! Any local user could find such a listener and bypass the proxy with its certificates, limits and log. So a private slot accepts only
//! packets with a mark, which only processes with CAP_NET_ADMIN or CAP_NET_RAW can set. Without these capabilities it is unguarded.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use rpm_core::{SlotId, WorkerId};
use rpm_sys::{cbpf, sock_diag, socket};
use tracing::warn;

use crate::front::BACKLOG;
use crate::group::Group;
use crate::listeners::Listeners;

/// The mark is not secret: it matters who may set it. It has none of the bits that Kubernetes (0x4000, 0x8000) and Cilium (0xf00) use.
const MARK: u32 = 0x7270_2001;

/// Deadline for a connection to ourselves. Its handshake is over when the call returns, unless its first packet is dropped.
const TRIED_WITHIN: Duration = Duration::from_millis(200);

/// The mark that the proxy sets on its connections to private slots. `None` if this process may not set marks or they do not arrive; then
/// any local process can connect to private slots.
pub fn private_mark() -> Option<u32> {
    static WORKS: OnceLock<bool> = OnceLock::new();
    WORKS.get_or_init(works).then_some(MARK)
}

/// Tries a marked connection: a packet filter rule may change the mark on its way, and then no connection of the proxy would arrive.
fn works() -> bool {
    if !socket::may_mark() {
        return false;
    }
    let tried = try_it();
    if let Err(error) = &tried {
        warn!(%error, "connections of the proxy cannot be told apart: workers behind it accept connections of any local user");
    }
    tried.is_ok()
}

fn try_it() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 64, 0, 1), 0))?;
    cbpf::accept_marked(listener.as_fd(), MARK)?;
    socket::connect_marked(listener.local_addr()?, MARK, TRIED_WITHIN)
}

/// Restricts a private slot to marked connections, or lifts the restriction of a previous daemon if this one cannot mark. If this fails,
/// the slot is open.
pub(crate) fn guard(slot: BorrowedFd<'_>) {
    let guarded = private_mark().map(|mark| cbpf::accept_marked(slot, mark));
    if let Some(Err(error)) = &guarded {
        warn!(%error, "a worker behind the proxy accepts connections of any local user");
    }
    if !matches!(guarded, Some(Ok(()))) {
        cbpf::accept_all(slot);
    }
}

/// Lifts the restriction, because the daemon that takes over may be a version that does not mark.
fn unguard(slot: BorrowedFd<'_>) {
    cbpf::accept_all(slot);
}

impl Listeners {
    /// Listens on a private slot, and returns whether it does; `false` for other slots. The backlog is that of clients rather than the one
    /// that the worker asked for: all clients may come at once, and a connection that finds no room is tried again only after a second.
    pub fn listen_private(&self, slot: SlotId) -> bool {
        let mut slots = self.groups.values().filter_map(|group| group.slots.get(&slot));
        let held = slots.find(|held| held.is_private());
        held.is_some_and(|held| socket::listen(held.fd.as_fd(), BACKLOG).is_ok())
    }

    /// Opens private slots to all local clients, because the next daemon may be a version that does not mark its packets. One that does
    /// guards them again.
    pub fn unguard_private(&self) {
        let slots = self.groups.values().flat_map(|group| group.slots.values());
        slots
            .filter(|slot| slot.is_private())
            .for_each(|slot| unguard(slot.fd.as_fd()));
    }

    /// Guards private slots again after a take-over that failed.
    pub fn guard_private(&self) {
        let slots = self.groups.values().flat_map(|group| group.slots.values());
        slots
            .filter(|slot| slot.is_private())
            .for_each(|slot| guard(slot.fd.as_fd()));
    }

    /// The private address of the worker's slot, if the proxy is in front of it.
    #[must_use]
    pub fn private_address(&self, worker: WorkerId) -> Option<SocketAddr> {
        let slots = self.groups.values().flat_map(|group| group.slots.values());
        let mut own = slots.filter(|slot| slot.holder() == Some(worker));
        own.find_map(|slot| slot.private)
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
        guard(fd.as_fd());
        socket::listen(fd.as_fd(), BACKLOG)?;
        self.put(slot, fd, weight, true)
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
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_mark_that_arrives_is_used() {
        assert_eq!(private_mark().is_some(), socket::may_mark());
        // A listener with another mark stands for a packet filter that changes marks.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        cbpf::accept_marked(listener.as_fd(), MARK ^ 1).unwrap();
        if socket::may_mark() {
            let address = listener.local_addr().unwrap();
            let error = socket::connect_marked(address, MARK, TRIED_WITHIN).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
    }

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
