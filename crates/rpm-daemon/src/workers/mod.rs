//! The processes: from a specification to a running one, what is known of it, and its end.

pub(crate) mod agent;
pub(crate) mod behalf;
pub(crate) mod ending;
pub(crate) mod ends;
pub(crate) mod environment;
pub(crate) mod health;
pub(crate) mod launch;
pub(crate) mod outputs;
pub(crate) mod progress;
pub(crate) mod sampling;
pub(crate) mod starting;
pub(crate) mod users;
pub(crate) mod worker;
