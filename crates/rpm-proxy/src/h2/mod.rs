//! HTTP/2 between a client and a worker, by hyper. The rules are in `policy`, as for HTTP/1.

pub(crate) mod connection;
mod download;
mod forward;
mod head;
mod shared_io;
pub(crate) mod streams;
mod trailers;
pub(crate) mod upload;
mod websocket;
