//! A file as the rules see it, and their findings.

use std::fmt;
use std::ops::Range;

use super::lexer::code_only;

/// A text file of ours.
pub(crate) struct Source<'a> {
    /// Path from the root of the repository, with slashes.
    pub(crate) path: &'a str,
    /// The contents of the file.
    pub(crate) text: &'a str,
    /// For Rust, the text without comments and literals, with unchanged offsets; otherwise empty.
    pub(crate) code: String,
}

/// A violation, and its place.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl<'a> Source<'a> {
    /// The file at `path` with the contents `text`.
    pub(crate) fn new(path: &'a str, text: &'a str) -> Source<'a> {
        let code = if path.ends_with(".rs") {
            code_only(text)
        } else {
            String::new()
        };
        Source { path, text, code }
    }

    /// True if this is Rust.
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Last component of the path.
    pub(crate) fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }

    /// A finding at the byte `offset` of the text.
    pub(crate) fn finding(&self, offset: usize, message: impl Into<String>) -> Finding {
        Finding::new(self.path, self.line_index(offset) + 1, message.into())
    }

    /// True if the line of `offset`, or the comment right above it, gives a reason to break the rule `topic`: `// tidy: <topic> because
    /// <reason>`.
    pub(crate) fn excused(&self, topic: &str, offset: usize) -> bool {
        let lines: Vec<&str> = self.text.lines().take(self.line_index(offset) + 1).collect();
        let Some((own, above)) = lines.split_last() else {
            return false;
        };
        let comments = above
            .iter()
            .rev()
            .take_while(|line| line.trim_start().starts_with("//"));
        std::iter::once(own)
            .chain(comments)
            .any(|line| is_excuse(line, topic))
    }

    /// True if any line of the file gives a reason to break the rule `topic`.
    pub(crate) fn excused_as_a_whole(&self, topic: &str) -> bool {
        self.text.lines().any(|line| is_excuse(line, topic))
    }

    fn line_index(&self, offset: usize) -> usize {
        self.text
            .bytes()
            .take(offset)
            .filter(|byte| *byte == b'\n')
            .count()
    }
}

impl Finding {
    /// A finding on a line, counted from 1.
    pub(crate) fn new(path: &str, line: usize, message: String) -> Finding {
        Finding {
            path: path.to_owned(),
            line,
            message,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.path, self.line, self.message)
    }
}

fn is_excuse(line: &str, topic: &str) -> bool {
    let reason = line
        .split_once("// tidy: ")
        .and_then(|(_, note)| note.strip_prefix(topic));
    reason
        .and_then(|reason| reason.strip_prefix(" because "))
        .is_some_and(|reason| !reason.trim().is_empty())
}

/// Offsets at which `word` occurs in `text` as a whole word.
pub(crate) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word)
        .map(|(offset, _)| offset)
        .filter(move |offset| {
            let before = text[..*offset].chars().next_back();
            let after = text[*offset + word.len()..].chars().next();
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        })
}

/// The range of each `#[cfg(test)] mod …` in `code` (from [`code_only`]), including attribute and body.
pub(crate) fn test_modules(code: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (start, _) in code.match_indices("#[cfg(test)]") {
        let nested = found.last().is_some_and(|last| last.contains(&start));
        if let Some(length) = (!nested).then(|| module_length(&code[start..])).flatten() {
            found.push(start..start + length);
        }
    }
    found
}

/// Length of the module at the start of `code`, including attributes; `None` if there is none.
fn module_length(code: &str) -> Option<usize> {
    let mut rest = code.trim_start();
    while rest.starts_with("#[") {
        rest = rest[1 + enclosed(&rest[1..], '[', ']')?..].trim_start();
    }
    let rest = without_visibility(rest).strip_prefix("mod ")?.trim_start();
    let rest = rest.trim_start_matches(is_word).trim_start();
    let body = if rest.starts_with(';') {
        1
    } else {
        enclosed(rest, '{', '}')?
    };
    Some(code.len() - rest.len() + body)
}

/// `item` without a leading `pub` or `pub(…)`.
fn without_visibility(item: &str) -> &str {
    let Some(rest) = item.strip_prefix("pub") else {
        return item;
    };
    let scope = enclosed(rest, '(', ')').unwrap_or(0);
    rest[scope..].trim_start()
}

/// Length of the text from the `open` at the start of `code` to the matching `close`.
pub(crate) fn enclosed(code: &str, open: char, close: char) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, character) in code.char_indices() {
        if character == open {
            depth += 1;
        } else if depth == 0 {
            return None;
        } else if character == close {
            depth -= 1;
            if depth == 0 {
                return Some(offset + close.len_utf8());
            }
        }
    }
    None
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_alone() {
        assert_eq!(
            words("unsafe unsafe_code an_unsafe (unsafe)", "unsafe").collect::<Vec<_>>(),
            [0, 30]
        );
    }

    #[test]
    fn an_excuse_stands_on_the_line_or_in_the_comment_above_and_has_a_reason() {
        let at = |text: &str, needle: &str| {
            let offset = text.find(needle).expect("needle");
            Source::new("a.rs", text).excused("sleep", offset)
        };
        assert!(at("nap(); // tidy: sleep because the kernel coalesces", "nap"));
        assert!(at(
            "// tidy: sleep because it is\n// longer than a line\n    nap();\n",
            "nap"
        ));
        assert!(!at("// tidy: sleep because so\nlet x = 1;\nnap();\n", "nap"));
        assert!(!at("nap(); // tidy: sleep because ", "nap"));
        assert!(!at("nap(); // tidy: long because so", "nap"));
    }

    #[test]
    fn test_modules_are_found_with_their_attributes_and_bodies() {
        let code = "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests { fn b() { } }\n#[cfg(test)]\npub(crate) mod more;\nfn c() {}";
        let found: Vec<&str> = test_modules(code).into_iter().map(|range| &code[range]).collect();
        assert_eq!(
            found,
            [
                "#[cfg(test)]\n#[allow(x)]\nmod tests { fn b() { } }",
                "#[cfg(test)]\npub(crate) mod more;"
            ]
        );
    }

    #[test]
    fn a_test_only_function_is_no_module() {
        assert!(test_modules("#[cfg(test)]\nfn only() {}\n#[cfg(test)]\nuse modest::x;").is_empty());
    }

    #[test]
    fn findings_count_lines_from_one() {
        let source = Source::new("a/b.rs", "one\ntwo\n");
        assert_eq!(source.finding(4, "bad").to_string(), "a/b.rs:2: bad");
        assert_eq!(source.file_name(), "b.rs");
    }
}
