//! The metrics that apps have themselves: read from each worker, and added up.

mod parse;
mod sums;

pub(crate) use parse::{Family, Malformed, Sample, read};
pub(crate) use sums::Sums;
