//! Deadlines: at most one per key, the earliest found at once.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::Tick;

/// An ordered set of deadlines. Every operation costs the logarithm of their number.
#[derive(Clone, Debug)]
pub(crate) struct Deadlines<K> {
    queue: BTreeSet<(Tick, K)>,
    at: BTreeMap<K, Tick>,
}

impl<K: Ord + Copy> Deadlines<K> {
    pub(crate) fn new() -> Self {
        Deadlines {
            queue: BTreeSet::new(),
            at: BTreeMap::new(),
        }
    }

    /// Sets the deadline of `key`, replacing its previous one.
    pub(crate) fn set(&mut self, key: K, at: Tick) {
        self.clear(key);
        self.at.insert(key, at);
        self.queue.insert((at, key));
    }

    /// Removes the deadline of `key`, if it has one.
    pub(crate) fn clear(&mut self, key: K) {
        if let Some(at) = self.at.remove(&key) {
            self.queue.remove(&(at, key));
        }
    }

    pub(crate) fn get(&self, key: K) -> Option<Tick> {
        self.at.get(&key).copied()
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Tick> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// Removes and returns the key with the earliest deadline that has passed.
    pub(crate) fn pop_due(&mut self, now: Tick) -> Option<K> {
        let &(at, key) = self.queue.first()?;
        if at > now {
            return None;
        }
        self.clear(key);
        Some(key)
    }

    /// The keys whose deadlines have passed, earliest first.
    pub(crate) fn due(&self, now: Tick) -> impl Iterator<Item = K> + '_ {
        let due = self.queue.iter().take_while(move |&&(at, _)| at <= now);
        due.map(|&(_, key)| key)
    }

    /// All keys that have a deadline, ascending.
    pub(crate) fn keys(&self) -> impl Iterator<Item = K> + '_ {
        self.at.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    fn at(ms: u64) -> Tick {
        Tick(Duration::from_millis(ms))
    }

    #[test]
    fn the_earliest_comes_first_and_only_when_due() {
        let mut deadlines = Deadlines::new();
        deadlines.set('b', at(20));
        deadlines.set('a', at(30));
        assert_eq!(deadlines.next(), Some(at(20)));
        assert_eq!(deadlines.pop_due(at(19)), None);
        assert_eq!(deadlines.pop_due(at(30)), Some('b'));
        assert_eq!(deadlines.pop_due(at(30)), Some('a'));
        assert_eq!(deadlines.pop_due(at(99)), None);
    }

    #[test]
    fn a_key_has_one_deadline() {
        let mut deadlines = Deadlines::new();
        deadlines.set('a', at(10));
        deadlines.set('a', at(40));
        assert_eq!(deadlines.pop_due(at(39)), None);
        assert_eq!(deadlines.get('a'), Some(at(40)));
        deadlines.clear('a');
        assert_eq!((deadlines.next(), deadlines.keys().count()), (None, 0));
    }
}
