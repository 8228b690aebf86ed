//! HTTP load with an exact account of what became of every request.
//!
//! A [`Load`] describes the traffic, [`Load::start`] sends it from the caller's tokio runtime, and the
//! [`Report`] says for each request whether it was answered, refused, reset (on a fresh or on a reused
//! connection), cut short, answered wrongly or left hanging. Nothing is retried: what a client would
//! have to repeat is a failure here, unless the rules of the protocol say that it was not processed.

mod client;
mod latency;
mod load;
mod outcome;
mod report;
mod response;
mod schedule;
mod source;
mod stop;

pub use latency::Latency;
pub use load::{Kind, Load, Running};
pub use outcome::{Histogram, Outcome, Unclean};
pub use report::Report;
pub use schedule::Pace;
pub use stop::Stop;
