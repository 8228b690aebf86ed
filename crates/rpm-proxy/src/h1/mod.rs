//! HTTP/1 between a client and an upstream, without a detour: heads are rewritten as they are read, bodies are passed on as they come.

pub(crate) mod connection;
mod exchange;
pub mod framing;
pub mod head;
pub(crate) mod local_response;
mod message_info;
pub(crate) mod wire;
