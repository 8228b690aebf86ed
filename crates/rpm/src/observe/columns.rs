//! Columns of text.

/// Where a column's cells begin or end at the same place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Columns as wide as their widest cell, two spaces apart.
pub(crate) fn aligned<const N: usize>(rows: &[[String; N]], sides: [Side; N]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(widths).zip(sides);
            let cells = cells.map(|((cell, width), side)| match side {
                Side::Left => format!("{cell:<width$}"),
                Side::Right => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |first: &str, number: &str, last: &str| [first, number, last].map(str::to_owned);
        let rows = [row("rule", "x", "y"), row("0", "10", "zz")];
        let lines = aligned(&rows, [Side::Left, Side::Right, Side::Left]);
        assert_eq!(lines, ["rule   x  y", "0     10  zz"]);
    }
}
