//! What the end-to-end tests stand on: the real binary in a private home, real programs, real traffic.
//!
//! Everything panics with what it saw: a test wants to fail, and to say why.

mod fixtures;
mod http;
mod port;
mod reachable;
mod rpm;
mod traffic;
mod wait;

pub use fixtures::{bun, deno, fixture, javascript, node, repository};
pub use http::{Answer, get, get_from};
pub use port::Port;
pub use rpm::{Ran, Rpm};
pub use rpm_loadtest::{Kind, Load, Outcome, Pace, Report};
pub use rpm_wire::api::{AppInfo, ListenerInfo, Phase, Process, Status};
pub use traffic::Traffic;
pub use wait::{wait_for, wait_until};

/// Whether a mechanism that the machine forbids is a failure (in CI) or a skipped test.
#[must_use]
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Says that a test is skipped, and fails in CI, where nothing may be.
///
/// # Panics
/// In CI.
pub fn skip(test: &str, reason: &str) {
    assert!(!in_ci(), "{test} cannot run here: {reason}");
    eprintln!("SKIPPED {test}: {reason}");
}
