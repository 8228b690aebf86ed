//! Where the command was typed: current directory and environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Variables that describe descriptors of *this* process; an app that believed them would read a
/// descriptor it does not have. And `_`, which is another one with each command that a shell runs: apps would seem to have changed.
const NOT_INHERITED: &[&str] = &[
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "_",
];

/// What the resolution of a command depends on.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// Current directory, absolute; with its symbolic links where the shell has come by them.
    pub(crate) cwd: PathBuf,
    /// The variables that an app inherits.
    pub(crate) env: BTreeMap<String, String>,
    /// Names of variables that cannot be passed on, because they are not UTF-8.
    pub(crate) skipped: Vec<String>,
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn of_process() -> io::Result<Self> {
        let cwd = std::env::current_dir()?;
        let logical = std::env::var_os("PWD").map(PathBuf::from);
        let cwd = logical.filter(|path| is_same(path, &cwd)).unwrap_or(cwd);
        Ok(Self::new(cwd, std::env::vars_os()))
    }

    fn new(cwd: PathBuf, variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let mut around = Surroundings {
            cwd,
            env: BTreeMap::new(),
            skipped: Vec::new(),
        };
        for (name, value) in variables {
            match (name.into_string(), value.into_string()) {
                (Ok(name), _) if NOT_INHERITED.contains(&name.as_str()) => {}
                (Ok(name), Ok(value)) => drop(around.env.insert(name, value)),
                (Ok(name), Err(_)) => around.skipped.push(name),
                (Err(name), _) => around.skipped.push(name.to_string_lossy().into_owned()),
            }
        }
        around
    }

    /// `path` seen from the current directory; symbolic links stay, for a deployment is often one.
    pub(crate) fn absolute(&self, path: &Path) -> PathBuf {
        absolute_from(&self.cwd, path)
    }

    /// The home directory, if it is known.
    pub(crate) fn home(&self) -> Option<&str> {
        self.env
            .get("HOME")
            .map(String::as_str)
            .filter(|home| home.starts_with('/'))
    }

    /// The search path as it is shown.
    pub(crate) fn search_path(&self) -> &str {
        self.env.get("PATH").map_or("", String::as_str)
    }

    /// The executable file `name` that a shell would run.
    pub(crate) fn which(&self, name: &OsStr) -> Option<PathBuf> {
        let dirs = std::env::split_paths(self.search_path());
        dirs.map(|dir| self.absolute(&dir).join(name))
            .find(|path| is_executable(path))
    }
}

/// Whether `logical` is the shell's name for this directory, through symbolic links that may change.
fn is_same(logical: &Path, real: &Path) -> bool {
    logical.is_absolute() && logical.canonicalize().is_ok_and(|found| found == real)
}

/// `path` seen from the absolute directory `dir`, without `.` components.
pub(super) fn absolute_from(dir: &Path, path: &Path) -> PathBuf {
    dir.join(path).components().collect()
}

/// The same for a path as it is written in a file: `~/` is the home directory.
pub(super) fn path_from(dir: &Path, path: &str, home: Option<&str>) -> String {
    let absolute = match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => absolute_from(Path::new(home), Path::new(rest)),
        _ => absolute_from(dir, Path::new(path)),
    };
    absolute.display().to_string()
}

/// Whether it is a file with an execute permission.
pub(super) fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn variables_that_cannot_or_must_not_be_passed_on() {
        let bad = || OsString::from_vec(vec![b'x', 0xff]);
        let variables: [(OsString, OsString); 6] = [
            ("PATH".into(), "/bin".into()),
            ("NODE_CHANNEL_FD".into(), "3".into()),
            ("_".into(), "/usr/bin/rpm".into()),
            ("LISTEN_FDS".into(), bad()),
            ("VALUE".into(), bad()),
            (bad(), "1".into()),
        ];
        let around = Surroundings::new("/srv".into(), variables.into_iter());
        assert_eq!(around.env, [("PATH".to_owned(), "/bin".to_owned())].into());
        assert_eq!(around.skipped, ["VALUE", "x\u{fffd}"]);
        assert_eq!(around.absolute(Path::new("./a/./b")), Path::new("/srv/a/b"));
    }

    #[test]
    fn the_name_that_the_shell_has_for_a_directory_is_believed_if_it_leads_there() {
        let dir = std::env::temp_dir().join(format!("rpm-pwd-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("one")).expect("a directory");
        symlink("one", dir.join("current")).expect("a link");
        let real = dir.join("one").canonicalize().expect("its path");
        assert!(is_same(&dir.join("current"), &real));
        for stale in ["/", "current", "/nowhere"] {
            assert!(!is_same(Path::new(stale), &real), "{stale}");
        }
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
