//! Traces: a request continues the trace of its client or begins one, and what is sampled becomes a span.
//!
//! [`context`] reads and writes `traceparent` and decides what is sampled, without clock and randomness; `ids` draws the numbers. An
//! `OpenSpan` is what is known of a sampled request while it is served; when it is dropped it becomes a [`Span`] in the [`Spans`] of the
//! daemon. A request that is not sampled has a header field and nothing else.

pub mod context;
mod ids;
pub(crate) mod open;
mod span;
mod spans;
mod tracing;

pub use span::Span;
pub use spans::{SPANS, Spans};
pub use tracing::Tracing;
