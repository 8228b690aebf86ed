//! What the scenarios are made of, and which of their combinations are run.

use std::collections::BTreeSet;
use std::fmt;

/// How a factor is called, and its levels.
pub(super) struct Factor {
    pub(super) name: &'static str,
    pub(super) levels: &'static [&'static str],
}

/// Node's major versions.
pub(super) const NODE: usize = 0;
/// How connections are steered.
pub(super) const PATH: usize = 1;
/// The app.
pub(super) const APP: usize = 2;
/// What happens to it.
pub(super) const EVENT: usize = 3;

pub(super) const FACTORS: [Factor; 4] = [
    Factor {
        name: "node",
        levels: &["20", "22", "24", "26"],
    },
    Factor {
        name: "path",
        levels: &["ebpf", "classic"],
    },
    Factor {
        name: "app",
        levels: &[
            "plain",
            "handler",
            "slow",
            "boot-5s",
            "two-ports",
            "express",
            "fastify",
        ],
    },
    Factor {
        name: "event",
        levels: &["reload", "scale", "stop-other", "daemon-killed", "daemon-updated"],
    },
];

/// A level of each factor, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cell(pub(super) [usize; FACTORS.len()]);

impl Cell {
    /// The name of its level of this factor.
    pub(super) fn level(self, factor: usize) -> &'static str {
        FACTORS[factor].levels[self.0[factor]]
    }

    /// Reads what is written by [`fmt::Display`].
    pub(super) fn parse(text: &str) -> Result<Cell, String> {
        let names: Vec<&str> = text.split('/').collect();
        let names: [&str; FACTORS.len()] = names.try_into().map_err(|_| {
            let factors: Vec<&str> = FACTORS.iter().map(|factor| factor.name).collect();
            format!("expected {}", factors.join("/"))
        })?;
        let mut cell = [0; FACTORS.len()];
        for ((index, factor), name) in cell.iter_mut().zip(&FACTORS).zip(names) {
            let found = factor.levels.iter().position(|level| *level == name);
            *index = found
                .ok_or_else(|| format!("{name:?} is no {}: {}", factor.name, factor.levels.join(", ")))?;
        }
        Ok(Cell(cell))
    }

    fn pairs(self) -> impl Iterator<Item = [(usize, usize); 2]> {
        let factors = 0..FACTORS.len();
        factors.flat_map(move |one| {
            (one + 1..FACTORS.len()).map(move |other| [(one, self.0[one]), (other, self.0[other])])
        })
    }

    fn singles(self) -> impl Iterator<Item = [(usize, usize); 2]> {
        (0..FACTORS.len()).map(move |factor| [(factor, self.0[factor]); 2])
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let levels: Vec<&str> = (0..FACTORS.len()).map(|factor| self.level(factor)).collect();
        f.pad(&levels.join("/"))
    }
}

/// Which combinations are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Cover {
    /// Every level once.
    Short,
    /// Every pair of levels.
    Pairs,
    /// All.
    Full,
}

impl Cover {
    pub(super) fn cells(self) -> Vec<Cell> {
        match self {
            Cover::Full => all(),
            Cover::Pairs => covering(|cell| cell.pairs().collect()),
            Cover::Short => covering(|cell| cell.singles().collect()),
        }
    }
}

fn all() -> Vec<Cell> {
    let mut cells = vec![Cell([0; FACTORS.len()])];
    for (at, factor) in FACTORS.iter().enumerate() {
        let with = |cell: &Cell| {
            let mut cell = *cell;
            (0..factor.levels.len())
                .map(|level| {
                    cell.0[at] = level;
                    cell
                })
                .collect::<Vec<_>>()
        };
        cells = cells.iter().flat_map(with).collect();
    }
    cells
}

/// Always the cell that has most of what no other one had, the first of those.
fn covering(parts: impl Fn(Cell) -> Vec<[(usize, usize); 2]>) -> Vec<Cell> {
    let all = all();
    let mut open: BTreeSet<_> = all.iter().flat_map(|cell| parts(*cell)).collect();
    let mut chosen = Vec::new();
    while !open.is_empty() {
        let news = |cell: &Cell| parts(*cell).iter().filter(|part| open.contains(*part)).count();
        // The first of the best: `max_by_key` would give the last.
        let Some(best) = all.iter().rev().max_by_key(|cell| news(cell)).copied() else {
            break;
        };
        for part in parts(best) {
            open.remove(&part);
        }
        chosen.push(best);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_covered_by_few_cells() {
        let cells = Cover::Pairs.cells();
        let covered: BTreeSet<_> = cells.iter().flat_map(|cell| cell.pairs()).collect();
        let wanted: BTreeSet<_> = all().iter().flat_map(|cell| cell.pairs()).collect();
        assert_eq!(covered, wanted);
        // No fewer than 35: every app meets every event.
        assert!((35..=40).contains(&cells.len()), "{}", cells.len());
        assert_eq!(cells, Cover::Pairs.cells(), "the same each time");
    }

    #[test]
    fn the_short_cover_has_every_level() {
        let cells = Cover::Short.cells();
        assert_eq!(cells.len(), 7, "{cells:?}");
        for (at, factor) in FACTORS.iter().enumerate() {
            for level in 0..factor.levels.len() {
                assert!(
                    cells.iter().any(|cell| cell.0[at] == level),
                    "{} {level}",
                    factor.name
                );
            }
        }
    }

    #[test]
    fn the_full_cross_has_them_all_once_and_names_are_read_back() {
        let cells = Cover::Full.cells();
        assert_eq!(cells.len(), 4 * 2 * 7 * 5);
        assert_eq!(cells.iter().collect::<BTreeSet<_>>().len(), cells.len());
        for cell in cells {
            assert_eq!(Cell::parse(&cell.to_string()), Ok(cell));
        }
        assert!(Cell::parse("22/ebpf/plain").is_err_and(|why| why.contains("node/path/app/event")));
        assert!(Cell::parse("21/ebpf/plain/reload").is_err_and(|why| why.contains("20, 22")));
    }
}
