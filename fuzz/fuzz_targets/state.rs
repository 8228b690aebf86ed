//! What a daemon before has stored, or what became of it: nothing panics, and what is read can be written and read again.

#![cfg_attr(feature = "fuzzer", no_main)]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/rpm-state/tests/integration/mutated.rs"]
mod mutated;

fuzz_target!(|data: &[u8]| mutated::run(data));

/// For checks without libFuzzer, which has a `main` of its own.
#[cfg(not(feature = "fuzzer"))]
fn main() {}
