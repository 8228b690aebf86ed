//! How long answers took, over time: counts by duration, in two rings of rows for each app. Pure, without a clock and without a file.
//!
//! A count is kept in a byte, as eighths of its logarithm: exact up to 10, and to 5 % beyond.

use super::row::checksum;
use super::tiers::Span;

/// How many durations are told apart at most: up to each bound, and beyond the last.
pub(super) const BUCKETS: usize = 16;
/// Bytes of a stored row: its step, the counts, a checksum.
pub(super) const HEAT_ROW: usize = 4 + BUCKETS + 2;
/// Bytes of all rows of an app.
pub(super) const HEAT_ROWS: usize = (2160 + 1008) * HEAT_ROW;

/// A ring.
#[derive(Clone, Copy, Debug)]
struct Ring {
    /// Seconds of a step.
    step: u32,
    /// How many steps are kept.
    rows: u32,
    /// Where it begins among the rows of an app.
    first: u32,
}

/// 6 hours, 7 days.
const RINGS: [Ring; 2] = [
    Ring {
        step: 10,
        rows: 2160,
        first: 0,
    },
    Ring {
        step: 600,
        rows: 1008,
        first: 2160,
    },
];

/// Answers of a step: up to each bound, and beyond the last.
pub(super) type Counts = [u64; BUCKETS];

/// A row that is to be written.
#[derive(Debug, PartialEq)]
pub(super) struct HeatWritten {
    pub(super) place: usize,
    pub(super) bytes: [u8; HEAT_ROW],
}

/// The steps of an app that are not over.
#[derive(Debug, Default)]
pub(super) struct OpenHeat([Option<(u32, Counts)>; 2]);

/// Columns over the same steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Heat {
    /// Upper bounds of the durations, in milliseconds; one more is beyond them.
    pub bounds_ms: Vec<f64>,
    /// Seconds between two columns.
    pub step: u64,
    /// When the first step begins, in seconds since the Unix epoch.
    pub from: u64,
    /// How many answers took how long; `None`: not known.
    pub columns: Vec<Option<Vec<u64>>>,
}

impl Ring {
    fn place(self, step: u32) -> usize {
        (self.first + step % self.rows) as usize * HEAT_ROW
    }

    fn seconds(self) -> u64 {
        u64::from(self.step) * u64::from(self.rows)
    }
}

impl OpenHeat {
    /// Adds the answers of a second; there are none if nobody counts. Returns what is to be written.
    pub(super) fn push(&mut self, second: u32, times: &[u64]) -> Vec<HeatWritten> {
        let mut writes = Vec::new();
        let mut ten_seconds_are_over = false;
        for (open, ring) in self.0.iter_mut().zip(RINGS) {
            let step = second / ring.step;
            match open.take_if(|(present, _)| *present != step) {
                Some((over, counts)) => {
                    writes.push(written(ring, over, &counts));
                    ten_seconds_are_over = true;
                }
                // The long step is written while it lasts, so that the week ends now.
                None if ten_seconds_are_over => {
                    writes.extend(open.as_ref().map(|(step, counts)| written(ring, *step, counts)));
                }
                None => {}
            }
            if !times.is_empty() {
                let (_, counts) = open.get_or_insert((step, [0; BUCKETS]));
                counts.iter_mut().zip(times).for_each(|(sum, more)| *sum += more);
            }
        }
        writes
    }

    /// The long step that a process before has begun, from the short ones that it has written.
    pub(super) fn resume(now: u32, rows: impl Fn(usize) -> Option<[u8; HEAT_ROW]>) -> OpenHeat {
        let [short, long] = RINGS;
        let begun = now / long.step;
        let steps = begun * (long.step / short.step)..now / short.step;
        let mut sum = None;
        for step in steps {
            let row = rows(short.place(step)).and_then(|bytes| read(&bytes, step));
            add(&mut sum, row);
        }
        OpenHeat([None, sum.map(|counts| (begun, counts))])
    }
}

fn written(ring: Ring, step: u32, counts: &Counts) -> HeatWritten {
    let mut bytes = [0; HEAT_ROW];
    bytes[..4].copy_from_slice(&step.to_le_bytes());
    for (code, count) in bytes[4..].iter_mut().zip(counts) {
        *code = encode(*count);
    }
    let sum = checksum(&bytes[..HEAT_ROW - 2]);
    bytes[HEAT_ROW - 2..].copy_from_slice(&sum.to_le_bytes());
    HeatWritten {
        place: ring.place(step),
        bytes,
    }
}

/// The counts of this step. `None` if another step, nothing, or half a row is stored there.
fn read(bytes: &[u8], step: u32) -> Option<Counts> {
    let bytes: &[u8; HEAT_ROW] = bytes.try_into().ok()?;
    let is_whole = bytes[HEAT_ROW - 2..] == checksum(&bytes[..HEAT_ROW - 2]).to_le_bytes();
    (is_whole && bytes[..4] == step.to_le_bytes()).then(|| std::array::from_fn(|at| decode(bytes[4 + at])))
}

fn add(sum: &mut Option<Counts>, row: Option<Counts>) {
    let Some(row) = row else { return };
    let sum = sum.get_or_insert([0; BUCKETS]);
    sum.iter_mut().zip(row).for_each(|(sum, more)| *sum += more);
}

