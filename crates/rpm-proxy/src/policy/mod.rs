//! What the proxy decides about a request and its response, whichever version of HTTP carries them: which fields pass, what is added,
//! whether the body is compressed, whether a failed request is tried again, and how it is rejected. No I/O, no clock and no randomness; the codecs `h1`
//! and `h2` ask, and write what follows in the form of their version.

pub mod client;
pub(crate) mod compression;
pub(crate) mod fields;
pub mod rejection;
pub mod request;
pub(crate) mod retry;
pub(crate) mod sticky;
pub(crate) mod trailers;
