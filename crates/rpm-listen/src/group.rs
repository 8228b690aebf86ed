//! A public TCP address: its slots and their steering program.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rpm_core::{AppId, GroupId, SlotId, WorkerId};
use rpm_keeper::{Keeper, Kept, NOBODY};
use rpm_sys::socket::{self, AcceptQueue};

use crate::counting::Spread;
use crate::front::members;
use crate::guard::{self, Sink};
use crate::handoff::Deal;
use crate::owners::reserve;
use crate::policy::{SteeringPolicy, buckets, mixed};
use crate::steering::{Mechanism, Steering};

/// Backlog of a slot until its worker calls `listen` with its own value. Node's default, so that no connection is refused in between.
pub(crate) const FIRST_BACKLOG: u32 = 511;

const NO_QUEUE: AcceptQueue = AcceptQueue {
    len: 0,
    max: 0,
    listening: false,
};

/// Connections taken from a queue at a time when they are handed over one by one.
const HANDOFF_BATCH: usize = 256;

pub(crate) struct Group {
    pub(crate) app: AppId,
    pub(crate) key: String,
    pub(crate) addr: SocketAddr,
    pub(crate) v6only: bool,
    pub(crate) policy: SteeringPolicy,
    pub(crate) steering: Steering,
    pub(crate) slots: BTreeMap<SlotId, Slot>,
    /// A copy of what the core has decided, which [`Group::steer`] alone makes; slots that are closed are left out.
    pub(crate) eligible: Vec<SlotId>,
    /// Members of the kernel's group that only workers hold: the previous daemon had them, and they could not be taken back.
    pub(crate) foreign: BTreeMap<SlotId, WorkerId>,
    /// Present for handoff: the daemon accepts, and passes each connection to a worker.
    pub(crate) deal: Option<Deal>,
    /// The proxy's public sockets, if the proxy serves the address for private slots.
    pub(crate) front: Vec<Kept<OwnedFd>>,
    /// Keeps the sockets open when the daemon dies.
    pub(crate) keeper: Keeper,
}

/// What a group is: whose, and where.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) app: AppId,
    /// The key under which the workers of the app know it.
    pub(crate) key: &'a str,
    pub(crate) addr: SocketAddr,
    pub(crate) v6only: bool,
}

pub(crate) struct Slot {
    pub(crate) fd: Kept<OwnedFd>,
    /// The kernel's id of the socket (`SO_COOKIE`).
    pub(crate) cookie: u64,
    /// Present for a private slot: the address at which the proxy connects to it.
    pub(crate) private: Option<SocketAddr>,
    /// Present for a private slot that is guarded without a privilege: takes the clients that are not the proxy.
    pub(crate) sink: Option<Sink>,
    /// Its share of the connections, if they are weighted.
    pub(crate) weight: u32,
    tenure: Tenure,
    pub(crate) rescued: u64,
}

/// Who accepts from a slot. While the slot is open this is a copy of what the core has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tenure {
    /// No worker, until one inherits it.
    Vacant,
    /// This worker.
    Held(WorkerId),
    /// The core has closed the slot. Its holder still accepts what is in the queue; the slot is closed when the holder has ended.
    Retiring {
        holder: WorkerId,
        /// The slots that then get its queue.
        to: Vec<SlotId>,
    },
}

impl Slot {
    /// A slot that no worker has yet.
    pub(crate) fn new(fd: Kept<OwnedFd>, cookie: u64, private: Option<SocketAddr>, weight: u32) -> Slot {
        Slot {
            fd,
            cookie,
            private,
            sink: None,
            weight,
            tenure: Tenure::Vacant,
            rescued: 0,
        }
    }

    pub(crate) fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    pub(crate) fn holder(&self) -> Option<WorkerId> {
        match self.tenure {
            Tenure::Vacant => None,
            Tenure::Held(holder) | Tenure::Retiring { holder, .. } => Some(holder),
        }
    }

    pub(crate) fn is_retiring(&self) -> bool {
        match self.tenure {
            Tenure::Retiring { .. } => true,
            Tenure::Vacant | Tenure::Held(_) => false,
        }
    }

    /// Changes the tenure. The keeper closes the socket with its holder while there is no daemon.
    pub(crate) fn set_tenure(&mut self, tenure: Tenure) {
        self.tenure = tenure;
        self.fd.belongs_to(self.holder().map_or(NOBODY, owner));
    }

    /// The worker has ended. If it was the holder the slot is vacant, and if the slot was retiring it is to be closed: its queue goes to
    /// the slots that are returned.
    pub(crate) fn worker_gone(&mut self, worker: WorkerId) -> Option<Vec<SlotId>> {
        if self.holder() != Some(worker) {
            return None;
        }
        let before = std::mem::replace(&mut self.tenure, Tenure::Vacant);
        self.set_tenure(Tenure::Vacant);
        match before {
            Tenure::Retiring { to, .. } => Some(to),
            Tenure::Vacant | Tenure::Held(_) => None,
        }
    }

