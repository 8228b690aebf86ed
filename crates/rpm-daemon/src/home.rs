//! The daemon's directory: who may use it, and what lies where.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Its group or anybody may write to it.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// What the daemon believes, locks and listens at.
const FILES: [&str; 21] = [
    "state.json",
    "state.json.old",
    "state.json.new",
    "apps.json",
    "apps.json.old",
    "apps.json.new",
    "rpm.pid",
    "rpm.lock",
    "rpm.sock",
    "agent.sock",
    "keep.sock",
    "keep.pid",
    "calls",
    "asked",
    "output",
    "events.ndjson",
    "events.ndjson.1",
    "events.ndjson.2",
    "events.ndjson.3",
    "events.ndjson.4",
    ".probe",
];
/// Most log threads, each of which has a file for what is on its way.
pub(crate) const OUTPUTS: usize = 16;
/// What administrators may have put elsewhere, by links of their own.
const PLACES: [&str; 7] = [
    "logs",
    "pids",
    "rpm.log",
    "dump.json",
    "dump.pm2",
    "conf.json",
    "module_conf.json",
];

/// Ours, and PM2's.
const PM2_NAMES: [(&str, &str); 2] = [("rpm.pid", "pm2.pid"), ("rpm.log", "pm2.log")];

/// `$RPM_HOME`.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// It, or something in it, cannot be made.
    #[error("cannot create {path}; set RPM_HOME to a directory that you can write to")]
    Create {
        /// What.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is somebody else's.
    #[error("{path} belongs to user {owner}; set RPM_HOME to a directory of your own")]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Others may write to it, and so have their programs run as its owner.
    #[error(
        "other users can write to {path} (mode {mode:04o}), and could have their programs run as its owner; look at what is there, \
         then: chmod go-w {path}"
    )]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// One of the daemon's files is somebody else's: what it says is not to be believed.
    #[error("{path} belongs to user {owner}, and is not used; look at it, then: rm -r {path}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// One of the daemon's files is a link: it is not followed, for it would be written where that leads.
    #[error("{path} is a link, which is not followed; look at it, then: rm {path}")]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A probe file cannot be written: a full disk, or a read-only file system.
    #[error("cannot write in {path}; free some space, or set RPM_HOME to another place")]
    Write {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Home {
    /// The directory at `root`, made (0700) if it is absent and proved to be writable.
    ///
    /// # Errors
    /// It cannot be used; the message says what to do.
    pub fn prepare(root: &Path) -> Result<Home, HomeError> {
        let home = Home {
            root: root.to_owned(),
        };
        private_dir(root)?;
        let meta = fs::metadata(root).map_err(|source| HomeError::Create {
            path: root.to_owned(),
            source,
        })?;
        if meta.uid() != rpm_sys::peer::effective_uid() {
            return Err(HomeError::NotOurs {
                path: root.to_owned(),
                owner: meta.uid(),
            });
        }
        if meta.mode() & WRITABLE_BY_OTHERS != 0 {
            return Err(HomeError::Writable {
                path: root.to_owned(),
                mode: meta.mode() & 0o7777,
            });
        }
        if meta.mode() & 0o077 != 0 {
            let closed = fs::set_permissions(root, Permissions::from_mode(0o700));
            closed.map_err(|source| HomeError::Create {
                path: root.to_owned(),
                source,
            })?;
        }
        home.look_at_files(meta.uid())?;
        private_dir(&home.logs())?;
        home.prove_writable()?;
        Ok(home)
    }

    /// What the daemon reads and writes here must have been made by its own user or by root: others may have planted it before the
    /// directory was closed to them.
    fn look_at_files(&self, own: u32) -> Result<(), HomeError> {
        let own_files = FILES.iter().map(|name| self.root.join(name));
        let outputs = (1..OUTPUTS).map(|number| self.output(number));
        let never_links = own_files.chain(outputs).map(|path| (path, false));
        let places = PLACES.iter().map(|name| (self.root.join(name), true));
        for (path, may_be_link) in never_links.chain(places) {
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            let owner = meta.uid();
            if owner != own && owner != 0 {
                return Err(HomeError::Foreign { path, owner });
            }
            if meta.is_symlink() && !may_be_link {
                return Err(HomeError::Link { path });
            }
        }
        Ok(())
    }

    fn prove_writable(&self) -> Result<(), HomeError> {
        let probe = self.root.join(".probe");
        let written =
            private_file(&probe).and_then(|mut file| io::Write::write_all(&mut file, &[b'.'; 4096]));
        let removed = fs::remove_file(&probe);
        written.and(removed).map_err(|source| HomeError::Write {
            path: self.root.clone(),
            source,
        })
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the daemon listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.join("rpm.sock")
    }

    /// Where the next daemon connects to the keeper.
    #[must_use]
    pub fn keeper(&self) -> PathBuf {
        self.root.join("keep.sock")
    }

    /// Where the agents in the workers connect.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.root.join("agent.sock")
    }

    /// The directory beside it in which workers of other users find what they need: of root, and the same for each daemon of this home.
    ///
    /// # Errors
    /// The home cannot be looked at.
    pub fn open_to_others(&self) -> io::Result<PathBuf> {
        let meta = fs::metadata(&self.root)?;
        Ok(PathBuf::from(format!(
            "/run/rpm-{:x}-{:x}",
            meta.dev(),
            meta.ino()
        )))
    }

    /// Calls of workers that wait for an answer.
    #[must_use]
    pub fn calls(&self) -> PathBuf {
        self.root.join("calls")
    }

    /// Workers that were asked to end.
    #[must_use]
    pub fn asked(&self) -> PathBuf {
        self.root.join("asked")
    }

    /// Output that is on its way from workers to their files, by the log thread of that number.
    #[must_use]
    pub fn output(&self, thread: usize) -> PathBuf {
        self.root.join(match thread {
            0 => "output".to_owned(),
            thread => format!("output-{thread}"),
        })
    }

    /// Locked by the daemon while it lives; its content is the daemon's pid.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.root.join("rpm.pid")
    }

    /// The daemon's own log.
    #[must_use]
    pub fn daemon_log(&self) -> PathBuf {
        self.root.join("rpm.log")
    }

    /// PM2's names for our files, where they are wanted (`RPM_COMPAT=pm2`): for scripts that look there.
    pub(crate) fn name_like_pm2(&self) {
        if std::env::var_os("RPM_COMPAT").is_none_or(|value| value != "pm2") {
            return;
        }
        for (ours, theirs) in PM2_NAMES {
            let link = self.root.join(theirs);
            let is_ours = fs::symlink_metadata(&link).is_ok_and(|meta| meta.is_symlink());
            if is_ours {
                let _ = fs::remove_file(&link);
            }
            // A file of PM2's own stays.
            let _ = std::os::unix::fs::symlink(ours, &link);
        }
    }

    /// They are gone with the daemon.
    pub(crate) fn unname_like_pm2(&self) {
        let link = self.root.join("pm2.pid");
        if fs::read_link(&link).is_ok_and(|target| target == Path::new("rpm.pid")) {
            let _ = fs::remove_file(link);
        }
    }

    /// The apps' logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The pids of the apps' processes.
    #[must_use]
    pub fn pids(&self) -> PathBuf {
        self.root.join("pids")
    }

    /// Where the output and the errors of an instance go: `<name>-out.log` for a single process,
    /// `<name>-out-<id>.log` in a cluster, as under PM2.
    #[must_use]
    pub fn log_files(&self, name: &str, id: Option<u32>) -> (PathBuf, PathBuf) {
        let name = file_name(name);
        let suffix = id.map_or_else(String::new, |id| format!("-{id}"));
        let file = |stream: &str| self.logs().join(format!("{name}-{stream}{suffix}.log"));
        (file("out"), file("error"))
    }
}

