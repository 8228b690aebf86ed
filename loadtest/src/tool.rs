//! The subcommands and what they share.

pub(crate) mod commands;
pub(crate) mod compare;
pub(crate) mod edge;
pub(crate) mod edge_frozen;
pub(crate) mod edge_memory;
pub(crate) mod footprint;
pub(crate) mod growth;
pub(crate) mod peers;
pub(crate) mod reload;
pub(crate) mod run;

mod fair;
mod group;
mod many;
mod pidfds;
mod place;
mod pm2;
mod private_rpm;
mod procfs;
mod results;
mod stats;
mod table;
