//! The command line: arguments to requests of the control API, answers to tables and JSON.
//!
//! Data goes to standard output, everything else to standard error. The crate knows the daemon only
//! by its socket and by how it is started (see [`DAEMON_READY`]); it links neither core nor daemon.

mod args;
mod commands;
mod compat;
mod complete;
mod config;
mod connect;
mod files;
mod hints;
mod home;
mod http;
mod output;
mod progress;
mod render;
mod resolve;

pub use args::{
    Alerts, Client, Dashboard, Entry, Invocation, Mcp, Observe, Past, StaticSite, Usage, grammar, parse,
};
pub use commands::{Check, monit, observed, run, versions};
pub use complete::Completion;
pub use connect::{DAEMON, DAEMON_READY, set_program};
pub use hints::pasteable;
pub use home::{HomeError, home_dir, socket};
