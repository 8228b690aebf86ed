//! The agent: a preload that drains a Node or Bun worker gracefully, and its protocol with the daemon.
//!
//! The preload for Bun (`bun.js`) is a file, because Bun takes nothing else. The one for Node (`node.js`) is a `data:` module inside
//! `NODE_OPTIONS`, so there is no file that could be missing or unreadable. When its process first listens, it connects to the Unix socket
//! named by [`SOCKET_ENV`], identifies itself with the token of [`TOKEN_ENV`], and then follows the daemon's messages. Both sides send
//! lines of JSON. This crate does no I/O: it maps between bytes and values.

mod messages;
mod preload;

pub use messages::{Decoder, Figures, FromAgent, MAX_LINE, Malformed, Open, TIME_BOUNDS_MS, ToAgent};
pub use preload::{bun_options, bun_preload, node_options};

/// Name of the variable with the path of the daemon's socket for agents.
pub const SOCKET_ENV: &str = "RPM_AGENT_SOCKET";

/// Name of the variable with the token that identifies the worker. Everything that a worker starts inherits it; the process id in
/// [`FromAgent::Hello`] tells the worker from its children.
pub const TOKEN_ENV: &str = "RPM_AGENT_TOKEN";