    pub(crate) fn is_private(&self) -> bool {
        self.private.is_some()
    }
}

/// The owner id under which the keeper holds a worker's sockets. While there is no daemon, the keeper closes them when the worker ends.
#[must_use]
pub fn owner(worker: WorkerId) -> u64 {
    // 0 means no owner.
    worker.0.saturating_add(1)
}

/// The result of moving a queue.
#[derive(Debug)]
pub enum Rescued {
    /// The kernel moved this many connections.
    Moved(u32),
    /// The kernel cannot migrate; these connections are to be handed over.
    Taken(Vec<OwnedFd>),
}

/// A listener, for `describe`.
#[derive(Debug)]
pub struct GroupView {
    /// Which.
    pub id: GroupId,
    /// Its address.
    pub addr: SocketAddr,
    /// How it is steered, and why in this way.
    pub mechanism: Mechanism,
    /// Its slots.
    pub slots: Vec<SlotView>,
}

/// A slot, for `describe`.
#[derive(Debug)]
pub struct SlotView {
    /// Which.
    pub slot: SlotId,
    /// The worker that serves it.
    pub holder: Option<WorkerId>,
    /// True if new connections may go there.
    pub eligible: bool,
    /// Its accept queue.
    pub queue: AcceptQueue,
    /// Connections steered to it; `None` with classic BPF, which does not count.
    pub steered: Option<u64>,
    /// Connections that its worker has open, and those that wait to be accepted; `None` where they are not counted.
    pub connections: Option<u64>,
    /// Connections moved away from it.
    pub rescued: u64,
}

impl Group {
    pub(crate) fn new(site: Site<'_>, spread: Spread, keeper: &Keeper) -> Group {
        let policy = spread.policy;
        Group::steered_by(site, policy, Steering::choose(spread, keeper), keeper)
    }

    /// A group without slots.
    pub(crate) fn steered_by(
        site: Site<'_>,
        policy: SteeringPolicy,
        steering: Steering,
        keeper: &Keeper,
    ) -> Group {
        Group {
            app: site.app,
            key: site.key.to_owned(),
            addr: site.addr,
            v6only: site.v6only,
            policy,
            steering,
            slots: BTreeMap::new(),
            eligible: Vec::new(),
            foreign: BTreeMap::new(),
            deal: None,
            front: Vec::new(),
            keeper: keeper.clone(),
        }
    }

    /// The worker has ended, so the sockets that only it held have left the kernel's group.
    pub(crate) fn foreign_gone(&mut self, worker: WorkerId) {
        let gone: Vec<SlotId> = self
            .foreign
            .iter()
            .filter(|(_, holder)| **holder == worker)
            .map(|(slot, _)| *slot)
            .collect();
        for slot in gone {
            self.foreign.remove(&slot);
            // The socket left by itself. If the program cannot be updated, the next change reports it.
            let _ = self
                .steering
                .remove(slot, members(&self.slots, &self.front), || Ok(()));
        }
    }

    /// Opens a public slot. The first one fixes the number of a port 0.
    pub(crate) fn open(&mut self, slot: SlotId, weight: u32, owner: Option<u32>) -> io::Result<()> {
        // A socket bound to port 0 gets another port when it is bounced, so every slot is bound to the number. The reservation holds the
        // number until the first slot has it.
        let reserved = reserve(owner, self.addr, self.v6only)?;
        if let Some(reserved) = &reserved {
            self.addr = socket::local_addr(reserved)?;
        }
        let fd = socket::bind_tcp_for(owner, self.addr, self.v6only)?;
        self.adopt(slot, fd, FIRST_BACKLOG, weight)
    }

    /// Takes in a socket that is bound to the address, and listens on it.
    pub(crate) fn adopt(&mut self, slot: SlotId, fd: OwnedFd, backlog: u32, weight: u32) -> io::Result<()> {
        socket::listen(fd.as_fd(), backlog)?;
        self.steering.add(slot, fd.as_fd(), weight)?;
        self.put(slot, fd, weight, false).map(drop)
    }

    pub(crate) fn put(
        &mut self,
        slot: SlotId,
        fd: OwnedFd,
        weight: u32,
        private: bool,
    ) -> io::Result<&mut Slot> {
        let private = private.then(|| socket::local_addr(&fd)).transpose()?;
        let cookie = socket::cookie(&fd)?;
        let fd = self.keeper.keep(fd, NOBODY);
        let held = Slot::new(fd, cookie, private, weight);
        Ok(self.slots.entry(slot).insert_entry(held).into_mut())
    }

