//! `deploy`: deploys the apps of an ecosystem file to other machines over ssh and git, as its `deploy` section says.
//!
//! On the host, below `path`: `source` is the clone, `current` a link to it, `shared` is for files of the app, and `.deploys` has a line for
//! each deployed version.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context as _, anyhow, bail};
use rpm_spec::{Deployment, deployments};

use super::{surroundings, tell};
use crate::config;
use crate::hints::command;

/// The step to run.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Setup,
    /// Deploy this version; `None`: the one in the file.
    Update(Option<String>),
    Revert(u32),
    Current,
    Previous,
    List,
    Exec(String),
}

impl Step {
    /// `environment`: for the commands in errors.
    fn of(words: &[String], environment: &str) -> anyhow::Result<Step> {
        let (first, rest) = match words {
            [] => return Ok(Step::Update(None)),
            [first, rest @ ..] => (first.as_str(), rest),
        };
        let step = match first {
            "setup" => Step::Setup,
            "update" => Step::Update(None),
            "ref" => match rest {
                [version] => Step::Update(Some(version_of(version)?)),
                _ => bail!("name the version: deploy <environment> ref <version>"),
            },
            "revert" => {
                let back = rest.first().map_or(Ok(1), |n| n.parse());
                Step::Revert(back.context("expected how many versions back: deploy <environment> revert 1")?)
            }
            "curr" | "current" => Step::Current,
            "prev" | "previous" => Step::Previous,
            "list" => Step::List,
            "exec" | "run" => match rest {
                [] => bail!("name the command: deploy <environment> exec \"npm ls\""),
                words => Step::Exec(words.join(" ")),
            },
            word if looks_like_version(word) => Step::Update(Some(version_of(word)?)),
            word => bail!("{}", unknown(word, environment)),
        };
        Ok(step)
    }
}

/// The words that a step begins with.
const STEPS: [&str; 11] = [
    "setup", "update", "ref", "revert", "curr", "current", "prev", "previous", "list", "exec", "run",
];

/// As under PM2, a version may stand without `ref`, unless it could be a misspelled step.
fn looks_like_version(word: &str) -> bool {
    !word.starts_with('-') && word.contains(|c: char| !c.is_ascii_alphabetic() && c != '-')
}

/// The version, unless git would take it for an option.
fn version_of(word: &str) -> anyhow::Result<String> {
    match word.starts_with('-') || word.is_empty() {
        true => bail!("{word:?} is not a branch, tag or commit"),
        false => Ok(word.to_owned()),
    }
}

fn unknown(word: &str, environment: &str) -> String {
    if word.starts_with('-') {
        return format!("deploy has no option {word}; `rpm deploy --help` shows what it does");
    }
    let did_you_mean =
        rpm_spec::nearest(word, STEPS).map_or_else(String::new, |near| format!("; did you mean {near}?"));
    format!(
        "deploy has no {word:?}{did_you_mean}\nTo deploy a branch, tag or commit: {}",
        command(["deploy", environment, "ref", word])
    )
}

/// The words without PM2's `--force`, which deploys in spite of local changes: nothing here looks at those.
fn without_force(words: Vec<String>) -> Vec<String> {
    let ran = words.iter().position(|word| word == "exec" || word == "run");
    let own = ran.unwrap_or(words.len());
    let kept = words
        .into_iter()
        .enumerate()
        .filter(|(at, word)| *at > own || word != "--force");
    kept.map(|(_, word)| word).collect()
}

/// `deploy [file] <environment> [what]`.
pub(super) fn deploy(words: &[OsString]) -> anyhow::Result<()> {
    let around = surroundings()?;
    let (file, words) = match words {
        [first, rest @ ..] if config::is_file(first, &around) => (first.clone(), rest),
        words => (config::usual(&around, "the ecosystem file")?, words),
    };
    let words: Vec<String> = words
        .iter()
        .map(|word| {
            word.to_str()
                .map(str::to_owned)
                .context("an argument is not UTF-8")
        })
        .collect::<anyhow::Result<_>>()?;
    let words = without_force(words);
    let name = file.to_string_lossy().into_owned();
    let known = read(&file, &name)?;
    let Some((environment, words)) = words.split_first() else {
        bail!(
            "name the environment, as in {}; {}",
            command([
                "deploy",
                &name,
                known.keys().next().map_or("production", String::as_str)
            ]),
            list(&known)
        );
    };
    let deployment = known.get(environment).ok_or_else(|| {
        anyhow!(
            "{name} has no environment {environment:?} in `deploy`; {}",
            list(&known)
        )
    })?;
    let step = Step::of(words, environment)?;
    version_of(&deployment.git_ref).with_context(|| format!("{name}: `deploy.{environment}.ref`"))?;
    if let (Step::Update(_), Some(command)) = (&step, &deployment.pre_deploy_local) {
        tell(format!("here: {command}"));
        let status = Command::new("sh")
            .args(["-c", command])
            .envs(&deployment.env)
            .status()
            .context("cannot run sh")?;
        if !status.success() {
            bail!("pre-deploy-local failed ({status}); nothing was deployed");
        }
    }
    let script = script(&step, deployment, (&name, environment));
    for host in &deployment.hosts {
        tell(format!("{host}: {}", described(&step)));
        let alone = deployment.hosts.len() == 1;
        let status = run(ssh(deployment, host), &script, &deployment.env, alone)?;
        if !status.success() {
            bail!("{host}: the deployment failed ({status}); the hosts after it were not changed");
        }
    }
    Ok(())
}

