//! Waiting for a state up to a bound, never for a fixed time.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Polls a state until it is `wanted`, and returns it.
///
/// # Panics
/// After `bound`, with the state seen last.
pub fn wait_until<S: Debug>(
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> S,
    wanted: impl Fn(&S) -> bool,
) -> S {
    let deadline = Instant::now() + bound;
    loop {
        let seen = look();
        if wanted(&seen) {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "not within {bound:?}: {what}; last seen: {seen:#?}"
        );
        // tidy: sleep because the state belongs to another process and is polled up to a bound
        thread::sleep(LOOK);
    }
}

/// Polls until `ask` returns a value.
///
/// # Panics
/// After `bound`.
pub fn wait_for<T: Debug>(what: &str, bound: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    wait_until(what, bound, &mut ask, Option::is_some).expect("it was just there")
}
