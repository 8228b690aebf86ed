//! `queryServer`: a worker asks for the listening socket of an address.

use core::fmt;

use serde_json::Value;

/// The backlog Node uses where the program named none.
pub const DEFAULT_BACKLOG: i32 = 511;

/// Bit of [`QueryServer::flags`]: `UV_TCP_IPV6ONLY`, and `UV_UDP_IPV6ONLY` alike.
const IPV6_ONLY: u32 = 1;

/// What kind of socket a worker wants or has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressType {
    /// TCP over IPv4; also plain `listen(port)`, whose address is `None`.
    V4,
    /// TCP over IPv6.
    V6,
    /// A unix-socket path.
    Unix,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
    /// `listen({fd})`: a descriptor of the *primary* is meant; Node sends no type.
    Fd,
}

impl AddressType {
    /// A datagram socket.
    #[must_use]
    pub fn is_udp(self) -> bool {
        matches!(self, AddressType::Udp4 | AddressType::Udp6)
    }

    pub(super) fn from_json(value: Option<&Value>) -> Option<Self> {
        match value {
            None | Some(Value::Null) => Some(AddressType::Fd),
            Some(Value::String(name)) if name == "udp4" => Some(AddressType::Udp4),
            Some(Value::String(name)) if name == "udp6" => Some(AddressType::Udp6),
            Some(number) => match number.as_i64()? {
                4 => Some(AddressType::V4),
                6 => Some(AddressType::V6),
                -1 => Some(AddressType::Unix),
                _ => None,
            },
        }
    }
}

impl fmt::Display for AddressType {
    /// As in a group key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AddressType::V4 => "4",
            AddressType::V6 => "6",
            AddressType::Unix => "-1",
            AddressType::Udp4 => "udp4",
            AddressType::Udp6 => "udp6",
            AddressType::Fd => "null",
        })
    }
}

/// `{cmd:"NODE_CLUSTER",act:"queryServer",…}`. Answer with [`super::reply_server`].
#[derive(Clone, Debug, PartialEq)]
pub struct QueryServer {
    /// Names the question; the answer repeats it.
    pub seq: u64,
    /// IP address or socket path; `None`: the wildcard address (dual-stack where there is IPv6).
    pub address: Option<String>,
    /// Port; 0 or, for UDP, `None` asks for any, -1 stands with a path.
    pub port: Option<i64>,
    /// Kind of socket.
    pub address_type: AddressType,
    /// The primary's descriptor to listen on, with [`AddressType::Fd`]; -1 stands with UDP.
    pub fd: Option<i32>,
    /// Tells repeated requests of one worker for one address apart.
    pub index: u64,
    /// libuv's flags of the bind: `UV_TCP_IPV6ONLY` or `UV_UDP_*`.
    pub flags: u32,
    /// Length of the accept queue; `None`: the program named none, Node takes [`DEFAULT_BACKLOG`].
    pub backlog: Option<i32>,
    /// The server's own data (keys of TLS session tickets). The workers of a group share those of
    /// the first, and a TLS server that gets none back throws, in an answer with an errno too.
    pub data: Option<Value>,
}

impl QueryServer {
    /// The key of the group, `address:port:addressType:fd:index`, as node:cluster builds it. A value that is
    /// absent reads `null` or `undefined` there, depending on how the socket came about.
    #[must_use]
    pub fn key(&self) -> String {
        let address = self.address.as_deref().unwrap_or("null");
        let port = match self.port {
            Some(port) => port.to_string(),
            None if self.address_type.is_udp() => "undefined".to_owned(),
            None => "null".to_owned(),
        };
        let fd = self
            .fd
            .map_or_else(|| "undefined".to_owned(), |fd| fd.to_string());
        format!("{address}:{port}:{}:{fd}:{}", self.address_type, self.index)
    }

    /// The socket must not take IPv4 connections.
    #[must_use]
    pub fn ipv6_only(&self) -> bool {
        self.flags & IPV6_ONLY != 0
    }
}
