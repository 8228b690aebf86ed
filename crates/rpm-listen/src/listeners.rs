//! All listeners of the daemon, and the operations that the core asks for.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rpm_core::{AppId, GroupId, SlotId, WorkerId};
use rpm_keeper::Keeper;
use rpm_sys::epoll::{Oneshot, Readable};
use rpm_sys::socket;
use rpm_sys::user::User;
use rustix::io::Errno;

use crate::captured::Captured;
use crate::counting::{Count, Counting, Spread};
use crate::group::{Group, Rescued, Site, Slot, Tenure};
use crate::handoff::Deal;
use crate::open_error::OpenError;
use crate::policy::SteeringPolicy;
use crate::shared::Shared;
use crate::wanted::Wanted;

/// Every listening socket that the daemon owns.
pub struct Listeners {
    pub(crate) groups: BTreeMap<GroupId, Group>,
    pub(crate) shared: Vec<Shared>,
    pub(crate) group_of: BTreeMap<SlotId, GroupId>,
    pub(crate) next_group: u32,
    pub(crate) next_slot: u32,
    /// The slots from which workers accept.
    pub(crate) traffic: Readable,
    pub(crate) arrivals: Oneshot,
    pub(crate) counting: Counting,
    pub(crate) keeper: Keeper,
}

/// A worker's request for something to listen on.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its app.
    pub app: AppId,
    /// The key under which the workers of the app know the address.
    pub key: &'a str,
    /// The worker that asks.
    pub worker: WorkerId,
    /// It may overlap another address of the same app.
    pub beside: bool,
    /// The steering policy, if this request opens the address.
    pub policy: SteeringPolicy,
    /// The worker's share of the connections, if they are weighted.
    pub weight: u32,
    /// The daemon accepts and hands connections over, if this request opens the address.
    pub handoff: bool,
    /// The number of public sockets with which the daemon's proxy serves the address for this worker; 0 without the proxy.
    pub proxy: usize,
    /// The user that the app runs as, if it is not the daemon's. The sockets belong to that user, and Unix sockets are created with its
    /// rights.
    pub user: Option<&'a User>,
}

/// What is opened for a worker.
#[derive(Debug)]
pub enum Opening<'a> {
    /// An address that the worker asks for, or that the user has named.
    Address(&'a Wanted),
    /// A socket of the worker's own, which [`Listeners::may_capture`] has allowed. Behind the proxy a private slot is opened instead.
    Captured(Captured),
}

/// What a worker gets to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// A slot of a group.
    Slot {
        /// Its id.
        slot: SlotId,
        /// The id of its group.
        group: GroupId,
    },
    /// A socket that all workers share.
    Shared {
        /// Its id, from the same space as those of groups with slots.
        group: GroupId,
    },
}

impl Listeners {
    /// A value without listeners.
    ///
    /// # Errors
    /// No descriptor is left for the traffic detector.
    pub fn new(keeper: Keeper) -> io::Result<Listeners> {
        Ok(Listeners {
            keeper,
            groups: BTreeMap::new(),
            shared: Vec::new(),
            group_of: BTreeMap::new(),
            next_group: 0,
            next_slot: 0,
            traffic: Readable::new()?,
            arrivals: Oneshot::new()?,
            counting: Counting::default(),
        })
    }

    /// The group that the workers of `app` know by `key`, if it is open.
    #[must_use]
    pub fn group(&self, app: AppId, key: &str) -> Option<GroupId> {
        self.groups
            .iter()
            .find(|(_, g)| g.app == app && g.key == key)
            .map(|(id, _)| *id)
    }