    pub(crate) fn steer(&mut self, slots: &[SlotId]) -> io::Result<()> {
        self.eligible = slots.to_vec();
        if let Some(deal) = &mut self.deal {
            deal.list = match self.policy {
                SteeringPolicy::RoundRobin | SteeringPolicy::LeastConnections => Vec::new(),
                SteeringPolicy::IpHash => buckets(slots),
                SteeringPolicy::Weighted => {
                    let weight = |slot: &SlotId| self.slots.get(slot).map_or(1, |held| held.weight);
                    mixed(&slots.iter().map(|slot| (*slot, weight(slot))).collect::<Vec<_>>())
                }
            };
        }
        let reached = self.reached(slots);
        self.steering.steer(&reached, members(&self.slots, &self.front))
    }

    /// Moves the slot's accept queue to `to`. The holder must be dead or stopped.
    pub(crate) fn rescue(&mut self, id: SlotId, to: &[SlotId]) -> io::Result<Rescued> {
        let Some(slot) = self.slots.get(&id).filter(|_| self.deal.is_none()) else {
            return Ok(Rescued::Moved(0));
        };
        let queue = socket::accept_queue(slot.fd.as_fd())?;
        if queue.len == 0 {
            return Ok(Rescued::Moved(0));
        }
        let rescued = if self.steering.can_migrate() && !slot.is_private() {
            let (to, eligible) = (self.reached(to), self.reached(&self.eligible));
            let fd_of = members(&self.slots, &self.front);
            let bounced = match fd_of(id) {
                Some(fd) => self.steering.bounce(id, fd, queue.max, &to),
                None => Ok(()),
            };
            self.steering.steer(&eligible, fd_of)?;
            bounced?;
            Rescued::Moved(queue.len)
        } else {
            Rescued::Taken(take(slot.fd.as_fd())?)
        };
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.rescued += match &rescued {
                Rescued::Moved(count) => u64::from(*count),
                Rescued::Taken(fds) => fds.len() as u64,
            };
        }
        Ok(rescued)
    }

    /// Closes the slot. The kernel moves its queue to the eligible slots; where it cannot, the connections are returned. For the last slot
    /// of a group this applies only if it is `inherited`.
    pub(crate) fn close(&mut self, id: SlotId, inherited: bool) -> io::Result<Vec<OwnedFd>> {
        let Some(slot) = self.slots.remove(&id) else {
            return Ok(Vec::new());
        };
        self.eligible.retain(|s| *s != id);
        let migrates = match self.slots.is_empty() {
            true => !inherited,
            false => self.steering.can_migrate() && !slot.is_private(),
        };
        let alone = self.slots.is_empty() && self.foreign.is_empty() && self.front.is_empty();
        let last = alone && inherited && !slot.is_private();
        // If it cannot be done, those who come in the next moment are reset.
        let _held_off = last.then(|| guard::hold_off(slot.fd.as_fd()));
        let mut left = if migrates {
            Vec::new()
        } else {
            take(slot.fd.as_fd())?
        };
        let fd_of = members(&self.slots, &self.front);
        let leave = || socket::unlisten(slot.fd.as_fd());
        match slot.is_private() {
            true => leave()?,
            false => self.steering.remove(id, fd_of, leave)?,
        }
        if !migrates {
            // Connections whose handshake completed between the first look and the shutdown.
            left.extend(take(slot.fd.as_fd()).unwrap_or_default());
        }
        Ok(left)
    }

    pub(crate) fn view(&self, id: GroupId) -> GroupView {
        let slots = self.slots.iter().map(|(id, slot)| SlotView {
            slot: *id,
            holder: slot.holder(),
            eligible: self.eligible.contains(id),
            queue: socket::accept_queue(slot.fd.as_fd()).unwrap_or(NO_QUEUE),
            steered: self.steering.steered(*id),
            connections: self.steering.connections(*id),
            rescued: slot.rescued,
        });
        GroupView {
            id,
            addr: self.addr,
            mechanism: match &self.deal {
                Some(_) => handed(self.policy),
                None if self.is_served_by_proxy() => Steering::Proxied.mechanism(self.policy),
                None => self.steering.mechanism(self.policy),
            },
            slots: slots.collect(),
        }
    }
}

fn handed(policy: SteeringPolicy) -> Mechanism {
    let how = match policy {
        SteeringPolicy::RoundRobin => "in exact rotation",
        SteeringPolicy::LeastConnections => "to the one with the fewest (least-connections)",
        SteeringPolicy::IpHash => "by the client's address (ip-hash)",
        SteeringPolicy::Weighted => "in exact weighted rotation",
    };
    Mechanism {
        name: "handoff",
        reason: format!("the daemon accepts connections and hands them to the workers, {how}"),
    }
}

fn take(fd: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut taken = Vec::new();
    while taken.len() < HANDOFF_BATCH {
        match socket::accept(fd)? {
            Some(connection) => taken.push(connection),
            None => break,
        }
    }
    Ok(taken)
}
