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
        clippy().together(),
        doc().together(),
        build().together(),
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

/// Where the lints have what they need of the dependencies. They share nearly nothing with a build, and cargo lets only one command at a
/// time use a directory, so this way both may run.
const LINTS: [&str; 2] = ["--target-dir", "target/lints"];

/// All lints of the whole workspace. Cargo checks only what has changed.
pub(crate) fn clippy() -> Step {
    let what = ["clippy", "--workspace", "--all-targets"];
    Step::cargo(
        "clippy",
        what.into_iter().chain(LINTS).chain(["--", "-D", "warnings"]),
    )
}

/// Links and markup in the documentation. There are no examples: naming them chooses the features of a build of tests, so that the packages from
/// elsewhere that clippy has read are not read again.
fn doc() -> Step {
    let what = ["doc", "--workspace", "--no-deps", "--lib", "--bins", "--examples"];
    Step::cargo("doc", what.into_iter().chain(LINTS)).with_env("RUSTDOCFLAGS", "-D warnings")
}

/// Compiles the tests, and the programs that they run.
fn build() -> Step {
    Step::own("test", ["--profile", "ci", "--no-run"], test::run)
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
                "cargo clippy --workspace --all-targets --target-dir target/lints -- -D warnings",
                "RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --lib --bins --examples --target-dir target/lints",
                "cargo xtask test --profile ci --no-run",
                "cargo xtask fixtures",
                "cargo xtask test --profile ci",
            ]
        );
    }
}
