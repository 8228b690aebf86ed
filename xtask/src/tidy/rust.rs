//! Rules for Rust files.

use super::source::{Finding, Source, enclosed, test_modules, words};

/// A longer file, tests not counted, does more than one thing.
const MAX_LINES: usize = 500;

/// The only crate that may contain `unsafe`.
const UNSAFE_CRATE: &str = "crates/rpm-sys/";

/// Words in type names that say nothing.
const EMPTY_WORDS: &[&str] = &["Manager", "Managers", "Util", "Utils", "Helper", "Helpers"];

/// Every file starts with its module documentation.
pub(crate) fn module_doc(source: &Source) -> Vec<Finding> {
    if !source.is_rust() || source.text.starts_with("//!") {
        return Vec::new();
    }
    vec![source.finding(
        0,
        "starts without `//!`: say in its first line what the file is for",
    )]
}

/// No file is longer than [`MAX_LINES`], not counting test modules at its end.
pub(crate) fn length(source: &Source) -> Vec<Finding> {
    if !source.is_rust() || source.excused_as_a_whole("long") {
        return Vec::new();
    }
    let own = source.text[..tests_start(&source.code)].trim_end();
    let lines = own.lines().count();
    if lines <= MAX_LINES {
        return Vec::new();
    }
    let message = format!(
        "{lines} lines without tests, more than {MAX_LINES}: split it, or write `// tidy: long because …` in it"
    );
    vec![source.finding(own.len(), message)]
}

/// Offset of the test modules at the end of a file; the end of the file if there are none.
fn tests_start(code: &str) -> usize {
    let mut start = code.len();
    for module in test_modules(code).into_iter().rev() {
        if !code[module.end..start].trim().is_empty() {
            break;
        }
        start = module.start;
    }
    start
}

/// No macro for unfinished work or debugging.
pub(crate) fn unfinished_macros(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in ["todo", "unimplemented", "dbg"] {
        let calls =
            words(&source.code, name).filter(|offset| source.code[offset + name.len()..].starts_with('!'));
        findings.extend(
            calls.map(|offset| source.finding(offset, format!("`{name}!`: finish it or take it out"))),
        );
    }
    findings
}

/// Only rpm-sys contains `unsafe`.
pub(crate) fn unsafe_outside_sys(source: &Source) -> Vec<Finding> {
    if source.path.starts_with(UNSAFE_CRATE) {
        return Vec::new();
    }
    let message = "`unsafe` outside rpm-sys: put the syscall there, behind a safe function";
    words(&source.code, "unsafe")
        .map(|offset| source.finding(offset, message))
        .collect()
}

/// An ignored test gives a reason.
pub(crate) fn ignore_without_reason(source: &Source) -> Vec<Finding> {
    let attributes = source.code.match_indices("#[").filter_map(|(start, _)| {
        let length = enclosed(&source.code[start + 1..], '[', ']')?;
        Some(start..start + 1 + length)
    });
    let mut findings = Vec::new();
    for attribute in attributes {
        let bare = words(&source.code[attribute.clone()], "ignore")
            .map(|offset| attribute.start + offset)
            .filter(|offset| !has_value(&source.text[offset + "ignore".len()..]));
        findings.extend(
            bare.map(|offset| source.finding(offset, "`ignore` without a reason: `#[ignore = \"…\"]`")),
        );
    }
    findings
}

/// True if an attribute's name is followed by `= "something"`.
fn has_value(after_name: &str) -> bool {
    let value = after_name.trim_start().strip_prefix('=').map(str::trim_start);
    value.is_some_and(|value| !value.starts_with("\"\""))
}

/// Tests wait for a state, not for a time.
pub(crate) fn sleep_in_tests(source: &Source) -> Vec<Finding> {
    let message =
        "`sleep` in a test: wait for the state it stands for, or write `// tidy: sleep because …` above";
    let modules = test_modules(&source.code);
    let in_tests =
        |offset: &usize| is_test_file(source.path) || modules.iter().any(|module| module.contains(offset));
    words(&source.code, "sleep")
        .filter(|offset| {
            source.code[offset + "sleep".len()..]
                .trim_start()
                .starts_with('(')
        })
        .filter(in_tests)
        .filter(|offset| !source.excused("sleep", *offset))
        .map(|offset| source.finding(offset, message))
        .collect()
}

fn is_test_file(path: &str) -> bool {
    let mut components = path.split('/').rev();
    let file = components.next().unwrap_or_default();
    file == "tests.rs" || file.ends_with("_tests.rs") || components.any(|directory| directory == "tests")
}

/// Type names say what the type is.
pub(crate) fn empty_type_names(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for keyword in ["struct", "enum", "trait", "type", "union"] {
        for offset in words(&source.code, keyword) {
            let name = source.code[offset + keyword.len()..].trim_start();
            let name = &name[..name
                .find(|next: char| !next.is_alphanumeric() && next != '_')
                .unwrap_or(name.len())];
            if let Some(word) = EMPTY_WORDS.iter().find(|word| has_camel_word(name, word)) {
                findings.push(source.finding(offset, format!("`{name}`: `{word}` does not say what it is")));
            }
        }
    }
    findings
}

