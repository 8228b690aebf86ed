//! Watching files for changes (inotify, by way of `notify`), on a thread of its own for each app.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use regex_lite::Regex;
use rpm_wire::api::WatchSpec;
use tracing::warn;

/// Directories that are watched for one app: each takes a watch of the user's (fs.inotify.max_user_watches).
const DIRECTORIES: usize = 100_000;
/// Changes that come so close together are one: a file that is written is not read halfway.
const QUIET: Duration = Duration::from_millis(50);
/// Changes that never cease are told so long after the first.
const LONGEST: Duration = Duration::from_secs(5);
/// How deep directories may lie.
const DEPTH: usize = 64;

/// Watches until it is dropped.
#[derive(Debug)]
pub(crate) struct FileWatch {
    spec: WatchSpec,
    thread: Sender<Told>,
}

enum Told {
    Changed(notify::Result<notify::Event>),
    Stop,
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.thread.send(Told::Stop);
    }
}

impl FileWatch {
    /// Begins. `ours` are files that the daemon writes itself. `changed` is called on the thread, once for changes that come together.
    pub(crate) fn start(
        spec: &WatchSpec,
        ours: Vec<PathBuf>,
        changed: impl Fn(&Path) -> bool + Send + 'static,
    ) -> std::io::Result<FileWatch> {
        let (told, inbox) = channel();
        let events = told.clone();
        let rules = Rules {
            roots: spec.paths.iter().map(PathBuf::from).collect(),
            ignore: spec
                .ignore
                .iter()
                .filter_map(|text| Pattern::parse(text).ok())
                .collect(),
            ours,
        };
        let delay = Duration::from_millis(spec.delay_ms);
        thread::Builder::new()
            .name("rpm-watch".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || {
                let weak = events;
                let made = notify::recommended_watcher(move |event| {
                    // The thread may have ended.
                    let _ = weak.send(Told::Changed(event));
                });
                match made {
                    Ok(watcher) => Thread {
                        watcher,
                        rules,
                        count: 0,
                    }
                    .run(&inbox, delay, &changed),
                    Err(error) => warn!(%error, "files cannot be watched"),
                }
            })?;
        Ok(FileWatch {
            spec: spec.clone(),
            thread: told,
        })
    }

    pub(crate) fn is_of(&self, spec: &WatchSpec) -> bool {
        &self.spec == spec
    }
}

/// Which files matter.
struct Rules {
    roots: Vec<PathBuf>,
    ignore: Vec<Pattern>,
    ours: Vec<PathBuf>,
}

/// Changes that are to be told.
struct Due {
    at: Instant,
    latest: Instant,
    /// Of the first.
    path: PathBuf,
}

impl Due {
    /// One more change.
    fn changed(due: Option<Due>, path: PathBuf, delay: Duration, now: Instant) -> Due {
        let quiet = now + QUIET;
        match due {
            Some(due) => Due {
                at: due.at.max(quiet).min(due.latest),
                ..due
            },
            None => Due {
                at: quiet.max(now + delay),
                latest: now + delay.max(LONGEST),
                path,
            },
        }
    }
}

struct Thread {
    watcher: RecommendedWatcher,
    rules: Rules,
    count: usize,
}

