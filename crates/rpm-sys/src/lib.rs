//! Everything of this project that talks to the Linux kernel beyond what `std` offers, and the only
//! place with `unsafe` code.
//!
//! One mechanism per module, each with a safe interface: descriptors are owned or borrowed and
//! close-on-exec from birth, processes are [`PidFd`]s, and what the kernel or another program says is
//! parsed as outside input. Nothing here decides anything; it does what it is told and reports.
#![allow(
    unsafe_code,
    reason = "the one crate that wraps system calls; every other crate denies it"
)]

mod proc;

pub mod activation;
pub mod cbpf;
pub mod daemonize;
pub mod ebpf;
pub mod intercept;
pub mod limits;
pub mod lock;
pub mod memory;
pub mod oneshot;
pub mod peer;
pub mod pidfd;
pub mod rights;
pub mod scm;
pub mod sock_diag;
pub mod socket;
pub mod spawn;
pub mod succession;
pub mod survive;
pub mod tree;
pub mod usage;
pub mod user;

pub use pidfd::{ExitStatus, PidFd, Signal};
