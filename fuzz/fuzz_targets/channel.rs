//! What a worker sends over its channel, in pieces of any size.

#![cfg_attr(feature = "fuzzer", no_main)]

use libfuzzer_sys::fuzz_target;
use rpm_wire::channel::Decoder;

fuzz_target!(|data: &[u8]| {
    let Some((size, rest)) = data.split_first() else {
        return;
    };
    let mut decoder = Decoder::new();
    for piece in rest.chunks(usize::from(*size).max(1)) {
        decoder.feed(piece);
        while let Some(message) = decoder.next() {
            let _ = message;
        }
    }
});

/// For checks without libFuzzer, which has a `main` of its own.
#[cfg(not(feature = "fuzzer"))]
fn main() {}
