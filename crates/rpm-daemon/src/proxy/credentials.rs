//! Connections of the daemon to private slots: those of the proxy, and others.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use rpm_listen::guard;
use rpm_proxy::{Address, Credentials};

/// What the guard of private slots wants to see.
#[derive(Debug)]
struct Ours;

impl Credentials for Ours {
    fn show(&self, connection: BorrowedFd<'_>, to: SocketAddr) -> io::Result<()> {
        guard::show(connection, to)
    }

    fn shown(&self, connection: BorrowedFd<'_>) {
        guard::shown(connection);
    }
}

/// The private slot at this address.
pub(crate) fn private(socket: SocketAddr) -> Address {
    Address {
        socket,
        credentials: Some(&Ours),
    }
}
