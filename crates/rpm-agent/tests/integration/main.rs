//! The preloads in real Node and Bun processes.

mod bun;
mod drain;
mod figures;
mod greeting;
mod http2;
mod long_lived;
mod support;
