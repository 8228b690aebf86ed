//! Descriptors, threads and memory of the daemon itself.

pub(crate) mod memory;
pub(crate) mod pace;
pub(crate) mod reserve;
pub(crate) mod threads;
pub(crate) mod watched;
