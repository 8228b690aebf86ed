//! End-to-end tests.

pub mod app;
pub mod ask;
pub mod certificate;
pub mod clients;
pub mod complaint;
pub mod denied;
pub mod dice;
pub mod machine;
pub mod namespace;
pub mod outside;
pub mod place;
pub mod posted;
pub mod process;
pub mod raw;
pub mod site;
pub mod steering;
