//! `cargo xtask man`: the man pages, in `target/man`.
//!
//! The program does not carry them. An example of `rpm-cli` makes them from what `--help` is made from.

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::workspace::{Workspace, cargo};

/// Writes them, and says where.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let directory = workspace.target.join("man");
    let status = Command::new(cargo())
        .args(["run", "--quiet", "--package", "rpm-cli", "--example", "man", "--"])
        .arg(&directory)
        .current_dir(&workspace.root)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the man pages were not made: {status}");
    }
    println!("{0}: man -l {0}/rpm.1", directory.display());
    Ok(())
}
