//! Everything in this project that calls the Linux kernel beyond what `std` offers, and the only place with `unsafe` code.
//!
//! One mechanism per module, each with a safe interface. Descriptors are owned or borrowed, and close-on-exec from the start; processes are
//! [`PidFd`]s; data from the kernel or another program is parsed as untrusted input. Nothing here makes decisions.
#![allow(
    unsafe_code,
    reason = "the one crate that wraps system calls; every other crate denies it"
)]

mod proc;

pub mod activation;
pub mod allocator;
pub mod cbpf;
pub mod daemonize;
pub mod ebpf;
pub mod epoll;
pub mod intercept;
pub mod limits;
pub mod lock;
pub mod memory;
pub mod pass;
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
