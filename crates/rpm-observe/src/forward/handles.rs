//! The files that are held open, by all destinations together: there are at most so many, however many logs and destinations there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A quarter of the usual limit of a process. A log that gets none is opened for each read.
const MOST: usize = 256;

/// Counts the files; all destinations share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Handles(Arc<AtomicUsize>);

/// Leave to hold one file open, until it is dropped.
#[derive(Debug)]
pub(super) struct Handle(Arc<AtomicUsize>);

impl Handles {
    /// Leave to hold one more; `None` if there are as many as there may be.
    pub(super) fn take(&self) -> Option<Handle> {
        let more = |count: usize| (count < MOST).then_some(count + 1);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Handle(Arc::clone(&self.0)))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_hold_no_more_than_the_bound() {
        let (one, other) = (Handles::default(), Handles::default());
        let shared = one.clone();
        let held: Vec<Handle> = (0..MOST).filter_map(|_| one.take()).collect();
        assert_eq!(held.len(), MOST);
        assert!(one.take().is_none() && shared.take().is_none() && other.take().is_some());
        drop(held);
        assert!(shared.take().is_some());
    }
}
