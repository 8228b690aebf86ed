//! A part of a whole, as `trace_ratio` is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Parts of the whole that are told apart.
const PARTS: u32 = 1_000_000;

/// A number from 0 to 1, to the millionth. What is more than 0 stays more than 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Ratio(u32);

/// The number is not from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is not a number from 0 to 1")]
pub struct UnknownRatio(f64);

impl Ratio {
    /// None of the whole.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl TryFrom<f64> for Ratio {
    type Error = UnknownRatio;

    fn try_from(part: f64) -> Result<Ratio, UnknownRatio> {
        if !(0.0..=1.0).contains(&part) {
            return Err(UnknownRatio(part));
        }
        let parts = (part * f64::from(PARTS)).round() as u32;
        Ok(Ratio(if part > 0.0 { parts.max(1) } else { 0 }))
    }
}

impl From<Ratio> for f64 {
    fn from(ratio: Ratio) -> f64 {
        f64::from(ratio.0) / f64::from(PARTS)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        f64::from(*self).fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_written_as_it_was_read() {
        for (text, expected) in [
            ("0", Some("0.0")),
            ("0.02", Some("0.02")),
            ("1", Some("1.0")),
            ("1e-9", Some("1e-6")),
            ("0.3333333333", Some("0.333333")),
            ("1.000001", None),
            ("-0.1", None),
            ("\"0.1\"", None),
        ] {
            let read = serde_json::from_str::<Ratio>(text).ok();
            let written = read.map(|ratio| serde_json::to_string(&ratio).expect("JSON"));
            assert_eq!(written.as_deref(), expected, "{text}");
        }
        assert!(Ratio::try_from(f64::NAN).is_err());
    }
}