fn read(file: &OsStr, name: &str) -> anyhow::Result<BTreeMap<String, Deployment>> {
    let value = config::value(file, &surroundings()?)?;
    deployments(&value).map_err(|problems| {
        let lines: Vec<String> = problems
            .iter()
            .map(|problem| format!("{name}: {problem}"))
            .collect();
        anyhow!("{}", lines.join("\n"))
    })
}

fn list(known: &BTreeMap<String, Deployment>) -> String {
    if known.is_empty() {
        return "it has no `deploy` section".to_owned();
    }
    let names: Vec<&str> = known.keys().map(String::as_str).collect();
    format!("there are: {}", names.join(", "))
}

fn described(step: &Step) -> String {
    match step {
        Step::Setup => "set up".to_owned(),
        Step::Update(None) => "update".to_owned(),
        Step::Update(Some(version)) => format!("update to {version}"),
        Step::Revert(back) => format!("back by {back}"),
        Step::Current => "the version that is current".to_owned(),
        Step::Previous => "the version before it".to_owned(),
        Step::List => "what was deployed".to_owned(),
        Step::Exec(command) => command.clone(),
    }
}

/// Runs the script on the host. The script is passed on standard input, followed by the values of the variables in the order of their
/// names, each ended by a NUL: arguments would be readable by all users of both machines, with the credentials in URLs. `more`: the
/// standard input of this command follows, for the script.
fn run(
    mut ssh: Command,
    script: &str,
    variables: &BTreeMap<String, String>,
    more: bool,
) -> anyhow::Result<ExitStatus> {
    let cannot = "cannot run ssh; install it";
    let mut input = String::new();
    for text in std::iter::once(script).chain(variables.values().map(String::as_str)) {
        if text.contains('\0') {
            bail!("a command contains a NUL byte");
        }
        input.push_str(text);
        input.push('\0');
    }
    let mut child = ssh.stdin(Stdio::piped()).spawn().context(cannot)?;
    if let Some(mut pipe) = child.stdin.take() {
        // If ssh ends before it has read everything, its status says why.
        let written = pipe.write_all(input.as_bytes());
        if more && written.is_ok() {
            // It may wait for a user who types, and ends with this process.
            thread::spawn(move || io::copy(&mut io::stdin(), &mut pipe));
        }
    }
    child.wait().context(cannot)
}

fn ssh(deployment: &Deployment, host: &str) -> Command {
    let mut ssh = Command::new("ssh");
    if let Some(port) = deployment.port {
        ssh.args(["-p", &port.to_string()]);
    }
    if let Some(key) = &deployment.key {
        ssh.args(["-i", key]);
    }
    for option in &deployment.ssh_options {
        ssh.args(["-o", option]);
    }
    ssh.arg(match &deployment.user {
        Some(user) => format!("{user}@{host}"),
        None => host.to_owned(),
    });
    ssh.arg(format!("bash -c {}", quoted(READ_SCRIPT)));
    ssh
}

