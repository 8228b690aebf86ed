//! What the kernel tells of changes (inotify), and which of its watches that takes: directories of which everything matters, and those in
//! which only a name does, for what is watched may be made anew, or appear at all.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tracing::{info, warn};

use super::rules::{Found, Lookout, Ours, Rules, is_touched, lookouts};

/// Directories that are watched for one app: each takes a watch of the user's (fs.inotify.max_user_watches).
const DIRECTORIES: usize = 100_000;
/// How deep directories may lie.
const DEPTH: usize = 64;
/// How often it is looked whether something has appeared while its directory was not watched yet.
const LOOKS: usize = 8;
/// Room for what the kernel tells at once.
const EVENTS: usize = 16 << 10;
/// Changes of names.
const NAMES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);
/// Changes of files, too.
const FILES: WatchFlags = NAMES.union(WatchFlags::MODIFY).union(WatchFlags::ATTRIB);
/// File systems whose files are made as they are read, of which the kernel tells nothing: proc, sysfs, cgroup2, debugfs, tracefs, securityfs.
const MADE_UP: [u32; 6] = [
    0x9fa0,
    0x6265_6572,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
];

/// Which file it is.
type Identity = (u64, u64);

/// The inotify watches of one app.
pub(super) struct Watcher {
    inotify: OwnedFd,
    rules: Rules,
    /// A directory may go by several paths.
    paths: BTreeMap<i32, BTreeSet<PathBuf>>,
    watches: BTreeMap<PathBuf, i32>,
    /// Of those, the ones of which everything matters that the rules let through.
    trees: BTreeSet<PathBuf>,
    lookouts: BTreeMap<Lookout, BTreeSet<usize>>,
    /// Of each root.
    found: Vec<Option<Identity>>,
    complaints: Complaints,
}

/// What was said once, and need not be said again.
#[derive(Default)]
struct Complaints {
    limit: bool,
    kernel: bool,
    other: bool,
}

/// A change that the kernel has reported.
struct Notice {
    watch: i32,
    flags: ReadFlags,
    name: Option<OsString>,
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Watcher {
    /// What the kernel reports changes by.
    ///
    /// # Errors
    /// The user has as many as may be (fs.inotify.max_user_instances), or no descriptor is left.
    pub(super) fn init() -> io::Result<OwnedFd> {
        Ok(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?)
    }

    pub(super) fn open(inotify: OwnedFd, rules: Rules) -> Watcher {
        let mut watcher = Watcher {
            inotify,
            found: vec![None; rules.roots.len()],
            rules,
            paths: BTreeMap::new(),
            watches: BTreeMap::new(),
            trees: BTreeSet::new(),
            lookouts: BTreeMap::new(),
            complaints: Complaints::default(),
        };
        watcher.look_again();
        for (root, found) in watcher.rules.roots.iter().zip(&watcher.found) {
            if found.is_none() {
                info!(path = %root.base.display(), "does not exist yet; it is watched once it is created");
            }
        }
        watcher
    }

    /// Hears what the kernel has to tell. The first file whose change matters, and that is not there for `ours`.
    ///
    /// # Errors
    /// It cannot be heard any more.
    pub(super) fn changed(&mut self, ours: &Ours) -> io::Result<Option<PathBuf>> {
        let mut first = None;
        let mut stale = false;
        for notice in self.heard()? {
            let (changed, moved) = self.weigh(&notice);
            first = first.or(changed.filter(|path| !ours.explain(path)));
            stale |= moved;
        }
        if stale {
            let another = self.look_again();
            first = first.or(another);
        }
        Ok(first)
    }

    fn heard(&self) -> io::Result<Vec<Notice>> {
        let mut room = [MaybeUninit::uninit(); EVENTS];
        let mut reader = inotify::Reader::new(&self.inotify, &mut room);
        let mut heard = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => heard.push(Notice {
                    watch: event.wd(),
                    flags: event.events(),
                    name: event
                        .file_name()
                        .map(|name| OsStr::from_bytes(name.to_bytes()).to_owned()),
                }),
                Err(Errno::AGAIN) => return Ok(heard),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            // The rest is for the next time: a file that changes all the time does not keep others from being told.
            if reader.is_buffer_empty() && heard.len() >= EVENTS / 16 {
                return Ok(heard);
            }
        }
    }

