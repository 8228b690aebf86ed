//! Clients whose kind of stream does not matter: what hyper drives is compiled once for all of them. A virtual call costs nothing beside the
//! system call, or the encryption, that it leads to.

use tokio::io::{AsyncRead, AsyncWrite};

/// What a stream can do.
pub(crate) trait Stream: AsyncRead + AsyncWrite {}

impl<S: AsyncRead + AsyncWrite> Stream for S {}

/// A stream of any kind.
pub(crate) type AnyStream = Box<dyn Stream + Unpin>;
