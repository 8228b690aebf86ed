//! Rules for text files of all languages.

use super::source::{Finding, Source, words};

/// Markers of unfinished work, split so that this file does not break its own rule.
const MARKERS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];

/// Directories that exist on one machine only. Where a name ends in `*`, the next component may be any name.
const MACHINE_DIRECTORIES: &[&str] = &[
    concat!("/ho", "me/*"),
    concat!("/Us", "ers/*"),
    concat!("/ro", "ot"),
    concat!("/wo", "rk"),
];

/// Unfinished work belongs in an issue.
pub(crate) fn unfinished_markers(source: &Source) -> Vec<Finding> {
    // Checksums are random text: sooner or later one contains a marker.
    if is_lock_file(source) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for marker in MARKERS {
        let found = words(source.text, marker);
        findings.extend(
            found.map(|offset| source.finding(offset, format!("`{marker}`: finish it or open an issue"))),
        );
    }
    findings
}

/// Nothing, comments included, depends on the files of one person or machine.
pub(crate) fn machine_paths(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pattern in MACHINE_DIRECTORIES {
        let directory = pattern.trim_end_matches('*');
        let found = source
            .text
            .match_indices(directory)
            .map(|(offset, _)| offset)
            .filter(|offset| {
                let (before, after) = (&source.text[..*offset], &source.text[offset + directory.len()..]);
                is_absolute(before) && goes_on(after, pattern.ends_with('*'))
            });
        let message = format!("a path under `{directory}` exists on one machine only");
        findings.extend(found.map(|offset| source.finding(offset, message.clone())));
    }
    findings
}

/// True if a slash after `before` starts a path rather than continuing one (`~/x`, `a/x`, `{dir}/x`, `<dir>/x`).
fn is_absolute(before: &str) -> bool {
    let part_of_path = |last: char| last.is_alphanumeric() || "_-.~})]>*$%".contains(last);
    !before.ends_with(part_of_path)
}

/// True if `after` continues a path into a directory: with a slash, or with a name and a slash.
fn goes_on(after: &str, named: bool) -> bool {
    let rest = if named {
        after.trim_start_matches(is_name)
    } else {
        after
    };
    rest.starts_with('/') && (!named || rest.len() < after.len())
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || "_-.".contains(character)
}

/// A lock file names versions and checksums; where packages are fetched from is up to the reader.
pub(crate) fn registry_addresses(source: &Source) -> Vec<Finding> {
    if !is_lock_file(source) {
        return Vec::new();
    }
    let message = "names a registry: install with `omit-lockfile-registry-resolved=true` in .npmrc";
    source
        .text
        .match_indices("\"resolved\":")
        .filter(|(offset, key)| {
            source.text[offset + key.len()..]
                .trim_start()
                .starts_with("\"http")
        })
        .map(|(offset, _)| source.finding(offset, message))
        .collect()
}

fn is_lock_file(source: &Source) -> bool {
    matches!(
        source.file_name(),
        "Cargo.lock" | "package-lock.json" | "npm-shrinkwrap.json"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> usize {
        rule(&Source::new(path, text)).len()
    }

    #[test]
    fn markers_are_found_in_any_language() {
        for marker in MARKERS {
            for path in ["a.rs", "a.js", "docs/a.md", ".ci/run"] {
                assert_eq!(
                    count(unfinished_markers, path, &format!("x // {marker}: later\n")),
                    1,
                    "{path} {marker}"
                );
            }
        }
    }

    #[test]
    fn words_that_contain_a_marker_and_checksums_pass() {
        let (first, last) = (MARKERS[0], MARKERS[2]);
        assert_eq!(
            count(
                unfinished_markers,
                "a.sh",
                &format!("mktemp x.{last}{last}; {first}S; todo\n")
            ),
            0
        );
        assert_eq!(
            count(
                unfinished_markers,
                "package-lock.json",
                &format!("\"sha512-a+{last}/b\"\n")
            ),
            0
        );
    }

    #[test]
    fn paths_of_one_machine_are_found_in_code_and_in_comments() {
        let home = MACHINE_DIRECTORIES[0].trim_end_matches('*');
        let (root, work) = (MACHINE_DIRECTORIES[2], MACHINE_DIRECTORIES[3]);
        for text in [
            format!("// see {home}ann/x\n"),
            format!("\"{root}/.rpm\""),
            format!("file://{work}/x"),
            format!("{work}/"),
        ] {
            assert_eq!(count(machine_paths, "a.rs", &text), 1, "{text}");
            assert_eq!(count(machine_paths, "a.md", &text), 1, "{text}");
        }
    }

    #[test]
    fn paths_that_are_the_same_everywhere_pass() {
        let home = MACHINE_DIRECTORIES[0].trim_end_matches('*');
        let (root, work) = (MACHINE_DIRECTORIES[2], MACHINE_DIRECTORIES[3]);
        for text in [
            format!("/proc/self{root}/x"),
            format!("~{work}/x"),
            format!("{{dir}}{work}/x"),
            format!("{home}<user>/x"),
            format!("{root}ed/"),
            format!("{home}/x"),
        ] {
            assert_eq!(count(machine_paths, "a.rs", &text), 0, "{text}");
        }
    }

    #[test]
    fn lock_files_do_not_name_a_registry() {
        let text = "{\"a\": {\n  \"resolved\": \"https://host/a.tgz\"\n}}";
        assert_eq!(
            count(registry_addresses, "tests/fixtures/package-lock.json", text),
            1
        );
        assert_eq!(count(registry_addresses, "a.json", text), 0);
        assert_eq!(
            count(
                registry_addresses,
                "package-lock.json",
                "\"resolved\": \"file:../a\", \"version\": \"1\""
            ),
            0
        );
    }
}
