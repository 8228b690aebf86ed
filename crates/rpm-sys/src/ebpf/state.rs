//! The memory that the select program and the daemon share: a single-entry array map, mapped here.
//!
//! Layout, in bytes from the start:
//!
//! | what | size |
//! |---|---|
//! | counter of SYNs, counter of other packets, counter of migrations | 3 × u64 |
//! | `select` word, `migrate` word | 2 × u64 |
//! | 1 if the client's address decides, 0 if they go round | u64 |
//! | tables of slot indexes: two halves for `select`, two for `migrate` | 4 × slots × u32 |
//! | per slot: connections steered, connections migrated to it | slots × 2 × u64 |
//! | per slot: where its connections are counted ([`super::counts`]) | slots × u64 |
//!
//! A word is `base << 16 | n`: the current list is the `n` table entries from `base` on. An update writes the half that is not current,
//! then stores the word. The program may still be reading the old half; if two updates overtake it, it uses an entry of the newer list,
//! which is as good.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::memory::Memory;

/// Offsets and sizes for a given number of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) slots: u32,
}

/// Which list of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// New connections.
    Select,
    /// Connections from the queue of a closing slot.
    Migrate,
}

impl Layout {
    pub(super) const SYN_COUNTER: usize = 0;
    pub(super) const ACK_COUNTER: usize = 8;
    pub(super) const MIGRATE_COUNTER: usize = 16;
    pub(super) const SELECT_WORD: usize = 24;
    pub(super) const MIGRATE_WORD: usize = 32;
    pub(super) const BY_ADDRESS: usize = 40;
    pub(super) const TABLES: usize = 48;
    /// Offset within a slot's counters.
    pub(super) const STEERED: usize = 0;
    pub(super) const MIGRATED: usize = 8;

    /// Entries in all four halves.
    pub(super) fn table_len(self) -> usize {
        4 * self.slots as usize
    }

    pub(super) fn counters(self) -> usize {
        Layout::TABLES + 4 * self.table_len()
    }

    pub(super) fn tags(self) -> usize {
        self.counters() + 16 * self.slots as usize
    }

    pub(super) fn size(self) -> usize {
        self.tags() + 8 * self.slots as usize
    }
}

/// The mapping. Not `Sync`: two writers would mix up their lists.
#[derive(Debug)]
pub(super) struct State {
    memory: Memory,
    layout: Layout,
    one_writer: PhantomData<Cell<()>>,
}

impl State {
    pub(super) fn map(map: &OwnedFd, layout: Layout) -> io::Result<State> {
        let memory = Memory::map(map, layout.size())?;
        Ok(State {
            memory,
            layout,
            one_writer: PhantomData,
        })
    }

    /// Makes a list current. Indexes that are out of range are left out.
    pub(super) fn set(&self, list: List, indexes: &[u32]) {
        let slots = self.layout.slots;
        debug_assert!(indexes.iter().all(|index| *index < slots) && indexes.len() <= slots as usize);
        let (word, first_half) = match list {
            List::Select => (self.word(Layout::SELECT_WORD), 0),
            List::Migrate => (self.word(Layout::MIGRATE_WORD), 2 * slots),
        };
        let in_force = (word.load(Ordering::Relaxed) >> 16) as u32;
        let base = if in_force == first_half {
            first_half + slots
        } else {
            first_half
        };
        let mut len = 0;
        for index in indexes
            .iter()
            .filter(|index| **index < slots)
            .take(slots as usize)
        {
            self.entry(base + len).store(*index, Ordering::Relaxed);
            len += 1;
        }
        word.store(u64::from(base) << 16 | u64::from(len), Ordering::Release);
    }

    /// Selects by the client's address, or in turn.
    pub(super) fn set_by_address(&self, by_address: bool) {
        self.word(Layout::BY_ADDRESS)
            .store(by_address.into(), Ordering::Release);
    }

    /// The current list.
    pub(super) fn get(&self, list: List) -> Vec<u32> {
        let word = match list {
            List::Select => self.word(Layout::SELECT_WORD),
            List::Migrate => self.word(Layout::MIGRATE_WORD),
        };
        let word = word.load(Ordering::Acquire);
        let (base, len) = ((word >> 16) as u32, (word & 0xffff) as u32);
        (base..base + len)
            .map(|at| self.entry(at).load(Ordering::Relaxed))
            .collect()
    }

    /// One of a slot's counters ([`Layout::STEERED`], [`Layout::MIGRATED`]).
    pub(super) fn counter(&self, index: u32, which: usize) -> Option<&AtomicU64> {
        let start = self.layout.counters() + 16 * index as usize;
        (index < self.layout.slots).then(|| self.word(start + which))
    }

    /// Sets the tag by which the slot's connections are counted.
    pub(super) fn set_tag(&self, index: u32, tag: u64) {
        if index < self.layout.slots {
            self.word(self.layout.tags() + 8 * index as usize)
                .store(tag, Ordering::Release);
        }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        self.memory.word(offset)
    }

    fn entry(&self, at: u32) -> &AtomicU32 {
        let at = (at as usize).min(self.layout.table_len() - 1);
        self.memory.half(Layout::TABLES + 4 * at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ordinary shared memory in place of the map.
    fn state(slots: u32) -> State {
        let layout = Layout { slots };
        let file = rustix::fs::memfd_create(c"state", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, layout.size() as u64).unwrap();
        State::map(&file, layout).unwrap()
    }

    #[test]
    fn lists_alternate_between_halves_and_never_touch_each_other() {
        let state = state(4);
        for round in 0..5 {
            let select: Vec<u32> = (0..=round % 4).collect();
            state.set(List::Select, &select);
            state.set(List::Migrate, &[3, 1]);
            assert_eq!(state.get(List::Select), select);
            assert_eq!(state.get(List::Migrate), [3, 1]);
        }
        state.set(List::Select, &[]);
        assert_eq!(state.get(List::Select), [0; 0]);
        assert_eq!(
            state
                .counter(3, Layout::MIGRATED)
                .unwrap()
                .load(Ordering::Relaxed),
            0
        );
        assert!(state.counter(4, Layout::STEERED).is_none());
    }

    #[test]
    fn the_list_in_force_is_not_overwritten_by_the_next() {
        let state = state(4);
        state.set(List::Select, &[0, 1, 2, 3]);
        let before = state.word(Layout::SELECT_WORD).load(Ordering::Relaxed) >> 16;
        state.set(List::Select, &[3, 2, 1, 0]);
        let old: Vec<u32> = (0..4)
            .map(|at| state.entry(before as u32 + at).load(Ordering::Relaxed))
            .collect();
        assert_eq!(old, [0, 1, 2, 3]);
    }
}