fn encode(count: u64) -> u8 {
    match count {
        0 => 0,
        _ => 1 + ((count as f64).log2() * 8.0).round().min(254.0) as u8,
    }
}

fn decode(code: u8) -> u64 {
    match code {
        0 => 0,
        _ => (f64::from(code - 1) / 8.0).exp2().round() as u64,
    }
}

/// Reads the columns of an app, whose bytes these are, from the finer ring if that still has the begin of the span.
pub(super) fn query(bytes: &[u8], bounds_ms: Vec<f64>, span: Span, now: u64) -> Heat {
    let age = now.saturating_sub(span.from);
    let [short, long] = RINGS;
    let ring = if age <= short.seconds() { short } else { long };
    let unit = u64::from(ring.step);
    let from = span.from.max(now.saturating_sub(ring.seconds())) / unit;
    let to = span.to.min(now + 1).div_ceil(unit).max(from);
    let per_column = (to - from).div_ceil(u64::from(span.points.max(1))).max(1);
    let from = from / per_column * per_column;
    let column = |first: u64| {
        let mut sum = None;
        for step in first..(first + per_column).min(to) {
            let step = u32::try_from(step).unwrap_or(u32::MAX);
            let place = ring.place(step);
            let row = bytes.get(place..place + HEAT_ROW);
            add(&mut sum, row.and_then(|row| read(row, step)));
        }
        sum.map(|counts| counts[..=bounds_ms.len().min(BUCKETS - 1)].to_vec())
    };
    let columns = (from..to)
        .step_by(usize::try_from(per_column).unwrap_or(usize::MAX))
        .map(column)
        .collect();
    Heat {
        step: per_column * unit,
        from: from * unit,
        columns,
        bounds_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Divisible by 600.
    const START: u32 = 1_764_411_600;

    struct Rings {
        bytes: Vec<u8>,
        open: OpenHeat,
    }

    impl Rings {
        fn push(&mut self, second: u32, times: &[u64]) {
            for row in self.open.push(second, times) {
                self.bytes[row.place..row.place + HEAT_ROW].copy_from_slice(&row.bytes);
            }
        }

        fn ask(&self, ago: u32, points: u32, now: u32) -> Heat {
            let span = Span {
                from: (now - ago).into(),
                to: now.into(),
                points,
            };
            query(&self.bytes, vec![1.0, 10.0], span, now.into())
        }
    }

    #[test]
    fn counts_are_exact_when_small_and_close_when_large() {
        for count in 0..=10 {
            assert_eq!(decode(encode(count)), count);
        }
        for power in 4..30 {
            let count = (1 << power) + 3;
            let read = decode(encode(count));
            assert!(read.abs_diff(count) * 20 <= count, "{count} became {read}");
        }
        assert!(decode(encode(u64::MAX)) > 1 << 31);
    }

    #[test]
    fn columns_are_what_was_answered_then() {
        let mut rings = Rings {
            bytes: vec![0; HEAT_ROWS],
            open: OpenHeat::default(),
        };
        for second in START..START + 1210 {
            // For a while nobody counts.
            let times: &[u64] = match second - START {
                100..110 => &[],
                0..600 => &[0, 1, 0],
                _ => &[0, 0, 1],
            };
            rings.push(second, times);
        }
        let now = START + 1210;
        let fine = rings.ask(1210, 5000, now);
        assert_eq!(
            (fine.step, fine.from, fine.columns.len()),
            (10, START.into(), 121)
        );
        assert_eq!(fine.columns[0], Some(vec![0, 10, 0]));
        assert_eq!(fine.columns[10], None);
        assert_eq!(fine.columns[119], Some(vec![0, 0, 10]));
        assert_eq!(fine.columns[120], None, "it is not over");
        let few = rings.ask(1210, 2, now);
        assert_eq!((few.step, few.columns.len()), (610, 3), "steps are aligned");
        let week = |rings: &Rings| {
            let week = rings.ask(7 * 86_400 - 1200, 5000, now);
            assert_eq!(week.step, 600);
            week.columns.into_iter().flatten().collect::<Vec<_>>()
        };
        let known = week(&rings);
        assert_eq!(known.len(), 2, "{known:?}");
        assert!(
            known[0][1].abs_diff(590) < 30 && known[1][2].abs_diff(600) < 30,
            "{known:?}"
        );
        rings.push(now, &[0, 0, 1]);
        assert_eq!(week(&rings)[2], [0, 0, 10], "it lasts");

        let rows = |place: usize| rings.bytes[place..place + HEAT_ROW].try_into().ok();
        let resumed = OpenHeat::resume(START + 605, rows);
        assert_eq!(resumed.0[1], None, "the short step is not over");
        let resumed = OpenHeat::resume(START + 599, rows);
        let (step, counts) = resumed.0[1].expect("it was begun");
        assert_eq!((step, counts[1]), (START / 600, 580));
        // Much later the rows are those of other steps.
        assert!(
            rings
                .ask(3600, 100, START + 30 * 86_400)
                .columns
                .iter()
                .all(Option::is_none)
        );
    }
}
