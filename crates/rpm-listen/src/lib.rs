//! The kernel data path: the daemon's listening sockets, and steering, which decides which of them gets a new connection.
//!
//! [`Listeners`] owns every socket that the daemon opens for its apps. A TCP address is a *group* of slots, one per worker: an
//! `SO_REUSEPORT` group with a BPF program that picks among the slots that the core calls eligible. Unix sockets and UDP ports are
//! *shared*: all workers borrow one socket, as under node:cluster.
//!
//! No packet passes through this crate: it changes tables and moves queues.

mod captured;
mod classic;
mod conflict;
mod counting;
mod front;
mod group;
pub mod guard;
mod handoff;
mod listeners;
mod open_error;
mod overlap;
mod owners;
mod policy;
mod private;
mod queries;
mod shared;
mod steering;
mod stored;
mod table;
mod wanted;

pub use captured::{Captured, captured_key};
pub use conflict::{Occupant, occupant};
pub use front::{Fronted, Upstream, reachable};
pub use group::{GroupView, Rescued, SlotView, owner};
pub use listeners::{Grant, Listeners, Opening, Request};
pub use open_error::OpenError;
pub use policy::{MAX_WEIGHT, SteeringPolicy};
pub use queries::Holding;
pub use shared::SharedKind;
pub use steering::Mechanism;
pub use stored::{Inheritance, StoredSocket};
pub use wanted::{Wanted, WantedError};
