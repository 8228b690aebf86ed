//! The metrics that apps have themselves: read from each worker, and added up.

mod parse;
mod sums;

pub(crate) use sums::Sums;
