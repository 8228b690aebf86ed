//! What the apps are to be: their specifications and revisions, and what a target means.

pub(crate) mod app;
pub(crate) mod catalog;
pub(crate) mod delivery;
pub(crate) mod observe;
pub(crate) mod plan;
pub(crate) mod revision;
