//! What survives the daemon: a process of the daemon's own user that holds descriptors for the next one.
//!
//! The daemon has each descriptor that a request may need kept ([`Keeper::keep`]): listening sockets, its ends of the workers'
//! channels, the read ends of their log pipes, what reports their calls, what counts their connections. The value that it gets
//! ([`Kept`]) is the descriptor; when it is dropped the keeper lets go as well. If the daemon dies, the keeper has them all, and the
//! next daemon gets them by their tokens, over a Unix socket (`SCM_RIGHTS`). No worker holds anything that is not its own, and nothing is
//! taken from another process: it works whatever ptrace is restricted to.
//!
//! The two watch each other. If the keeper dies, the daemon starts another one and gives it everything again
//! ([`Keeper::renew`]). While there is no daemon the keeper closes the sockets of a worker that ends, so that the kernel gives its clients to
//! the others, and ends itself when no worker is left.

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
