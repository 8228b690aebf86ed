//! Queries about the listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use rpm_core::{AppId, GroupId, OpenSlot, SlotId, WorkerId};
use rpm_sys::socket;

use crate::group::{Group, GroupView};
use crate::listeners::Listeners;
use crate::shared::SharedKind;

/// What a worker holds of the daemon's TCP listeners.
#[derive(Debug, Default)]
pub struct Holding {
    /// The addresses, in the order in which its app opened them.
    pub addresses: Vec<SocketAddr>,
    /// Its slots.
    pub slots: Vec<SlotId>,
}

impl Listeners {
    /// What each worker holds, in one pass over all groups.
    #[must_use]
    pub fn by_worker(&self) -> BTreeMap<WorkerId, Holding> {
        let mut found: BTreeMap<WorkerId, Holding> = BTreeMap::new();
        for group in self.groups.values() {
            let own = group
                .slots
                .iter()
                .filter_map(|(id, slot)| Some((slot.holder()?, Some(*id))));
            let foreign = group.foreign.values().map(|worker| (*worker, None));
            for (worker, slot) in own.chain(foreign) {
                let holding = found.entry(worker).or_default();
                // An address is listed once, however many of its slots the worker holds.
                if holding.addresses.last() != Some(&group.addr) {
                    holding.addresses.push(group.addr);
                }
                holding.slots.extend(slot);
            }
        }
        found
    }

    /// The number of connections that wait in these slots.
    #[must_use]
    pub fn waiting_in(&self, slots: &[SlotId]) -> u32 {
        let held = slots.iter().filter_map(|slot| {
            let group = self.groups.get(self.group_of.get(slot)?)?;
            group.slots.get(slot).filter(|_| group.deal.is_none())
        });
        held.map(|slot| socket::accept_queue(slot.fd.as_fd()).map_or(0, |queue| queue.len))
            .sum()
    }

    /// The key of the first address on which `worker` has a slot, in the order in which the app opened them.
    #[must_use]
    pub fn first_key(&self, worker: WorkerId) -> Option<&str> {
        let holds = |g: &&Group| g.slots.values().any(|slot| slot.holder() == Some(worker));
        self.groups.values().find(holds).map(|g| g.key.as_str())
    }

    /// The TCP ports on which `worker` has a slot.
    #[must_use]
    pub fn ports_of(&self, worker: WorkerId) -> Vec<u16> {
        self.addresses_of(worker).map(|addr| addr.port()).collect()
    }

    /// The TCP addresses at which `worker` has a slot, in the order in which the app opened them.
    pub fn addresses_of(&self, worker: WorkerId) -> impl Iterator<Item = SocketAddr> {
        let holds = move |g: &&Group| {
            let own = g.slots.values().any(|slot| slot.holder() == Some(worker));
            own || g.foreign.values().any(|holder| *holder == worker)
        };
        self.groups.values().filter(holds).map(|g| g.addr)
    }

    /// Where a group listens: an address, or the path of a Unix socket.
    #[must_use]
    pub fn place_of(&self, group: GroupId) -> Option<String> {
        let own = self.groups.get(&group).map(|group| group.addr.to_string());
        let shared = || self.shared.iter().find(|shared| shared.group == group);
        let place = |kind: &SharedKind| match kind {
            SharedKind::Udp(addr) => addr.to_string(),
            SharedKind::Unix(path) | SharedKind::File { path, .. } => path.display().to_string(),
        };
        own.or_else(|| shared().map(|shared| place(&shared.kind)))
    }

    /// The shared sockets that `worker` uses.
    pub fn shared_by(&self, worker: WorkerId) -> impl Iterator<Item = &SharedKind> {
        let uses = self.shared.iter().filter(move |s| s.holders.contains(&worker));
        uses.map(|s| &s.kind)
    }

    /// True if the worker listens on sockets that could not be taken back from it.
    #[must_use]
    pub fn is_foreign(&self, worker: WorkerId) -> bool {
        let mut groups = self.groups.values();
        groups.any(|group| group.foreign.values().any(|holder| *holder == worker))
    }

    /// All groups that have slots.
    pub fn ids(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied()
    }

    /// The TCP ports of all listeners, ascending.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        let ports: BTreeSet<u16> = self.groups.values().map(|group| group.addr.port()).collect();
        ports.into_iter().collect()
    }

    /// The slots that the core has not closed.
    pub fn open_slots(&self) -> impl Iterator<Item = SlotId> + '_ {
        let all = self.groups.values().flat_map(|group| &group.slots);
        all.filter(|(_, slot)| !slot.is_retiring()).map(|(id, _)| *id)
    }

    /// The copy of the core's book: each slot that the core has not closed, with its group and its holder.
    pub fn book(&self) -> impl Iterator<Item = OpenSlot> + '_ {
        self.groups.iter().flat_map(|(group, open)| {
            let slots = open.slots.iter().filter(|(_, slot)| !slot.is_retiring());
            slots.map(move |(slot, held)| OpenSlot {
                slot: *slot,
                group: *group,
                holder: held.holder(),
            })
        })
    }

    /// The slots to which a group is steered.
    #[must_use]
    pub fn eligible(&self, group: GroupId) -> &[SlotId] {
        self.groups.get(&group).map_or(&[], |group| &group.eligible)
    }

    /// The app's TCP listeners.
    pub fn groups(&self, app: AppId) -> impl Iterator<Item = GroupView> {
        let own = self.groups.iter().filter(move |(_, group)| group.app == app);
        own.map(|(id, group)| group.view(*id))
    }

    /// The app's shared sockets.
    pub fn shared(&self, app: AppId) -> impl Iterator<Item = &SharedKind> {
        self.shared.iter().filter(move |s| s.app == app).map(|s| &s.kind)
    }

    /// Inodes of all sockets that the daemon opened for the app. They tell these from a worker's own sockets.
    pub fn inodes(&self, app: AppId) -> impl Iterator<Item = u64> {
        let slots = self
            .groups
            .values()
            .filter(move |g| g.app == app)
            .flat_map(|g| g.slots.values());
        slots.filter_map(|slot| socket::inode(slot.fd.as_fd()).ok())
    }
}
