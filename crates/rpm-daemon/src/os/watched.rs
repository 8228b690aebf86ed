//! Descriptors that the event loop watches.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor.
///
/// # Errors
/// The event loop has no room for it.
#[expect(
    deprecated,
    reason = "its unsafe successor guards against types that change their descriptor; ours own one for good"
)]
pub(crate) fn watched<T: AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, interest)
}
