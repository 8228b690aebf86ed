//! Waiting for a state up to a bound, never for a fixed time.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

/// The first and the longest pause between two looks. What takes seconds is not asked for a hundred times a second, which costs a daemon and
/// a test as much as the traffic beside it.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(40)];
/// A pause is this part of the time that has passed.
const PART: u32 = 8;

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
    let start = Instant::now();
    let [first, longest] = PAUSES;
    loop {
        let seen = look();
        if wanted(&seen) {
            return seen;
        }
        let passed = start.elapsed();
        assert!(
            passed < bound,
            "not within {bound:?}: {what}; last seen: {seen:#?}"
        );
        // tidy: sleep because the state belongs to another process and is polled up to a bound
        thread::sleep((passed / PART).clamp(first, longest));
    }
}

/// Polls until `ask` returns a value.
///
/// # Panics
/// After `bound`.
pub fn wait_for<T: Debug>(what: &str, bound: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    wait_until(what, bound, &mut ask, Option::is_some).expect("it was just there")
}
