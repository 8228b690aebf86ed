//! `cargo xtask ci | tidy | layers | fixtures`: every check of the repository, one of them or all in order.

mod ci;
mod fixtures;
mod layers;
mod tidy;
mod workspace;

use std::process::ExitCode;

use workspace::Workspace;

const USAGE: &str = "usage: cargo xtask <command>

  ci        every check and every test, in the order and the way CI runs them
  tidy      conventions that rustc and clippy do not know
  layers    which crate may depend on which
  fixtures  npm ci in tests/fixtures, if what is installed there is not what the lock file says";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["ci"] => on_workspace(ci::run),
        ["tidy"] => on_workspace(tidy::run),
        ["layers"] => on_workspace(layers::run),
        ["fixtures"] => on_workspace(fixtures::run),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(anyhow::anyhow!("unknown or missing command\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn on_workspace(task: fn(&Workspace) -> anyhow::Result<()>) -> anyhow::Result<()> {
    task(&Workspace::load()?)
}
