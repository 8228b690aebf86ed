//! `$RPM_HOME`: where the daemon's socket and files are.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Mode bits that let group or others write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The daemon's socket.
const SOCKET: &str = "rpm.sock";

/// Longest path of the socket, in bytes: the kernel takes 107.
const MAX_SOCKET_PATH: usize = 100;

/// Why the directory cannot be used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Neither variable is set.
    #[error("neither RPM_HOME nor HOME is set; set RPM_HOME to a directory for the daemon's files")]
    Unknown,
    /// It is not a directory.
    #[error("{} is not a directory; set RPM_HOME to another path", .0.display())]
    NotADirectory(PathBuf),
    /// It cannot be created or examined.
    #[error("cannot create or use {}; set RPM_HOME to a directory that you can write to", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It belongs to another user.
    #[error(
        "{} belongs to user {owner}; run this as that user, or set RPM_HOME to a directory of your own",
        path.display()
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Users who can write there could run programs as its owner, through the files that the daemon reads.
    #[error(
        "other users can write to {path} (mode {mode:04o}), and could have their programs run as its owner; look at what is there, \
         then: chmod go-w {path}",
        path = path.display(),
        mode = mode & 0o7777
    )]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The path of the socket is too long for the kernel.
    #[error(
        "the path {} is too long for a socket ({} bytes, at most {MAX_SOCKET_PATH}); set RPM_HOME to a shorter one",
        .0.display(),
        .0.as_os_str().len()
    )]
    TooLong(PathBuf),
}

/// The directory in use: `RPM_HOME`, or `PM2_HOME`, or `.rpm` in the home directory; absolute.
///
/// # Errors
/// None of these is set, nor `HOME`, or the current directory is gone.
pub fn home_dir() -> Result<PathBuf, HomeError> {
    let named = std::env::var_os("RPM_HOME").filter(|path| !path.is_empty());
    let named = named.or_else(|| std::env::var_os("PM2_HOME"));
    from_variables(named, std::env::var_os("HOME"))
}

/// The daemon's socket in [`home_dir`].
///
/// # Errors
/// As [`home_dir`].
pub fn socket() -> Result<PathBuf, HomeError> {
    Ok(home_dir()?.join(SOCKET))
}

