//! The keeper's socket in the daemon's directory.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use rustix::process::geteuid;

/// Backlog for daemons that connect.
pub(crate) const BACKLOG: i32 = 8;

/// Creates a socket at `path` to which only this user can connect. Replaces an existing one.
pub(crate) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let socket = packets()?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Connects to the listener at `path`. Returns the connection, non-blocking, and the listener's pid.
///
/// # Errors
/// There is no listener, or it belongs to another user.
pub(crate) fn connect_to(path: &Path, within: Duration) -> io::Result<(OwnedFd, u32)> {
    let socket = packets()?;
    // A stopped keeper does not accept.
    set_socket_timeout(&socket, Timeout::Send, Some(within))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let peer = socket_peercred(&socket)?;
    if peer.uid != geteuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    rustix::io::ioctl_fionbio(&socket, true)?;
    let pid = u32::try_from(peer.pid.as_raw_nonzero().get()).map_err(io::Error::other)?;
    Ok((socket, pid))
}

fn packets() -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Waits until something can be read or the other side has closed. Returns `false` on time-out.
pub(crate) fn await_readable(socket: impl AsFd, most: Duration) -> io::Result<bool> {
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    let most = Timespec::try_from(most).unwrap_or_default();
    Ok(rustix::io::retry_on_intr(|| poll(&mut polled, Some(&most)))? > 0)
}
