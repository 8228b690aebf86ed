//! The sockets of this machine, and the processes that hold them (sock_diag(7), `/proc/<pid>/fd`).

mod netlink;

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use self::netlink::{Entry, Query, dump};
use crate::proc::{Stat, numbers_in};

const TCP: u8 = 6;
const UDP: u8 = 17;

const ESTABLISHED: u32 = 1 << 1;
const SYN_RECV: u32 = 1 << 3;
const CLOSE_WAIT: u32 = 1 << 8;
const LISTEN: u32 = 1 << 10;
const ANY_STATE: u32 = u32::MAX;

/// A socket that serves an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address it is bound to.
    pub addr: SocketAddr,
    /// `IPV6_V6ONLY`: an IPv6 wildcard that does not accept IPv4.
    pub v6only: bool,
    /// Its inode number, for [`owner`].
    pub inode: u64,
    /// The user that it belongs to.
    pub uid: u32,
    /// Connections that wait to be accepted; for UDP, bytes that wait to be read.
    pub queue: u32,
    /// Its backlog; 0 for UDP.
    pub backlog: u32,
}

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its pid.
    pub pid: u32,
    /// The name of its program.
    pub command: String,
}

/// All TCP listeners of this network namespace.
///
/// # Errors
/// Errors of netlink(7); `ENOENT` from a kernel without `INET_DIAG`.
pub fn listeners() -> io::Result<Vec<Listener>> {
    listeners_on(0)
}

/// The TCP listeners on a port, at any address; 0 means any port.
///
/// # Errors
/// As [`listeners`].
pub fn listeners_on(port: u16) -> io::Result<Vec<Listener>> {
    let entries = dump(Query {
        protocol: TCP,
        states: LISTEN,
        port,
    })?;
    Ok(entries.into_iter().map(listener).collect())
}

/// The UDP sockets on a port, at any address; 0 means any port.
///
/// # Errors
/// As [`listeners`].
pub fn udp_on(port: u16) -> io::Result<Vec<Listener>> {
    let entries = dump(Query {
        protocol: UDP,
        states: ANY_STATE,
        port,
    })?;
    Ok(entries
        .into_iter()
        .map(|entry| Listener {
            backlog: 0,
            ..listener(entry)
        })
        .collect())
}

/// Local address and inode of every established TCP connection on these local ports. Connections that were not accepted yet have inode 0.
/// IPv4 addresses on dual-stack sockets are returned as IPv4.
///
/// # Errors
/// As [`listeners`].
pub fn established(ports: &[u16]) -> io::Result<Vec<(SocketAddr, u64)>> {
    let entries = connections(ports, ESTABLISHED)?;
    Ok(entries
        .into_iter()
        .map(|entry| (canonical(entry.local), entry.inode))
        .collect())
}

/// Inode of the TCP connection from `peer` to this local port, if it was accepted.
///
/// # Errors
/// As [`listeners`].
pub fn accepted_from(port: u16, peer: SocketAddr) -> io::Result<Option<u64>> {
    let mut entries = connections(&[port], ESTABLISHED)?.into_iter();
    let found = entries.find(|entry| canonical(entry.remote) == peer && entry.inode != 0);
    Ok(found.map(|entry| entry.inode))
}

/// Inodes of the TCP connections on these local ports that this end has not closed.
///
/// # Errors
/// As [`listeners`].
pub fn open(ports: &[u16]) -> io::Result<HashSet<u64>> {
    let entries = connections(ports, ESTABLISHED | CLOSE_WAIT)?;
    Ok(entries.into_iter().map(|entry| entry.inode).collect())
}

fn connections(ports: &[u16], states: u32) -> io::Result<Vec<Entry>> {
    // Either way the kernel walks all connections of the machine, and copies only those that match.
    let port = match ports {
        [] => return Ok(Vec::new()),
        [port] => *port,
        _ => 0,
    };
    let mut entries = dump(Query {
        protocol: TCP,
        states,
        port,
    })?;
    entries.retain(|entry| ports.contains(&entry.local.port()));
    Ok(entries)
}

/// The ports among these on which a handshake is half-open (`SYN_RECV`).
///
/// # Errors
/// As [`listeners`].
pub fn half_open(ports: &[u16]) -> io::Result<HashSet<u16>> {
    let entries = connections(ports, SYN_RECV)?;
    Ok(entries.into_iter().map(|entry| entry.local.port()).collect())
}

/// A process that holds the socket, if this user may see it. Walks all processes.
#[must_use]
pub fn owner(inode: u64) -> Option<Owner> {
    let pid = numbers_in("/proc").find(|pid| sockets_of(*pid).contains(&inode))?;
    Some(Owner {
        pid,
        command: crate::peer::process_name(pid).unwrap_or_default(),
    })
}

/// Inodes of all sockets that a process holds; empty if it is gone or belongs to another user.
#[must_use]
pub fn sockets_of(pid: u32) -> HashSet<u64> {
    socket_inodes(pid).unwrap_or_default()
}

