//! Listeners that programs open by themselves, and the traffic at all of them.

pub(crate) mod bypass;
pub(crate) mod calls;
pub(crate) mod interception;
pub(crate) mod ports;
pub(crate) mod probe;
pub(crate) mod queues;
pub(crate) mod slots;
