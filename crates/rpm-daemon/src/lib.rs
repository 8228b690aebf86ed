//! The control plane: an event loop that turns kernel events into inputs of `rpm-core` and its outputs
//! into system calls, the apps' logs, and the control API.

mod api;
mod apps;
mod boot;
mod complaints;
mod drain;
mod events;
mod failure;
mod home;
mod inbox;
mod logs;
mod node;
mod orders;
mod os;
mod persist;
mod processes;
mod proxy;
mod sockets;
mod supervisor;
mod upkeep;
mod view;
mod workers;

pub use boot::{BootError, check, run};
pub use home::{Home, HomeError};
pub use orders::check::faults;
pub use persist::update::CAN_TAKE_OVER;
pub use rpm_keeper::{ARGUMENT as KEEPER, hold};
