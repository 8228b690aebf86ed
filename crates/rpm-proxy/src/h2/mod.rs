//! What hyper drives: clients that speak HTTP/2, and all clients of workers that speak h2c. The rules are in `policy`, as in `h1`.

pub(crate) mod connection;
mod download;
mod forward;
mod head;
mod shared_io;
pub(crate) mod streams;
mod trailers;
pub(crate) mod upload;
mod websocket;
