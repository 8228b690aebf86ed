//! Random numbers of traces and spans: a generator for each thread, so that a request costs neither a system call nor a lock.

use std::cell::RefCell;
use std::hash::{BuildHasher as _, RandomState};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore as _, SeedableRng as _};

use super::context::{SpanId, TraceId};

/// A generator. Its numbers are unique, not secret.
pub(super) struct Ids(Xoshiro256PlusPlus);

impl Ids {
    /// With a seed of this thread: the standard library keys its hashes with random bytes of the system (getrandom).
    fn new() -> Ids {
        let keyed = RandomState::new();
        let mut seed = [0; 32];
        for (number, word) in seed.chunks_mut(8).enumerate() {
            word.copy_from_slice(&keyed.hash_one(number).to_le_bytes());
        }
        Ids(Xoshiro256PlusPlus::from_seed(seed))
    }

    pub(super) fn trace(&mut self) -> TraceId {
        let (high, low) = (self.0.next_u64(), self.nonzero());
        TraceId(u128::from(high) << 64 | u128::from(low))
    }

    pub(super) fn span(&mut self) -> SpanId {
        SpanId(self.nonzero())
    }

    fn nonzero(&mut self) -> u64 {
        self.0.next_u64().max(1)
    }
}

thread_local! {
    static IDS: RefCell<Ids> = RefCell::new(Ids::new());
}

/// The generator of this thread.
pub(super) fn with<T>(draw: impl FnOnce(&mut Ids) -> T) -> T {
    IDS.with_borrow_mut(draw)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use super::*;

    #[test]
    fn numbers_differ_also_between_threads() {
        let draw = || {
            with(|ids| {
                (0..1000)
                    .map(|_| (ids.trace().0, ids.span().0))
                    .collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..4).map(|_| thread::spawn(draw)).collect();
        let all: Vec<(u128, u64)> = threads
            .into_iter()
            .flat_map(|it| it.join().expect("it ends"))
            .collect();
        assert_eq!(all.iter().map(|it| it.0).collect::<HashSet<_>>().len(), 4000);
        assert_eq!(all.iter().map(|it| it.1).collect::<HashSet<_>>().len(), 4000);
        assert!(!all.iter().any(|it| it.0 == 0 || it.1 == 0));
    }
}
