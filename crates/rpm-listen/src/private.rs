//! Who may connect to a private slot: only the proxy, where the daemon is allowed to mark what the proxy sends.
//!
//! A private slot is a TCP listener on an address of this machine. Any local user could find it and go past the proxy, with its
//! certificates, limits and log. Nobody without CAP_NET_ADMIN or CAP_NET_RAW can mark packets, so a slot accepts only clients that do.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use rpm_sys::{cbpf, socket};

/// The mark is no secret: what counts is who may set it. It says `rpm` to whoever sees it in a packet filter.
const MARK: u32 = 0x7270_6d01;

/// How the proxy marks its connections to private slots; `None`: this process may not, and anyone on this machine can connect to them.
pub fn private_mark() -> Option<u32> {
    static MAY: OnceLock<bool> = OnceLock::new();
    MAY.get_or_init(socket::may_mark).then_some(MARK)
}

/// Closes a private slot to all but the proxy, or opens it again after a daemon that could.
pub(crate) fn guard(slot: BorrowedFd<'_>) -> io::Result<()> {
    match private_mark() {
        Some(mark) => cbpf::accept_marked(slot, mark),
        None => {
            cbpf::accept_all(slot);
            Ok(())
        }
    }
}
