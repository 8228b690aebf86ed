//! Loads against servers that misbehave on purpose.

mod classification;
mod kinds;
