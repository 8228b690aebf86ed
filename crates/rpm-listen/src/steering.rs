//! How the kernel is told which slots are eligible: an eBPF program with a table, or, without any
//! privilege, a classic BPF program that is attached anew at every change.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;

use rpm_core::SlotId;
use rpm_sys::cbpf;
use rpm_sys::ebpf::{self, MAX_SLOTS};

/// The steering mechanism of a group, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mechanism {
    /// `ebpf` or `cbpf`.
    pub name: &'static str,
    /// Why this one.
    pub reason: String,
}

/// A group's program.
pub(crate) enum Steering {
    Ebpf(Table),
    Classic(Order),
}

/// The eBPF program and which index each slot has in its socket array.
pub(crate) struct Table {
    selector: ebpf::Selector,
    index: BTreeMap<SlotId, u32>,
    attached: bool,
}

/// The kernel's own order of the group's sockets, which is what a classic program's result counts in:
/// by `listen()`, and when one leaves, the last takes its place.
pub(crate) struct Order {
    slots: Vec<SlotId>,
    eligible: Vec<SlotId>,
    why_not_ebpf: String,
}

impl Steering {
    /// eBPF where this kernel and user permit it, classic BPF otherwise.
    pub(crate) fn choose() -> Steering {
        match ebpf::Selector::load(MAX_SLOTS) {
            Ok(selector) if selector.can_migrate() => Steering::Ebpf(Table {
                selector,
                index: BTreeMap::new(),
                attached: false,
            }),
            Ok(_) => {
                Steering::classic("the kernel cannot migrate queues between sockets (needs 5.14)".to_owned())
            }
            Err(error) => Steering::classic(error.to_string()),
        }
    }

    fn classic(why_not_ebpf: String) -> Steering {
        Steering::Classic(Order {
            slots: Vec::new(),
            eligible: Vec::new(),
            why_not_ebpf,
        })
    }

    pub(crate) fn mechanism(&self) -> Mechanism {
        match self {
            Steering::Ebpf(_) => Mechanism {
                name: "ebpf",
                reason: "exact round-robin by an eBPF program, queues can migrate".to_owned(),
            },
            Steering::Classic(order) => Mechanism {
                name: "cbpf",
                reason: format!(
                    "random among eligible workers by classic BPF; no eBPF: {}",
                    order.why_not_ebpf
                ),
            },
        }
    }

    /// Whether shutting a slot moves its queue to the migration targets.
    pub(crate) fn can_migrate(&self) -> bool {
        matches!(self, Steering::Ebpf(_))
    }

    /// Takes in a slot that listens.
    pub(crate) fn add(&mut self, slot: SlotId, fd: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Steering::Ebpf(table) => table.add(slot, fd),
            Steering::Classic(order) => {
                order.slots.push(slot);
                Ok(())
            }
        }
    }

    /// From now on new connections go to `eligible` only. `fd_of` gives the descriptor of a slot.
    pub(crate) fn steer<'a>(
        &mut self,
        eligible: &[SlotId],
        fd_of: impl Fn(SlotId) -> Option<BorrowedFd<'a>>,
    ) -> io::Result<()> {
        match self {
            Steering::Ebpf(table) => {
                let indexes = table.indexes(eligible);
                table.selector.set_eligible(&indexes);
                table.selector.set_migration_targets(&indexes);
                Ok(())
            }
            Steering::Classic(order) => {
                order.eligible = eligible.to_vec();
                order.attach(&order.positions(eligible), fd_of)
            }
        }
    }

    /// Lets the slot leave the group: `leave` takes it out of the kernel's group (shuts it down).
    pub(crate) fn remove<'a>(
        &mut self,
        slot: SlotId,
        fd_of: impl Fn(SlotId) -> Option<BorrowedFd<'a>>,
        leave: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        match self {
            Steering::Ebpf(table) => {
                table.take_out(slot)?;
                leave()
            }
            Steering::Classic(order) => order.remove(slot, fd_of, leave),
        }
    }

    /// Shuts a slot and has it listen again, which moves its queue to `to`. eBPF only.
    pub(crate) fn bounce(
        &mut self,
        slot: SlotId,
        fd: BorrowedFd<'_>,
        backlog: u32,
        to: &[SlotId],
    ) -> io::Result<()> {
        let Steering::Ebpf(table) = self else {
            return Ok(());
        };
        let targets = table.indexes(to);
        table.selector.set_migration_targets(&targets);
        // Out of the array before the shutdown: a connection that picks the slot in between is reset.
        let index = table.index.get(&slot).copied();
        if let Some(index) = index {
            table.selector.remove(index)?;
        }
        rpm_sys::socket::unlisten(fd)?;
        rpm_sys::socket::listen(fd, backlog)?;
        match index {
            Some(index) => table.selector.insert(index, fd),
            None => Ok(()),
        }
    }

    /// Connections steered to the slot; unknown to classic BPF.
    pub(crate) fn steered(&self, slot: SlotId) -> Option<u64> {
        match self {
            Steering::Ebpf(table) => table
                .index
                .get(&slot)
                .map(|index| table.selector.counters(*index).steered),
            Steering::Classic(_) => None,
        }
    }
}

impl Table {
    fn add(&mut self, slot: SlotId, fd: BorrowedFd<'_>) -> io::Result<()> {
        let used: Vec<u32> = self.index.values().copied().collect();
        let index = (0..MAX_SLOTS).find(|i| !used.contains(i)).ok_or_else(|| {
            io::Error::other(format!(
                "a listener has at most {MAX_SLOTS} workers; scale the app down"
            ))
        })?;
        if !self.attached {
            self.selector.attach(fd)?;
            self.attached = true;
        }
        self.selector.clear_counters(index);
        self.selector.insert(index, fd)?;
        self.index.insert(slot, index);
        Ok(())
    }

    fn indexes(&self, slots: &[SlotId]) -> Vec<u32> {
        slots
            .iter()
            .filter_map(|slot| self.index.get(slot).copied())
            .collect()
    }

    fn take_out(&mut self, slot: SlotId) -> io::Result<()> {
        match self.index.remove(&slot) {
            Some(index) => self.selector.remove(index),
            None => Ok(()),
        }
    }
}

impl Order {
    fn positions(&self, slots: &[SlotId]) -> Vec<u32> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, s)| slots.contains(s))
            .map(|(i, _)| i as u32)
            .collect()
    }

    fn attach<'a>(
        &self,
        indexes: &[u32],
        fd_of: impl Fn(SlotId) -> Option<BorrowedFd<'a>>,
    ) -> io::Result<()> {
        // Every slot in the order listens, so any of them is a live member to attach through.
        match self.slots.iter().find_map(|slot| fd_of(*slot)) {
            Some(fd) if !indexes.is_empty() => cbpf::attach_random(fd, indexes),
            Some(_) | None => Ok(()),
        }
    }

    /// The last socket takes the place of the one that leaves. While that happens only positions that
    /// mean the same before and after are picked.
    fn remove<'a>(
        &mut self,
        slot: SlotId,
        fd_of: impl Fn(SlotId) -> Option<BorrowedFd<'a>>,
        leave: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(at) = self.slots.iter().position(|s| *s == slot) else {
            return leave();
        };
        let last = self.slots.len() - 1;
        let mut steady = self.positions(&self.eligible);
        steady.retain(|i| *i as usize != at && (*i as usize) < last);
        self.attach(&steady, &fd_of)?;
        leave()?;
        self.slots.swap_remove(at);
        self.eligible.retain(|s| *s != slot);
        self.attach(&self.positions(&self.eligible), fd_of)
    }
}
