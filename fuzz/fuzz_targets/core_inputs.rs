//! What the shell passes to the core: whatever it is, and in whatever order, nothing panics and the invariants hold.

#![cfg_attr(feature = "fuzzer", no_main)]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/rpm-core/tests/integration/arbitrary.rs"]
mod arbitrary;

fuzz_target!(|data: &[u8]| arbitrary::run(data, |_| ()));

/// For checks without libFuzzer, which has a `main` of its own.
#[cfg(not(feature = "fuzzer"))]
fn main() {}