/// Reads a file in the daemon's directory, if it belongs to the owner of that or to root: saved apps are executed.
pub(crate) fn read_own(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let owner = file.metadata()?.uid();
    let of_directory = path
        .parent()
        .map(fs::metadata)
        .transpose()?
        .map(|meta| meta.uid());
    if owner != 0 && Some(owner) != of_directory {
        return Err(io::Error::other(format!(
            "it belongs to user {owner}, and not to the owner of its directory; look at it, and remove it"
        )));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Whether PM2's file names are used too: the program is called `pm2`, or `RPM_COMPAT=pm2` is set.
#[must_use]
pub(crate) fn like_pm2() -> bool {
    let called = std::env::args_os().next();
    let by_name = called.is_some_and(|path| Path::new(&path).file_name().is_some_and(|name| name == "pm2"));
    by_name || std::env::var_os("RPM_COMPAT").is_some_and(|value| value == "pm2")
}

fn from_variables(rpm_home: Option<OsString>, home: Option<OsString>) -> Result<PathBuf, HomeError> {
    let set = |value: Option<OsString>| value.filter(|value| !value.is_empty()).map(PathBuf::from);
    let path = set(rpm_home)
        .or_else(|| set(home).map(|home| home.join(".rpm")))
        .ok_or(HomeError::Unknown)?;
    std::path::absolute(&path).map_err(|source| HomeError::Unusable { path, source })
}

/// The directory, seen by a client.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    root: PathBuf,
    /// Its owner, who also owns the daemon.
    owner: u32,
}

impl Home {
    /// The directory at `root`, if it is ours or does not exist yet. Root may use the directory of any user, to talk to that user's daemon.
    pub(crate) fn open(root: PathBuf) -> Result<Self, HomeError> {
        let own = rustix::process::geteuid();
        let home = Home {
            root,
            owner: own.as_raw(),
        };
        if home.socket().as_os_str().len() > MAX_SOCKET_PATH {
            return Err(HomeError::TooLong(home.socket()));
        }
        match fs::metadata(&home.root) {
            Ok(meta) if !meta.is_dir() => Err(HomeError::NotADirectory(home.root)),
            Ok(meta) if meta.uid() != own.as_raw() && !own.is_root() => Err(HomeError::NotOurs {
                path: home.root,
                owner: meta.uid(),
            }),
            Ok(meta) if meta.mode() & WRITABLE_BY_OTHERS != 0 => Err(HomeError::Writable {
                path: home.root,
                mode: meta.mode(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(home),
            Err(source) => Err(HomeError::Unusable {
                path: home.root,
                source,
            }),
            Ok(meta) => Ok(Home {
                owner: meta.uid(),
                ..home
            }),
        }
    }

    /// The owner of the directory: its daemon runs as this user only.
    pub(crate) fn owner(&self) -> u32 {
        self.owner
    }

    /// Whether a daemon that has ended may have left workers behind.
    pub(crate) fn has_workers_left(&self) -> bool {
        ["state.json", "state.json.old"]
            .iter()
            .any(|name| self.root().join(name).exists())
    }

    /// Creates the directory (0700) if it does not exist, and opens the lock file for starting the daemon. Root does not start a daemon in a
    /// user's directory: that would run as root what the user has written there.
    pub(crate) fn lock_file(&self) -> Result<fs::File, HomeError> {
        if self.owner != rustix::process::geteuid().as_raw() {
            return Err(HomeError::NotOurs {
                path: self.root.clone(),
                owner: self.owner,
            });
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.root);
        let unusable = |source| HomeError::Unusable {
            path: self.root.clone(),
            source,
        };
        made.map_err(unusable)?;
        let lock = self.root.join("rpm.lock");
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(lock)
            .map_err(unusable)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join(SOCKET)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("rpm.log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path of one test, where nothing is yet and nothing remains.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("rpm-home-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            Scratch(root)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0).or_else(|_| fs::remove_file(&self.0));
        }
    }

    #[test]
    fn rpm_home_wins_over_home() {
        let path = |rpm_home: &str, home: &str| from_variables(Some(rpm_home.into()), Some(home.into()));
        assert_eq!(path("/a", "/b").ok(), Some("/a".into()));
        assert_eq!(path("", "/b").ok(), Some("/b/.rpm".into()));
        assert!(path("x", "/b").is_ok_and(|path| path.is_absolute()));
        assert!(matches!(path("", ""), Err(HomeError::Unknown)));
    }

    #[test]
    fn it_is_created_for_its_owner_alone() {
        let scratch = Scratch::new("new");
        let root = scratch.0.join("deep");
        let home = Home::open(root.clone()).expect("not there yet");
        assert!(!root.exists());
        home.lock_file().expect("made");
        assert_eq!(root.metadata().expect("directory").mode() & 0o777, 0o700);
        Home::open(root).expect("ours");
    }

    #[test]
    fn unusable_places_say_what_to_do() {
        let scratch = Scratch::new("file");
        let file = &scratch.0;
        fs::write(file, "").expect("file");
        let error = |root: &Path| {
            Home::open(root.to_owned())
                .and_then(|home| home.lock_file())
                .expect_err("unusable")
                .to_string()
        };
        assert!(error(file).ends_with("is not a directory; set RPM_HOME to another path"));
        assert!(error(&file.join("x")).ends_with("set RPM_HOME to a directory that you can write to"));
        assert!(error(&PathBuf::from("/proc/none")).contains("cannot create or use /proc/none"));
        let long = format!("/{}", "x".repeat(MAX_SOCKET_PATH));
        assert!(error(Path::new(&long)).contains("(110 bytes, at most 100)"));
    }

    #[test]
    fn a_directory_of_another_user_is_refused() {
        let scratch = Scratch::new("theirs");
        let theirs = if rustix::process::geteuid().is_root() {
            fs::create_dir(&scratch.0).expect("directory");
            std::os::unix::fs::chown(&scratch.0, Some(1), None).expect("chown");
            scratch.0.clone()
        } else {
            PathBuf::from("/")
        };
        let owner = fs::metadata(&theirs).expect("directory").uid();
        // Root may look for the daemon of that user, but starts none.
        let refused = Home::open(theirs)
            .and_then(|home| home.lock_file())
            .expect_err("not ours");
        assert!(matches!(refused, HomeError::NotOurs { owner: named, .. } if named == owner));
    }
}
