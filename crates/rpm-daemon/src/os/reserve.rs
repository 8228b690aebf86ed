//! Descriptors for what must be possible when all others are in use: to end processes, to write the state, and to be told to.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rpm_sys::limits;

/// As many as one step needs: a process tree, a file, a look at the kernel's tables. Where there are few, an eighth of them.
const MOST: u64 = 32;
const LEAST: u64 = 8;

fn size() -> usize {
    usize::try_from((limits::nofile().soft / 8).clamp(LEAST, MOST)).unwrap_or(0)
}

/// What is kept for bad times.
static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

fn held() -> MutexGuard<'static, Vec<File>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes what is missing, as far as there are any.
pub(crate) fn fill() {
    let mut held = held();
    // The limit is looked up only when something is missing.
    if held.len() as u64 >= MOST {
        return;
    }
    let size = size();
    while held.len() < size {
        match File::open("/dev/null") {
            Ok(file) => held.push(file),
            Err(_) => break,
        }
    }
}

/// Lets go of them, if few others are left; `false`: it has not, or there are none. They are to be taken again when they are not needed
/// any more: [`fill`].
pub(crate) fn release() -> bool {
    let mut held = held();
    let releases = !held.is_empty() && is_short();
    if releases {
        held.clear();
    }
    releases
}

/// Are there fewer left than one step may need? The kernel gives the lowest number that is free, and there may be gaps below it.
fn is_short() -> bool {
    let Ok(first) = File::open("/dev/null") else {
        return true;
    };
    let number = u64::try_from(first.as_raw_fd()).unwrap_or(0);
    let more = || (1..LEAST).map(|_| first.try_clone());
    number + LEAST >= limits::nofile().soft || more().collect::<io::Result<Vec<File>>>().is_err()
}

/// Does something that needs descriptors, if need be with those of the reserve.
pub(crate) fn with<T>(act: impl FnOnce() -> T) -> T {
    let released = release();
    let done = act();
    if released {
        fill();
    }
    done
}
