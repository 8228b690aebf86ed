//! Listeners that the daemon's proxy serves: one public socket, and behind it a private slot for each worker.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};

use rpm_core::{AppId, GroupId, SlotId};
use rpm_sys::{sock_diag, socket};

use crate::group::{FIRST_BACKLOG, Group};
use crate::listeners::Listeners;
use crate::policy::Policy;
use crate::steering::Steering;

/// Clients that may wait while the proxy is busy; the kernel's own limit (somaxconn) holds too.
const PUBLIC_BACKLOG: u32 = 4096;

/// A public socket and what is behind it.
#[derive(Debug)]
pub struct Fronted<'l> {
    /// Its group.
    pub group: GroupId,
    /// Whose.
    pub app: AppId,
    /// Where clients come to.
    listener: &'l OwnedFd,
    v6only: bool,
    /// The eligible slots: which, where it listens, and its weight.
    pub upstreams: Vec<(SlotId, SocketAddr, u32)>,
}

impl Fronted<'_> {
    /// As many sockets that listen to the address, the group's own among them.
    ///
    /// # Errors
    /// No descriptor is left, or the address cannot be shared any more.
    pub fn listeners(&self, count: usize) -> io::Result<Vec<OwnedFd>> {
        let addr = self.addr()?;
        let more = (1..count).map(|_| public(addr, self.v6only));
        std::iter::once(self.listener.try_clone()).chain(more).collect()
    }

    /// As many that listen to another port of the same address.
    ///
    /// # Errors
    /// The port is used by somebody else, or no descriptor is left.
    pub fn beside(&self, port: u16, count: usize) -> io::Result<Vec<OwnedFd>> {
        let mut addr = self.addr()?;
        addr.set_port(port);
        (0..count).map(|_| public(addr, self.v6only)).collect()
    }

    /// The address.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        socket::local_addr(self.listener)
    }
}

impl Group {
    /// One whose address the proxy serves.
    pub(crate) fn fronted(
        (app, key): (AppId, &str),
        (addr, v6only): (SocketAddr, bool),
        policy: Policy,
    ) -> io::Result<Group> {
        let listener = public(addr, v6only)?;
        let addr = socket::local_addr(&listener)?;
        Ok(Group::behind(listener, (app, key), (addr, v6only), policy))
    }

    /// The same with a socket that listens already.
    pub(crate) fn behind(
        listener: OwnedFd,
        (app, key): (AppId, &str),
        (addr, v6only): (SocketAddr, bool),
        policy: Policy,
    ) -> Group {
        Group {
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
            front: Some(listener),
        }
    }
}

/// The public socket of an address.
pub(crate) fn public(addr: SocketAddr, v6only: bool) -> io::Result<OwnedFd> {
    let listener = socket::bind_tcp(addr, v6only)?;
    socket::listen(listener.as_fd(), PUBLIC_BACKLOG)?;
    Ok(listener)
}

impl Listeners {
    /// All that the proxy serves.
    pub fn fronted(&self) -> impl Iterator<Item = Fronted<'_>> {
        self.groups.iter().filter_map(|(id, group)| {
            let upstream = |slot: &SlotId| {
                let held = group.slots.get(slot)?;
                Some((*slot, socket::local_addr(&held.fd).ok()?, held.weight))
            };
            Some(Fronted {
                group: *id,
                app: group.app,
                listener: group.front.as_ref()?,
                v6only: group.v6only,
                upstreams: group.eligible.iter().filter_map(upstream).collect(),
            })
        })
    }

    /// Does the proxy serve the address of this slot?
    #[must_use]
    pub fn is_fronted(&self, slot: SlotId) -> bool {
        let group = self.group_of.get(&slot).and_then(|group| self.groups.get(group));
        group.is_some_and(|group| group.front.is_some())
    }
}

impl Group {
    /// Opens a slot that only the proxy connects to: at the same port, for programs look whether they got it, and an address of this
    /// machine alone.
    pub(crate) fn open_private(&mut self, slot: SlotId, weight: u32) -> io::Result<()> {
        let port = self.addr.port();
        let used: BTreeSet<SocketAddr> = sock_diag::listeners_on(port)?
            .into_iter()
            .map(|it| it.addr)
            .collect();
        let mut candidates = (0..ATTEMPTS).map(|attempt| private(slot, attempt, port));
        let free = candidates.find(|addr| !used.contains(addr));
        let free = free.ok_or(io::ErrorKind::AddrInUse)?;
        let fd = socket::bind_tcp(free, false)?;
        self.adopt(slot, fd, FIRST_BACKLOG, weight)
    }
}

/// Looks for an address that nobody uses. Only another daemon with the same port would use any.
const ATTEMPTS: u64 = 64;

/// An address between 127.64.0.0 and 127.127.255.255.
fn private(slot: SlotId, attempt: u64, port: u16) -> SocketAddr {
    let seed = u64::from(std::process::id()) << 32 | u64::from(slot.0);
    let drawn = (seed ^ attempt << 24).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let bits = Ipv4Addr::new(127, 64, 0, 0).to_bits() | (drawn as u32 & 0x003f_ffff);
    SocketAddr::new(Ipv4Addr::from_bits(bits).into(), port)
}
