//! Trace contexts (W3C Trace Context, <https://www.w3.org/TR/trace-context/>): `traceparent`, and what is sampled.

/// The name of the field that names trace, parent and flags.
pub const TRACEPARENT: &str = "traceparent";
/// The name of the field with what tracing systems say of the trace themselves.
pub const TRACESTATE: &str = "tracestate";

/// Length of a field of version 00, in bytes.
const LENGTH: usize = 55;
/// The flag of what is sampled.
const SAMPLED: u8 = 1;
/// The flag of a trace whose number is random (level 2 of the recommendation). It is passed on.
const RANDOM: u8 = 2;

/// The number of a trace, which is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub u128);

/// The number of a span, which is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(pub u64);

/// A field `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace: TraceId,
    /// The span that the request comes from.
    pub parent: SpanId,
    /// The flags that are known.
    flags: u8,
}

impl TraceParent {
    /// Parses the value of a field. `None`: it is malformed. What a later version adds at its end is ignored.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<TraceParent> {
        let (known, more) = text.split_at_checked(LENGTH)?;
        let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let version = hex(&known[..2])?;
        let ends = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more[0] == b'-',
        };
        let trace = hex(&known[3..35]).filter(|trace| *trace != 0)?;
        let parent = hex(&known[36..52]).filter(|parent| *parent != 0)?;
        let flags = hex(&known[53..])?;
        (dashes && ends).then_some(TraceParent {
            trace: TraceId(trace),
            parent: SpanId(parent as u64),
            flags: flags as u8 & (SAMPLED | RANDOM),
        })
    }

    /// The trace is sampled.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The value of the field.
    #[must_use]
    pub fn field(self) -> [u8; LENGTH] {
        let mut field = [b'-'; LENGTH];
        write_hex(&mut field[..2], 0);
        write_hex(&mut field[3..35], self.trace.0);
        write_hex(&mut field[36..52], u128::from(self.parent.0));
        write_hex(&mut field[53..], u128::from(self.flags));
        field
    }
}

/// A number in at most 32 hexadecimal digits. Capital ones are malformed.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

fn write_hex(digits: &mut [u8], mut number: u128) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// A number in so many hexadecimal digits.
#[must_use]
pub fn hex_text(number: u128, digits: usize) -> String {
    let mut text = vec![b'0'; digits];
    write_hex(&mut text, number);
    text.into_iter().map(char::from).collect()
}

/// The part of new traces that is sampled, which depends on the number of a trace alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampledPart(u64);

/// All numbers that a trace is sampled by.
const WHOLE: u64 = 1 << 63;

impl SampledPart {
    /// From a number between 0 and 1.
    #[must_use]
    pub fn new(ratio: f64) -> SampledPart {
        SampledPart((ratio.clamp(0.0, 1.0) * WHOLE as f64) as u64)
    }

    /// A new trace of this number is sampled.
    #[must_use]
    pub fn has(self, trace: TraceId) -> bool {
        (trace.0 as u64) & (WHOLE - 1) < self.0
    }
}

/// Random numbers for a request.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    /// For a new trace.
    pub trace: TraceId,
    /// For the span.
    pub span: SpanId,
}

/// The context of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// What the worker is sent: the parent is the proxy's span.
    pub sent: TraceParent,
    /// The client's span, if its trace is continued.
    pub parent: Option<SpanId>,
}

