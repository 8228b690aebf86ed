//! The agent: a preload that drains a Node or Bun worker politely, and the messages between it and the daemon.
//!
//! The preload for Bun (`bun.js`) is a file, for Bun takes nothing else. That for Node (`node.js`) travels inside `NODE_OPTIONS` as a `data:` module, so that there is no file that could be
//! missing or unreadable. It connects to the Unix socket named by [`SOCKET_ENV`] when its process first listens, says
//! who it is with the token of [`TOKEN_ENV`], and then does as it is told. Both sides send lines of JSON. No I/O here:
//! bytes and values in, bytes and values out.

mod messages;
mod preload;

pub use messages::{Decoder, Figures, FromAgent, MAX_LINE, Malformed, Open, TIME_BOUNDS_MS, ToAgent};
pub use preload::{bun_options, bun_preload, node_options};

/// Name of the variable with the path of the daemon's socket for agents.
pub const SOCKET_ENV: &str = "RPM_AGENT_SOCKET";

/// Name of the variable with the token that tells whose worker a process belongs to. Everything a worker starts
/// inherits it: the process id in [`FromAgent::Hello`] tells the worker from its children.
pub const TOKEN_ENV: &str = "RPM_AGENT_TOKEN";
