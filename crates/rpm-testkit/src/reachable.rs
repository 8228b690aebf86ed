//! Programs at a place that every user can read. An unprivileged daemon and its workers run as another user, who may not be allowed into
//! the checkout's directory.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What must be readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Only the file.
    File,
    /// The file and those beside it, which it reads.
    Directory,
}

/// The path itself if every user can read it, otherwise the path of a copy.
///
/// # Panics
/// It cannot be copied.
pub(crate) fn reachable(path: PathBuf, what: What) -> PathBuf {
    if is_open_to_all(&path) {
        return path;
    }
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = path.parent().expect("a file has a directory");
    let stage = stage_for(directory);
    match what {
        What::File => copy(&path, &stage),
        What::Directory => {
            let files = fs::read_dir(directory).expect("the directory is ours to read");
            let files = files.filter_map(|entry| Some(entry.ok()?.path()));
            files
                .filter(|file| file.is_file())
                .for_each(|file| copy(&file, &stage));
        }
    }
    stage.join(path.file_name().expect("a file has a name"))
}

fn is_open_to_all(path: &Path) -> bool {
    let allows = |path: &Path, bits: u32| {
        fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & bits == bits)
    };
    allows(path, 0o004) && path.ancestors().skip(1).all(|directory| allows(directory, 0o001))
}

/// The directory for copies from `directory`.
fn stage_for(directory: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    directory.hash(&mut hasher);
    let stage = std::env::temp_dir().join(format!("rpm-stage-{:016x}", hasher.finish()));
    fs::create_dir_all(&stage).expect("a directory for copies");
    fs::set_permissions(&stage, fs::Permissions::from_mode(0o755)).expect("it is ours");
    stage
}

/// Copies a file unless the copy is newer. A rename makes it appear complete.
fn copy(file: &Path, stage: &Path) {
    let target = stage.join(file.file_name().expect("a file has a name"));
    let changed = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if changed(&target).is_some_and(|copied| Some(copied) > changed(file)) {
        return;
    }
    let fresh = stage.join(format!(".{}", std::process::id()));
    fs::copy(file, &fresh).expect("the file is copied");
    let mode = fs::metadata(&fresh).expect("it is there").permissions().mode() | 0o444;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).expect("it is ours");
    fs::rename(&fresh, &target).expect("the copy takes its place");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_can_reach_is_copied_with_its_neighbours() {
        let home = std::env::temp_dir().join(format!("rpm-reachable-{}", std::process::id()));
        let inner = home.join("inner");
        fs::create_dir_all(&inner).unwrap();
        for name in ["app.js", "beside.js"] {
            fs::write(inner.join(name), name).unwrap();
        }
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
        let app = inner.join("app.js");
        assert_eq!(reachable(app.clone(), What::Directory), app, "open to all");
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
        let copied = reachable(app.clone(), What::Directory);
        assert_ne!(copied, app);
        assert!(is_open_to_all(&copied) && is_open_to_all(&copied.with_file_name("beside.js")));
        fs::write(&app, "changed").unwrap();
        assert_eq!(fs::read_to_string(reachable(app, What::File)).unwrap(), "changed");
        fs::remove_dir_all(copied.parent().unwrap()).unwrap();
        fs::remove_dir_all(&home).unwrap();
    }
}
