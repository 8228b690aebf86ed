//! Three rings of rows for each app, the coarser ones made of the finest: pure, without a clock and without a file.
//!
//! The place of a row in its ring follows from its time alone, and each row says which step it is of. So there is no index that could be
//! wrong: what was not written, or is of the round before, is a gap.

use super::row::{COUNT, FIGURES, ROW, Row, Sum, Values};

/// A ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tier {
    /// Seconds of a step.
    pub(super) step: u32,
    /// How many steps are kept.
    pub(super) rows: u32,
    /// Where it begins among the rows of an app.
    first: u32,
}

/// 10 minutes, 6 hours, 7 days.
pub(super) const TIERS: [Tier; 3] = [
    Tier {
        step: 1,
        rows: 600,
        first: 0,
    },
    Tier {
        step: 10,
        rows: 2160,
        first: 600,
    },
    Tier {
        step: 60,
        rows: 10_080,
        first: 2760,
    },
];
/// Bytes of all rows of an app.
pub(super) const ROWS: usize = 12_840 * ROW;

impl Tier {
    /// Where the row of a step is among the bytes of an app.
    pub(super) fn place(self, step: u32) -> usize {
        (self.first + step % self.rows) as usize * ROW
    }

    fn seconds(self) -> u64 {
        u64::from(self.step) * u64::from(self.rows)
    }
}

/// A row that is to be written.
#[derive(Debug, PartialEq)]
pub(super) struct Written {
    pub(super) place: usize,
    pub(super) bytes: [u8; ROW],
}

/// The coarser steps of an app that are not over.
#[derive(Debug, Default)]
pub(super) struct Open([Option<(u32, Sum)>; 2]);

impl Open {
    /// Adds the figures of a second. Returns what is to be written.
    pub(super) fn push(&mut self, second: u32, values: Values) -> Vec<Written> {
        let row = Row::of(values);
        let mut writes = vec![written(TIERS[0], second, &row)];
        let mut ten_seconds_are_over = false;
        for (open, tier) in self.0.iter_mut().zip(&TIERS[1..]) {
            let step = second / tier.step;
            match open {
                Some((present, sum)) if *present == step => {
                    sum.add(&row);
                    // The minute is written while it lasts, so that the week ends now.
                    if ten_seconds_are_over {
                        writes.push(written(*tier, step, &sum.row()));
                    }
                }
                _ => {
                    if let Some((step, sum)) = open.take() {
                        writes.push(written(*tier, step, &sum.row()));
                        ten_seconds_are_over = true;
                    }
                    let mut sum = Sum::default();
                    sum.add(&row);
                    *open = Some((step, sum));
                }
            }
        }
        writes
    }

    /// The steps that a process before has begun, from the seconds that it has written.
    pub(super) fn resume(now: u32, rows: impl Fn(usize) -> Option<[u8; ROW]>) -> Open {
        let mut open = Open::default();
        for second in now - now % 60..now {
            if let Some(row) = rows(TIERS[0].place(second)).and_then(|bytes| Row::read(&bytes, second)) {
                open.push(second, row.values);
            }
        }
        open
    }
}

fn written(tier: Tier, step: u32, row: &Row) -> Written {
    Written {
        place: tier.place(step),
        bytes: row.bytes(step),
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its begin, in seconds since the Unix epoch.
    pub from: u64,
    /// Its end, which is not part of it.
    pub to: u64,
    /// How many points there may be at most.
    pub points: u32,
}

/// Series of the figures of an app over the same steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Seconds between two points.
    pub step: u64,
    /// When the first step begins, in seconds since the Unix epoch.
    pub from: u64,
    /// How many points each figure has.
    pub points: usize,
    /// The averages, or per-second or total counts, in the order of [`FIGURES`].
    pub values: [Vec<Option<f64>>; COUNT],
    /// The maxima; empty for figures that have none.
    pub maxima: [Vec<Option<f64>>; COUNT],
}

/// The row of a step.
fn stored(bytes: &[u8], tier: Tier, step: u32) -> Option<Row> {
    let place = tier.place(step);
    bytes.get(place..place + ROW).and_then(|row| Row::read(row, step))
}

/// The row of a step that lasts, and so is not stored yet: of its seconds that are.
fn lasting(bytes: &[u8], tier: Tier, step: u32) -> Option<Row> {
    let [seconds, ..] = TIERS;
    let first = step.checked_mul(tier.step).filter(|_| tier != seconds)?;
    let rows = (first..first.checked_add(tier.step)?).filter_map(|second| stored(bytes, seconds, second));
    let mut sum = None;
    rows.for_each(|row| sum.get_or_insert_with(Sum::default).add(&row));
    sum.map(|sum| sum.row())
}

/// Reads the series of an app, whose bytes these are, from the finest ring that still has the begin of the span.
pub(super) fn query(bytes: &[u8], span: Span, now: u64) -> Series {
    let age = now.saturating_sub(span.from);
    let tier = TIERS
        .into_iter()
        .find(|tier| age <= tier.seconds())
        .unwrap_or(TIERS[2]);
    let unit = u64::from(tier.step);
    // More than the ring has is a gap in any case.
    let from = span.from.max(now.saturating_sub(tier.seconds())) / unit;
    let to = span.to.min(now + 1).div_ceil(unit).max(from);
    let per_point = (to - from).div_ceil(u64::from(span.points.max(1))).max(1);
    let from = from / per_point * per_point;
    let sums: Vec<Sum> = (from..to)
        .step_by(usize::try_from(per_point).unwrap_or(usize::MAX))
        .map(|first| {
            let mut sum = Sum::default();
            for step in first..(first + per_point).min(to) {
                let step = u32::try_from(step).unwrap_or(u32::MAX);
                let row = stored(bytes, tier, step).or_else(|| lasting(bytes, tier, step));
                row.iter().for_each(|row| sum.add(row));
            }
            sum
        })
        .collect();
    Series {
        step: per_point * unit,
        from: from * unit,
        points: sums.len(),
        values: std::array::from_fn(|at| sums.iter().map(|sum| sum.answer(at, tier.step)).collect()),
        maxima: std::array::from_fn(|at| match FIGURES[at].has_maximum() {
            true => sums.iter().map(|sum| sum.maximum(at)).collect(),
            false => Vec::new(),
        }),
    }
}