/// Quotes a value for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The script for the host. `origin`: the file and the environment.
fn script(step: &Step, deployment: &Deployment, (file, environment): (&str, &str)) -> String {
    let mut script = "set -e\n".to_owned();
    for name in deployment.env.keys() {
        let _ = writeln!(script, "IFS= read -r -d '' {name}\nexport {name}");
    }
    let _ = writeln!(script, "path={}", quoted(&deployment.path));
    // `~` is the home directory there.
    script.push_str("case $path in \"~\"|\"~/\"*) path=$HOME${path#\"~\"};; esac\n");
    let hook = |script: &mut String, command: Option<&str>| {
        if let Some(command) = command {
            let _ = writeln!(script, "( {command}\n)");
        }
    };
    let usual = format!("rpm startOrReload {} --env {}", quoted(file), quoted(environment));
    let after = deployment.post_deploy.as_deref().unwrap_or(&usual);
    match step {
        Step::Setup => {
            script.push_str("mkdir -p \"$path/shared/logs\" \"$path/shared/pids\"\ncd \"$path\"\n");
            hook(&mut script, deployment.pre_setup.as_deref());
            let _ = writeln!(
                script,
                "test -d source/.git || git clone {} source\ncd source\ngit fetch --all --tags --quiet\ngit checkout --quiet --detach {}",
                quoted(&deployment.repo),
                quoted(&deployment.git_ref)
            );
            script.push_str("ln -sfn \"$path/source\" \"$path/current\"\n");
            hook(&mut script, deployment.post_setup.as_deref());
        }
        Step::Update(version) => {
            let version = version.as_deref().unwrap_or(&deployment.git_ref);
            script.push_str(NEEDS_SETUP);
            hook(&mut script, deployment.pre_deploy.as_deref());
            let _ = writeln!(
                script,
                "git fetch --all --tags --quiet\ngit reset --hard --quiet {}",
                quoted(version)
            );
            script.push_str(NOTE);
            hook(&mut script, Some(after));
        }
        Step::Revert(back) => {
            script.push_str(NEEDS_SETUP);
            let _ = writeln!(
                script,
                "version=$(tail -n {} \"$path/.deploys\" | head -n 1)\ntest $(wc -l < \"$path/.deploys\") -gt {back} || \
                 {{ echo \"there are not that many earlier versions\" >&2; exit 1; }}\ngit reset --hard --quiet \"$version\"",
                u64::from(*back) + 1
            );
            script.push_str(NOTE);
            hook(&mut script, Some(after));
        }
        Step::Current => script.push_str("tail -n 1 \"$path/.deploys\"\n"),
        Step::Previous => script.push_str("tail -n 2 \"$path/.deploys\" | head -n 1\n"),
        Step::List => script.push_str("tail -n 20 \"$path/.deploys\"\n"),
        Step::Exec(command) => {
            script.push_str("cd \"$path/current\"\n");
            let _ = writeln!(script, "{command}");
        }
    }
    script
}

/// Reads the script from standard input and runs it. `read` takes no byte after the NUL: the rest is the input of the script.
const READ_SCRIPT: &str = "IFS= read -r -d \"\" script; eval \"$script\"";
const NEEDS_SETUP: &str = "\
test -d \"$path/source/.git\" || { echo \"$path is not set up; deploy <environment> setup\" >&2; exit 1; }
cd \"$path/source\"
";
/// Records the deployed version.
const NOTE: &str = "\
ln -sfn \"$path/source\" \"$path/current\"
cd \"$path/current\"
git rev-parse HEAD >> \"$path/.deploys\"
";

#[cfg(test)]
mod tests {
    use super::*;

    fn step(words: &[&str]) -> anyhow::Result<Step> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Step::of(&without_force(words), "production")
    }

    #[test]
    fn steps_are_those_of_pm2() {
        assert_eq!(step(&[]).ok(), Some(Step::Update(None)));
        assert_eq!(step(&["setup"]).ok(), Some(Step::Setup));
        assert_eq!(step(&["revert", "2"]).ok(), Some(Step::Revert(2)));
        assert_eq!(step(&["v1.2"]).ok(), Some(Step::Update(Some("v1.2".to_owned()))));
        assert_eq!(
            step(&["exec", "npm", "ls"]).ok(),
            Some(Step::Exec("npm ls".to_owned()))
        );
        assert!(step(&["revert", "x"]).is_err() && step(&["exec"]).is_err());
        assert_eq!(step(&["--force"]).ok(), Some(Step::Update(None)));
        assert_eq!(step(&["setup", "--force"]).ok(), Some(Step::Setup));
        let git = step(&["--force", "exec", "git", "push", "--force"]);
        assert_eq!(git.ok(), Some(Step::Exec("git push --force".to_owned())));
    }

    #[test]
    fn what_is_no_step_is_not_taken_for_a_version() {
        for (words, expected) in [
            (
                &["setp"][..],
                "deploy has no \"setp\"; did you mean setup?\nTo deploy a branch, tag or commit: `rpm deploy production ref setp`",
            ),
            (
                &["console"],
                "deploy has no \"console\"\nTo deploy a branch, tag or commit: `rpm deploy production ref console`",
            ),
            (
                &["--hard"],
                "deploy has no option --hard; `rpm deploy --help` shows what it does",
            ),
            (
                &["ref", "--exec=x"],
                "\"--exec=x\" is not a branch, tag or commit",
            ),
        ] {
            let error = step(words).expect_err("no step").to_string();
            assert_eq!(error, expected);
        }
        for version in ["origin/main", "v2", "1a2b3c4"] {
            assert_eq!(
                step(&[version]).ok(),
                Some(Step::Update(Some(version.to_owned())))
            );
        }
        assert_eq!(
            step(&["ref", "main"]).ok(),
            Some(Step::Update(Some("main".to_owned())))
        );
    }

    #[test]
    fn nothing_of_a_value_is_read_by_the_shell() {
        let deployment = Deployment {
            path: "/srv/it's; rm -rf x".to_owned(),
            env: BTreeMap::from([("A".to_owned(), "$(id)".to_owned())]),
            ..Deployment::default()
        };
        let text = script(&Step::Current, &deployment, ("f", "e"));
        assert!(text.contains(r"path='/srv/it'\''s; rm -rf x'") && text.contains("export A\n"));
        assert!(!text.contains("$(id)"), "values are not for everybody's eyes");
    }
}
