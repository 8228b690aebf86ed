//! `cargo xtask test`: the tests, run by cargo-nextest.
//!
//! Always for the whole workspace: with `-p`, cargo chooses other features for shared packages and compiles them a second time. A filter
//! selects the tests; only what has changed is built.

use crate::tools::{NEXTEST, call};
use crate::workspace::Workspace;

/// Runs the tests that `arguments` of `cargo nextest run` select.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> anyhow::Result<()> {
    let mut command = NEXTEST.command(workspace)?;
    command.args(["run", "--workspace"]).args(arguments);
    call(command)
}
