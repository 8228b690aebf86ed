//! The steps of a check: run in order until one fails.

use std::ffi::OsString;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};

use crate::workspace::{Workspace, cargo};

/// One check. Cheap ones come first, so that a mistake shows within seconds.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    action: Action,
}

enum Action {
    /// A command of this program with the same name as the step, and its arguments.
    Own {
        arguments: Vec<String>,
        task: fn(&Workspace, &[String]) -> anyhow::Result<()>,
    },
    /// A cargo command, with additional environment variables.
    Cargo {
        arguments: Vec<String>,
        environment: Vec<(&'static str, OsString)>,
    },
}

impl Step {
    /// A step that runs a command of this program, which must have the step's name.
    pub(crate) fn own(
        name: &'static str,
        arguments: impl IntoIterator<Item = impl Into<String>>,
        task: fn(&Workspace, &[String]) -> anyhow::Result<()>,
    ) -> Step {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Step {
            name,
            action: Action::Own { arguments, task },
        }
    }

    /// A step that runs a cargo command.
    pub(crate) fn cargo(name: &'static str, arguments: impl IntoIterator<Item = impl Into<String>>) -> Step {
        Step {
            name,
            action: Action::Cargo {
                arguments: arguments.into_iter().map(Into::into).collect(),
                environment: Vec::new(),
            },
        }
    }

    /// Adds an environment variable; only for cargo commands.
    pub(crate) fn with_env(mut self, name: &'static str, value: impl Into<OsString>) -> Step {
        if let Action::Cargo { environment, .. } = &mut self.action {
            environment.push((name, value.into()));
        }
        self
    }

    fn run(&self, workspace: &Workspace) -> anyhow::Result<()> {
        match &self.action {
            Action::Own { arguments, task } => task(workspace, arguments),
            Action::Cargo {
                arguments,
                environment,
            } => {
                let status = Command::new(cargo())
                    .args(arguments)
                    .current_dir(&workspace.root)
                    .envs(environment.iter().map(|(name, value)| (name, value)))
                    .status()
                    .context("cannot run cargo")?;
                if !status.success() {
                    bail!("{status}");
                }
                Ok(())
            }
        }
    }

    /// The command line that runs only this step.
    pub(crate) fn alone(&self) -> String {
        let (environment, command, arguments) = match &self.action {
            Action::Own { arguments, .. } => (&[][..], format!("cargo xtask {}", self.name), arguments),
            Action::Cargo {
                arguments,
                environment,
            } => (&environment[..], "cargo".to_owned(), arguments),
        };
        let environment = environment
            .iter()
            .map(|(name, value)| format!("{name}={} ", quoted(&value.to_string_lossy())));
        let arguments = arguments.iter().map(|argument| format!(" {}", quoted(argument)));
        environment.chain([command]).chain(arguments).collect()
    }
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs all steps. An error names the first failed step and the command that runs it alone. `check` names the whole.
pub(crate) fn run_steps(check: &str, steps: &[Step], workspace: &Workspace) -> anyhow::Result<()> {
    let begun = Instant::now();
    for (index, step) in steps.iter().enumerate() {
        let place = format!("{}/{} {}", index + 1, steps.len(), step.name);
        println!("== {place}: {}", step.alone());
        let start = Instant::now();
        let result = step.run(workspace);
        let seconds = start.elapsed().as_secs_f64();
        result.with_context(|| {
            format!(
                "{check}: {place} failed after {seconds:.1} s (to run it alone: {})",
                step.alone()
            )
        })?;
        println!("== {place}: ok in {seconds:.1} s");
    }
    println!(
        "{check}: all {} steps passed in {:.1} s",
        steps.len(),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [&str; 0] = [];

    #[test]
    fn the_first_failure_ends_the_run_and_is_named() {
        let workspace = Workspace {
            root: "/w".into(),
            target: "/w/target".into(),
            packages: Vec::new(),
        };
        let steps = [
            Step::own("fine", NONE, |_, _| Ok(())),
            Step::own("broken", ["--hard"], |_, _| bail!("the cause")),
            Step::own("after", NONE, |_, _| panic!("ran a step after the failure")),
        ];
        let error = run_steps("ci", &steps, &workspace).expect_err("a step failed");
        let message = format!("{error:#}");
        assert!(message.starts_with("ci: 2/3 broken failed after "), "{message}");
        assert!(
            message.ends_with("(to run it alone: cargo xtask broken --hard): the cause"),
            "{message}"
        );
    }

    #[test]
    fn the_line_that_runs_a_step_alone_can_be_pasted() {
        let step = Step::cargo("test", ["nextest", "run", "-E", "test(it's) & package(=a)"])
            .with_env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(
            step.alone(),
            r"RUSTDOCFLAGS='-D warnings' cargo nextest run -E 'test(it'\''s) & package(=a)'"
        );
        assert_eq!(Step::own("tidy", NONE, |_, _| Ok(())).alone(), "cargo xtask tidy");
    }
}
