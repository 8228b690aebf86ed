//! Files that are nearly right, and ones that are not at all: whatever they hold they are read or refused, and nothing else happens.

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{RngCore as _, SeedableRng as _};
use rpm_spec::{Format, parse, read};
use serde_json::Value;

/// Texts that each round begins with.
const SEEDS: [(&str, Format); 6] = [
    (
        "{apps: [{name: 'web', script: \"a.js\", instances: -1, env: {A: 1, 'b c': null}, max_memory_restart: '300M',}]} // end",
        Format::Json,
    ),
    (
        r#"{"apps":[{"script":"a.js","watch":["src"],"cron_restart":"0 3 * * *","stop_exit_codes":[0,1]}],"deploy":{}}"#,
        Format::Script,
    ),
    (
        "apps:\n  - &base\n    name: web\n    script: a.js\n    env: {A: 'x', B: 2}\n  - <<: *base\n    name: other\n",
        Format::Yaml,
    ),
    ("- script: |\n    a\n    b\n  args: >-\n    x y\n", Format::Yaml),
    (
        "[[apps]]\nname = 'web'\nscript = \"a.js\"\ninstances = 0x2\nenv = { A = 1, B = 2025-01-01T00:00:00Z }\n",
        Format::Toml,
    ),
    (
        "apps = [{ script = '''a\nb''', args = [1, 2.5, true] }]\n",
        Format::Toml,
    ),
];
/// What is put in: what parsers stumble over.
const BITS: [&str; 22] = [
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    ":",
    ",",
    "\n",
    "\t",
    "\0",
    "&a",
    "*a",
    "<<",
    "!!",
    "---",
    "0x",
    "1e999",
    "-9223372036854775809",
    "\u{feff}",
    "\u{1f980}",
    "/*",
];
const ROUNDS: u64 = 6000;

struct Dice(SplitMix64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.0.next_u64() >> 33).unwrap_or(0) % sides.max(1)
    }
}

/// Some letters go, come twice, or are others.
fn mutated(seed: &str, dice: &mut Dice) -> String {
    let mut letters: Vec<char> = seed.chars().collect();
    for _ in 0..=dice.roll(6) {
        let at = dice.roll(letters.len());
        let end = (at + dice.roll(8)).min(letters.len());
        match dice.roll(4) {
            0 => drop(letters.drain(at..end)),
            1 => {
                let part: Vec<char> = letters[at..end].to_vec();
                let times = if dice.roll(20) == 0 { 5000 } else { 1 };
                for _ in 0..times {
                    letters.splice(at..at, part.iter().copied());
                }
            }
            2 => {
                let bit = BITS[dice.roll(BITS.len())];
                letters.splice(at..at, bit.chars());
            }
            _ => {
                if let Some(letter) = letters.get_mut(at) {
                    *letter = char::from_u32(u32::try_from(dice.roll(0x250)).unwrap_or(0)).unwrap_or('?');
                }
            }
        }
    }
    letters.into_iter().collect()
}

#[test]
fn mutated_files_are_read_or_refused() {
    let (mut dice, mut right, mut wrong) = (Dice(SplitMix64::seed_from_u64(7)), 0, 0);
    for _ in 0..ROUNDS {
        let (seed, format) = SEEDS[dice.roll(SEEDS.len())];
        let text = mutated(seed, &mut dice);
        match parse(&text, format).map(|value| read(&value)) {
            Ok(Ok(_)) => right += 1,
            Ok(Err(faults)) => {
                assert!(
                    faults.problems.iter().all(|problem| !problem.text.is_empty()),
                    "{text:?}"
                );
                wrong += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty(), "{text:?}");
                wrong += 1;
            }
        }
    }
    assert!(right > 100 && wrong > 1000, "both happen: {right} and {wrong}");
}

/// Values of every kind at every place.
#[test]
fn values_of_the_wrong_kind_are_told_and_never_a_panic() {
    let odd = [
        "null",
        "true",
        "-1",
        "1.5",
        "1e308",
        "\"\"",
        "\"x\"",
        "[]",
        "[[[]]]",
        "{}",
        "{\"a\":{}}",
        "[null]",
        "\"\\u0000\"",
        "18446744073709551615",
    ];
    let mut told = 0;
    for key in rpm_spec::keys::all() {
        for value in odd {
            let text = format!(
                "{{\"script\": \"a.js\", \"{}\": {value}, \"env_x\": {value}}}",
                key.name
            );
            let value: Value = serde_json::from_str(&text).expect("JSON");
            told += usize::from(read(&value).is_err());
        }
    }
    assert!(told > 500, "{told}");
}
