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
        fuzz(),
        Step::cargo("doc", ["doc", "--workspace", "--no-deps"]).with_env("RUSTDOCFLAGS", "-D warnings"),
        fixtures().early(),
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

/// All lints of the whole workspace. Cargo checks only what has changed.
pub(crate) fn clippy() -> Step {
    Step::cargo(
        "clippy",
        ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
    )
}

/// Lints the fuzz targets, which are a workspace of their own. The target directory is the main one, where part of their dependencies is
/// checked already. libFuzzer is left out, because it would have to be compiled.
fn fuzz() -> Step {
    let what = [
        "clippy",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--no-default-features",
    ];
    let how = ["--target-dir", "target", "--", "-D", "warnings"];
    Step::cargo("fuzz", what.into_iter().chain(how))
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
                "cargo clippy --manifest-path fuzz/Cargo.toml --no-default-features --target-dir target -- -D warnings",
                "RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps",
                "cargo xtask fixtures",
                "cargo xtask test --profile ci",
            ]
        );
    }
}
