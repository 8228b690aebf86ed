//! What the shell passes to the core: whatever it is, and in whatever order, nothing panics and the invariants hold.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/rpm-core/tests/integration/arbitrary.rs"]
mod arbitrary;

fuzz_target!(|data: &[u8]| arbitrary::run(data, |_| ()));
