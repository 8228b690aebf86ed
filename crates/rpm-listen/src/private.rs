//! Guards private slots: only the proxy may connect, if the daemon is allowed to mark the proxy's packets.
//!
//! A private slot is a TCP listener on a loopback address. Any local user could find it and bypass the proxy with its certificates, limits
//! and log. Marking packets needs CAP_NET_ADMIN or CAP_NET_RAW, so a slot accepts only clients that do.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::OnceLock;
use std::time::Duration;

use rpm_sys::{cbpf, socket};
use tracing::warn;

/// The mark is not secret: it matters who may set it. It has none of the bits that Kubernetes (0x4000, 0x8000) and Cilium (0xf00) use.
const MARK: u32 = 0x7270_2001;

/// Deadline for a connection to ourselves. Its handshake is over when the call returns, unless its first packet is dropped.
const TRIED_WITHIN: Duration = Duration::from_millis(200);

/// The mark that the proxy sets on its connections to private slots. `None` if this process may not set marks or they do not arrive; then
/// any local process can connect to private slots.
pub fn private_mark() -> Option<u32> {
    static WORKS: OnceLock<bool> = OnceLock::new();
    WORKS.get_or_init(works).then_some(MARK)
}

/// Tries a marked connection: a packet filter rule may change the mark on its way, and then no connection of the proxy would arrive.
fn works() -> bool {
    if !socket::may_mark() {
        return false;
    }
    let tried = try_it();
    if let Err(error) = &tried {
        warn!(%error, "connections of the proxy cannot be told apart: workers behind it accept connections of any local user");
    }
    tried.is_ok()
}

fn try_it() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 64, 0, 1), 0))?;
    cbpf::accept_marked(listener.as_fd(), MARK)?;
    socket::connect_marked(listener.local_addr()?, MARK, TRIED_WITHIN)
}

/// Restricts a private slot to marked connections, or lifts the restriction of a previous daemon if this one cannot mark. If this fails,
/// the slot is open.
pub(crate) fn guard(slot: BorrowedFd<'_>) {
    let guarded = private_mark().map(|mark| cbpf::accept_marked(slot, mark));
    if let Some(Err(error)) = &guarded {
        warn!(%error, "a worker behind the proxy accepts connections of any local user");
    }
    if !matches!(guarded, Some(Ok(()))) {
        cbpf::accept_all(slot);
    }
}

/// Lifts the restriction, because the daemon that takes over may be a version that does not mark.
pub(crate) fn unguard(slot: BorrowedFd<'_>) {
    cbpf::accept_all(slot);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_arrives_is_used() {
        assert_eq!(private_mark().is_some(), socket::may_mark());
        // A listener with another mark stands for a packet filter that changes marks.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        cbpf::accept_marked(listener.as_fd(), MARK ^ 1).unwrap();
        if socket::may_mark() {
            let address = listener.local_addr().unwrap();
            let error = socket::connect_marked(address, MARK, TRIED_WITHIN).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
    }
}
