//! The decisions of rpm, without any input or output.
//!
//! [`Core`] is a state machine: events go in through [`Core::handle`], the passage of time through
//! [`Core::handle_timeout`], and what the shell must do comes out of [`Core::poll_output`], in an order
//! that matters (steer away before close, close before signal). It knows no clock, no descriptor, no
//! process: only the ids in [`ids`] and the [`Tick`] that the shell passes in.

pub mod ids;
pub mod protocol;
pub mod tick;

pub use ids::{AppId, Generation, GroupId, InstanceId, SlotId, Ticket, WorkerId};
pub use tick::Tick;
