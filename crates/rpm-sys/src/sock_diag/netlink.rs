//! sock_diag(7) over netlink(7): requests, and responses parsed as untrusted input.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
const HEADER: usize = 16;
/// Size of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Size of `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// `INET_DIAG_SKV6ONLY`: sent for IPv6 sockets that listen or are closed.
const SKV6ONLY: u16 = 11;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The kernel fills at most this much per message.
const BUFFER: usize = 32 * 1024;
/// The kernel answers at once, from memory.
const DEADLINE: Duration = Duration::from_secs(1);

/// The sockets that are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query {
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub(super) protocol: u8,
    /// A bit per TCP state.
    pub(super) states: u32,
    /// The local port; 0 means any.
    pub(super) port: u16,
}

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) local: SocketAddr,
    /// Of a connection; of others it means nothing.
    pub(super) remote: SocketAddr,
    pub(super) v6only: bool,
    pub(super) inode: u64,
    pub(super) uid: u32,
    pub(super) rqueue: u32,
    pub(super) wqueue: u32,
}

/// Queries IPv4 and IPv6 sockets.
pub(super) fn dump(query: Query) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    dump_family(query, AF_INET, &mut entries)?;
    match dump_family(query, AF_INET6, &mut entries) {
        // The kernel has no IPv6.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => other?,
    }
    Ok(entries)
}

fn dump_family(query: Query, family: u8, entries: &mut Vec<Entry>) -> io::Result<()> {
    let protocol = Some(netlink::SOCK_DIAG);
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE))?;
    rustix::net::send(&socket, &request(query, family), SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let received =
            rustix::io::retry_on_intr(|| rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()))?;
        if received.0 == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let datagram = buffer.get(..received.0).unwrap_or(&[]);
        if parse(datagram, entries)? == Parsed::Done {
            return Ok(());
        }
    }
}

fn request(query: Query, family: u8) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + REQUEST);
    message.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(DUMP.to_ne_bytes());
    // Sequence number and port id, which one request per socket does not need.
    message.extend([0; 8]);
    message.extend([family, query.protocol, 0, 0]);
    message.extend(query.states.to_ne_bytes());
    message.extend(query.port.to_be_bytes());
    message.resize(HEADER + REQUEST, 0);
    message
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parsed {
    More,
    Done,
}

fn parse(mut datagram: &[u8], entries: &mut Vec<Entry>) -> io::Result<Parsed> {
    while let (Some(len), Some(kind)) = (u32_at(datagram, 0), u16_at(datagram, 4)) {
        let len = len as usize;
        let Some(payload) = datagram.get(HEADER..len) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        match kind {
            NLMSG_DONE => return Ok(Parsed::Done),
            NLMSG_ERROR => match u32_at(payload, 0).map_or(-libc::EPROTO, u32::cast_signed) {
                0 => {}
                errno => return Err(io::Error::from_raw_os_error(errno.saturating_neg())),
            },
            SOCK_DIAG_BY_FAMILY => entries.extend(entry(payload)),
            _ => {}
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(Parsed::More)
}

/// An address of a message: its port and its IP address lie there.
fn address(message: &[u8], port: usize, ip: usize) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes_at(message, port)?);
    match *message.first()? {
        AF_INET => Some(SocketAddr::new(
            IpAddr::V4(Ipv4Addr::from(bytes_at::<4>(message, ip)?)),
            port,
        )),
        AF_INET6 => {
            let ip = Ipv6Addr::from(bytes_at::<16>(message, ip)?);
            let scope = if ip.is_unicast_link_local() {
                u32_at(message, 40)?
            } else {
                0
            };
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))
        }
        _ => None,
    }
}

fn entry(message: &[u8]) -> Option<Entry> {
    let local = address(message, 4, 8)?;
    Some(Entry {
        local,
        remote: address(message, 6, 24)?,
        v6only: local.is_ipv6() && attribute(message.get(MESSAGE..)?, SKV6ONLY) == Some(1),
        rqueue: u32_at(message, 56)?,
        wqueue: u32_at(message, 60)?,
        uid: u32_at(message, 64)?,
        inode: u32_at(message, 68)?.into(),
    })
}

/// The first byte of an attribute.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<u8> {
    loop {
        let (len, kind) = (usize::from(u16_at(attributes, 0)?), u16_at(attributes, 2)?);
        let value = attributes.get(4..len)?;
        if kind == wanted {
            return value.first().copied();
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        message.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(payload);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    fn v6_listener() -> Vec<u8> {
        let mut payload = vec![0; MESSAGE];
        payload[0] = AF_INET6;
        payload[4..6].copy_from_slice(&3000_u16.to_be_bytes());
        payload[23] = 1;
        payload[56..60].copy_from_slice(&5_u32.to_ne_bytes());
        payload[60..64].copy_from_slice(&128_u32.to_ne_bytes());
        payload[68..72].copy_from_slice(&4711_u32.to_ne_bytes());
        payload.extend(6_u16.to_ne_bytes());
        payload.extend(8_u16.to_ne_bytes());
        payload.extend([9, 9, 0, 0]);
        payload.extend(5_u16.to_ne_bytes());
        payload.extend(SKV6ONLY.to_ne_bytes());
        payload.extend([1, 0, 0, 0]);
        payload
    }

    #[test]
    fn entries_and_the_end() {
        let mut datagram = message(SOCK_DIAG_BY_FAMILY, &v6_listener());
        datagram.extend(message(NLMSG_DONE, &[0; 4]));
        let mut entries = Vec::new();
        assert_eq!(parse(&datagram, &mut entries).unwrap(), Parsed::Done);
        let local = "[::1]:3000".parse().unwrap();
        assert_eq!(
            entries,
            [Entry {
                local,
                remote: "[::]:0".parse().unwrap(),
                v6only: true,
                inode: 4711,
                uid: 0,
                rqueue: 5,
                wqueue: 128
            }]
        );
    }

    #[test]
    fn a_refusal_is_its_errno() {
        let datagram = message(NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(
            parse(&datagram, &mut Vec::new()).unwrap_err().raw_os_error(),
            Some(libc::EPERM)
        );
        assert!(parse(&message(NLMSG_ERROR, &i32::MIN.to_ne_bytes()), &mut Vec::new()).is_err());
    }

    #[test]
    fn cut_and_corrupted_answers_never_panic() {
        let mut whole = message(SOCK_DIAG_BY_FAMILY, &v6_listener());
        whole.extend(message(NLMSG_DONE, &[]));
        for cut in 0..whole.len() {
            let _ = parse(&whole[..cut], &mut Vec::new());
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = whole.clone();
                bad[at] = value;
                let _ = parse(&bad, &mut Vec::new());
            }
        }
        let no_progress = [0; 32];
        assert!(parse(&no_progress, &mut Vec::new()).is_err());
    }
}
