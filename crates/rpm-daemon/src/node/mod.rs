//! What programs that speak over a channel are told and say: node:cluster, the agents, connections that are handed over, actions.

pub(crate) mod actions;
pub(crate) mod agents;
pub(crate) mod channel;
pub(crate) mod cluster;
pub(crate) mod handoff;
pub(crate) mod hearing;
pub(crate) mod heartbeat;
pub(crate) mod messages;
pub(crate) mod places;
pub(crate) mod prom_client;
pub(crate) mod rescue;
