//! Which changes of files matter, and where to look for them. Nothing here asks the file system: it is told what is there.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use regex_lite::Regex;
use rpm_wire::api::WatchSpec;

/// Begins a pattern that is a regular expression.
const EXPRESSION: &str = "regex:";
/// Paths that one with `{a,b}` may stand for.
const ALTERNATIVES: usize = 64;
/// Links on the way to a path: the kernel follows as many.
const LINKS: usize = 40;

/// Which files matter.
pub(super) struct Rules {
    pub(super) roots: Vec<Root>,
    ignore: Vec<Pattern>,
    ours: Ours,
}

/// Files that the daemon writes itself, which are no changes of the app. A new instance has some of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Ours(Arc<Mutex<Vec<PathBuf>>>);

impl Ours {
    pub(super) fn new(files: Vec<PathBuf>) -> Ours {
        Ours(Arc::new(Mutex::new(files)))
    }

    /// It is these from now on.
    pub(super) fn set(&self, files: Vec<PathBuf>) {
        *self.files() = files;
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        let is_ours = |ours: &PathBuf| path.starts_with(ours) || is_numbered(ours, path);
        self.files().iter().any(is_ours)
    }

    /// True for one of them, and for a directory that was made for them.
    pub(super) fn explain(&self, path: &Path) -> bool {
        let is_around = |ours: &PathBuf| ours.parent() == Some(path);
        self.has(path) || self.files().iter().any(is_around)
    }

    fn files(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is watched with all that is in it: a path, or those that a pattern means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Root {
    /// The path, or the directory below which the pattern means something.
    pub(super) base: PathBuf,
    /// Of the names below.
    glob: Vec<String>,
}

/// What a path is for a pattern.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Not,
    /// What it means may be in there.
    OnTheWay,
    Meant,
}

impl Rules {
    /// `exists`: is there something of this name? Then it is meant, whatever is in the name.
    pub(super) fn new(spec: &WatchSpec, ours: Ours, exists: impl Fn(&Path) -> bool) -> Rules {
        let roots = spec.paths.iter().flat_map(|path| match exists(Path::new(path)) {
            true => vec![Root::plain(path)],
            false => Root::parse(path),
        });
        Rules {
            roots: roots.collect(),
            ignore: spec
                .ignore
                .iter()
                .filter_map(|text| Pattern::parse(text).ok())
                .collect(),
            ours,
        }
    }

    /// Does a change of this file matter?
    pub(super) fn apply(&self, path: &Path) -> bool {
        self.best(path) == Fit::Meant
    }

    /// May something that matters be in this directory?
    pub(super) fn enter(&self, path: &Path) -> bool {
        self.best(path) >= Fit::OnTheWay
    }

    fn best(&self, path: &Path) -> Fit {
        if self.ours.has(path) {
            return Fit::Not;
        }
        let fits = self.roots.iter().map(|root| self.fit(root, path));
        fits.max().unwrap_or(Fit::Not)
    }

    fn fit(&self, root: &Root, path: &Path) -> Fit {
        let Ok(inside) = path.strip_prefix(&root.base) else {
            return Fit::Not;
        };
        match root.fit(inside) {
            fit if fit > Fit::Not && self.ignore.iter().any(|it| it.means(inside, path)) => Fit::Not,
            fit => fit,
        }
    }
}

impl Root {
    fn plain(path: &str) -> Root {
        Root {
            base: PathBuf::from(path),
            glob: Vec::new(),
        }
    }

    /// A path with `*`, `?`, `**` or `{a,b}` is a pattern.
    fn parse(text: &str) -> Vec<Root> {
        let each = alternatives(text);
        each.iter().map(|text| Root::of_pattern(text)).collect()
    }

    fn of_pattern(text: &str) -> Root {
        let mut root = Root::plain("");
        for part in Path::new(text).components() {
            let name = part.as_os_str().to_string_lossy();
            match root.glob.is_empty() && !name.contains(['*', '?']) {
                true => root.base.push(part),
                // Two of them mean what one does.
                false if name == "**" && root.glob.last().is_some_and(|last| last == "**") => {}
                false => root.glob.push(name.into_owned()),
            }
        }
        root
    }