/// True if `word` is one of the words of a CamelCase `name` (`Utilization` does not contain `Util`).
fn has_camel_word(name: &str, word: &str) -> bool {
    name.match_indices(word)
        .any(|(offset, _)| !name[offset + word.len()..].starts_with(|next: char| next.is_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<String> {
        rule(&Source::new(path, text))
            .iter()
            .map(Finding::to_string)
            .collect()
    }

    /// The number of findings in a file of an ordinary crate.
    fn count(rule: fn(&Source) -> Vec<Finding>, text: &str) -> usize {
        lines(rule, "crates/rpm-cli/src/a.rs", text).len()
    }

    #[test]
    fn files_start_with_their_documentation() {
        assert_eq!(count(module_doc, "//! Says what.\n"), 0);
        assert_eq!(count(module_doc, "// Says nothing.\n"), 1);
        assert_eq!(count(module_doc, ""), 1);
        assert!(lines(module_doc, "a.js", "let x\n").is_empty());
    }

    #[test]
    fn long_files_are_found_and_can_be_excused() {
        let wall = "\n".repeat(MAX_LINES - 1) + "x();\n";
        assert_eq!(count(length, &wall), 0);
        let found = lines(length, "a.rs", &format!("\n{wall}"));
        assert!(
            found[0].starts_with("a.rs:501: 501 lines without tests"),
            "{found:?}"
        );
        assert_eq!(
            count(length, &format!("// tidy: long because it is one table\n{wall}")),
            0
        );
        assert_eq!(count(length, &format!("// tidy: long because\n{wall}")), 1);
    }

    #[test]
    fn only_tests_at_the_end_are_not_counted() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "x();\n".repeat(MAX_LINES));
        assert_eq!(
            count(
                length,
                &format!("fn a() {{}}\n{tests}\n#[cfg(test)]\nmod more;\n")
            ),
            0
        );
        assert_eq!(count(length, &format!("{tests}fn a() {{}}\n")), 1);
    }

    #[test]
    fn macros_left_behind_are_found() {
        assert_eq!(
            count(
                unfinished_macros,
                "fn a() { todo!() }\nfn b() { unimplemented!(); dbg!(1); }"
            ),
            3
        );
        assert_eq!(
            count(
                unfinished_macros,
                "let todo = 1; // dbg!\nlet a = \"todo!()\"; my_dbg!();"
            ),
            0
        );
    }

    #[test]
    fn unsafe_has_one_home() {
        let text = "fn a() {}\nunsafe fn b() {}\n";
        assert_eq!(
            lines(unsafe_outside_sys, "crates/rpm-sys/src/a.rs", text).len(),
            0
        );
        assert_eq!(
            lines(unsafe_outside_sys, "crates/rpm-system/src/a.rs", text).len(),
            1
        );
        assert!(lines(unsafe_outside_sys, "a.rs", text)[0].starts_with("a.rs:2: `unsafe`"));
        assert_eq!(
            count(
                unsafe_outside_sys,
                "#![deny(unsafe_code)] // unsafe\nlet a = \"unsafe\";"
            ),
            0
        );
    }

    #[test]
    fn ignored_tests_have_a_reason() {
        assert_eq!(count(ignore_without_reason, "#[ignore]\nfn a() {}"), 1);
        assert_eq!(count(ignore_without_reason, "#[ignore = \"\"]\nfn a() {}"), 1);
        assert_eq!(
            count(
                ignore_without_reason,
                "#[cfg_attr(\n    unix,\n    ignore\n)]\nfn a() {}"
            ),
            1
        );
        assert_eq!(
            count(ignore_without_reason, "#[ignore = \"needs root\"]\nfn a() {}"),
            0
        );
        assert_eq!(
            count(
                ignore_without_reason,
                "#[cfg_attr(unix, ignore = \"needs root\")]\nfn a() {}"
            ),
            0
        );
        assert_eq!(
            count(
                ignore_without_reason,
                "call(a, ignore); // #[ignore]\nlet b = \"#[ignore]\";"
            ),
            0
        );
    }

    #[test]
    fn tests_do_not_sleep() {
        let nap = "fn a() { std::thread::sleep(SECOND) }\n";
        for path in [
            "tests/tests/a.rs",
            "tests/src/lib.rs",
            "crates/x/tests/a.rs",
            "crates/x/src/core/tests.rs",
        ] {
            assert_eq!(lines(sleep_in_tests, path, nap).len(), 1, "{path}");
        }
        assert_eq!(count(sleep_in_tests, nap), 0, "not a test");
        assert_eq!(
            count(
                sleep_in_tests,
                &format!("{nap}#[cfg(test)]\nmod tests {{ {nap} }}")
            ),
            1
        );
    }

    #[test]
    fn a_sleep_can_be_excused_one_by_one() {
        let text =
            "// tidy: sleep because the kernel's timer is what is tested\nsleep(A);\nx();\nsleep(B);\n";
        let found = lines(sleep_in_tests, "tests/tests/a.rs", text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("tests/tests/a.rs:4:"), "{found:?}");
        assert!(
            lines(
                sleep_in_tests,
                "tests/tests/a.rs",
                "run(\"sleep(1)\"); // sleep(2)\nasleep(3);"
            )
            .is_empty()
        );
    }

    #[test]
    fn types_are_named_after_what_they_are() {
        let found = lines(
            empty_type_names,
            "a.rs",
            "//! A.\npub struct SlotManager<T>(T);\n",
        );
        assert_eq!(
            found,
            ["a.rs:2: `SlotManager`: `Manager` does not say what it is"]
        );
        assert_eq!(
            count(
                empty_type_names,
                "enum UtilsOf {}\ntrait HelperA {}\ntype Helpers = ();"
            ),
            3
        );
        assert_eq!(
            count(
                empty_type_names,
                "struct Utilization; struct Management; let manager = 1;"
            ),
            0
        );
    }
}
