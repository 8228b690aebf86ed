//! What the proxy is told.

pub(crate) mod credentials;
pub(crate) mod fronts;
pub(crate) mod redirect;
pub(crate) mod settings;
