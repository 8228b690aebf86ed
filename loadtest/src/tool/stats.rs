//! Medians and their intervals.

/// A median and the interval that holds the true one with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Median {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Fewer than 6 values have no such interval; then it is the range of all.
    pub(crate) enough: bool,
}

impl Median {
    /// By order statistics, which assume nothing of the distribution. `None` without values.
    pub(crate) fn of(values: &[f64]) -> Option<Median> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let value = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            sorted[middle - 1].midpoint(sorted[middle])
        };
        Some(match rank(sorted.len()) {
            Some(rank) => Median {
                value,
                low: sorted[rank],
                high: sorted[sorted.len() - 1 - rank],
                enough: true,
            },
            None => Median {
                value,
                low: first,
                high: last,
                enough: false,
            },
        })
    }
}

/// The middle value, 0 without values.
pub(crate) fn median(values: &[f64]) -> f64 {
    Median::of(values).map_or(0.0, |median| median.value)
}

/// The largest index from either end such that the values there enclose the median of the population
/// in at least 95 % of samples: the number of values below it is binomial with p = 1/2.
fn rank(count: usize) -> Option<usize> {
    let mut probability = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut below = 0.0;
    let mut found = None;
    for index in 0..count / 2 {
        below += probability;
        if 2.0 * below > 0.05 {
            break;
        }
        found = Some(index);
        probability *= (count - index) as f64 / (index + 1) as f64;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_agree_with_the_tables_of_the_sign_test() {
        // Ranks from one, as tables print them: 6 → 1, 9 → 2, 15 → 4, 25 → 8, 100 → 40.
        let ranks = [5, 6, 9, 15, 25, 100].map(|count| rank(count).map(|index| index + 1));
        assert_eq!(ranks, [None, Some(1), Some(2), Some(4), Some(8), Some(40)]);
    }

    #[test]
    fn fifteen_values_in_any_order() {
        let mut values: Vec<f64> = (1..=15).map(f64::from).collect();
        values.reverse();
        let expected = Median {
            value: 8.0,
            low: 4.0,
            high: 12.0,
            enough: true,
        };
        assert_eq!(Median::of(&values), Some(expected));
    }

    #[test]
    fn few_values_give_their_range() {
        let expected = Median {
            value: 1.5,
            low: 1.0,
            high: 2.0,
            enough: false,
        };
        assert_eq!(Median::of(&[2.0, 1.0]), Some(expected));
        assert_eq!(Median::of(&[]), None);
    }
}
