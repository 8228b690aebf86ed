//! End-to-end tests.

pub mod namespace;
pub mod process;
