//! `cargo xtask deny`: what cargo-deny says of the packages from elsewhere; `deny.toml` has the rules.

use crate::tools::{DENY, call};
use crate::workspace::Workspace;

/// The checks that the lock file alone decides. Advisories come in from outside: one that is published must not turn an unchanged tree
/// red, so `cargo xtask deny advisories` is a command of its own.
const CHECKS: [&str; 3] = ["bans", "licenses", "sources"];

/// Runs the named checks, or those of [`CHECKS`].
pub(crate) fn run(workspace: &Workspace, checks: &[String]) -> anyhow::Result<()> {
    let mut command = DENY.command(workspace)?;
    command.arg("check");
    if checks.is_empty() {
        println!("advisories are left out: `cargo xtask deny advisories` fetches their database and asks");
        command.args(CHECKS);
    } else {
        command.args(checks);
    }
    call(command)
}
