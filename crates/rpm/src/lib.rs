//! What both programs of this package have: `rpm`, and `rpm-observe`, which `rpm` executes for what is rich.

pub mod clients;
pub mod companion;

use std::process::ExitCode;

/// Reports an error on standard error. Exit code 0 or 1.
#[must_use]
pub fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
