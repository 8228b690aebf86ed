//! The control API: HTTP/1.1 and JSON on the Unix socket. See `docs/API.md`.

pub(crate) mod doctor;
pub(crate) mod handle;
pub(crate) mod metrics;
pub(crate) mod replies;
pub(crate) mod view;
pub(crate) mod views;

mod body;
mod change;
mod follow;
mod handlers;
mod lines;
mod messages;
mod serve;

pub use serve::serve;
