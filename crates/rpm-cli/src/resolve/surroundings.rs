//! Where the command was typed: current directory and environment.

use std::collections::BTreeMap;
use std::ffi::OsStr;
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
        let cwd = std::env::current_dir()?;
        let mut env = BTreeMap::new();
        let mut skipped = Vec::new();
        for (name, value) in std::env::vars_os() {
            match (name.into_string(), value.into_string()) {
                (Ok(name), _) if NOT_INHERITED.contains(&name.as_str()) => {}
                (Ok(name), Ok(value)) => drop(env.insert(name, value)),
                (Ok(name), Err(_)) => skipped.push(name),
                (Err(name), _) => skipped.push(name.to_string_lossy().into_owned()),
            }
        }
        Ok(Surroundings { cwd, env, skipped })
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