    /// Opens something for a worker to listen on: a new slot, or the shared socket. The slot is vacant until the core has heard of it
    /// ([`Listeners::set_holder`]).
    ///
    /// # Errors
    /// The address is in use, or the kernel refuses it. [`Wanted::WorkerFd`] is not valid here.
    pub fn open(&mut self, what: Opening<'_>, by: &Request<'_>) -> Result<Grant, OpenError> {
        let site = |addr, v6only| Site {
            app: by.app,
            key: by.key,
            addr,
            v6only,
        };
        let keeper = self.keeper.clone();
        match what {
            Opening::Address(Wanted::Tcp { addr, v6only }) => {
                let site = site(*addr, *v6only);
                self.refuse_taken(site, by.beside)?;
                self.open_tcp(site, None, by)
            }
            Opening::Captured(own) if by.proxy > 0 => {
                let site = site(own.addr, own.v6only);
                self.refuse_taken(site, by.beside)?;
                self.open_tcp(site, None, by)
            }
            Opening::Captured(own) => self.open_tcp(site(own.addr, own.v6only), Some(own), by),
            Opening::Address(Wanted::Udp {
                addr,
                v6only,
                reuse_addr,
            }) => {
                let site = site(*addr, *v6only);
                let make = || Shared::udp(site, *reuse_addr, by.owner(), &keeper);
                self.open_shared(by, format!("udp {addr}"), make)
            }
            Opening::Address(Wanted::Unix { path }) => {
                let what = format!("unix {}", String::from_utf8_lossy(path));
                let make = || Shared::unix(by.app, by.key, path, by.user, &keeper);
                self.open_shared(by, what, make)
            }
            Opening::Address(Wanted::WorkerFd(fd)) => Err(OpenError::Io {
                what: format!("descriptor {fd}"),
                source: io::Error::from_raw_os_error(Errno::INVAL.raw_os_error()),
            }),
        }
    }

    /// Fails if the address of a new group is taken.
    fn refuse_taken(&self, site: Site<'_>, beside: bool) -> Result<(), OpenError> {
        let Site {
            app,
            key,
            addr,
            v6only,
        } = site;
        let known = self.group(app, key).is_some();
        if known || (beside && self.overlaps_own(app, key, addr, v6only)) {
            return Ok(());
        }
        self.refuse_overlap(addr, v6only)
    }

    /// Opens a slot at a TCP address, which may be new; `own` is the socket that it is to be.
    fn open_tcp(
        &mut self,
        site: Site<'_>,
        own: Option<Captured>,
        by: &Request<'_>,
    ) -> Result<Grant, OpenError> {
        let group = match self.group(site.app, site.key) {
            Some(group) => group,
            None => {
                let group = self.group_for(site, by)?;
                self.new_group(group)
            }
        };
        let slot = self.open_slot(group, own, by)?;
        Ok(Grant::Slot { slot, group })
    }

    /// A group on the data path that the request names.
    fn group_for(&mut self, site: Site<'_>, by: &Request<'_>) -> Result<Group, OpenError> {
        if by.proxy > 0 {
            let group = Group::fronted(site, by.policy, by.proxy, by.owner(), &self.keeper);
            return group.map_err(|source| OpenError::Io {
                what: site.addr.to_string(),
                source,
            });
        }
        let count = match by.handoff {
            true => Count::Unwanted,
            false => self.counting.of(by.policy, &self.keeper),
        };
        let policy = by.policy;
        let mut group = Group::new(site, Spread { policy, count }, &self.keeper);
        group.deal = by.handoff.then(Deal::default);
        Ok(group)
    }

    pub(crate) fn new_group(&mut self, group: Group) -> GroupId {
        let id = GroupId(self.next_group);
        self.next_group += 1;
        self.groups.insert(id, group);
        id
    }

    /// Adds a new slot, which `make` opens, to a group. A group that is still empty after a failure is forgotten.
    pub(crate) fn enter(
        &mut self,
        group: GroupId,
        make: impl FnOnce(&mut Group, SlotId) -> io::Result<()>,
    ) -> Result<SlotId, OpenError> {
        let slot = SlotId(self.next_slot);
        let Some(open) = self.groups.get_mut(&group) else {
            return Err(OpenError::Io {
                what: format!("group {group}"),
                source: io::ErrorKind::NotFound.into(),
            });
        };
        let what = open.addr.to_string();
        let made = make(open, slot).and_then(|()| self.admit(group, slot));
        if let Err(source) = made {
            if let Some(open) = self.groups.get_mut(&group) {
                // Nothing is left of it that the next one could be taken for.
                let _ = open.close(slot, false);
                if open.slots.is_empty() && open.foreign.is_empty() {
                    self.groups.remove(&group);
                }
            }
            return Err(OpenError::Io { what, source });
        }
        self.next_slot += 1;
        Ok(slot)
    }

    /// Watches a slot of a group, and finds it by its id from now on. This is the one way in for slots, whether they are opened, captured or
    /// taken over.
    ///
    /// # Errors
    /// The kernel does not watch its socket.
    pub(crate) fn admit(&mut self, group: GroupId, slot: SlotId) -> io::Result<()> {
        let open = self.groups.get(&group);
        let Some((open, held)) = open.and_then(|open| Some((open, open.slots.get(&slot)?))) else {
            return Ok(());
        };
        let (fd, token) = (held.fd.as_fd(), u64::from(slot.0));
        match &open.deal {
            Some(_) => self.arrivals.add(fd, token)?,
            None => self.traffic.add(fd, token)?,
        }
        self.group_of.insert(slot, group);
        Ok(())
    }

