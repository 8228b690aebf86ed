//! The decisions of rpm, without any input or output.
//!
//! [`Core`] is a state machine: events go in through [`Core::handle`], the passage of time through
//! [`Core::handle_timeout`], and what the shell must do comes out of [`Core::poll_output`], in an order
//! that matters (steer away before close, close before signal). It knows no clock, no descriptor, no
//! process: only the ids in [`ids`] and the [`Tick`] that the shell passes in. [`Sampler`] tells the shell
//! when to look at the accept queues.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod command;
mod config;
mod core;
mod crash;
mod deadlines;
mod drain;
mod freeze;
pub mod ids;
mod instance;
mod invariants;
mod promotion;
mod proof;
pub mod protocol;
mod reload;
mod restart;
mod rng;
mod room;
pub mod sampler;
mod slot;
mod steering;
mod supervise;
pub mod takeover;
mod tick;
mod tickets;
mod undo;
mod view;
mod worker;

pub use crate::core::{Core, MAX_INSTANCES};
pub use ids::{AppId, Generation, GroupId, InstanceId, Revision, SlotId, Ticket, WorkerId};
pub use invariants::Violation;
pub use sampler::Sampler;
pub use tick::Tick;
pub use view::{AppView, InstanceView, ReloadView, RetiringPhase, RetiringView, StateView, WorkerView};
