//! `cargo xtask tidy`: conventions that rustc and clippy do not check.

mod documents;
mod lexer;
mod rust;
mod source;
mod text;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::workspace::Workspace;
use source::{Finding, Source};

/// A rule looks at one file and returns its violations. It decides by the path whether it applies.
type Rule = fn(&Source) -> Vec<Finding>;

const RULES: &[Rule] = &[
    rust::module_doc,
    rust::length,
    rust::unfinished_macros,
    rust::unsafe_outside_sys,
    rust::ignore_without_reason,
    rust::sleep_in_tests,
    rust::empty_type_names,
    text::unfinished_markers,
    text::machine_paths,
    text::registry_addresses,
    documents::changelog,
    documents::readme,
];

/// Files that must exist, because otherwise their rules would pass unnoticed.
const REQUIRED: &[&str] = &["CHANGELOG.md", "README.md"];

/// Applies every rule to every file. Prints each finding with file and line, then fails.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let paths = files(&workspace.root)?;
    let mut findings: Vec<Finding> = missing(&paths);
    for path in &paths {
        if let Some(text) = read(&workspace.root.join(path))? {
            let source = Source::new(path, &text);
            findings.extend(check(&source));
            findings.extend(documents::named_files(&source, &paths));
        }
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} finding(s)", findings.len());
    }
    println!("tidy: {} files, nothing to say", paths.len());
    Ok(())
}

fn check(source: &Source) -> Vec<Finding> {
    RULES.iter().flat_map(|rule| rule(source)).collect()
}

fn missing(paths: &[String]) -> Vec<Finding> {
    let absent = REQUIRED
        .iter()
        .filter(|required| !paths.iter().any(|path| path == *required));
    absent
        .map(|required| Finding::new(required, 1, "is missing".to_owned()))
        .collect()
}

/// Files that are tracked, or would be after `git add --all`: a new file is checked before it is committed.
fn files(root: &Path) -> anyhow::Result<Vec<String>> {
    let arguments = [
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "--deduplicate",
    ];
    let output = Command::new("git")
        .args(arguments)
        .current_dir(root)
        .output()
        .context("cannot run git, which lists the files to check")?;
    if !output.status.success() {
        bail!(
            "git ls-files failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let names = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    Ok(names.split_terminator('\0').map(str::to_owned).collect())
}

/// The text of a file; `None` if it is binary, a link, a submodule, or deleted but still tracked.
fn read(path: &Path) -> anyhow::Result<Option<String>> {
    let bytes = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => fs::read(path),
        Ok(_) => return Ok(None),
        Err(error) => Err(error),
    };
    match bytes {
        Ok(bytes) => Ok(String::from_utf8(bytes).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rules_see_a_file() {
        let text = "pub struct HelperOfAll;\nfn main() { dbg!(1); }\n";
        let found: Vec<String> = check(&Source::new("crates/a/src/lib.rs", text))
            .iter()
            .map(Finding::to_string)
            .collect();
        assert_eq!(found.len(), 3, "{found:#?}");
    }

    #[test]
    fn a_required_file_that_is_not_there_is_a_finding() {
        let found = missing(&["CHANGELOG.md".to_owned()]);
        assert_eq!(
            found.iter().map(Finding::to_string).collect::<Vec<_>>(),
            ["README.md:1: is missing"]
        );
    }
}
