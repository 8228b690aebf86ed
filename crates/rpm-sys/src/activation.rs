//! Sockets passed by the parent process: the receiving side of `LISTEN_FDS`.
//!
//! Protocol: `sd_listen_fds(3)`.

use std::net::TcpListener;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::FdFlags;

/// The first passed descriptor.
const FIRST: RawFd = 3;

/// The listeners that were passed to this process. The first call takes them; later calls, and processes that got none, return an empty
/// list.
#[must_use]
pub fn listeners() -> Vec<TcpListener> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) || TAKEN.swap(true, Ordering::SeqCst) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS")
        .and_then(|count| RawFd::try_from(count).ok())
        .unwrap_or(0);
    // This fails for a descriptor that is not open. For the others it prevents inheritance by this process's children.
    let own = |fd: &RawFd| rustix::io::fcntl_setfd(borrowed(*fd), FdFlags::CLOEXEC).is_ok();
    let passed = (FIRST..FIRST.saturating_add(count)).filter(own);
    // SAFETY: the descriptor is open (its flag was just set), the protocol gives it to this process and pid, and it
    // is taken once.
    passed
        .map(|fd| TcpListener::from(unsafe { OwnedFd::from_raw_fd(fd) }))
        .collect()
}

fn borrowed(fd: RawFd) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: used for one fcntl only, which answers EBADF if the descriptor is not open.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}
