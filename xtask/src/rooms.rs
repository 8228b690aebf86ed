//! The rooms of the daemon: its folders, and the files beside them. Their imports have no cycle, and what wires them is named at the top alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

const DAEMON: &str = "crates/rpm-daemon/src";
/// What wires the rooms, and who may name it: its own room, and the one that starts it.
const TOP: &str = "Supervisor";
const TOP_ROOMS: [&str; 2] = ["boot", "supervisor"];
/// The most methods that it may have.
const TOP_METHODS: usize = 40;

/// The rule that each of these breaks.
pub(crate) const RULE: &str = "the rooms of the daemon import each other without a cycle, and do not name what wires them, which has few methods: take \
    what it works with as arguments, and give back what follows";

/// Which rooms each room imports, and by which file.
type Imports = BTreeMap<String, BTreeMap<String, PathBuf>>;

/// The imports below `root` that break the rule.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let source = root.join(DAEMON);
    let mut imports = Imports::new();
    let mut wrong = Vec::new();
    let mut methods = 0;
    for path in rust_files(&source)? {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let file = path.strip_prefix(&source)?.to_owned();
        let names: BTreeSet<&str> = words(&text).collect();
        let room = room_of(&file)?;
        if names.contains(TOP) && !TOP_ROOMS.contains(&room.as_str()) {
            wrong.push(format!("{DAEMON}/{} -> {TOP}", file.display()));
        }
        methods += methods_of(TOP, &text);
        for import in imported(&text) {
            let of = imports.entry(room.clone()).or_default();
            if import != room {
                of.entry(import).or_insert_with(|| file.clone());
            }
        }
    }
    if methods > TOP_METHODS {
        wrong.push(format!("{TOP} has {methods} methods, more than {TOP_METHODS}"));
    }
    wrong.extend(cycle(&imports));
    if imports.is_empty() {
        bail!("{DAEMON} has no imports at all: has it moved?");
    }
    Ok(wrong)
}

/// The folder, or the file at the top.
fn room_of(file: &Path) -> anyhow::Result<String> {
    let first = file.iter().next().context("a file without a name")?;
    Ok(first.to_string_lossy().trim_end_matches(".rs").to_owned())
}

/// Lines that are no comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    code(text).flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
}

/// How many functions stand in the blocks `impl name` of a file.
fn methods_of(name: &str, text: &str) -> usize {
    let begin = format!("\nimpl {name} {{\n");
    let blocks = text.split(begin.as_str()).skip(1);
    let bodies = blocks.map(|block| block.split("\n}\n").next().unwrap_or_default());
    let is_before = |word: &&str| word.starts_with("pub") || ["async", "const", "unsafe"].contains(word);
    let is_method = |line: &&str| {
        let indented = line.strip_prefix("    ").filter(|line| !line.starts_with(' '));
        let mut words = indented.into_iter().flat_map(str::split_whitespace);
        words.find(|word| !is_before(word)) == Some("fn")
    };
    bodies.map(|body| body.lines().filter(is_method).count()).sum()
}

/// The rooms that a file names as `crate::room`, `crate::{room, …}` included.
fn imported(text: &str) -> BTreeSet<String> {
    let code: String = code(text).flat_map(|line| [line, "\n"]).collect();
    let mut rooms = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            Some(list) => rooms.extend(list_of(list)),
            None => rooms.extend(first_word(after)),
        }
    }
    rooms
}

/// What stands first in each part of `a, b::{c, d}, e::f}`.
fn list_of(list: &str) -> BTreeSet<String> {
    let mut rooms: BTreeSet<String> = first_word(list.trim_start()).into_iter().collect();
    let mut depth = 1;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => rooms.extend(first_word(list[at + 1..].trim_start())),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    rooms
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!word.is_empty()).then_some(word)
}

/// The imports of a shortest cycle, if there is one.
fn cycle(imports: &Imports) -> Vec<String> {
    let cycles = imports.keys().filter_map(|room| way_back(imports, room));
    let Some(shortest) = cycles.min_by_key(Vec::len) else {
        return Vec::new();
    };
    let edges = shortest.iter().zip(shortest.iter().cycle().skip(1));
    let edges = edges.filter_map(|(room, to)| {
        let file = imports.get(room)?.get(to)?;
        Some(format!("{room} -> {to} ({DAEMON}/{})", file.display()))
    });
    edges.collect()
}

/// The rooms on a shortest way from this one back to it, itself first.
fn way_back(imports: &Imports, room: &str) -> Option<Vec<String>> {
    let mut ways = VecDeque::from([vec![room.to_owned()]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        for to in imports.get(way.last()?).into_iter().flat_map(BTreeMap::keys) {
            if to == room {
                return Some(way);
            }
            if seen.insert(to) {
                ways.push_back(way.iter().chain([to]).cloned().collect());
            }
        }
    }
    None
}

/// Those below the folder.
fn rust_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(edges: &[(&str, &str)]) -> Imports {
        let mut imports = Imports::new();
        for (from, to) in edges {
            let of = imports.entry((*from).to_owned()).or_default();
            of.insert((*to).to_owned(), format!("{from}/mod.rs").into());
        }
        imports
    }

    #[test]
    fn what_a_file_imports_is_read_from_its_code() {
        let text = "//! crate::comment\nuse crate::os::pace;\nuse crate::{home, node::{a, b}, apps::app};\n\
                    fn f() { crate::logs::tail() }\n";
        let found: Vec<String> = imported(text).into_iter().collect();
        assert_eq!(found, ["apps", "home", "logs", "node", "os"]);
    }

    #[test]
    fn a_cycle_is_told_by_its_imports_and_nothing_else_is() {
        assert!(cycle(&imports(&[("api", "node"), ("node", "os"), ("api", "os")])).is_empty());
        let found = cycle(&imports(&[
            ("api", "node"),
            ("node", "workers"),
            ("workers", "logs"),
            ("workers", "sockets"),
            ("logs", "os"),
            ("os", "sockets"),
            ("sockets", "node"),
        ]));
        let edges: Vec<&str> = found.iter().filter_map(|line| line.split(" (").next()).collect();
        assert_eq!(
            edges,
            ["node -> workers", "workers -> sockets", "sockets -> node"]
        );
    }

    #[test]
    fn methods_are_counted() {
        let text = "struct A;\n\nimpl A {\n    /// A fn (of it).\n    pub(super) fn one() {\n        fn inner() {}\n    }\n\n\
                    \x20   async fn two(&self) {}\n}\n\nimpl B {\n    fn other() {}\n}\n\nfn free() {}\n";
        assert_eq!((methods_of("A", text), methods_of("B", text)), (2, 1));
    }

    #[test]
    fn the_top_is_named_by_code_and_not_by_comments() {
        let names = |text: &str| words(text).any(|word| word == TOP);
        assert!(names("use crate::supervisor::Supervisor;\n"));
        assert!(!names("//! The Supervisor wires it.\nstruct Supervisors;\n"));
    }
}
