//! What is kept of an app for one step of time, and how it is stored.

use super::code::{decode, encode};

/// A figure of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Its name in questions and answers.
    pub name: &'static str,
    /// Its unit in answers.
    pub unit: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A longer step has the average.
    Average,
    /// A longer step has the average, and the maximum besides.
    AverageAndMaximum,
    /// A longer step has the sum.
    Sum,
    /// The same; answers give it per second.
    Rate,
}

/// How many figures there are.
pub const COUNT: usize = 11;
/// How many of them have a maximum.
const MAXIMA: usize = 6;
/// Bytes of a stored row: its step, the figures, the maxima, a checksum.
pub(super) const ROW: usize = 4 + 2 * (COUNT + MAXIMA) + 2;

/// The figures, in the order in which they are stored. Another order or number is another version of the file.
pub const FIGURES: [Figure; COUNT] = {
    use Kind::{Average, AverageAndMaximum, Rate, Sum};
    const fn figure(name: &'static str, unit: &'static str, kind: Kind) -> Figure {
        Figure { name, unit, kind }
    }
    [
        figure("online", "instances", Average),
        figure("cpu", "percent", AverageAndMaximum),
        figure("memory", "bytes", AverageAndMaximum),
        figure("restarts", "count", Sum),
        figure("connections", "connections", AverageAndMaximum),
        figure("queue", "connections", AverageAndMaximum),
        figure("requests", "per second", Rate),
        figure("errors", "per second", Rate),
        figure("p50", "seconds", Average),
        figure("p99", "seconds", AverageAndMaximum),
        figure("delay", "seconds", AverageAndMaximum),
    ]
};

impl Figure {
    /// True if a step has a maximum of it besides the average.
    #[must_use]
    pub fn has_maximum(self) -> bool {
        self.kind == Kind::AverageAndMaximum
    }
}

/// The figures of one moment, in the order of [`FIGURES`]; `None`: not known. What is counted is what was added since the moment before.
pub type Values = [Option<f64>; COUNT];

/// The figures of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) values: Values,
    /// The maxima of those that have one.
    pub(super) maxima: Values,
}

impl Row {
    /// The row of one moment.
    pub(super) fn of(values: Values) -> Row {
        let maxima = std::array::from_fn(|at| values[at].filter(|_| FIGURES[at].has_maximum()));
        Row { values, maxima }
    }

    /// The row as it is stored for this step.
    pub(super) fn bytes(&self, step: u32) -> [u8; ROW] {
        let mut bytes = [0; ROW];
        bytes[..4].copy_from_slice(&step.to_le_bytes());
        let maxima = (0..COUNT).filter(|at| FIGURES[*at].has_maximum());
        let codes = self.values.into_iter().chain(maxima.map(|at| self.maxima[at]));
        for (place, value) in bytes[4..ROW - 2].as_chunks_mut().0.iter_mut().zip(codes) {
            *place = encode(value).to_le_bytes();
        }
        let sum = checksum(&bytes[..ROW - 2]);
        bytes[ROW - 2..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The row of this step. `None` if another step, nothing, or half a row is stored there.
    pub(super) fn read(bytes: &[u8], step: u32) -> Option<Row> {
        let bytes: &[u8; ROW] = bytes.try_into().ok()?;
        if bytes[..4] != step.to_le_bytes() || bytes[ROW - 2..] != checksum(&bytes[..ROW - 2]).to_le_bytes() {
            return None;
        }
        let mut codes = bytes[4..ROW - 2].as_chunks().0.iter();
        let mut next = || decode(u16::from_le_bytes(*codes.next()?));
        let mut row = Row {
            values: std::array::from_fn(|_| next()),
            ..Row::default()
        };
        for at in (0..COUNT).filter(|at| FIGURES[*at].has_maximum()) {
            row.maxima[at] = next();
        }
        Some(row)
    }
}

/// FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>), folded to 16 bits.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    ((hash >> 16) ^ (hash & 0xffff)) as u16
}

/// Several rows made into one.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum {
    sums: [f64; COUNT],
    /// How many rows know each figure.
    known: [u32; COUNT],
    maxima: Values,
}

impl Sum {
    pub(super) fn add(&mut self, row: &Row) {
        for at in 0..COUNT {
            if let Some(value) = row.values[at] {
                self.sums[at] += value;
                self.known[at] += 1;
            }
            self.maxima[at] = [self.maxima[at], row.maxima[at]]
                .into_iter()
                .flatten()
                .reduce(f64::max);
        }
    }

    /// The row of the longer step.
    pub(super) fn row(&self) -> Row {
        let value = |at: usize| match (self.known[at], FIGURES[at].kind) {
            (0, _) => None,
            (_, Kind::Sum | Kind::Rate) => Some(self.sums[at]),
            (known, Kind::Average | Kind::AverageAndMaximum) => Some(self.sums[at] / f64::from(known)),
        };
        Row {
            values: std::array::from_fn(value),
            maxima: self.maxima,
        }
    }

    /// What answers say of a figure, if the rows are of `seconds` each.
    pub(super) fn answer(&self, at: usize, seconds: u32) -> Option<f64> {
        let value = self.row().values[at]?;
        match FIGURES[at].kind {
            Kind::Rate => Some(value / (f64::from(self.known[at]) * f64::from(seconds))),
            Kind::Sum | Kind::Average | Kind::AverageAndMaximum => Some(value),
        }
    }

    pub(super) fn maximum(&self, at: usize) -> Option<f64> {
        self.maxima[at]
    }
}
