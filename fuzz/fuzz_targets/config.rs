//! Ecosystem files: whatever they hold, they are read or refused.

#![cfg_attr(feature = "fuzzer", no_main)]

use libfuzzer_sys::fuzz_target;
use rpm_spec::{Format, parse, read};

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let format = match first % 4 {
        0 => Format::Json,
        1 => Format::Yaml,
        2 => Format::Toml,
        // What a script has answered.
        _ => Format::Script,
    };
    if let Ok(text) = std::str::from_utf8(rest)
        && let Ok(value) = parse(text, format)
    {
        let _ = read(&value);
    }
});

/// For checks without libFuzzer, which has a `main` of its own.
#[cfg(not(feature = "fuzzer"))]
fn main() {}
