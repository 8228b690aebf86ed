//! The keeper: a process of the daemon's user that holds descriptors for the next daemon.
//!
//! The daemon keeps each descriptor that a request may need ([`Keeper::keep`]): listening sockets, its ends of the workers' channels, the
//! read ends of their log pipes, interception, connection counters. It gets a [`Kept`], which contains the descriptor; when that is
//! dropped, the keeper releases its copy, too. If the daemon dies, the next one gets the descriptors by their tokens, over a Unix socket
//! (`SCM_RIGHTS`). Workers hold nothing for the daemon, and nothing is copied from another process, so it works whatever ptrace is
//! restricted to.
//!
//! The two watch each other. If the keeper dies, the daemon starts another one and gives it everything again ([`Keeper::renew`]). While
//! there is no daemon, the keeper closes the sockets of a worker that ends, so that the kernel steers its clients to the others. It exits
//! when no worker is left.

mod hold;
mod keeper;
mod kept;
mod protocol;
mod shelf;
mod socket;
mod state;

pub use hold::{ARGUMENT, hold};
pub use keeper::{Keeper, NOBODY, Opened};
pub use kept::{Kept, Token};