    /// Is it a path, and no pattern?
    pub(super) fn is_plain(&self) -> bool {
        self.glob.is_empty()
    }

    fn fit(&self, inside: &Path) -> Fit {
        let names: Vec<&OsStr> = inside.components().map(Component::as_os_str).collect();
        fit(&self.glob, &names)
    }
}

fn fit(glob: &[String], names: &[&OsStr]) -> Fit {
    match (glob, names) {
        // What is in a directory that is meant is meant.
        ([], names) if names.iter().any(|name| is_hidden(name)) => Fit::Not,
        ([], _) => Fit::Meant,
        (_, []) => Fit::OnTheWay,
        ([any, rest @ ..], [name, below @ ..]) if any == "**" => {
            let deeper = match is_hidden(name) {
                true => Fit::Not,
                false => fit(glob, below),
            };
            deeper.max(fit(rest, names))
        }
        ([part, rest @ ..], [name, below @ ..]) => {
            let named = !is_hidden(name) || part.starts_with('.') || part == "node_modules";
            match named && matches(part.as_bytes(), name.as_encoded_bytes()) {
                true => fit(rest, below),
                false => Fit::Not,
            }
        }
    }
}

/// Not looked at unless it is named.
fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || name == "node_modules"
}

/// The texts that one with `{a,b}` stands for.
fn alternatives(text: &str) -> Vec<String> {
    let mut whole = Vec::new();
    let mut open = vec![text.to_owned()];
    while let Some(text) = open.pop() {
        match innermost(&text) {
            Some((start, end)) if whole.len() + open.len() < ALTERNATIVES => {
                let words = text[start + 1..end].split(',').rev();
                open.extend(words.map(|word| format!("{}{word}{}", &text[..start], &text[end + 1..])));
            }
            _ => whole.push(text),
        }
    }
    whole
}

/// Where the first braces are that hold a comma and no braces.
fn innermost(text: &str) -> Option<(usize, usize)> {
    let mut start = None;
    for (at, letter) in text.char_indices() {
        match (letter, start) {
            ('{', _) => start = Some(at),
            ('}', Some(from)) if text[from..at].contains(',') => return Some((from, at)),
            ('}', _) => start = None,
            _ => {}
        }
    }
    None
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Directory,
    Link(PathBuf),
    Other,
}

/// A name in a directory that has to be looked at for a path to be found again when it is made anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lookout {
    pub(super) dir: PathBuf,
    pub(super) name: OsString,
    /// It is the file itself: what is written to it matters, too.
    pub(super) is_file: bool,
}

/// Where to look for a path: in its directory, or the nearest above it that is there, and wherever a link is on the way to it.
pub(super) fn lookouts(path: &Path, found: impl Fn(&Path) -> Found) -> BTreeSet<Lookout> {
    let mut lookouts = BTreeSet::new();
    let mut links = 0;
    // What is still to be gone, the next one last.
    let mut ahead: Vec<OsString> = reversed(path);
    let mut here = PathBuf::new();
    while let Some(name) = ahead.pop() {
        if name == "/" || name == ".." {
            // A link leads there.
            match name == "/" {
                true => here = PathBuf::from("/"),
                false => drop(here.pop()),
            }
            continue;
        }
        let is_last = ahead.is_empty();
        let there = found(&here.join(&name));
        let mut look = |is_file| {
            lookouts.insert(Lookout {
                dir: here.clone(),
                name: name.clone(),
                is_file,
            })
        };
        match there {
            Found::Directory => {
                if is_last {
                    look(false);
                }
                here.push(&name);
            }
            Found::Link(to) => {
                look(false);
                links += 1;
                if links > LINKS {
                    break;
                }
                ahead.extend(reversed(&to));
            }
            Found::Nothing | Found::Other => {
                look(is_last && there == Found::Other);
                break;
            }
        }
    }
    lookouts
}

