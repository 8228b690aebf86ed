//! `cargo xtask man`: the man pages, in `target/man`.
//!
//! The program does not contain them. An example of `rpm-cli` generates them from the same source as `--help`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::workspace::{Workspace, cargo};

/// Writes the pages, and prints where they are.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let directory = workspace.target.join("man");
    write(workspace, &directory, "rpm")?;
    println!("{0}: man -l {0}/rpm.1", directory.display());
    Ok(())
}

/// Writes the pages of a program with this name.
pub(crate) fn write(workspace: &Workspace, directory: &Path, name: &str) -> anyhow::Result<()> {
    // With the features of the whole workspace, as for the tests, so that nothing is compiled twice.
    let mut build = cargo();
    build
        .args(["build", "--quiet", "--workspace", "--example", "man"])
        // For the package that the pages are for; build scripts of other packages would run again.
        .env_remove("SOURCE_DATE_EPOCH")
        .current_dir(&workspace.root);
    succeed(&mut build)?;
    let example = workspace.target.join("debug/examples/man");
    succeed(Command::new(example).arg(directory).arg(name))
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_owned();
    let program = program.display();
    let status = command
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("the man pages were not made: {program}: {status}");
    }
    Ok(())
}
