//! What outlives the daemon, and how the next one goes on.

pub(crate) mod journal;
pub(crate) mod keeping;
pub(crate) mod lasting;
pub(crate) mod state;
pub(crate) mod stored;
pub(crate) mod takeover;
pub(crate) mod update;
