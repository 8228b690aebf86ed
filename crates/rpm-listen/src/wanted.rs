//! The address that a worker asks for: in a `queryServer` message of node:cluster, or by `--listen`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rpm_wire::channel::{AddressType, QueryServer};

/// libuv's `UV_UDP_REUSEADDR`.
const FLAG_UDP_REUSEADDR: u32 = 4;

/// An address to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A TCP listener. Port 0 asks for any free port, the same one for all workers.
    Tcp {
        /// The address.
        addr: SocketAddr,
        /// `IPV6_V6ONLY`: an IPv6 wildcard that does not accept IPv4.
        v6only: bool,
    },
    /// A UDP socket.
    Udp {
        /// The address.
        addr: SocketAddr,
        /// `IPV6_V6ONLY`: an IPv6 wildcard that does not accept IPv4.
        v6only: bool,
        /// The program set `reuseAddr`.
        reuse_addr: bool,
    },
    /// A Unix socket: an absolute path, or an abstract name (first byte 0).
    Unix {
        /// The path.
        path: Vec<u8>,
    },
    /// A descriptor of the worker's own (`listen({fd})`).
    WorkerFd(i32),
}

/// Why a request is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WantedError {
    /// The port is not between 0 and 65535.
    #[error("{0} is not a port (0 to 65535)")]
    Port(i64),
    /// The address is not an IP address.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// `listen({fd})` without a valid number.
    #[error("listen({{fd}}) without a valid descriptor")]
    NoDescriptor,
}

impl Wanted {
    /// Reads the request of a node:cluster worker. `cwd` is the worker's working directory, which a relative socket path starts from.
    ///
    /// # Errors
    /// The port or the address is malformed.
    pub fn from_query(query: &QueryServer, cwd: &Path) -> Result<Wanted, WantedError> {
        if let Some(fd) = query.fd.filter(|fd| *fd >= 0) {
            return Ok(Wanted::WorkerFd(fd));
        }
        let v6only = query.ipv6_only();
        match query.address_type {
            AddressType::Fd => Err(WantedError::NoDescriptor),
            AddressType::Unix => Ok(Wanted::Unix {
                path: unix_path(query.address.as_deref(), cwd),
            }),
            AddressType::V4 | AddressType::V6 => Ok(Wanted::Tcp {
                addr: socket_addr(query)?,
                v6only,
            }),
            AddressType::Udp4 | AddressType::Udp6 => Ok(Wanted::Udp {
                addr: socket_addr(query)?,
                v6only,
                reuse_addr: query.flags & FLAG_UDP_REUSEADDR != 0,
            }),
        }
    }

    /// True if the program chose the address; false if it asked for any free port.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        match self {
            Wanted::Tcp { addr, .. } | Wanted::Udp { addr, .. } => addr.port() != 0,
            Wanted::Unix { .. } | Wanted::WorkerFd(_) => true,
        }
    }

    /// Reads a `--listen` address: `8080` (every interface), `127.0.0.1:8080`, `[::1]:8080`.
    ///
    /// # Errors
    /// The text is malformed.
    pub fn from_listen(text: &str) -> Result<Wanted, WantedError> {
        let addr = match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
            Ok(port) => SocketAddr::new(any_address(), port),
            Err(_) => text.parse().map_err(|_| WantedError::Address(text.to_owned()))?,
        };
        Ok(Wanted::Tcp { addr, v6only: false })
    }
}

fn any_address() -> IpAddr {
    if rpm_sys::socket::ipv6_available() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

fn socket_addr(query: &QueryServer) -> Result<SocketAddr, WantedError> {
    let wanted = query.port.unwrap_or(0);
    let port = u16::try_from(wanted).map_err(|_| WantedError::Port(wanted))?;
    match (&query.address, query.address_type) {
        (Some(text), _) => ip_address(text, port),
        (None, AddressType::Udp4) => Ok(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)),
        (None, AddressType::Udp6) => Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)),
        (None, AddressType::V4 | AddressType::V6 | AddressType::Unix | AddressType::Fd) => {
            Ok(SocketAddr::new(any_address(), port))
        }
    }
}

fn ip_address(text: &str, port: u16) -> Result<SocketAddr, WantedError> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let wrong = || WantedError::Address(text.to_owned());
    let (ip, zone) = text.split_once('%').ok_or_else(wrong)?;
    let ip: Ipv6Addr = ip.parse().map_err(|_| wrong())?;
    let scope = interface_index(zone).ok_or_else(wrong)?;
    Ok(SocketAddrV6::new(ip, port, 0, scope).into())
}

