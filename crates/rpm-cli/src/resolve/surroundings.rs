//! Where the command was typed: current directory and environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Variables that describe descriptors of *this* process; an app that believed them would read a
/// descriptor it does not have.
const NOT_INHERITED: &[&str] = &[
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
];

/// What the resolution of a command depends on.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// Current directory, absolute.
    pub(crate) cwd: PathBuf,
    /// What an app inherits.
    pub(crate) env: BTreeMap<String, String>,
    /// Names of variables that cannot be passed on, for they are not UTF-8.
    pub(crate) skipped: Vec<String>,
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn of_process() -> io::Result<Self> {
        Ok(Self::new(std::env::current_dir()?, std::env::vars_os()))
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

/// `path` seen from the absolute directory `dir`, without `.` components.
pub(super) fn absolute_from(dir: &Path, path: &Path) -> PathBuf {
    dir.join(path).components().collect()
}

/// A file that somebody may execute.
pub(super) fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn variables_that_cannot_or_must_not_be_passed_on() {
        let bad = || OsString::from_vec(vec![b'x', 0xff]);
        let variables: [(OsString, OsString); 5] = [
            ("PATH".into(), "/bin".into()),
            ("NODE_CHANNEL_FD".into(), "3".into()),
            ("LISTEN_FDS".into(), bad()),
            ("VALUE".into(), bad()),
            (bad(), "1".into()),
        ];
        let around = Surroundings::new("/srv".into(), variables.into_iter());
        assert_eq!(around.env, [("PATH".to_owned(), "/bin".to_owned())].into());
        assert_eq!(around.skipped, ["VALUE", "x\u{fffd}"]);
        assert_eq!(around.absolute(Path::new("./a/./b")), Path::new("/srv/a/b"));
    }
}
