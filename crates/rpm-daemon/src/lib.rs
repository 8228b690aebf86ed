//! The control plane: an event loop that turns kernel events into inputs of `rpm-core` and its outputs
//! into system calls, the apps' logs, and the control API.

mod agents;
mod api;
mod app;
mod apply;
mod boot;
mod channel;
mod cluster;
mod commands;
mod doctor;
mod drain;
mod effects;
mod ending;
mod environment;
mod files;
mod fronts;
mod handoff;
mod health;
mod home;
mod interception;
mod journal;
mod launch;
mod logs;
mod metrics;
mod outputs;
mod progress;
mod put_away;
mod redirect;
mod reload;
mod revision;
mod sampling;
mod schedule;
mod state;
mod supervisor;
mod takeover;
mod talk;
mod targets;
mod update;
mod upkeep;
mod users;
mod views;
mod watched;
mod worker;

pub use boot::{BootError, check, run};
pub use home::{Home, HomeError};
pub use update::CAN_TAKE_OVER;
