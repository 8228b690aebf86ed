//! What is known of each worker: its process, its output, what it may have and what it uses.

pub(crate) mod calls;
pub(crate) mod environment;
pub(crate) mod outputs;
pub(crate) mod pages;
pub(crate) mod sampling;
pub(crate) mod starting;
pub(crate) mod users;
pub(crate) mod worker;
