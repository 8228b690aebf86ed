//! Sockets, as the format before the present one has them.

use std::net::SocketAddr;

use serde::Deserialize;

use crate::v4;

#[derive(Deserialize)]
pub(super) struct Listeners {
    groups: Vec<Group>,
    shared: Vec<v4::Shared>,
    next_group: u32,
    next_slot: u32,
    counts: Vec<u64>,
}

#[derive(Deserialize)]
struct Group {
    group: u32,
    app: u32,
    key: String,
    addr: SocketAddr,
    v6only: bool,
    #[serde(default)]
    policy: v4::Policy,
    #[serde(default)]
    handoff: bool,
    #[serde(default)]
    proxy: bool,
    #[serde(default)]
    front: Vec<v4::Socket>,
    table: Option<v4::Table>,
    order: Vec<u32>,
    slots: Vec<Slot>,
}

#[derive(Deserialize)]
struct Slot {
    slot: u32,
    socket: v4::Socket,
    holder: Option<u64>,
    retiring: Option<Vec<u32>>,
    rescued: u64,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    private: bool,
}

fn one() -> u32 {
    1
}

impl From<Listeners> for v4::Listeners {
    fn from(old: Listeners) -> v4::Listeners {
        v4::Listeners {
            groups: old.groups.into_iter().map(Group::into).collect(),
            shared: old.shared,
            next_group: old.next_group,
            next_slot: old.next_slot,
            counts: old.counts,
        }
    }
}

impl From<Group> for v4::Group {
    fn from(old: Group) -> v4::Group {
        v4::Group {
            group: old.group,
            app: old.app,
            key: old.key,
            addr: old.addr,
            v6only: old.v6only,
            policy: old.policy,
            handoff: old.handoff,
            proxy: old.proxy,
            front: old.front,
            table: old.table,
            order: old.order,
            slots: old.slots.into_iter().map(Slot::into).collect(),
        }
    }
}

impl From<Slot> for v4::Slot {
    fn from(old: Slot) -> v4::Slot {
        v4::Slot {
            slot: old.slot,
            socket: old.socket,
            holder: old.holder,
            retiring: old.retiring,
            rescued: old.rescued,
            weight: old.weight,
            private: old.private,
        }
    }
}
