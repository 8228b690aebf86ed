//! The eBPF program of a group, and the socket array from which it selects.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rpm_core::SlotId;
use rpm_keeper::{Kept, Token};
use rpm_sys::ebpf::{self, MAX_SLOTS, Tag};
use rpm_sys::socket;
use rustix::io::Errno;

use crate::counting::{Count, Spread};
use crate::policy::SteeringPolicy;

/// The eBPF program, and the index of each slot in its socket array.
pub(crate) struct Table {
    pub(crate) policy: SteeringPolicy,
    pub(crate) weights: BTreeMap<SlotId, u32>,
    pub(crate) selector: ebpf::Selector,
    /// The copies that the keeper holds for the next daemon.
    pub(crate) kept: Vec<Kept<OwnedFd>>,
    pub(crate) count: Count,
    /// The connection counter of each slot, and its cookie.
    pub(crate) tags: BTreeMap<SlotId, (Tag, u64)>,
    pub(crate) index: BTreeMap<SlotId, u32>,
    pub(crate) attached: bool,
    /// Another program steers the group, to sockets that are not in this table. This one is attached when it has a slot to steer to.
    pub(crate) waits: bool,
}

/// How long to retry while a socket is still in the table of a program that was just replaced: the kernel frees that table some
/// milliseconds later, and a socket can be in one table only.
const TABLE_FREED_WITHIN: Duration = Duration::from_secs(2);
const TABLE_PAUSE: Duration = Duration::from_millis(1);

/// The eBPF program and its table, which the keeper holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredTable {
    pub(crate) tokens: Vec<Token>,
    pub(crate) indexes: BTreeMap<SlotId, u32>,
}

impl From<StoredTable> for rpm_state::Table {
    fn from(table: StoredTable) -> rpm_state::Table {
        let indexes = table.indexes.into_iter();
        rpm_state::Table {
            tokens: table.tokens.into_iter().map(u64::from).collect(),
            indexes: indexes.map(|(slot, index)| (slot.0, index)).collect(),
        }
    }
}

impl From<rpm_state::Table> for StoredTable {
    fn from(stored: rpm_state::Table) -> StoredTable {
        let indexes = stored.indexes.into_iter();
        StoredTable {
            tokens: stored.tokens.into_iter().map(Token::from).collect(),
            indexes: indexes.map(|(slot, index)| (SlotId(slot), index)).collect(),
        }
    }
}

impl Table {
    pub(crate) fn new(spread: Spread, selector: ebpf::Selector, kept: Vec<Kept<OwnedFd>>) -> Table {
        let Spread { policy, count } = spread;
        Table {
            policy,
            count,
            tags: BTreeMap::new(),
            weights: BTreeMap::new(),
            selector,
            kept,
            index: BTreeMap::new(),
            attached: false,
            waits: false,
        }
    }

    /// Finds the index of each slot in the table, and adds those that are not in it.
    pub(crate) fn take_back(
        &mut self,
        slots: &BTreeMap<SlotId, BorrowedFd<'_>>,
        stored: &StoredTable,
    ) -> io::Result<()> {
        let mut absent = Vec::new();
        for (slot, fd) in slots {
            let cookie = socket::cookie(fd)?;
            let index = stored.indexes.get(slot).copied();
            match index.filter(|index| self.selector.socket_at(*index) == Some(cookie)) {
                Some(index) => {
                    self.index.insert(*slot, index);
                    self.tag(*slot, *fd, index)?;
                }
                None => absent.push((*slot, *fd)),
            }
        }
        // A socket that stopped listening for a moment is not in the array. It is added when all used indexes are known, so that it cannot
        // get one of those.
        absent.into_iter().try_for_each(|(slot, fd)| self.add(slot, fd))
    }

    pub(crate) fn reason(&self) -> String {
        let how = match (self.policy, &self.count) {
            (SteeringPolicy::LeastConnections, Count::By(_)) => {
                "to the worker with the fewest connections (least-connections)"
            }
            (SteeringPolicy::RoundRobin | SteeringPolicy::LeastConnections, _) => "exact round-robin",
            (SteeringPolicy::IpHash, _) => "by the client's address (ip-hash)",
            (SteeringPolicy::Weighted, _) => "exact weighted round-robin",
        };
        let why_not = match &self.count {
            Count::Fails(why) => format!("; no least-connections: {why}"),
            Count::Unwanted | Count::By(_) => String::new(),
        };
        format!("{how} by an eBPF program, queues can migrate{why_not}")
    }

    /// Adds a socket that may still be in the table of another program.
    pub(crate) fn take_in(&mut self, slot: SlotId, fd: BorrowedFd<'_>) -> io::Result<()> {
        let began = Instant::now();
        loop {
            match self.add(slot, fd) {
                Err(error)
                    if error.raw_os_error() == Some(Errno::BUSY.raw_os_error())
                        && began.elapsed() < TABLE_FREED_WITHIN =>
                {
                    std::thread::sleep(TABLE_PAUSE);
                }
                done => return done,
            }
        }
    }

    pub(crate) fn add(&mut self, slot: SlotId, fd: BorrowedFd<'_>) -> io::Result<()> {
        let used: BTreeSet<u32> = self.index.values().copied().collect();
        let index = (0..MAX_SLOTS).find(|i| !used.contains(i)).ok_or_else(|| {
            io::Error::other(format!(
                "a listener has at most {MAX_SLOTS} workers; scale the app down"
            ))
        })?;
        if !self.waits {
            self.attach(fd)?;
        }
        self.selector.clear_counters(index);
        self.tag(slot, fd, index)?;
        self.selector.insert(index, fd)?;
        self.index.insert(slot, index);
        Ok(())
    }

    /// Counts the slot's connections, if the group wants that.
    pub(crate) fn tag(&mut self, slot: SlotId, fd: BorrowedFd<'_>, index: u32) -> io::Result<()> {
        if let Count::By(counts) = &self.count {
            let cookie = socket::cookie(fd)?;
            let tag = counts.tag_of(fd).map_or_else(|| counts.begin(fd, cookie), Ok)?;
            self.selector.set_tag(index, tag);
            self.tags.insert(slot, (tag, cookie));
        }
        Ok(())
    }

    pub(crate) fn attach(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        if !self.attached {
            self.selector
                .set_by_address(self.policy == SteeringPolicy::IpHash);
            self.selector.attach(fd)?;
            self.attached = true;
            self.waits = false;
        }
        Ok(())
    }

    pub(crate) fn indexes(&self, slots: &[SlotId]) -> Vec<u32> {
        slots
            .iter()
            .filter_map(|slot| self.index.get(slot).copied())
            .collect()
    }

    pub(crate) fn take_out(&mut self, slot: SlotId) -> io::Result<()> {
        if let (Count::By(counts), Some((tag, cookie))) = (&self.count, self.tags.remove(&slot)) {
            counts.end(tag, cookie);
        }
        match self.index.remove(&slot) {
            Some(index) => self.selector.remove(index),
            None => Ok(()),
        }
    }
}
