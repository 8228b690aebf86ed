//! `cargo xtask ci`: every check in order, until one fails.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};

use crate::workspace::{Workspace, cargo};
use crate::{fixtures, layers, tidy};

/// One check. Cheap ones come first, so that a slip shows in seconds.
struct Step {
    name: &'static str,
    action: Action,
}

enum Action {
    /// A command of this program, of the same name as the step.
    Own(fn(&Workspace) -> anyhow::Result<()>),
    /// A command of cargo, with one more variable in its environment or none.
    Cargo {
        arguments: &'static [&'static str],
        variable: Option<(&'static str, String)>,
    },
}

/// Runs all steps; the error names the first that failed and the command that runs it alone.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let start = Instant::now();
    let steps = steps(workspace);
    run_steps(&steps, workspace)?;
    println!(
        "ci: all {} steps passed in {:.1} s",
        steps.len(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn steps(workspace: &Workspace) -> Vec<Step> {
    let binary = workspace.target.join("release/rpm").display().to_string();
    let own = |name, task| Step {
        name,
        action: Action::Own(task),
    };
    let cargo = |name, arguments| Step {
        name,
        action: Action::Cargo {
            arguments,
            variable: None,
        },
    };
    let cargo_with = |name, arguments, variable| Step {
        name,
        action: Action::Cargo {
            arguments,
            variable: Some(variable),
        },
    };
    vec![
        cargo("fmt", &["fmt", "--all", "--", "--check"]),
        own("tidy", tidy::run),
        own("layers", layers::run),
        cargo(
            "clippy",
            &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
        ),
        cargo_with(
            "doc",
            &["doc", "--workspace", "--no-deps"],
            ("RUSTDOCFLAGS", "-D warnings".to_owned()),
        ),
        cargo("build", &["build", "--release", "-p", "rpm"]),
        own("fixtures", fixtures::run),
        // The end-to-end tests measure, so they run the release binary; the tests themselves stay
        // in the debug profile, where overflow and `debug_assert!` are checked.
        cargo_with("test", &["test", "--workspace"], ("RPM_BIN", binary)),
    ]
}

fn run_steps(steps: &[Step], workspace: &Workspace) -> anyhow::Result<()> {
    for (index, step) in steps.iter().enumerate() {
        let place = format!("{}/{} {}", index + 1, steps.len(), step.name);
        println!("== {place}: {}", step.alone());
        let start = Instant::now();
        let result = step.run(workspace);
        let seconds = start.elapsed().as_secs_f64();
        result.with_context(|| {
            format!(
                "ci: {place} failed after {seconds:.1} s (to run it alone: {})",
                step.alone()
            )
        })?;
        println!("== {place}: ok in {seconds:.1} s");
    }
    Ok(())
}

impl Step {
    fn run(&self, workspace: &Workspace) -> anyhow::Result<()> {
        match &self.action {
            Action::Own(task) => task(workspace),
            Action::Cargo { arguments, variable } => {
                let mut command = Command::new(cargo());
                command.args(*arguments).current_dir(&workspace.root);
                command.envs(variable.as_ref().map(|(name, value)| (name, value)));
                let status = command.status().context("cannot run cargo")?;
                if !status.success() {
                    bail!("{status}");
                }
                Ok(())
            }
        }
    }

    /// The command line that runs this step and nothing else.
    fn alone(&self) -> String {
        match &self.action {
            Action::Own(_) => format!("cargo xtask {}", self.name),
            Action::Cargo {
                arguments,
                variable: None,
            } => format!("cargo {}", arguments.join(" ")),
            Action::Cargo {
                arguments,
                variable: Some((name, value)),
            } => {
                format!("{name}='{value}' cargo {}", arguments.join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        Workspace {
            root: "/w".into(),
            target: "/w/target".into(),
            packages: Vec::new(),
        }
    }

    fn own(name: &'static str, task: fn(&Workspace) -> anyhow::Result<()>) -> Step {
        Step {
            name,
            action: Action::Own(task),
        }
    }

    #[test]
    fn steps_come_in_order_and_fixtures_before_tests() {
        let names: Vec<_> = steps(&workspace()).iter().map(|step| step.name).collect();
        assert_eq!(
            names,
            [
                "fmt", "tidy", "layers", "clippy", "doc", "build", "fixtures", "test"
            ]
        );
    }

    #[test]
    fn every_step_can_be_run_alone() {
        let alone: Vec<_> = steps(&workspace()).iter().map(Step::alone).collect();
        assert_eq!(alone[1], "cargo xtask tidy");
        assert_eq!(
            alone[4],
            "RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps"
        );
        assert_eq!(alone[7], "RPM_BIN='/w/target/release/rpm' cargo test --workspace");
    }

    #[test]
    fn the_first_failure_ends_the_run_and_is_named() {
        let steps = [
            own("fine", |_| Ok(())),
            own("broken", |_| bail!("the cause")),
            own("after", |_| panic!("ran a step after the failure")),
        ];
        let error = run_steps(&steps, &workspace()).expect_err("a step failed");
        let message = format!("{error:#}");
        assert!(message.starts_with("ci: 2/3 broken failed after "), "{message}");
        assert!(
            message.ends_with("(to run it alone: cargo xtask broken): the cause"),
            "{message}"
        );
    }
}
