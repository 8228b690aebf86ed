//! What both programs of this package have: `rpm`, and `rpm-observe`, which `rpm` executes for what is rich.

pub mod clients;
pub mod companion;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Standard output takes nothing any more.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub struct OutputError(#[from] io::Error);

/// Prints a line on standard output. Unlike `println!` it does not panic when its reader has gone.
///
/// # Errors
/// The reader has gone, or the disk is full.
pub fn say(line: impl Display) -> Result<(), OutputError> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Prints a line on standard error, with its commands as the reader has to type them.
pub fn tell(line: impl Display) {
    eprintln!("{}", rpm_cli::pasteable(&line.to_string()));
}

/// Reports an error on standard error. Exit code 0 or 1; a reader that has gone (`| head`) is no error.
#[must_use]
pub fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if has_no_reader(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn has_no_reader(error: &anyhow::Error) -> bool {
    let of_output = error.downcast_ref::<OutputError>();
    of_output.is_some_and(|error| error.0.kind() == io::ErrorKind::BrokenPipe)
}
