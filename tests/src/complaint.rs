//! Messages of failing commands.

use rpm_testkit::Ran;

/// Asserts that a command failed with code 1, and that its message contains all of these parts.
///
/// # Panics
/// It succeeded, or a part is missing.
#[track_caller]
pub fn assert_says(ran: &Ran, parts: &[&str]) {
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    for part in parts {
        assert!(ran.stderr.contains(part), "no {part:?} in:\n{}", ran.stderr);
    }
}