    /// The file whose change matters, and whether it has to be looked again where everything is.
    fn weigh(&mut self, notice: &Notice) -> (Option<PathBuf>, bool) {
        if notice.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            warn!("missed changes of watched files; scanning all of them");
            self.forget_all();
            return (self.rules.roots.first().map(|root| root.base.clone()), true);
        }
        if notice.flags.contains(ReadFlags::IGNORED) {
            for path in self.paths.remove(&notice.watch).unwrap_or_default() {
                self.watches.remove(&path);
                self.trees.remove(&path);
            }
            return (None, true);
        }
        let Some(name) = &notice.name else {
            return (None, notice.flags.contains(ReadFlags::MOVE_SELF));
        };
        let dirs = self.paths.get(&notice.watch).cloned().unwrap_or_default();
        let (mut changed, mut stale) = (None, false);
        for dir in dirs {
            stale |= self.is_looked_for(&dir, name, notice.flags);
            let path = self.meant(&dir, name, notice.flags);
            changed = changed.or(path);
        }
        (changed, stale)
    }

    /// Has a name come or gone by which something is found?
    fn is_looked_for(&self, dir: &Path, name: &OsStr, flags: ReadFlags) -> bool {
        let names = ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
        let path = dir.join(name);
        let is_it =
            |lookout: &Lookout| lookout.dir == dir && lookout.name == name || lookout.dir.starts_with(&path);
        flags.intersects(names) && self.lookouts.keys().any(is_it)
    }

    /// The file that has changed, if it matters.
    fn meant(&mut self, dir: &Path, name: &OsStr, flags: ReadFlags) -> Option<PathBuf> {
        let path = dir.join(name);
        if flags.contains(ReadFlags::ATTRIB) && (flags.contains(ReadFlags::ISDIR) || !is_touched_now(&path)) {
            return None;
        }
        let is_file = |lookout: &&Lookout| lookout.is_file && lookout.dir == dir && lookout.name == name;
        if let Some((_, roots)) = self.lookouts.iter().find(|(lookout, _)| is_file(lookout)) {
            let mut bases = roots.iter().map(|&root| &self.rules.roots[root].base);
            if let Some(base) = bases.find(|base| self.rules.apply(base)) {
                return Some(base.clone());
            }
        }
        if !self.trees.contains(dir) {
            return Some(path).filter(|path| self.rules.apply(path));
        }
        if !self.rules.enter(&path) {
            return None;
        }
        let mut inside = None;
        if flags.contains(ReadFlags::ISDIR) && flags.intersects(ReadFlags::MOVED_FROM | ReadFlags::DELETE) {
            self.forget(&path);
        } else if flags.contains(ReadFlags::ISDIR) {
            self.forget(&path);
            // What was made in it before it was watched is told by nobody else.
            inside = self.enter(&path, 1);
        }
        match self.rules.apply(&path) {
            true => Some(path),
            false => inside,
        }
    }

    /// Looks where everything is, and watches it. A root that is another one now, or is there no more.
    fn look_again(&mut self) -> Option<PathBuf> {
        for _ in 0..LOOKS {
            let wanted = self.wanted();
            let same = wanted == self.lookouts;
            self.lookouts = wanted;
            let each: BTreeMap<PathBuf, bool> =
                self.lookouts.keys().fold(BTreeMap::new(), |mut each, lookout| {
                    *each.entry(lookout.dir.clone()).or_default() |= lookout.is_file;
                    each
                });
            for (dir, files) in &each {
                self.watch(dir, if *files { FILES } else { NAMES });
            }
            let unused = |path: &&PathBuf| !each.contains_key(*path) && !self.trees.contains(*path);
            let unused: Vec<PathBuf> = self.watches.keys().filter(unused).cloned().collect();
            unused.iter().for_each(|path| self.unwatch(path));
            if same {
                break;
            }
        }
        let mut changed = None;
        for number in 0..self.found.len() {
            let another = self.look_at_root(number);
            changed = changed.or(another);
        }
        changed
    }

    /// Where to look for each root.
    fn wanted(&self) -> BTreeMap<Lookout, BTreeSet<usize>> {
        let mut wanted: BTreeMap<Lookout, BTreeSet<usize>> = BTreeMap::new();
        for (number, root) in self.rules.roots.iter().enumerate() {
            for lookout in lookouts(&root.base, found) {
                wanted.entry(lookout).or_default().insert(number);
            }
        }
        wanted
    }

    fn look_at_root(&mut self, number: usize) -> Option<PathBuf> {
        let root = self.rules.roots[number].clone();
        let now = root.base.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
        let before = std::mem::replace(&mut self.found[number], now);
        let is_watched = now.is_none() || self.trees.contains(&root.base) || !root.base.is_dir();
        if before == now && is_watched {
            return None;
        }
        self.forget(&root.base);
        let inside = self.enter(&root.base, 0);
        let is_another = before != now && (before.is_some() || root.is_plain());
        let matters = is_another && (!root.is_plain() || self.rules.apply(&root.base));
        Some(root.base).filter(|_| matters).or(inside)
    }

    /// Watches a directory with all that is in it. A file in it that matters.
    fn enter(&mut self, path: &Path, depth: usize) -> Option<PathBuf> {
        if depth > DEPTH || !self.rules.enter(path) || !self.watch(path, FILES) {
            return None;
        }
        self.trees.insert(path.to_owned());
        let mut first = None;
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let below = entry.path();
            let inside = match entry.file_type() {
                Ok(kind) if kind.is_dir() && !self.is_made_up(path, &below) => self.enter(&below, depth + 1),
                _ => None,
            };
            let meant = first.is_none() && self.rules.apply(&below);
            first = first.or(inside).or(meant.then_some(below));
        }
        first
    }

    /// Does another file system begin here of which the kernel tells nothing?
    fn is_made_up(&self, above: &Path, path: &Path) -> bool {
        let device = |path: &Path| path.symlink_metadata().map(|meta| meta.dev()).ok();
        if device(above) == device(path) {
            return false;
        }
        let kind = rustix::fs::statfs(path).map(|system| u32::try_from(system.f_type));
        let is_named = self.rules.roots.iter().any(|root| root.base.starts_with(path));
        !is_named && matches!(kind, Ok(Ok(kind)) if MADE_UP.contains(&kind))
    }

    /// Watches what is at this path now. Is it a directory, and watched?
    fn watch(&mut self, path: &Path, flags: WatchFlags) -> bool {
        if self.watches.len() >= DIRECTORIES && !self.watches.contains_key(path) {
            if !std::mem::replace(&mut self.complaints.limit, true) {
                warn!(path = %path.display(), limit = DIRECTORIES, "too many directories; this one and further ones are not watched");
            }
            return false;
        }
        let all = flags | WatchFlags::MASK_ADD | WatchFlags::ONLYDIR;
        let watch = match inotify::add_watch(&self.inotify, path, all) {
            Ok(watch) => watch,
            Err(error) => {
                self.unwatch(path);
                self.complain(path, error);
                return false;
            }
        };
        if self.watches.get(path).is_some_and(|before| *before != watch) {
            self.unwatch(path);
        }
        self.watches.insert(path.to_owned(), watch);
        self.paths.entry(watch).or_default().insert(path.to_owned());
        true
    }

    fn complain(&mut self, path: &Path, error: Errno) {
        match error {
            // It has gone in the meantime, or is a file.
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {}
            Errno::NOSPC => {
                if !std::mem::replace(&mut self.complaints.kernel, true) {
                    warn!(path = %path.display(), "this directory and further ones are not watched: fs.inotify.max_user_watches is too low");
                }
            }
            error => {
                if !std::mem::replace(&mut self.complaints.other, true) {
                    warn!(path = %path.display(), %error, "not watched; further ones are not reported");
                }
            }
        }
    }

    fn unwatch(&mut self, path: &Path) {
        self.trees.remove(path);
        let Some(watch) = self.watches.remove(path) else {
            return;
        };
        let Some(paths) = self.paths.get_mut(&watch) else {
            return;
        };
        paths.remove(path);
        if paths.is_empty() {
            self.paths.remove(&watch);
            // The directory may have gone, and its watch with it.
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
    }

    /// Watches nothing any more of what is in a directory; a name in it may still be looked for.
    fn forget(&mut self, dir: &Path) {
        let inside: Vec<PathBuf> = self
            .trees
            .range(dir.to_owned()..)
            .take_while(|path| path.starts_with(dir))
            .cloned()
            .collect();
        for path in inside {
            self.trees.remove(&path);
            if !self.lookouts.keys().any(|lookout| lookout.dir == path) {
                self.unwatch(&path);
            }
        }
    }

    fn forget_all(&mut self) {
        let all: Vec<PathBuf> = self.watches.keys().cloned().collect();
        all.iter().for_each(|path| self.unwatch(path));
    }
}

/// What is at a path now.
fn found(path: &Path) -> Found {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => Found::Directory,
        Ok(meta) if meta.is_symlink() => fs::read_link(path).map_or(Found::Other, Found::Link),
        Ok(_) => Found::Other,
        Err(_) => Found::Nothing,
    }
}

fn is_touched_now(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| {
        is_touched(
            (meta.mtime(), meta.mtime_nsec()),
            (meta.ctime(), meta.ctime_nsec()),
        )
    })
}

#[cfg(test)]
mod tests;
