//! What is said of a failure: to a client, and in a line of a log.

use std::io;

use rpm_wire::api::ApiError;

/// The answer to a request that failed. `hint`: what to do about it.
pub(crate) fn failure(error: impl Into<String>, hint: Option<&str>) -> ApiError {
    ApiError {
        error: error.into(),
        hint: hint.map(str::to_owned),
        last_lines: Vec::new(),
        unknown: None,
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// In parentheses which limit of open files is behind `error`, if one is.
pub(crate) fn limit_hint(error: &io::Error) -> String {
    rpm_sys::limits::explain(error).map_or_else(String::new, |limit| format!(" ({limit})"))
}
