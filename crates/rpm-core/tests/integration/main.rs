//! The core, driven by events and a clock of the tests.

mod arbitrary;
mod common;
mod drain;
mod freeze;
mod handoff;
mod health;
mod hidden;
mod lifecycle;
mod proof;
mod reload;
mod runs;
mod scale;
mod simulation;
mod slots;
mod slow;
mod stop;
mod surge;
mod watch;
mod witness;