/// As [`sockets_of`], but `None` if this user may not see what the process holds. Root without `CAP_SYS_PTRACE`, as in most containers, may not if
/// the process is another user's. A process that has ended holds nothing.
#[must_use]
pub fn sockets_seen_of(pid: u32) -> Option<HashSet<u64>> {
    match socket_inodes(pid) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // What is left of a process until its parent asks for it is root's.
            let has_ended = Stat::of(pid).is_ok_and(|stat| stat.is_ending());
            has_ended.then(HashSet::new)
        }
        Ok(held) => Some(held),
        Err(_) => Some(HashSet::new()),
    }
}

/// As [`sockets_of`], but reliable enough to conclude that a process does *not* hold a socket. `None` if that is impossible, because the
/// process belongs to another user, has ended, or is ending: such a process has no descriptors any more, long before its end is reported if
/// it has much memory.
#[must_use]
pub fn sockets_surely_of(pid: u32) -> Option<HashSet<u64>> {
    let held = socket_inodes(pid).ok()?;
    // It may have begun to end while its sockets were read.
    let stat = Stat::of(pid).ok()?;
    (!stat.is_ending()).then_some(held)
}

/// True if a connection could match both addresses: the port is the same, and the address is the same or one of them is a wildcard. An IPv6
/// wildcard includes IPv4 unless it is `v6only`.
#[must_use]
pub fn overlaps(a: SocketAddr, a_v6only: bool, b: SocketAddr, b_v6only: bool) -> bool {
    let (ip_a, ip_b) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && (covers(ip_a, a_v6only, ip_b) || covers(ip_b, b_v6only, ip_a))
}

fn covers(wide: IpAddr, v6only: bool, narrow: IpAddr) -> bool {
    match (wide, narrow) {
        (IpAddr::V6(wide), IpAddr::V4(_)) => wide.is_unspecified() && !v6only,
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
        _ => wide == narrow || wide.is_unspecified(),
    }
}

fn listener(entry: Entry) -> Listener {
    let Entry {
        local,
        v6only,
        inode,
        uid,
        rqueue,
        wqueue,
        remote: _,
    } = entry;
    Listener {
        addr: local,
        v6only,
        inode,
        uid,
        queue: rqueue,
        backlog: wqueue,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn socket_inodes(pid: u32) -> io::Result<HashSet<u64>> {
    let mut held = HashSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        match std::fs::read_link(entry?.path()) {
            Ok(target) => held.extend(inode_of(&target)),
            // It was closed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(held)
}

/// Of a descriptor that is a socket.
fn inode_of(target: &Path) -> Option<u64> {
    let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
    inode.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::{accept_queue, bind_tcp, listen, local_addr, reserve_port};
    use std::io::Write as _;
    use std::net::TcpStream;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn half_open_handshakes_are_seen() {
        let reserved = reserve_port(([127, 0, 0, 1], 0).into(), false).unwrap();
        let address = local_addr(&reserved).unwrap();
        let listener = bind_tcp(address, false).unwrap();
        // With this option a handshake stays half-open until the client sends data.
        let seconds = 30;
        // SAFETY: the kernel reads one int from the live local.
        let status = unsafe {
            libc::setsockopt(
                listener.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_DEFER_ACCEPT,
                (&raw const seconds).cast(),
                size_of_val(&seconds) as libc::socklen_t,
            )
        };
        assert_eq!(status, 0);
        listen(&listener, 16).unwrap();
        let other = reserve_port(([127, 0, 0, 1], 0).into(), false).unwrap();
        let other = local_addr(&other).unwrap().port();
        let port = address.port();
        let mut client = TcpStream::connect(address).unwrap();
        assert_eq!(half_open(&[port]).unwrap(), HashSet::from([port]));
        assert_eq!(half_open(&[port, other]).unwrap(), HashSet::from([port]));
        assert!(half_open(&[other]).unwrap().is_empty() && half_open(&[]).unwrap().is_empty());
        client.write_all(b"x").unwrap();
        let began = std::time::Instant::now();
        while accept_queue(&listener).unwrap().len == 0 {
            assert!(began.elapsed().as_secs() < 30, "the handshake does not end");
        }
        assert!(half_open(&[port]).unwrap().is_empty());
    }

    #[test]
    fn overlap_knows_wildcards_and_dual_stack() {
        let cases = [
            ("0.0.0.0:80", false, "127.0.0.1:80", false, true),
            ("127.0.0.1:80", false, "127.0.0.1:80", false, true),
            ("127.0.0.1:80", false, "127.0.0.2:80", false, false),
            ("0.0.0.0:80", false, "0.0.0.0:81", false, false),
            ("[::]:80", false, "0.0.0.0:80", false, true),
            ("[::]:80", false, "127.0.0.1:80", false, true),
            ("[::]:80", true, "127.0.0.1:80", false, false),
            ("[::]:80", true, "0.0.0.0:80", false, false),
            ("[::]:80", true, "[::1]:80", false, true),
            ("[::1]:80", false, "127.0.0.1:80", false, false),
            ("[::1]:80", false, "0.0.0.0:80", false, false),
            ("[::ffff:127.0.0.1]:80", false, "0.0.0.0:80", false, true),
        ];
        for (a, a_only, b, b_only, expected) in cases {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(overlaps(a, a_only, b, b_only), expected, "{a} {b}");
            assert_eq!(overlaps(b, b_only, a, a_only), expected, "{b} {a}");
        }
    }
}
