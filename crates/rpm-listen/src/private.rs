//! Who may connect to a private slot: only the proxy, where the daemon is allowed to mark what the proxy sends.
//!
//! A private slot is a TCP listener on an address of this machine. Any local user could find it and go past the proxy, with its
//! certificates, limits and log. Nobody without CAP_NET_ADMIN or CAP_NET_RAW can mark packets, so a slot accepts only clients that do.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::OnceLock;
use std::time::Duration;

use rpm_sys::{cbpf, socket};
use tracing::warn;

/// The mark is no secret: what counts is who may set it. It has none of the bits that Kubernetes (0x4000, 0x8000) and Cilium (0xf00)
/// give a meaning to.
const MARK: u32 = 0x7270_2001;

/// For a connection to ourselves, whose handshake is over when the call returns unless its first packet is dropped.
const TRIED_WITHIN: Duration = Duration::from_millis(200);

/// How the proxy marks its connections to private slots; `None`: this process may not, or marks do not arrive, and anyone on this machine can
/// connect to them.
pub fn private_mark() -> Option<u32> {
    static WORKS: OnceLock<bool> = OnceLock::new();
    WORKS.get_or_init(works).then_some(MARK)
}

/// Tries it: a rule of the packet filter may change the mark on its way, and then no connection of the proxy would arrive.
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

/// Closes a private slot to all but the proxy, or opens it again after a daemon that could. What fails leaves it open.
pub(crate) fn guard(slot: BorrowedFd<'_>) {
    let guarded = private_mark().map(|mark| cbpf::accept_marked(slot, mark));
    if let Some(Err(error)) = &guarded {
        warn!(%error, "a worker behind the proxy accepts connections of any local user");
    }
    if !matches!(guarded, Some(Ok(()))) {
        cbpf::accept_all(slot);
    }
}

/// Opens it to everyone: who takes over may be a daemon that marks nothing.
pub(crate) fn unguard(slot: BorrowedFd<'_>) {
    cbpf::accept_all(slot);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_arrives_is_used() {
        assert_eq!(private_mark().is_some(), socket::may_mark());
        // As where a rule changes it on the way.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        cbpf::accept_marked(listener.as_fd(), MARK ^ 1).unwrap();
        if socket::may_mark() {
            let address = listener.local_addr().unwrap();
            let error = socket::connect_marked(address, MARK, TRIED_WITHIN).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
    }
}
