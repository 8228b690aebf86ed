//! The base of the end-to-end tests: the real binary in a private home, real programs, real traffic.
//!
//! All functions panic with what they saw, so that a failed test shows it.

mod fixtures;
mod http;
mod port;
mod reachable;
mod rpm;
mod traffic;
mod wait;

pub use fixtures::{browser_script, bun, deno, fixture, javascript, metrics_app, node, repository};
pub use http::{Answer, get, get_from};
pub use port::Port;
pub use rpm::{Ran, Rpm};
pub use rpm_loadtest::{Kind, Load, Outcome, Pace, Report};
pub use rpm_wire::api::{AppInfo, ListenerInfo, Phase, Process, Status};
pub use traffic::Traffic;
pub use wait::{wait_for, wait_until};

/// True in CI, where a mechanism that the machine forbids fails the test instead of skipping it.
#[must_use]
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Reports that a test is skipped. In CI this fails, because no test may be skipped there.
///
/// # Panics
/// In CI.
pub fn skip(test: &str, reason: &str) {
    assert!(!in_ci(), "{test} cannot run here: {reason}");
    eprintln!("SKIPPED {test}: {reason}");
}
