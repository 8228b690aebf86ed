//! The system calls, against the running kernel.

mod counts;
mod daemonize;
mod intercept;
mod limits;
mod processes;
mod sockets;
mod steering;
mod support;
