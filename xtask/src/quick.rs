//! `cargo xtask quick`: the checks after each edit. It runs everything that is cheap, and the tests that the edit can break: those of the
//! changed crates and of those that depend on them. End-to-end tests run if they were edited or named.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::ci::{clippy, fixtures, fmt, layers, tidy};
use crate::step::{Step, run_steps};
use crate::test;
use crate::workspace::{Package, Workspace};

/// The end-to-end tests: a file for each module of their binary.
const E2E: &str = "tests/tests/e2e";

/// Files that affect the build of every package.
const ROOT: [&str; 4] = ["Cargo.toml", "Cargo.lock", ".cargo", "clippy.toml"];

/// `arguments` are names of end-to-end tests, or parts of names, and perhaps `--since REV`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> anyhow::Result<()> {
    let (since, named) = match arguments {
        [option, revision, named @ ..] if option == "--since" => (Some(revision.as_str()), named),
        named => (None, named),
    };
    if let Some(option) = named.iter().find(|name| name.starts_with('-')) {
        bail!("unknown option {option}\nusage: cargo xtask quick [--since REV] [TEST ...]");
    }
    let files = changed(&workspace.root, since)?;
    let mut steps = vec![fmt(), tidy(), layers(), clippy()];
    if let Some(filter) = filter(workspace, &files, named) {
        let arguments = ["--profile", "quick", "-E", &filter];
        steps.extend([fixtures(), Step::own("test", arguments, test::run)]);
    }
    run_steps("quick", &steps, workspace)
}

/// The files that differ from `since`, or else from HEAD. If everything is committed, those of the last commit.
fn changed(root: &Path, since: Option<&str>) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = git(root, &["diff", "--name-only", since.unwrap_or("HEAD"), "--"])?;
    files.extend(git(root, &["ls-files", "--others", "--exclude-standard"])?);
    if files.is_empty() && since.is_none() {
        files = git(root, &["diff", "--name-only", "HEAD~1", "--"])?;
    }
    Ok(files)
}

fn git(root: &Path, arguments: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("git").args(arguments).current_dir(root).output();
    let output = output.context("cannot run git, which says what has changed")?;
    if !output.status.success() {
        bail!(
            "git {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let names = String::from_utf8(output.stdout).context("git printed a file name that is not UTF-8")?;
    Ok(names.lines().map(PathBuf::from).collect())
}

/// The tests to run, as a nextest filter; `None` if there are none.
fn filter(workspace: &Workspace, files: &[PathBuf], named: &[String]) -> Option<String> {
    let everything = files
        .iter()
        .any(|file| ROOT.iter().any(|root| file.starts_with(root)));
    let owner = |file: &PathBuf| workspace.packages.iter().find(|package| owns(package, file));
    let packages: BTreeSet<&str> = if everything {
        workspace
            .packages
            .iter()
            .map(|package| package.name.as_str())
            .collect()
    } else {
        files
            .iter()
            .filter_map(owner)
            .map(|package| package.name.as_str())
            .collect()
    };
    let of_packages = packages
        .iter()
        .map(|name| format!("(rdeps(={name}) - binary(=e2e))"));
    let modules: BTreeSet<&str> = files.iter().filter_map(|file| module(file)).collect();
    let of_modules = modules
        .iter()
        .map(|module| format!("(binary(=e2e) & test(/^{module}::/))"));
    let of_names = named.iter().map(|name| format!("(binary(=e2e) & test({name}))"));
    let all: Vec<String> = of_packages.chain(of_modules).chain(of_names).collect();
    (!all.is_empty()).then(|| all.join(" + "))
}

fn owns(package: &Package, file: &Path) -> bool {
    file.starts_with(&package.directory)
}

/// The module of the end-to-end tests in this file.
fn module(file: &Path) -> Option<&str> {
    let inside = file.strip_prefix(E2E).ok()?;
    let first = Path::new(inside.components().next()?.as_os_str());
    let name = first.file_stem()?.to_str()?;
    (name != "main").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        let package = |name: &str, directory: &str| Package {
            name: name.to_owned(),
            directory: directory.into(),
            dependencies: Vec::new(),
        };
        Workspace {
            root: "/w".into(),
            target: "/w/target".into(),
            packages: vec![
                package("rpm-core", "crates/rpm-core"),
                package("rpm-e2e", "tests"),
            ],
        }
    }

    fn filter_of(files: &[&str], named: &[&str]) -> Option<String> {
        let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
        let named: Vec<String> = named.iter().map(|&name| name.to_owned()).collect();
        filter(&workspace(), &files, &named)
    }

    #[test]
    fn tests_follow_what_changed_and_end_to_end_tests_what_was_named() {
        assert_eq!(filter_of(&["README.md", "docs/API.md"], &[]), None);
        assert_eq!(
            filter_of(
                &["crates/rpm-core/src/app.rs", "crates/rpm-core/Cargo.toml"],
                &["reload::"]
            )
            .as_deref(),
            Some("(rdeps(=rpm-core) - binary(=e2e)) + (binary(=e2e) & test(reload::))")
        );
        assert_eq!(
            filter_of(&["tests/tests/e2e/watch.rs"], &[]).as_deref(),
            Some("(rdeps(=rpm-e2e) - binary(=e2e)) + (binary(=e2e) & test(/^watch::/))")
        );
    }

    #[test]
    fn what_decides_how_all_is_built_concerns_every_package() {
        assert_eq!(
            filter_of(&["Cargo.lock"], &[]).as_deref(),
            Some("(rdeps(=rpm-core) - binary(=e2e)) + (rdeps(=rpm-e2e) - binary(=e2e))")
        );
    }

    #[test]
    fn an_unknown_option_is_refused() {
        let error = run(&workspace(), &["--sinc".to_owned()]).expect_err("refused");
        assert!(error.to_string().contains("unknown option --sinc"), "{error}");
    }
}
