//! The control API: HTTP/1.1 and JSON on the Unix socket. See `docs/API.md`.

mod body;
mod change;
mod follow;
mod handlers;
mod lines;
mod serve;

pub use serve::serve;