fn interface_index(zone: &str) -> Option<u32> {
    if let Ok(number) = zone.parse() {
        return Some(number);
    }
    let plain = zone
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !zone.contains("..");
    let text = plain.then(|| std::fs::read_to_string(format!("/sys/class/net/{zone}/ifindex")).ok())??;
    text.trim().parse().ok()
}

/// Node's workers make every path absolute, even an abstract name. A file path cannot contain NUL, so whatever follows the first NUL is the
/// abstract name that the program meant.
fn unix_path(address: Option<&str>, cwd: &Path) -> Vec<u8> {
    let text = address.unwrap_or_default();
    match text.find('\0') {
        Some(name) => text.as_bytes()[name..].to_vec(),
        None => cwd.join(text).as_os_str().as_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(address: Option<&str>, port: i64, address_type: AddressType) -> QueryServer {
        QueryServer {
            seq: 1,
            address: address.map(str::to_owned),
            port: Some(port),
            address_type,
            fd: None,
            index: 0,
            flags: 0,
            backlog: None,
            data: None,
        }
    }

    fn read(query: &QueryServer) -> Result<Wanted, WantedError> {
        Wanted::from_query(query, Path::new("/srv/app"))
    }

    #[test]
    fn a_plain_listen_is_every_interface() {
        let Ok(Wanted::Tcp { addr, v6only }) = read(&query(None, 3000, AddressType::V4)) else {
            panic!("not TCP")
        };
        assert!(addr.ip().is_unspecified() && addr.port() == 3000 && !v6only);
    }

    #[test]
    fn addresses_zones_and_ports_are_read() {
        let tcp = |addr: &str| {
            Ok(Wanted::Tcp {
                addr: addr.parse().unwrap(),
                v6only: false,
            })
        };
        assert_eq!(
            read(&query(Some("127.0.0.1"), 80, AddressType::V4)),
            tcp("127.0.0.1:80")
        );
        assert_eq!(read(&query(Some("::1"), 80, AddressType::V6)), tcp("[::1]:80"));
        assert_eq!(
            read(&query(Some("fe80::1%7"), 80, AddressType::V6)),
            tcp("[fe80::1%7]:80")
        );
        assert_eq!(
            read(&query(Some("::1"), 70_000, AddressType::V6)),
            Err(WantedError::Port(70_000))
        );
        assert!(read(&query(Some("nonsense"), 1, AddressType::V4)).is_err());
        assert!(read(&query(Some("fe80::1%../../x"), 1, AddressType::V6)).is_err());
    }

    #[test]
    fn flags_and_descriptors_are_read() {
        let mut only6 = query(Some("::"), 80, AddressType::V6);
        only6.flags = 1;
        assert!(matches!(read(&only6), Ok(Wanted::Tcp { v6only: true, .. })));
        let mut udp = query(None, 53, AddressType::Udp4);
        udp.flags = FLAG_UDP_REUSEADDR;
        assert!(matches!(read(&udp), Ok(Wanted::Udp { reuse_addr: true, .. })));
        let mut own = query(None, 0, AddressType::V4);
        own.fd = Some(3);
        assert_eq!(read(&own), Ok(Wanted::WorkerFd(3)));
    }

    #[test]
    fn a_relative_socket_path_is_the_workers() {
        let path = |text| match read(&query(Some(text), -1, AddressType::Unix)) {
            Ok(Wanted::Unix { path }) => String::from_utf8(path).unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(path("run/x.sock"), "/srv/app/run/x.sock");
        assert_eq!(path("/run/x.sock"), "/run/x.sock");
        assert_eq!(path("\0name"), "\0name");
        assert_eq!(path("/srv/\0name"), "\0name", "Node has made it absolute");
    }

    #[test]
    fn listen_options_are_read() {
        assert!(matches!(Wanted::from_listen("8080"), Ok(Wanted::Tcp { addr, .. }) if addr.port() == 8080));
        assert!(matches!(Wanted::from_listen(":8080"), Ok(Wanted::Tcp { addr, .. }) if addr.port() == 8080));
        assert!(
            matches!(Wanted::from_listen("[::1]:80"), Ok(Wanted::Tcp { addr, .. }) if addr.ip().is_loopback())
        );
        assert!(Wanted::from_listen("localhost:http").is_err());
    }
}
