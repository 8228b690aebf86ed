//! Sockets: what is known of them, but their descriptors, which the keeper has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// All sockets that the daemon has opened for its apps, or taken from them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listeners {
    /// TCP addresses.
    pub groups: Vec<Group>,
    /// Sockets that all workers of an app share.
    pub shared: Vec<Shared>,
    /// The number of the next group.
    pub next_group: u32,
    /// The number of the next slot.
    pub next_slot: u32,
    /// By which the keeper knows what counts connections.
    pub counts: Vec<u64>,
}

/// A socket that the keeper has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    /// By which the keeper knows it.
    pub token: u64,
    /// What it is: the kernel gives no two sockets the same (`SO_COOKIE`).
    pub cookie: u64,
}

/// A TCP address of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its number.
    pub group: u32,
    /// The app.
    pub app: u32,
    /// By which workers ask for it.
    pub key: String,
    /// The address.
    pub addr: SocketAddr,
    /// An IPv6 address that takes no IPv4 clients.
    pub v6only: bool,
    /// How connections are spread.
    pub policy: Policy,
    /// The daemon accepts, and hands the connections to the workers.
    pub handoff: bool,
    /// The proxy serves the address.
    pub proxy: bool,
    /// The sockets of the proxy.
    pub front: Vec<Socket>,
    /// The eBPF program, if there is one.
    pub table: Option<Table>,
    /// The kernel's order of the slots, where steering depends on it.
    pub order: Vec<u32>,
    /// The slots.
    pub slots: Vec<Slot>,
}

/// How connections are spread over the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// In turn.
    #[default]
    RoundRobin,
    /// To the worker that has the fewest.
    LeastConnections,
    /// By the client's address.
    IpHash,
    /// In proportion to the workers' weights.
    Weighted,
}

/// The eBPF program of a group and its table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// By which the keeper knows its parts.
    pub tokens: Vec<u64>,
    /// The place of each slot.
    pub indexes: BTreeMap<u32, u32>,
}

/// A socket of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Its number.
    pub slot: u32,
    /// What it is.
    pub socket: Socket,
    /// The worker that has it.
    pub holder: Option<u64>,
    /// It is closed when its worker has ended; what waits in it goes to these.
    pub retiring: Option<Vec<u32>>,
    /// Connections that were moved from it.
    pub rescued: u64,
    /// Its weight, where that decides.
    pub weight: u32,
    /// It is behind the proxy.
    pub private: bool,
}

/// A socket that all workers of an app share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    /// Its number.
    pub group: u32,
    /// The app.
    pub app: u32,
    /// By which workers ask for it.
    pub key: String,
    /// What it is bound to.
    pub kind: SharedKind,
    /// What it is.
    pub socket: Socket,
    /// The workers that use it.
    pub holders: BTreeSet<u64>,
}

/// What a shared socket is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum SharedKind {
    /// A UDP port.
    Udp(SocketAddr),
    /// A Unix socket without a known file.
    Unix(PathBuf),
    /// A Unix socket that has a file.
    File {
        /// Where.
        path: PathBuf,
        /// The device and the inode of what was made there.
        made: (u64, u64),
        /// With whose rights: a user, its group, and all its groups; `None`: with the daemon's.
        user: Option<(u32, u32, Vec<u32>)>,
    },
}
