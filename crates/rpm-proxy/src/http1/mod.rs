//! HTTP/1 between a client and an upstream, without a detour: heads are rewritten as they are read, bodies are passed on as they come.

mod connection;
mod exchange;
pub mod framing;
pub mod head;
mod own;
pub mod refusal;
mod told;
mod wire;

pub(crate) use connection::{Left, serve};
pub(crate) use own::{location, part, refuse};
pub(crate) use told::is_disguised;
pub(crate) use wire::Wire;
