//! Finds the process that already listens on a port.
//!
//! Every slot sets `SO_REUSEPORT`, so `bind` succeeds beside any other socket of the same user that set it too, and the two would share the
//! traffic without an error. The daemon therefore looks up the port before the first bind.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use rpm_sys::sock_diag;

/// An existing listener that conflicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its pid and command; `None` if this user may not see them.
    pub process: Option<(u32, String)>,
}

impl Occupant {
    /// True if the daemon itself is the occupant.
    #[must_use]
    pub fn is_this_process(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|(pid, _)| *pid == std::process::id())
    }
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((pid, command)) => write!(f, "{command} (pid {pid}), which listens on {}", self.addr),
            None => write!(f, "a process of another user, which listens on {}", self.addr),
        }
    }
}

/// The listener of another process that a TCP listener on `addr` would collide with.
///
/// # Errors
/// The kernel's socket table cannot be read.
pub fn occupant(addr: SocketAddr, v6only: bool) -> io::Result<Option<Occupant>> {
    if addr.port() == 0 {
        return Ok(None);
    }
    let found = sock_diag::listeners_on(addr.port())?
        .into_iter()
        .find(|other| sock_diag::overlaps(addr, v6only, other.addr, other.v6only));
    Ok(found.map(|other| Occupant {
        addr: other.addr,
        process: sock_diag::owner(other.inode).map(|owner| (owner.pid, owner.command)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found_and_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let found = occupant(addr, false)
            .unwrap()
            .expect("the listener stands in the way");
        assert!(found.is_this_process());
        let wildcard = SocketAddr::new("::".parse().unwrap(), addr.port());
        assert!(
            occupant(wildcard, false).unwrap().is_some(),
            "a dual-stack wildcard overlaps it"
        );
        assert!(
            occupant(wildcard, true).unwrap().is_none(),
            "an IPv6-only wildcard does not"
        );
        drop(listener);
        assert_eq!(occupant(addr, false).unwrap(), None);
    }
}