    fn open_shared(
        &mut self,
        by: &Request<'_>,
        what: String,
        make: impl FnOnce() -> io::Result<Shared>,
    ) -> Result<Grant, OpenError> {
        let mut known = self.shared.iter();
        let at = match known.position(|s| s.app == by.app && s.key == by.key) {
            Some(at) => at,
            None => {
                let mut made = make().map_err(|source| OpenError::Io { what, source })?;
                made.group = GroupId(self.next_group);
                self.next_group += 1;
                self.shared.push(made);
                self.shared.len() - 1
            }
        };
        let shared = &mut self.shared[at];
        shared.holders.insert(by.worker);
        Ok(Grant::Shared { group: shared.group })
    }

    /// The socket that all workers of an app share.
    #[must_use]
    pub fn shared_socket(&self, group: GroupId) -> Option<BorrowedFd<'_>> {
        let shared = self.shared.iter().find(|shared| shared.group == group);
        shared.map(|shared| shared.fd.as_fd())
    }

    /// The shared socket that the workers of `app` know by `key`, if it is open.
    #[must_use]
    pub fn shared_group(&self, app: AppId, key: &str) -> Option<GroupId> {
        self.shared
            .iter()
            .find(|s| s.app == app && s.key == key)
            .map(|s| s.group)
    }

    /// The worker closed its shared socket of `key`. One that no worker uses is closed.
    pub fn release_shared(&mut self, app: AppId, key: &str, worker: WorkerId) {
        for shared in self.shared.iter_mut().filter(|s| s.app == app && s.key == key) {
            shared.holders.remove(&worker);
        }
        self.shared
            .retain(|s| !(s.app == app && s.key == key && s.holders.is_empty()));
    }

    /// The app of the slot, and the key under which its workers know the group.
    #[must_use]
    pub fn key_of(&self, slot: SlotId) -> Option<(AppId, &str)> {
        self.groups
            .get(self.group_of.get(&slot)?)
            .map(|g| (g.app, g.key.as_str()))
    }

    /// Who holds a slot.
    #[must_use]
    pub fn holder(&self, slot: SlotId) -> Option<WorkerId> {
        self.groups
            .get(self.group_of.get(&slot)?)?
            .slots
            .get(&slot)?
            .holder()
    }

    /// Steers new connections of the group to these slots.
    ///
    /// # Errors
    /// The kernel refuses the program or a table entry.
    pub fn steer(&mut self, group: GroupId, slots: &[SlotId]) -> io::Result<()> {
        self.groups.get_mut(&group).map_or(Ok(()), |g| g.steer(slots))
    }

    /// Moves a slot's accept queue to `to`, or returns it if the kernel cannot migrate. If it can, every process that holds the slot must
    /// be stopped or dead.
    ///
    /// # Errors
    /// The kernel refuses. The slot may then be out of its group.
    pub fn rescue(&mut self, slot: SlotId, to: &[SlotId]) -> io::Result<Rescued> {
        let group = self.group_of.get(&slot).and_then(|id| self.groups.get_mut(id));
        group.map_or(Ok(Rescued::Moved(0)), |g| g.rescue(slot, to))
    }

    /// True if [`Listeners::rescue`] migrates this slot's queue in the kernel.
    #[must_use]
    pub fn can_migrate(&self, slot: SlotId) -> bool {
        self.group_of
            .get(&slot)
            .and_then(|id| self.groups.get(id))
            .is_some_and(|g| g.deal.is_none() && !g.is_private(slot) && g.steering.can_migrate())
    }

    /// Retires a slot that the core closed. If its holder lives and its queue has somewhere to go, it is closed when the holder exits, and
    /// what the holder still accepts is served. Otherwise it is closed now. Returns connections that the kernel did not move, with the
    /// slots that may get them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn close(&mut self, slot: SlotId, to: &[SlotId]) -> io::Result<Vec<(OwnedFd, Vec<SlotId>)>> {
        let holder = self.holder(slot);
        if let (Some(worker), true, true) = (holder, to.is_empty(), self.is_captured(slot)) {
            self.leave_to(slot, worker);
            return Ok(Vec::new());
        }
        if let (Some(holder), false, false) = (holder, to.is_empty(), self.is_handoff(slot))
            && let Some(held) = self.slot_mut(slot)
        {
            let to = to.to_vec();
            held.set_tenure(Tenure::Retiring { holder, to });
            return Ok(Vec::new());
        }
        self.close_now(slot, to)
    }

    fn close_now(&mut self, slot: SlotId, to: &[SlotId]) -> io::Result<Vec<(OwnedFd, Vec<SlotId>)>> {
        let Some(id) = self.group_of.remove(&slot) else {
            return Ok(Vec::new());
        };
        let heirs = self.heirs(id);
        let Some(group) = self.groups.get_mut(&id) else {
            return Ok(Vec::new());
        };
        if let Some(closing) = group.slots.get(&slot) {
            let fd = closing.fd.as_fd();
            // This fails only for a socket that is not watched. The slot is closed anyway: the core has forgotten it.
            let _ = match &group.deal {
                Some(_) => self.arrivals.remove(fd),
                None => self.traffic.remove(fd),
            };
        }
        let left = group.close(slot, !heirs.is_empty());
        let to = if group.slots.is_empty() { &heirs } else { to };
        if group.slots.is_empty() && group.foreign.is_empty() {
            self.groups.remove(&id);
        }
        Ok(left?.into_iter().map(|fd| (fd, to.to_vec())).collect())
    }

    /// The workers that have slots or shared sockets, once for each of those.
    pub fn holders(&self) -> impl Iterator<Item = WorkerId> {
        let slots = self.groups.values().flat_map(|group| group.slots.values());
        let shared = self
            .shared
            .iter()
            .flat_map(|shared| shared.holders.iter().copied());
        slots.filter_map(Slot::holder).chain(shared)
    }

    /// The worker has ended: its slots have no holder, and retired ones are closed. Returns the connections that these still held, each
    /// with the slots that may get it.
    pub fn worker_gone(&mut self, worker: WorkerId) -> Vec<(OwnedFd, Vec<SlotId>)> {
        for shared in &mut self.shared {
            shared.holders.remove(&worker);
        }
        self.groups
            .values_mut()
            .for_each(|group| group.foreign_gone(worker));
        self.groups
            .retain(|_, group| !(group.slots.is_empty() && group.foreign.is_empty()));
        let mut retired = Vec::new();
        for (id, slot) in self.groups.values_mut().flat_map(|g| g.slots.iter_mut()) {
            retired.extend(slot.worker_gone(worker).map(|to| (*id, to)));
        }
        let mut left = Vec::new();
        for (slot, to) in retired {
            left.extend(self.close_now(slot, &to).unwrap_or_default());
        }
        left
    }

    /// Closes the shared sockets of an app whose workers have ended and will not be started again.
    pub fn close_shared(&mut self, app: AppId) {
        self.shared.retain(|s| s.app != app);
    }

    /// The open slots, accepted from by workers, in which connections wait, and how many. Empty queues cost nothing.
    pub fn waiting(&self) -> impl Iterator<Item = (SlotId, u32)> {
        // Without an answer, all queues count as empty.
        let readable = self.traffic.now().unwrap_or_default();
        let slots = readable.into_iter().filter_map(|token| {
            let id = SlotId(u32::try_from(token).ok()?);
            let slot = self.groups.get(self.group_of.get(&id)?)?.slots.get(&id)?;
            (!slot.is_retiring()).then_some((id, slot))
        });
        slots.filter_map(|(id, slot)| {
            let len = socket::accept_queue(slot.fd.as_fd()).map_or(0, |queue| queue.len);
            (len > 0).then_some((id, len))
        })
    }

    /// Readable once when a connection arrives at any slot, until [`Listeners::arm`] is called.
    #[must_use]
    pub fn traffic(&self) -> &Readable {
        &self.traffic
    }

    /// Arms the traffic detector.
    ///
    /// # Errors
    /// None that a correct call can meet.
    pub fn arm(&self) -> io::Result<()> {
        self.traffic.arm()
    }

    pub(crate) fn slot_mut(&mut self, slot: SlotId) -> Option<&mut Slot> {
        self.groups
            .get_mut(self.group_of.get(&slot)?)?
            .slots
            .get_mut(&slot)
    }
}

#[cfg(test)]
mod tests;
