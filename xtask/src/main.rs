//! `cargo xtask`: every check of the repository, one of them or all in order.

mod ci;
mod deny;
mod dist;
mod fixtures;
mod layers;
mod man;
mod npm;
mod quick;
mod rooms;
mod step;
mod test;
mod tidy;
mod tools;
mod workspace;

use std::process::ExitCode;

use workspace::Workspace;

const USAGE: &str = "usage: cargo xtask <command>

  ci        every check and every test, in the order and the way CI runs them
  quick [--since REV] [TEST ...]
            the checks after an edit: fmt, tidy, layers, clippy, the tests of the crates that differ from REV (HEAD) and of those
            that depend on them, and the end-to-end tests that were edited or whose names contain TEST
  test [ARGUMENT ...]
            tests, with the arguments of `cargo nextest run`: a part of a name, `-E EXPRESSION`, `--no-capture`
  dist      what is given to users, in target/dist: the programs (static files) and their symbols, the packages for npm,
            the one for Debian, and a bill of materials (CycloneDX)
  deb [--fast] PROGRAM DIRECTORY
            the package for Debian from a program that was built before, with rpm-observe beside it
  npm [--fast] PROGRAM DIRECTORY
            the packages for npm from a program that was built before, with rpm-observe beside it
  man       the man pages, in target/man: one of each command
  tidy      conventions that rustc and clippy do not know
  layers    which crate may depend on which
  deny [CHECK ...]
            licences, sources and banned packages of what is in the lock file; `deny advisories` asks for known faults
  advisories --db PATH
            known faults, without a network: PATH is a clone of RustSec's database of advisories
  fixtures  npm ci in tests/fixtures, if what is installed there is not what the lock file says";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["ci"] => on_workspace(ci::run),
        ["quick", rest @ ..] => on_workspace(|workspace| quick::run(workspace, &owned(rest))),
        ["test", rest @ ..] => on_workspace(|workspace| test::run(workspace, &owned(rest))),
        ["tidy"] => on_workspace(tidy::run),
        ["advisories", "--db", path] => on_workspace(|workspace| deny::advisories(workspace, path.as_ref())),
        ["deny", rest @ ..] => on_workspace(|workspace| deny::run(workspace, &owned(rest))),
        ["layers"] => on_workspace(layers::run),
        ["man"] => on_workspace(man::run),
        ["dist"] => on_workspace(dist::run),
        ["deb", rest @ ..] => on_workspace(|workspace| dist::deb(workspace, &owned(rest))),
        ["npm", rest @ ..] => on_workspace(|workspace| npm::run(workspace, &owned(rest))),
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

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn on_workspace(task: impl FnOnce(&Workspace) -> anyhow::Result<()>) -> anyhow::Result<()> {
    task(&Workspace::load()?)
}
