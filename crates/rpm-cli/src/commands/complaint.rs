//! Messages on standard error.

use std::fmt::Display;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use rpm_wire::api::ApiError;
use rpm_wire::terminal;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::hints::{meant, pasteable};
use crate::http::RequestError;

/// Whether only data and errors are printed (`--silent`).
static SILENT: AtomicBool = AtomicBool::new(false);

/// How long a command waits for the reader of standard error.
const READ_WITHIN: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// Turns off [`tell`].
pub(super) fn be_silent() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Whether it is turned off.
pub(super) fn is_silent() -> bool {
    SILENT.load(Ordering::Relaxed)
}

/// Writes a line to standard error, unless `--silent` is given.
pub(crate) fn tell(text: impl Display) {
    if !is_silent() {
        complain(text);
    }
}

/// Writes a line to standard error; if that is closed, there is nowhere to report it. It does not wait for a reader that has stopped
/// reading.
pub(super) fn complain(text: impl Display) {
    let stderr = std::io::stderr();
    let mut room = [PollFd::new(&stderr, PollFlags::OUT)];
    if is_silent() && rustix::event::poll(&mut room, Some(&READ_WITHIN)) == Ok(0) {
        return;
    }
    // The names and the last lines of apps are in it.
    let text = terminal::escaped(&text.to_string()).into_owned();
    let _ = writeln!(&stderr, "{}", pasteable(&text));
}

/// What failed and why, what to do, and the last lines of the worker that failed.
pub(super) fn complaint(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(RequestError::Api(refused)) => refusal(refused),
        _ => format!("error: {error:#}"),
    }
}

fn refusal(
    ApiError {
        error,
        hint,
        last_lines,
        unknown,
    }: &ApiError,
) -> String {
    let mut text = format!("error: {error}");
    let hint = match unknown.as_deref().and_then(meant) {
        Some((question, line)) => {
            text.push_str("; ");
            text.push_str(&question);
            Some(line).filter(|line| !line.is_empty())
        }
        None => hint.clone(),
    };
    if let Some(hint) = hint {
        text.push_str("\nhint: ");
        text.push_str(&hint);
    }
    if !last_lines.is_empty() {
        text.push_str("\nits last lines:");
    }
    for line in last_lines {
        text.push_str("\n  | ");
        text.push_str(line);
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_refusal_shows_hint_and_last_lines() {
        let refused = |hint: Option<&str>, lines: &[&str]| {
            let last_lines = lines.iter().map(|&line| line.to_owned()).collect();
            let error = ApiError {
                error: "web exited with 1".into(),
                hint: hint.map(String::from),
                last_lines,
                unknown: None,
            };
            complaint(&RequestError::Api(error).into())
        };
        assert_eq!(refused(None, &[]), "error: web exited with 1");
        assert_eq!(
            refused(Some("see the logs"), &["at x", "Error: y"]),
            "error: web exited with 1\nhint: see the logs\nits last lines:\n  | at x\n  | Error: y"
        );
    }

    #[test]
    fn other_errors_show_their_causes() {
        let error = Err::<(), _>(std::io::Error::other("inner"))
            .context("outer")
            .expect_err("error");
        assert_eq!(complaint(&error), "error: outer: inner");
    }
}