impl Thread {
    fn run(mut self, inbox: &Receiver<Told>, delay: Duration, changed: &dyn Fn(&Path) -> bool) {
        for root in self.rules.roots.clone() {
            self.add(&root, 0);
        }
        let mut due: Option<Due> = None;
        loop {
            let now = Instant::now();
            if let Some(over) = due.take_if(|due| due.at <= now)
                && !changed(&over.path)
            {
                return;
            }
            let wait = due.as_ref().map_or(Duration::from_secs(3600), |due| {
                due.at.saturating_duration_since(now)
            });
            match inbox.recv_timeout(wait) {
                Ok(Told::Changed(Ok(event))) => {
                    if let Some(path) = self.matters(&event) {
                        due = Some(Due::changed(due, path, delay, Instant::now()));
                    }
                }
                Ok(Told::Changed(Err(error))) => warn!(%error, "a change of files may be missed"),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Told::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Watches a file, or a directory with all that is in it.
    fn add(&mut self, path: &Path, depth: usize) {
        if depth > DEPTH || (depth > 0 && !self.rules.apply(path)) {
            return;
        }
        if self.count >= DIRECTORIES {
            if self.count == DIRECTORIES {
                warn!(path = %path.display(), limit = DIRECTORIES, "too many directories; changes below this one are not seen");
                self.count += 1;
            }
            return;
        }
        if let Err(error) = self.watcher.watch(path, RecursiveMode::NonRecursive) {
            warn!(path = %path.display(), %error, "not watched (fs.inotify.max_user_watches may be too low)");
            return;
        }
        self.count += 1;
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            self.add(&entry.path(), depth + 1);
        }
    }

    /// The first path of the event whose change matters. New directories are watched from now on.
    fn matters(&mut self, event: &notify::Event) -> Option<PathBuf> {
        match event.kind {
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => return None,
            EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_)
            | EventKind::Any
            | EventKind::Other => {}
        }
        let path = event.paths.iter().find(|path| self.rules.apply(path))?.clone();
        if !matches!(event.kind, EventKind::Remove(_)) && path.is_dir() {
            let depth = path.components().count().saturating_sub(self.shallowest());
            self.add(&path, depth.max(1));
        }
        Some(path)
    }

    fn shallowest(&self) -> usize {
        let depths = self.rules.roots.iter().map(|root| root.components().count());
        depths.min().unwrap_or(0)
    }
}

impl Rules {
    /// Does a change of this file matter?
    fn apply(&self, path: &Path) -> bool {
        let Some(root) = self.roots.iter().find(|root| path.starts_with(root)) else {
            return false;
        };
        if self
            .ours
            .iter()
            .any(|ours| path.starts_with(ours) || is_numbered(ours, path))
        {
            return false;
        }
        let inside = path.strip_prefix(root).unwrap_or(path);
        let hidden = |name: &OsStr| name.as_encoded_bytes().starts_with(b".") || name == "node_modules";
        if inside.components().any(|part| hidden(part.as_os_str())) {
            return false;
        }
        !self.ignore.iter().any(|pattern| pattern.means(inside, path))
    }
}

/// Begins a pattern that is a regular expression.
const EXPRESSION: &str = "regex:";

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
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_names_and_paths() {
        let ignored = |pattern: &str, path: &str| {
            is_ignored(pattern, Path::new(path), &Path::new("/srv/web").join(path))
        };
        for (pattern, path) in [
            ("logs", "logs/a.txt"),
            ("*.log", "deep/down/x.log"),
            ("public/images", "public/images/a/b.png"),
            ("./tmp/**", "tmp/x"),
            ("**/cache", "a/b/cache/x"),
            ("/srv/web/data", "data/x"),
            ("src/?.js", "src/a.js"),
        ] {
            assert!(ignored(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("logs", "blogs/a"),
            ("*.log", "x.logs"),
            ("public/images", "other/public/images/a"),
            ("a/*", "b/c"),
        ] {
            assert!(!ignored(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn changes_are_told_when_they_cease_or_at_last() {
        let start = Instant::now();
        let after = |delay: u64, changes: &[u64]| {
            let change = |due, at: &u64| {
                let path = PathBuf::from(at.to_string());
                let now = start + Duration::from_millis(*at);
                Some(Due::changed(due, path, Duration::from_millis(delay), now))
            };
            let due = changes.iter().fold(None, change).unwrap();
            assert_eq!(due.path, Path::new("0"));
            (due.at - start).as_millis()
        };
        assert_eq!(after(0, &[0]), 50);
        assert_eq!(after(0, &[0, 30, 60]), 110);
        assert_eq!(after(700, &[0, 30]), 700);
        assert_eq!(after(700, &[0, 690]), 740);
        assert_eq!(after(0, &[0, 4990]), 5000);
        assert_eq!(after(9000, &[0, 8990]), 9000);
    }

    #[test]
    fn what_never_matters() {
        let rules = Rules {
            roots: vec!["/srv/web".into()],
            ignore: vec![Pattern::Glob("*.tmp".to_owned())],
            ours: vec!["/srv/web/own".into()],
        };
        for path in ["/srv/web/app.js", "/srv/web/src/deep/x.ts", "/srv/web"] {
            assert!(rules.apply(Path::new(path)), "{path}");
        }
        for path in [
            "/srv/web/.git/index",
            "/srv/web/node_modules/x/index.js",
            "/srv/web/a.tmp",
            "/srv/web/own/out.log",
            "/srv/web/own.12",
            "/srv/other/app.js",
        ] {
            assert!(!rules.apply(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn changes_are_told_once_and_also_in_new_directories() {
        let dir = std::env::temp_dir().join(format!("rpm-files-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("src")).unwrap();
        let dir = dir.canonicalize().unwrap();
        let spec = WatchSpec {
            paths: vec![dir.display().to_string()],
            ignore: vec!["*.log".to_owned(), r"regex:[\/\\]data$".to_owned()],
            delay_ms: 0,
        };
        let (sender, changes) = channel();
        let watch = FileWatch::start(&spec, Vec::new(), move |path| {
            sender.send(path.to_owned()).is_ok()
        })
        .unwrap();
        let bound = Duration::from_secs(10);
        // The thread may not be watching yet.
        let first = || {
            let began = Instant::now();
            loop {
                std::fs::write(dir.join("src/a.js"), "x").unwrap();
                if let Ok(path) = changes.recv_timeout(Duration::from_millis(200)) {
                    return path;
                }
                assert!(began.elapsed() < bound);
            }
        };
        assert_eq!(first(), dir.join("src/a.js"));
        std::fs::write(dir.join("x.log"), "x").unwrap();
        std::fs::create_dir(dir.join("data")).unwrap();
        std::fs::write(dir.join("data/x"), "x").unwrap();
        std::fs::create_dir(dir.join("new")).unwrap();
        assert_eq!(changes.recv_timeout(bound).unwrap(), dir.join("new"));
        std::fs::write(dir.join("new/b.js"), "x").unwrap();
        assert_eq!(changes.recv_timeout(bound).unwrap(), dir.join("new/b.js"));
        drop(watch);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
