//! The decisions of rpm, without any input or output.
//!
//! [`Core`] is a state machine: events go in through [`Core::handle`], the passage of time through
//! [`Core::handle_timeout`], and what the shell must do comes out of [`Core::poll_output`], in an order
//! that matters (steer away before close, close before signal). It knows no clock, no descriptor, no
//! process: only the ids in [`ids`] and the [`Tick`] that the shell passes in.
//!
//! Smaller machines stand beside it, and share no state with it: [`QueueSampler`] (when to look at the accept queues),
//! [`witness::Drains`] (whether a draining worker has anything left), [`handoff::Handoffs`] (which worker gets a connection that the shell
//! hands over) and [`memory::MemoryLimits`] (which instance is replaced for its memory).
//!
//! # How workers leave
//!
//! There are six words for it, here and in the names of what goes in and comes out:
//!
//! | word | what happens | output | over when |
//! |---|---|---|---|
//! | drain | out of steering, but goes on accepting; finishes what it has begun | [`protocol::Output::Drain`] | it has nothing left to do, or after `drain_timeout`: it is terminated |
//! | refuse new | while it drains: closes its listeners | [`protocol::Output::RefuseNew`] | as for drain |
//! | terminate | its process gets the signal to end; before it has a process that is kept for later | [`protocol::Output::Terminate`] | it is gone, or after `kill_timeout`: it is killed |
//! | kill | SIGKILL to its process tree | [`protocol::Output::Kill`] | it is gone; repeated until then |
//! | close slot | the listening socket is closed, and what waits in it goes to others | [`protocol::Output::CloseSlot`] | at once |
//! | forget | the record of a worker whose process tree is gone, of an instance or of an app that was deleted | [`protocol::Output::AppGone`] for an app | at once |
//!
//! A worker is *leaving* from its drain, or from being terminated without a successor that inherits its slots, until it is
//! forgotten. Which states a worker passes through is in `workers::state`.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod apps;
mod command;
mod config;
mod core;
mod crash;
mod deadlines;
mod drain;
mod early_addresses;
pub mod handoff;
pub mod ids;
mod invariants;
pub mod memory;
mod outcome;
mod promotion;
mod proof;
pub mod protocol;
pub mod queue_sampler;
mod readiness;
mod reload;
mod restart;
mod rng;
mod rollout;
pub mod snapshot;
mod steering;
mod supervise;
mod surge;
pub mod takeover;
mod terminate;
mod tick;
mod tickets;
mod undo;
mod view;
pub mod witness;
mod workers;

pub use crate::core::{Core, MAX_INSTANCES};
pub use ids::{AppId, Generation, GroupId, InstanceId, Revision, SlotId, Ticket, WorkerId};
pub use invariants::Violation;
pub use queue_sampler::QueueSampler;
pub use tick::Tick;
pub use view::{
    AppView, EndsFor, InstanceView, LeavingPhase, LeavingView, OpenSlot, RefusesNew, ReloadView, StateView,
    WorkerView,
};