/// An app's name as the name of a file, as under PM2: what is no letter, digit, dot or backslash becomes `-`, so that it stays in its
/// directory. (PM2 takes letters of ASCII alone; names in other scripts would all be the same.)
pub(crate) fn file_name(name: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '.' | '\\');
    let letters = name
        .chars()
        .map(|letter| if plain(letter) { letter } else { '-' });
    letters.collect()
}

/// Flags for a file that a user names: a pipe without a reader is not waited for, a pipe or a terminal that takes no bytes says so, and a
/// terminal does not become the daemon's. A regular file knows no difference.
pub(crate) const PATIENT: i32 = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits().cast_signed();

/// What a regular file has, if that is no more than `most` bytes. Never waits, and reads no more, whoever else can change what lies there.
///
/// # Errors
/// As `open(2)` and `read(2)`; it is no regular file, or too long.
pub(crate) fn read_small(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(PATIENT).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Opens a file for appending that only its owner can read. Its directory is made if there is none, as PM2 does.
///
/// Never waits: a write to what is not a regular file may fail with [`io::ErrorKind::WouldBlock`].
///
/// # Errors
/// As `open(2)` and `mkdir(2)`; `ENXIO` for a pipe without a reader.
pub fn private_file(path: &Path) -> io::Result<fs::File> {
    let open = || {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(PATIENT)
            .open(path)
    };
    match (open(), path.parent()) {
        (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            open()
        }
        (opened, _) => opened,
    }
}

fn private_dir(path: &Path) -> Result<(), HomeError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| HomeError::Create {
        path: path.to_owned(),
        source,
    })
}
