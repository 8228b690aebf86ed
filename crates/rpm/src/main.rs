//! The `rpm` command: client, daemon and demonstration in one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    let home = std::env::var_os("RPM_HOME").unwrap_or_default();
    match rpm_daemon::run(std::path::Path::new(&home)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
