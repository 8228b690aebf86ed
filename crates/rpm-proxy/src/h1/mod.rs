//! HTTP/1 between a client and an upstream: heads are rewritten while they are parsed, bodies are passed on as they arrive.

pub(crate) mod connection;
mod exchange;
pub mod framing;
pub mod head;
pub(crate) mod local_response;
mod message_info;
mod request_syntax;
mod upgrade;
pub(crate) mod wire;