impl Context {
    /// For a request with these fields `traceparent`: a valid one is continued, and decides what is sampled. With none, a malformed one or
    /// several, a trace is begun.
    #[must_use]
    pub fn of<'v>(mut fields: impl Iterator<Item = &'v [u8]>, part: SampledPart, drawn: Drawn) -> Context {
        let one = fields.next().filter(|_| fields.next().is_none());
        match one.and_then(TraceParent::parse) {
            Some(come) => Context {
                sent: TraceParent {
                    parent: drawn.span,
                    ..come
                },
                parent: Some(come.parent),
            },
            None => Context {
                sent: TraceParent {
                    trace: drawn.trace,
                    parent: drawn.span,
                    flags: if part.has(drawn.trace) { SAMPLED } else { 0 },
                },
                parent: None,
            },
        }
    }

    /// The request gets a span.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.sent.is_sampled()
    }

    /// This field of the client is not passed on: the proxy sends its own `traceparent`, and a `tracestate` without a valid one belongs to no
    /// trace (3.3 of the recommendation).
    #[must_use]
    pub fn replaces(&self, name: &str) -> bool {
        match name.len() {
            10 => self.parent.is_none() && name.eq_ignore_ascii_case(TRACESTATE),
            11 => name.eq_ignore_ascii_case(TRACEPARENT),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_xoshiro::SplitMix64;
    use rand_xoshiro::rand_core::{RngCore as _, SeedableRng as _};

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const TRACE: TraceId = TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
    const PARENT: SpanId = SpanId(0x00f0_67aa_0ba9_02b7);
    const DRAWN: Drawn = Drawn {
        trace: TraceId(0xaaaa_0000_0000_0000_0000_0000_0000_0001),
        span: SpanId(7),
    };

    #[test]
    fn fields_of_the_recommendation() {
        let parsed =
            |text: &str| TraceParent::parse(text.as_bytes()).map(|it| (it.trace, it.parent, it.flags));
        for (text, flags) in [
            (GOOD.to_owned(), Some(1)),
            (GOOD.replace("-01", "-00"), Some(0)),
            // Flags that are not known are dropped.
            (GOOD.replace("-01", "-ff"), Some(3)),
            (GOOD.replace("-01", "-0"), None),
            (GOOD.replace("-01", "-001"), None),
            (GOOD.replace("-01", "-0g"), None),
            // A later version may add something, behind a dash.
            (GOOD.replace("00-4", "01-4"), Some(1)),
            (GOOD.replace("00-4", "cc-4") + "-what-comes", Some(1)),
            (GOOD.replace("00-4", "cc-4") + ".what", None),
            (GOOD.replace("00-4", "ff-4"), None),
            (GOOD.to_owned() + "-00", None),
            (GOOD.to_uppercase(), None),
            (GOOD.replace('-', "_"), None),
            (GOOD.replacen('-', "+", 1), None),
            (
                GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
                None,
            ),
            (GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)), None),
            (format!(" {GOOD}"), None),
            (String::new(), None),
            ("00".to_owned(), None),
            ("é".repeat(30), None),
        ] {
            assert_eq!(parsed(&text), flags.map(|flags| (TRACE, PARENT, flags)), "{text}");
        }
    }

    #[test]
    fn a_valid_trace_is_continued_and_any_other_is_begun() {
        let unsampled = GOOD.replace("-01", "-00");
        for (fields, ratio, trace, parent, sampled) in [
            (vec![GOOD], 0.0, TRACE, Some(PARENT), true),
            (vec![unsampled.as_str()], 1.0, TRACE, Some(PARENT), false),
            (vec![], 1.0, DRAWN.trace, None, true),
            (vec![], 0.0, DRAWN.trace, None, false),
            (vec!["00-nonsense"], 1.0, DRAWN.trace, None, true),
            (vec![GOOD, GOOD], 1.0, DRAWN.trace, None, true),
        ] {
            let part = SampledPart::new(ratio);
            let context = Context::of(fields.iter().map(|field| field.as_bytes()), part, DRAWN);
            let seen = (context.sent.trace, context.parent, context.is_sampled());
            assert_eq!(seen, (trace, parent, sampled), "{fields:?}, {ratio}");
            assert_eq!(context.sent.parent, DRAWN.span);
            assert_eq!(TraceParent::parse(&context.sent.field()), Some(context.sent));
            let replaced =
                ["TraceParent", "traceState", "tracestate2", "user-agent"].map(|name| context.replaces(name));
            assert_eq!(replaced, [true, parent.is_none(), false, false], "{fields:?}");
        }
    }

    #[test]
    fn the_part_that_is_sampled_is_as_large_as_it_should_be() {
        let mut dice = SplitMix64::seed_from_u64(7);
        for ratio in [0.0, 0.02, 0.5, 1.0] {
            let part = SampledPart::new(ratio);
            let sampled = (0..100_000)
                .filter(|_| part.has(TraceId(u128::from(dice.next_u64()))))
                .count();
            let expected = ratio * 100_000.0;
            assert!((sampled as f64 - expected).abs() < 500.0, "{ratio}: {sampled}");
            assert_eq!(part.has(TraceId(u128::MAX)), ratio >= 1.0, "{ratio}");
        }
    }

    /// Valid fields of which some bytes are others, and lengths that are not theirs: whatever is accepted is what it says, by a second reading.
    #[test]
    fn whatever_is_parsed_is_valid_and_written_as_it_was_read() {
        let mut dice = SplitMix64::seed_from_u64(11);
        let mut below = |bound: usize| (dice.next_u64() % bound as u64) as usize;
        let mut accepted = 0;
        for _ in 0..200_000 {
            let mut text = GOOD.as_bytes().to_vec();
            for _ in 0..below(3) {
                let at = below(text.len());
                text[at] = b"0019afAFg-_ \xff\n"[below(14)];
            }
            match below(6) {
                0 => text.truncate(below(text.len())),
                1 => text.extend_from_slice(&b"-00-xyz"[..below(8)]),
                _ => {}
            }
            let Some(parsed) = TraceParent::parse(&text) else {
                continue;
            };
            accepted += 1;
            let words: Vec<&str> = std::str::from_utf8(&text[..LENGTH])
                .expect("text")
                .split('-')
                .collect();
            assert_eq!(
                words.iter().map(|word| word.len()).collect::<Vec<_>>(),
                [2, 32, 16, 2],
                "{words:?}"
            );
            let number = |word: &str| u128::from_str_radix(word, 16).expect("a number");
            assert_eq!(
                (number(words[1]), number(words[2])),
                (parsed.trace.0, u128::from(parsed.parent.0))
            );
            assert!(
                parsed.trace.0 != 0
                    && parsed.parent.0 != 0
                    && words[0] != "ff"
                    && !words.concat().contains(char::is_uppercase)
            );
            let field = parsed.field();
            assert_eq!(&field[3..52], &text[3..52]);
            assert_eq!(TraceParent::parse(&field), Some(parsed));
        }
        assert!(accepted > 10_000, "{accepted}");
    }

    #[test]
    fn numbers_have_all_their_digits() {
        assert_eq!(hex_text(0xab, 16), "00000000000000ab");
        assert_eq!(hex_text(TRACE.0, 32), "4bf92f3577b34da6a3ce929d0e0e4736");
    }
}
