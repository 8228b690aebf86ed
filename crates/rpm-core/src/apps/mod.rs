//! Apps and their instances.

mod app;
mod instance;

pub(crate) use app::{App, Apps};
pub use instance::State;
pub(crate) use instance::{Instance, Instances};
