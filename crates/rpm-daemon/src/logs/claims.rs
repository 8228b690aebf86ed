//! Which thread writes to which file: two never write to one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The files that streams go to, or are going to.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Arc<Mutex<BTreeMap<PathBuf, Claimed>>>);

#[derive(Debug)]
struct Claimed {
    thread: usize,
    /// How many claims there are.
    count: usize,
}

/// While it lives, the file is that of one thread.
#[derive(Debug)]
pub(super) struct Claim {
    of: Claims,
    path: PathBuf,
}

impl Claims {
    /// The thread that writes to the file, if one does.
    pub(super) fn thread_of(&self, path: &Path) -> Option<usize> {
        self.lock().get(path).map(|claimed| claimed.thread)
    }

    /// True if a thread writes to any file.
    pub(super) fn has_any(&self, thread: usize) -> bool {
        self.lock().values().any(|claimed| claimed.thread == thread)
    }

    /// Claims the file for a thread, or for the one that has it already.
    pub(super) fn claim(&self, path: &Path, thread: usize) -> Claim {
        let mut all = self.lock();
        let claimed = all.entry(path.to_owned()).or_insert(Claimed { thread, count: 0 });
        claimed.count += 1;
        drop(all);
        Claim {
            of: self.clone(),
            path: path.to_owned(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Claimed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut all = self.of.lock();
        if let Some(claimed) = all.get_mut(&self.path) {
            claimed.count -= 1;
            if claimed.count == 0 {
                all.remove(&self.path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_that_of_one_thread_as_long_as_anything_goes_there() {
        let claims = Claims::default();
        let path = Path::new("/logs/a.log");
        let first = claims.claim(path, 1);
        let second = claims.claim(path, 2);
        assert_eq!(claims.thread_of(path), Some(1));
        drop(first);
        assert_eq!(claims.thread_of(path), Some(1));
        assert!(claims.has_any(1) && !claims.has_any(2));
        drop(second);
        assert_eq!(claims.thread_of(path), None);
        let _third = claims.claim(path, 2);
        assert_eq!(claims.thread_of(path), Some(2));
    }
}
