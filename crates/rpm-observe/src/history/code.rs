//! Figures in two bytes: an exponent of 6 bits and a fraction of 10 bits, without a sign. The error is at most 0.05 %; integers up to 2,048
//! are exact.

/// Stands for "not known".
pub(super) const UNKNOWN: u16 = u16::MAX;
/// The largest figure: about 4.4 · 10¹².
const LARGEST: u16 = (62 << 10) | 1023;
/// The exponent that stands for 2⁰.
const BIAS: i32 = 21;

/// The code of a figure. What is too large becomes the largest; what is negative or too small becomes 0.
pub(super) fn encode(value: Option<f64>) -> u16 {
    let Some(value) = value.filter(|value| !value.is_nan()) else {
        return UNKNOWN;
    };
    if value < 2f64.powi(1 - BIAS) {
        return 0;
    }
    let exponent = value.log2().floor().min(63.0) as i32;
    let fraction = (value / 2f64.powi(exponent) - 1.0) * 1024.0;
    // A fraction that is rounded up to 1024 is carried into the exponent.
    let code = (exponent + BIAS) * 1024 + fraction.round().min(4096.0) as i32;
    u16::try_from(code).map_or(LARGEST, |code| code.min(LARGEST))
}

/// The figure that a code stands for.
pub(super) fn decode(code: u16) -> Option<f64> {
    match code {
        UNKNOWN => None,
        0..1024 => Some(0.0),
        _ => {
            let fraction = 1.0 + f64::from(code & 1023) / 1024.0;
            Some(fraction * 2f64.powi(i32::from(code >> 10) - BIAS))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_and_others_are_close() {
        for value in 0..=2048 {
            let value = f64::from(value);
            assert_eq!(decode(encode(Some(value))), Some(value));
        }
        let mut value = 2e-6;
        while value < 4e12 {
            let read = decode(encode(Some(value))).expect("it is known");
            assert!((read - value).abs() <= value * 0.0005, "{value} became {read}");
            value *= 1.0137;
        }
    }

    #[test]
    fn what_has_no_code_of_its_own_is_the_nearest() {
        for (value, expected) in [
            (None, None),
            (Some(f64::NAN), None),
            (Some(-3.0), Some(0.0)),
            (Some(1e-9), Some(0.0)),
            (Some(f64::INFINITY), decode(LARGEST)),
            (Some(1e300), decode(LARGEST)),
        ] {
            assert_eq!(decode(encode(value)), expected, "{value:?}");
        }
    }
}
