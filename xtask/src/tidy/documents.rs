//! Rules for the documents at the root.

use super::source::{Finding, Source};

/// The first commands in the README: the demo, then the tests.
const FIRST_COMMANDS: [&str; 2] = ["cargo run --release -- demo", "cargo xtask ci"];

/// The changelog has a section for unreleased changes.
pub(crate) fn changelog(source: &Source) -> Vec<Finding> {
    if source.path != "CHANGELOG.md"
        || source
            .text
            .lines()
            .any(|line| line.trim_end() == "## [Unreleased]")
    {
        return Vec::new();
    }
    vec![source.finding(0, "has no section `## [Unreleased]`")]
}

/// The README's first two commands work in a fresh clone.
pub(crate) fn readme(source: &Source) -> Vec<Finding> {
    if source.path != "README.md" {
        return Vec::new();
    }
    let first: Vec<&str> = commands(source.text)
        .into_iter()
        .take(FIRST_COMMANDS.len())
        .collect();
    if first == FIRST_COMMANDS {
        return Vec::new();
    }
    vec![source.finding(
        0,
        format!("its first commands are {first:?}; they have to be {FIRST_COMMANDS:?}"),
    )]
}

/// Files that a developer document names exist: `name.rs`, or as much of the path as the document gives.
pub(crate) fn named_files(source: &Source, paths: &[String]) -> Vec<Finding> {
    if !["ARCHITECTURE.md", "CONTRIBUTING.md"].contains(&source.path) {
        return Vec::new();
    }
    let is_there = |name: &str| {
        paths.iter().any(|path| {
            let before = path.strip_suffix(name);
            before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
        })
    };
    let mut findings = Vec::new();
    let mut offset = 0;
    // Every second part is between backticks.
    for (at, part) in source.text.split('`').enumerate() {
        let is_file = at % 2 == 1 && part.ends_with(".rs") && !part.contains([' ', '*']);
        if is_file && !is_there(part) {
            findings.push(source.finding(offset, format!("names `{part}`, and there is no such file")));
        }
        offset += part.len() + 1;
    }
    findings
}

/// The commands of all shell blocks, without prompts and comments.
fn commands(markdown: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut block: Option<&str> = None;
    for line in markdown.lines().map(str::trim) {
        block = match (block, line.strip_prefix("```")) {
            (None, Some(language)) => Some(language.trim()),
            (Some(_), Some(_)) => None,
            (None, None) => None,
            (Some(language), None) => {
                found.extend(command(line, language));
                Some(language)
            }
        };
    }
    found
}

/// The command on a line of a block. In a `console` block, lines without a prompt are output.
fn command<'a>(line: &'a str, language: &str) -> Option<&'a str> {
    let line = match (language, line.strip_prefix("$ ")) {
        ("sh" | "bash" | "shell" | "console", Some(command)) => command,
        ("sh" | "bash" | "shell", None) => line,
        (_, _) => return None,
    };
    let command = line.split(" #").next().unwrap_or(line).trim();
    (!command.is_empty() && !command.starts_with('#')).then_some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> usize {
        rule(&Source::new(path, text)).len()
    }

    #[test]
    fn files_that_are_named_are_there() {
        let paths = ["crates/a/src/one.rs", "crates/b/src/sub/two.rs"].map(str::to_owned);
        let named = |text: &str| named_files(&Source::new("ARCHITECTURE.md", text), &paths);
        assert!(
            named("In `one.rs` and `sub/two.rs`, see `cargo fmt` and `crates/b/src/sub/two.rs`.\n")
                .is_empty()
        );
        let found = named("Here:\n`wo.rs` is part of a name, and `b/one.rs` is elsewhere.\n");
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "ARCHITECTURE.md:2: names `wo.rs`, and there is no such file",
                "ARCHITECTURE.md:2: names `b/one.rs`, and there is no such file"
            ]
        );
    }

    #[test]
    fn the_changelog_has_an_unreleased_section() {
        assert_eq!(
            count(changelog, "CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n"),
            0
        );
        assert_eq!(count(changelog, "CHANGELOG.md", "# Changelog\n\nUnreleased\n"), 1);
        assert_eq!(count(changelog, "docs/CHANGELOG.md", ""), 0);
    }

    #[test]
    fn the_readme_starts_with_the_main_job_and_the_tests() {
        let good = "# rpm\n```text\npicture\n```\n```sh\n# The demo:\ncargo run --release -- demo   # ends by itself\n```\n\
                    and\n```console\n$ cargo xtask ci\nall passed\n```\n```sh\nrpm start\n```\n";
        assert_eq!(count(readme, "README.md", good), 0);
        assert_eq!(count(readme, "README.md", &good.replace("xtask ci", "test")), 1);
        assert_eq!(
            count(readme, "README.md", &format!("```sh\ncargo build\n```\n{good}")),
            1
        );
        assert_eq!(count(readme, "README.md", ""), 1);
        assert_eq!(count(readme, "docs/README.md", ""), 0);
    }
}
