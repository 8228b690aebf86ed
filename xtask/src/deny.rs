//! `cargo xtask deny`: runs cargo-deny on third-party packages; `deny.toml` has the rules.

use crate::tools::{DENY, call};
use crate::workspace::Workspace;

/// The checks that depend only on the lock file. A new advisory must not fail an unchanged tree, so `cargo xtask deny advisories` is a
/// separate command.
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
