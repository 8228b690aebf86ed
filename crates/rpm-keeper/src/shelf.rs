//! The descriptors that the keeper holds, with their owners. Pure: `D` is a descriptor, or a number in tests.

use std::collections::BTreeMap;

use crate::protocol::Entry;

#[derive(Debug)]
pub(crate) struct Shelf<D> {
    held: BTreeMap<u64, (Entry, D)>,
}

impl<D> Shelf<D> {
    pub(crate) fn new() -> Shelf<D> {
        Shelf {
            held: BTreeMap::new(),
        }
    }

    /// Adds these. Returns those whose descriptor did not arrive, because the process has no room for more.
    pub(crate) fn keep(&mut self, entries: &[Entry], descriptors: Vec<D>) -> Vec<Entry> {
        let lost = entries.iter().skip(descriptors.len()).copied().collect();
        for (entry, descriptor) in entries.iter().zip(descriptors) {
            self.held.insert(entry.token, (*entry, descriptor));
        }
        lost
    }

    /// Removes these and returns them to be closed.
    pub(crate) fn release(&mut self, entries: &[Entry]) -> Vec<D> {
        let released = entries.iter().filter_map(|entry| self.held.remove(&entry.token));
        released.map(|(_, descriptor)| descriptor).collect()
    }

    pub(crate) fn own(&mut self, entries: &[Entry]) {
        for entry in entries {
            if let Some((held, _)) = self.held.get_mut(&entry.token) {
                held.owner = entry.owner;
            }
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (Entry, &D)> {
        self.held.values().map(|(entry, descriptor)| (*entry, descriptor))
    }

    /// The processes of owners.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (Entry, &D)> {
        self.all().filter(|(entry, _)| entry.is_process)
    }

    /// Removes everything that an owner has, process included, because it ended while there is no daemon.
    pub(crate) fn ended(&mut self, owner: u64) -> Vec<D> {
        let owned = self.held.extract_if(.., |_, (entry, _)| entry.owner == owner);
        owned.map(|(_, (_, descriptor))| descriptor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(token: u64, owner: u64, is_process: bool) -> Entry {
        Entry {
            token,
            owner,
            is_process,
        }
    }

    fn tokens(shelf: &Shelf<u64>) -> Vec<u64> {
        shelf.all().map(|(entry, _)| entry.token).collect()
    }

    #[test]
    fn what_a_process_owned_goes_with_it_and_nothing_else() {
        let mut shelf = Shelf::new();
        let entries = [
            entry(1, 7, true),
            entry(2, 7, false),
            entry(3, 8, false),
            entry(4, 0, false),
            entry(5, 8, true),
        ];
        assert_eq!(shelf.keep(&entries, vec![1, 2, 3, 4, 5]), []);
        // A slot that a dead worker left to its successor.
        shelf.own(&[entry(2, 8, false)]);
        assert_eq!(shelf.ended(7), [1]);
        assert_eq!(tokens(&shelf), [2, 3, 4, 5]);
        assert_eq!(
            shelf
                .processes()
                .map(|(entry, _)| entry.token)
                .collect::<Vec<_>>(),
            [5]
        );
        assert_eq!(shelf.release(&[entry(3, 0, false), entry(99, 0, false)]), [3]);
        assert_eq!(shelf.ended(8), [2, 5]);
        assert_eq!(tokens(&shelf), [4]);
    }

    #[test]
    fn what_came_without_its_descriptor_is_told() {
        let mut shelf = Shelf::new();
        let entries = [entry(1, 0, false), entry(2, 0, false), entry(3, 0, false)];
        assert_eq!(shelf.keep(&entries, vec![10]), entries[1..]);
        assert_eq!(tokens(&shelf), [1]);
    }
}
