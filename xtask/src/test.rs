//! `cargo xtask test`: the tests, run by cargo-nextest.
//!
//! Always of the whole workspace: with `-p`, cargo would choose other features for packages that are shared, and compile them a
//! second time. A filter says what is run; only what has changed is built.

use crate::tools::{NEXTEST, call};
use crate::workspace::Workspace;

/// Runs the tests that `arguments` of `cargo nextest run` select.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> anyhow::Result<()> {
    let mut command = NEXTEST.command(workspace)?;
    command.args(["run", "--workspace"]).args(arguments);
    call(command)
}
