//! `cargo xtask ci`: every check in order, until one fails.

use crate::step::{Step, run_steps};
use crate::workspace::Workspace;
use crate::{deny, fixtures, layers, test, tidy};

const NONE: [&str; 0] = [];

/// Runs all steps; the error names the first that failed and the command that runs it alone.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    run_steps("ci", &steps(), workspace)
}

fn steps() -> Vec<Step> {
    vec![
        fmt(),
        tidy(),
        layers(),
        Step::own("deny", NONE, deny::run),
        clippy(),
        Step::cargo("doc", ["doc", "--workspace", "--no-deps"]).with_env("RUSTDOCFLAGS", "-D warnings"),
        fixtures(),
        Step::own("test", ["--profile", "ci"], test::run),
    ]
}

pub(crate) fn fmt() -> Step {
    Step::cargo("fmt", ["fmt", "--all", "--", "--check"])
}

pub(crate) fn tidy() -> Step {
    Step::own("tidy", NONE, |workspace, _| tidy::run(workspace))
}

pub(crate) fn layers() -> Step {
    Step::own("layers", NONE, |workspace, _| layers::run(workspace))
}

pub(crate) fn fixtures() -> Step {
    Step::own("fixtures", NONE, |workspace, _| fixtures::run(workspace))
}

/// All lints of the whole workspace; cargo checks again only what has changed.
pub(crate) fn clippy() -> Step {
    Step::cargo(
        "clippy",
        ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cheap_steps_come_first_and_fixtures_before_tests() {
        let alone: Vec<_> = steps().iter().map(Step::alone).collect();
        assert_eq!(
            alone,
            [
                "cargo fmt --all -- --check",
                "cargo xtask tidy",
                "cargo xtask layers",
                "cargo xtask deny",
                "cargo clippy --workspace --all-targets -- -D warnings",
                "RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps",
                "cargo xtask fixtures",
                "cargo xtask test --profile ci",
            ]
        );
    }
}
