//! What the apps are to be: their specifications and revisions, what a target means, and the requests that change them.

pub(crate) mod app;
pub(crate) mod apply;
pub(crate) mod automatic;
pub(crate) mod catalog;
pub(crate) mod check;
pub(crate) mod commands;
pub(crate) mod plan;
pub(crate) mod reload;
pub(crate) mod revision;
pub(crate) mod targets;
