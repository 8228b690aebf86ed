//! The control API: HTTP/1.1 and JSON on the Unix socket. See `docs/API.md`.

pub(crate) mod metrics;
pub(crate) mod replies;
pub(crate) mod views;

mod body;
mod change;
mod doctor;
mod events;
mod figures;
mod follow;
mod handlers;
mod lines;
mod messages;
mod scrape;
mod serve;
mod spans;
mod update;

pub use serve::serve;
