//! What the daemon has of the system: descriptors, threads, memory, the clock, and the rights by which it opens files.

pub(crate) mod behalf;
pub(crate) mod clock;
pub(crate) mod json_memory;
pub(crate) mod memory;
pub(crate) mod mounts;
pub(crate) mod pace;
pub(crate) mod reserve;
pub(crate) mod systemd;
pub(crate) mod threads;
pub(crate) mod users;
pub(crate) mod watched;

/// For more trees of processes than this, one pass over all processes is cheaper than a search for the children of each, which costs about a
/// thirtieth of it.
pub(crate) const FEW_TREES: usize = 24;
