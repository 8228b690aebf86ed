//! All listeners of the daemon, and the operations that the core asks for.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rpm_core::{AppId, GroupId, SlotId, WorkerId};
use rpm_keeper::Keeper;
use rpm_sys::epoll::{Oneshot, Readable};
use rpm_sys::socket;
use rpm_sys::user::User;
use rustix::io::Errno;

use crate::counting::{Count, Counting};
use crate::group::{Group, Rescued, Slot};
use crate::handoff::Deal;
use crate::open_error::OpenError;
use crate::policy::SteeringPolicy;
use crate::shared::{Shared, SharedKind};
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
    /// A slot of its predecessor that it takes over.
    pub inherits: Option<SlotId>,
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

/// What a worker gets to listen on.
#[derive(Debug)]
pub enum Grant<'a> {
    /// A slot of a group.
    Slot {
        /// Its id.
        slot: SlotId,
        /// The id of its group.
        group: GroupId,
        /// The socket.
        fd: BorrowedFd<'a>,
    },
    /// A socket that all workers share.
    Shared {
        /// Its id, from the same space as those of groups with slots.
        group: GroupId,
        /// What kind of socket it is.
        kind: SharedKind,
        /// The socket.
        fd: BorrowedFd<'a>,
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

    /// Gives a worker something to listen on: the slot it inherits, a new slot, or the shared socket.
    ///
    /// # Errors
    /// The address is in use, or the kernel refuses it. [`Wanted::WorkerFd`] is not valid here.
    pub fn open(&mut self, wanted: &Wanted, by: &Request<'_>) -> Result<Grant<'_>, OpenError> {
        let Request { app, key, worker, .. } = *by;
        let keeper = &self.keeper.clone();
        match wanted {
            Wanted::Tcp { addr, v6only } => {
                let new = by.inherits.is_none() && self.group(app, key).is_none();
                if new && !(by.beside && self.overlaps_own(app, key, *addr, *v6only)) {
                    self.refuse_overlap(*addr, *v6only)?;
                }
                self.open_tcp(*addr, *v6only, by)
            }
            Wanted::Udp {
                addr,
                v6only,
                reuse_addr,
            } => {
                let what = format!("udp {addr}");
                let make = || Shared::udp((app, key), (*addr, *v6only), *reuse_addr, (by.owner(), keeper));
                self.open_shared(app, key, worker, what, make)
            }
            Wanted::Unix { path } => {
                let what = format!("unix {}", String::from_utf8_lossy(path));
                self.open_shared(app, key, worker, what, || {
                    Shared::unix((app, key), path, (by.user, keeper))
                })
            }
            Wanted::WorkerFd(fd) => Err(OpenError::Io {
                what: format!("descriptor {fd}"),
                source: io::Error::from_raw_os_error(Errno::INVAL.raw_os_error()),
            }),
        }
    }

    fn open_tcp(&mut self, addr: SocketAddr, v6only: bool, by: &Request<'_>) -> Result<Grant<'_>, OpenError> {
        let Request { app, key, worker, .. } = *by;
        let inherits = by.inherits.filter(|slot| self.group_of.contains_key(slot));
        let (group, slot) = match (inherits, self.group(app, key)) {
            (Some(slot), Some(group)) => (group, slot),
            (None, Some(group)) => (group, self.open_slot(group, by)?),
            (_, None) => {
                let counted = match by.handoff || by.proxy > 0 {
                    true => (by.policy, Count::Unwanted),
                    false => (by.policy, self.counting.of(by.policy, &self.keeper)),
                };
                let mut group = match by.proxy {
                    0 => Group::new((app, key), (addr, v6only), counted, &self.keeper),
                    count => Group::fronted(
                        (app, key),
                        (addr, v6only),
                        by.policy,
                        (count, &self.keeper),
                        by.owner(),
                    )
                    .map_err(|source| OpenError::Io {
                        what: addr.to_string(),
                        source,
                    })?,
                };
                group.deal = by.handoff.then(Deal::default);
                let group = self.new_group(group);
                (group, self.open_slot(group, by)?)
            }
        };
        let slot_of = self.groups.get_mut(&group).and_then(|g| g.slots.get_mut(&slot));
        match slot_of {
            Some(held) => {
                held.held_by(Some(worker));
                Ok(Grant::Slot {
                    slot,
                    group,
                    fd: held.fd.as_fd(),
                })
            }
            None => Err(OpenError::Io {
                what: addr.to_string(),
                source: io::ErrorKind::NotFound.into(),
            }),
        }
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
        let (traffic, arrivals) = (&mut self.traffic, &self.arrivals);
        let made = make(open, slot).and_then(|()| {
            let Some(opened) = open.slots.get(&slot) else {
                return Ok(());
            };
            match &open.deal {
                Some(_) => arrivals.add(opened.fd.as_fd(), u64::from(slot.0)),
                None => traffic.add(opened.fd.as_fd(), u64::from(slot.0)),
            }
        });
        if let Err(source) = made {
            if open.slots.is_empty() && open.foreign.is_empty() {
                self.groups.remove(&group);
            }
            return Err(OpenError::Io { what, source });
        }
        self.next_slot += 1;
        self.group_of.insert(slot, group);
        Ok(slot)
    }

    fn open_shared(
        &mut self,
        app: AppId,
        key: &str,
        worker: WorkerId,
        what: String,
        make: impl FnOnce() -> io::Result<Shared>,
    ) -> Result<Grant<'_>, OpenError> {
        let at = match self.shared.iter().position(|s| s.app == app && s.key == key) {
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
        shared.holders.insert(worker);
        Ok(Grant::Shared {
            group: shared.group,
            kind: shared.kind.clone(),
            fd: shared.fd.as_fd(),
        })
    }

    /// The slot that `worker` holds under `key`.
    #[must_use]
    pub fn held(&self, app: AppId, key: &str, worker: WorkerId) -> Option<SlotId> {
        let group = self.groups.get(&self.group(app, key)?)?;
        group
            .slots
            .iter()
            .find(|(_, s)| s.holder() == Some(worker) && s.retiring.is_none())
            .map(|(id, _)| *id)
    }

    /// The shared socket that the workers of `app` know by `key`, if it is open.
    #[must_use]
    pub fn shared_group(&self, app: AppId, key: &str) -> Option<GroupId> {
        self.shared
            .iter()
            .find(|s| s.app == app && s.key == key)
            .map(|s| s.group)
    }

    /// The worker closed its listener of `key`. A slot is left without holder; a shared socket that no worker uses is closed.
    pub fn released(&mut self, app: AppId, key: &str, worker: WorkerId) {
        if let Some(slot) = self.held(app, key, worker)
            && let Some(held) = self.slot_mut(slot)
        {
            held.held_by(None);
        }
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
        if let (Some(_), false, false) = (holder, to.is_empty(), self.is_handoff(slot))
            && let Some(held) = self.slot_mut(slot)
        {
            held.retiring = Some(to.to_vec());
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
            match &group.deal {
                Some(_) => self.arrivals.remove(closing.fd.as_fd())?,
                None => self.traffic.remove(closing.fd.as_fd())?,
            }
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
            if slot.holder() == Some(worker) {
                slot.held_by(None);
                retired.extend(slot.retiring.take().map(|to| (*id, to)));
            }
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
            slot.retiring.is_none().then_some((id, slot))
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
