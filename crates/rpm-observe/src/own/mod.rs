//! The metrics that apps have themselves: read from each worker, and added up.

mod parse;
mod prom_client;
mod sums;

pub(crate) use parse::{Family, Kind, Malformed, Sample, read, read_up_to};
pub(crate) use sums::Sums;
