//! Times and amounts of memory with units.

/// Not a time, or not an amount of memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(pub &'static str);

const TIME: UnitError = UnitError("a time: milliseconds, or a number with ms, s, m, h or d, as 10s");
const MEMORY: UnitError = UnitError("an amount of memory: bytes, or a number with K, M or G, as 300M");

/// A time in milliseconds: `1500`, `1500ms`, `10s`, `2m`, `1h`, `1d`.
///
/// # Errors
/// The text is not a time.
pub fn time(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text);
    let scale = match unit {
        "" | "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(TIME),
    };
    scaled(number, scale).ok_or(TIME)
}

/// An amount of memory in bytes: `1048576`, `300M`, `1.5G`; units are powers of 1024, with or without a `B`.
///
/// # Errors
/// The text is not an amount of memory.
pub fn memory(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text);
    let scale = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        _ => return Err(MEMORY),
    };
    scaled(number, scale).ok_or(MEMORY)
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

fn scaled(number: &str, scale: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    let number: f64 = number.parse().ok()?;
    let scaled = number * scale as f64;
    // Larger floats do not represent every whole number.
    (scaled.is_finite() && (0.0..9e15).contains(&scaled)).then_some(scaled as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood_and_nothing_else() {
        for (text, ms) in [
            ("0", 0),
            ("1500", 1500),
            ("10s", 10_000),
            ("1.5m", 90_000),
            (" 2 h ", 7_200_000),
        ] {
            assert_eq!(time(text), Ok(ms), "{text}");
        }
        for (text, bytes) in [
            ("300M", 300 << 20),
            ("1G", 1 << 30),
            ("1.5k", 1536),
            ("10 MB", 10 << 20),
            ("77", 77),
        ] {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "s", "-1", "1x", "ten", "1..2", "99999999999999999999", "1e3"] {
            assert!(time(wrong).is_err() && memory(wrong).is_err(), "{wrong}");
        }
    }
}
