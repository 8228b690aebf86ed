//! Documents that are almost what a daemon has written: nothing panics, and what is read can be written and read again.
//!
//! The fuzz target `state` (`fuzz/fuzz_targets/state.rs`) contains this file, and the test at its end runs it with fixed seeds.

use rpm_core::Core;
use rpm_state::{read_apps, read_state, seal, write};

/// Reads it as it is, with a sum that fits, and with the header of each format before it.
///
/// # Panics
/// A reader has panicked, or what it has read is not what is written.
pub(crate) fn run(bytes: &[u8]) {
    let with_header = [3, 4].map(|format| {
        [
            format!("{{\"format\":{format},\"version\":\"0\",").as_bytes(),
            bytes,
        ]
        .concat()
    });
    let [old, present] = with_header;
    for text in [bytes, &old, &present] {
        for text in [text.to_vec(), seal(text)] {
            if let Ok(state) = read_state(&text) {
                let mut again = Vec::new();
                write(&state, &mut again).expect("memory");
                assert_eq!(read_state(&again).expect("it was written"), state);
                if let Ok(core) = Core::restore(state.core.into(), 1) {
                    let snapshot = core.snapshot();
                    assert_eq!(
                        Core::restore(snapshot.clone(), 1)
                            .expect("it was taken")
                            .snapshot(),
                        snapshot
                    );
                }
            }
            if let Ok(apps) = read_apps(&text) {
                let mut again = Vec::new();
                write(&apps, &mut again).expect("memory");
                assert_eq!(read_apps(&again).expect("it was written"), apps);
            }
        }
    }
}

#[test]
fn nothing_panics_whatever_is_changed() {
    const GOLDEN: [&[u8]; 4] = [
        include_bytes!("../golden/v3/state.json"),
        include_bytes!("../golden/v4/state.json"),
        include_bytes!("../golden/v3/apps.json"),
        include_bytes!("../golden/v4/apps.json"),
    ];
    // Where a number, a name or a bracket stood another one stands.
    const PARTS: &[&str] = &[
        "0",
        "18446744073709551615",
        "4294967295",
        "-1",
        "null",
        "{}",
        "[]",
        "\"\"",
        "true",
        "}",
        ",",
    ];
    let mut seed: u64 = 1;
    let mut below = |limit: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap_or(0) % limit
    };
    for golden in GOLDEN {
        let end = golden.windows(2).rposition(|two| two == b"\n#").expect("its sum");
        let text = std::str::from_utf8(&golden[..end]).expect("JSON");
        let values: Vec<(usize, usize)> = values(text);
        for _ in 0..150 {
            let (from, to) = values[below(values.len())];
            let changed = [&text[..from], PARTS[below(PARTS.len())], &text[to..]].concat();
            run(changed.as_bytes());
        }
    }
}

/// The numbers, `true`, `false` and `null` of a document, by where they begin and end.
#[cfg(test)]
fn values(text: &str) -> Vec<(usize, usize)> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let mut found = Vec::new();
    let bytes = text.as_bytes();
    for (at, pair) in bytes.windows(2).enumerate() {
        if matches!(pair[0], b':' | b'[' | b',') && is_part(pair[1]) {
            let from = at + 1;
            let length = bytes[from..].iter().take_while(|byte| is_part(**byte)).count();
            found.push((from, from + length));
        }
    }
    found
}