fn reversed(path: &Path) -> Vec<OsString> {
    let names = path.components().filter(|part| *part != Component::CurDir);
    names.rev().map(|part| part.as_os_str().to_owned()).collect()
}

/// Was the time of a file set to the present (`touch`), or something else of it changed, such as who may read it? Both times are seconds and
/// nanoseconds: of its contents, and of what is known of it. Setting the first to the present sets both.
pub(super) fn is_touched(contents: (i64, i64), known: (i64, i64)) -> bool {
    // Programs ask for the time before they set it.
    let nanoseconds = |(seconds, rest): (i64, i64)| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    let between = nanoseconds(known) - nanoseconds(contents);
    between.abs() < 1_000_000_000
}

/// Files that do not matter.
enum Pattern {
    /// By name or path, with `*`.
    Glob(String),
    /// By a regular expression that is found somewhere in the path.
    Expression(Regex),
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, regex_lite::Error> {
        match text.strip_prefix(EXPRESSION) {
            Some(expression) => Regex::new(expression).map(Pattern::Expression),
            None => Ok(Pattern::Glob(text.to_owned())),
        }
    }

    fn means(&self, inside: &Path, whole: &Path) -> bool {
        match self {
            Pattern::Glob(glob) => is_ignored(glob, inside, whole),
            // A directory that it means is not looked into: `/data$/` means what lies in `data`, too.
            Pattern::Expression(regex) => {
                let within = whole.ancestors().take(inside.components().count().max(1));
                within
                    .into_iter()
                    .any(|path| regex.is_match(&path.to_string_lossy()))
            }
        }
    }
}

/// Can all patterns be read?
///
/// # Errors
/// The first that cannot, and why.
pub(crate) fn check(spec: &WatchSpec) -> Result<(), String> {
    spec.ignore
        .iter()
        .try_for_each(|text| match Pattern::parse(text) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{:?}: {error}", text.trim_start_matches(EXPRESSION))),
        })
}

/// Is the file, or a directory that it is in, meant by the pattern? One without a slash means names at any depth, another one paths from the
/// watched directory, or absolute ones.
fn is_ignored(pattern: &str, inside: &Path, whole: &Path) -> bool {
    let pattern = pattern
        .strip_prefix("./")
        .unwrap_or(pattern)
        .trim_end_matches('/');
    let pattern = pattern.strip_suffix("/**").unwrap_or(pattern);
    if !pattern.contains('/') {
        let mut names = inside.components().map(|part| part.as_os_str().to_string_lossy());
        return names.any(|name| matches(pattern.as_bytes(), name.as_bytes()));
    }
    let path = if pattern.starts_with('/') { whole } else { inside };
    path.ancestors()
        .any(|path| matches(pattern.as_bytes(), path.as_os_str().as_encoded_bytes()))
}

/// `?` is a letter, `*` any number of them but no slash, `**` anything.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', b'/', rest @ ..] => {
            matches(rest, text)
                || (0..text.len()).any(|at| text[at] == b'/' && matches(rest, &text[at + 1..]))
        }
        [b'*', b'*', rest @ ..] => (0..=text.len()).any(|at| matches(rest, &text[at..])),
        [b'*', rest @ ..] => {
            let end = text.iter().position(|byte| *byte == b'/').unwrap_or(text.len());
            (0..=end).any(|at| matches(rest, &text[at..]))
        }
        [b'?', rest @ ..] => text.first().is_some_and(|byte| *byte != b'/') && matches(rest, &text[1..]),
        [letter, rest @ ..] => text.first() == Some(letter) && matches(rest, &text[1..]),
    }
}

/// A log that was put aside: `<ours>.<number>`.
fn is_numbered(ours: &Path, path: &Path) -> bool {
    path.extension()
        .is_some_and(|end| end.as_encoded_bytes().iter().all(u8::is_ascii_digit))
        && path.with_extension("") == ours
}

#[cfg(test)]
mod tests;
