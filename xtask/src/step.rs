//! The steps of a check: run in order until one fails. Some run beside others.

use std::ffi::OsString;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::workspace::{Workspace, cargo};

/// One check. Cheap ones come first, so that a mistake shows within seconds.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    action: Action,
    begins: Begins,
}

/// When a step begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begins {
    /// When those before it have ended.
    InTurn,
    /// Before the first step, in a thread. Its turn then is to be waited for.
    AtOnce,
    /// With its neighbours of this kind, when the first of them has its turn.
    Together,
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
            begins: Begins::InTurn,
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
            begins: Begins::InTurn,
        }
    }

    /// Lets the step begin beside those before it; for what waits for a network rather than computes.
    pub(crate) fn early(mut self) -> Step {
        self.begins = Begins::AtOnce;
        self
    }

    /// Lets the step run beside its neighbours that are marked so, too; for what does not use all CPUs all the time.
    pub(crate) fn together(mut self) -> Step {
        self.begins = Begins::Together;
        self
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
                let status = cargo()
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
    thread::scope(|scope| {
        let begin = |step| scope.spawn(move || timed(step, workspace));
        let at_once = |step: &Step| step.begins == Begins::AtOnce;
        let mut begun: Vec<_> = steps
            .iter()
            .map(|step| at_once(step).then(|| begin(step)))
            .collect();
        let mut group = 0;
        for (index, step) in steps.iter().enumerate() {
            let place = format!("{}/{} {}", index + 1, steps.len(), step.name);
            println!("== {place}: {}", step.alone());
            if step.begins == Begins::Together && index >= group {
                let rest = steps[index..].iter();
                let neighbours = rest.take_while(|step| step.begins == Begins::Together);
                for (place, neighbour) in (index..).zip(neighbours) {
                    begun[place] = Some(begin(neighbour));
                    group = place + 1;
                }
            }
            let (result, took) = match begun[index].take() {
                Some(running) => running.join().expect("a step does not panic"),
                None => timed(step, workspace),
            };
            let seconds = took.as_secs_f64();
            if result.is_err() && begun.iter().any(Option::is_some) {
                eprintln!("== {place}: failed; those beside it are waited for");
            }
            result.with_context(|| {
                format!(
                    "{check}: {place} failed after {seconds:.1} s (to run it alone: {})",
                    step.alone()
                )
            })?;
            let when = match step.begins {
                Begins::InTurn => "",
                Begins::AtOnce => ", begun before the others",
                Begins::Together => ", beside others",
            };
            println!("== {place}: ok in {seconds:.1} s{when}");
        }
        anyhow::Ok(())
    })?;
    println!(
        "{check}: all {} steps passed in {:.1} s",
        steps.len(),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

fn timed(step: &Step, workspace: &Workspace) -> (anyhow::Result<()>, Duration) {
    let start = Instant::now();
    (step.run(workspace), start.elapsed())
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

    /// Two steps of which the first waits for what the second does, which then fails.
    fn one_waits_for_the_other() -> [Step; 2] {
        [
            Step::own("waits", NONE, |workspace, _| {
                while !workspace.target.join("begun").exists() {
                    thread::yield_now();
                }
                Ok(())
            }),
            Step::own("begins", NONE, |workspace, _| {
                std::fs::write(workspace.target.join("begun"), "")?;
                bail!("the cause")
            }),
        ]
    }

    fn second_fails_at_its_turn(name: &str, steps: &[Step; 2]) {
        let workspace = Workspace {
            root: "/w".into(),
            target: std::env::temp_dir().join(format!("rpm-steps-{name}-{}", std::process::id())),
            packages: Vec::new(),
        };
        std::fs::create_dir_all(&workspace.target).expect("a directory");
        let error = run_steps("ci", steps, &workspace).expect_err("a step failed");
        assert!(
            format!("{error:#}").starts_with("ci: 2/2 begins failed after "),
            "{error:#}"
        );
        std::fs::remove_dir_all(&workspace.target).expect("it is ours");
    }

    #[test]
    fn an_early_step_runs_beside_those_before_it_and_fails_at_its_turn() {
        let [waits, begins] = one_waits_for_the_other();
        second_fails_at_its_turn("early", &[waits, begins.early()]);
    }

    #[test]
    fn neighbours_run_together_and_fail_at_their_turn() {
        second_fails_at_its_turn("together", &one_waits_for_the_other().map(Step::together));
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
