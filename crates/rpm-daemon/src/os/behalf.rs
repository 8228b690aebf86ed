//! With whose rights the files of an app are opened, made, renamed and removed: logs, pid files, access logs.
//!
//! An app may run as another user than the daemon (`uid`), and that user may have made a link of what the daemon writes to. So where
//! it has a say about what lies in a place, it is the user whose rights count. Where it has none, as in the daemon's own directory or
//! one of root's below `/var/log`, the daemon's rights count: the user could not write there.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rpm_sys::peer::effective_uid;
use rpm_sys::rights::as_user;
use rpm_sys::user::User;
use rpm_wire::api::AppSpec;
use rustix::fs::{CWD, FsWord, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::os::users::user;

/// Links on the way to a file, as the kernel has it.
const LINKS: usize = 40;
/// Everybody may write there.
const BY_ALL: u32 = 0o002;
/// A group may.
const BY_GROUP: u32 = 0o020;
/// Only who owns what lies there can remove it.
const STICKY: u32 = 0o1000;
/// Whoever has no user of that number is this one.
const NOBODY: u32 = 65_534;
/// What the name of a file of the daemon's gets where the user's takes its place.
const LEFT: &str = ".before";
/// File systems whose files are settings of the kernel (statfs(2)): proc, sysfs, cgroup, cgroup2. What may be set there depends on who
/// writes, and that is the daemon.
const SETTINGS: [FsWord; 4] = [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270];

/// What is done with a file when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Bytes are added. It is made if there is none, for its owner's eyes alone.
    Append,
    /// The same, but its directory must be there.
    AppendThere,
    /// The same as the first, and it is read too.
    AppendAndRead,
    /// It is written from its beginning. It is made if there is none, and everybody may read it.
    Rewrite,
    /// It is written to, if it is there.
    Existing,
}

/// For whom files are opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behalf(Option<Arc<User>>);

impl Behalf {
    /// For the user whom the app runs as. One that cannot be found may do nothing.
    pub(crate) fn of(spec: &AppSpec) -> Behalf {
        let found = match user(spec) {
            Ok(found) => found.filter(|user| user.uid != effective_uid()),
            Err(_) if effective_uid() == 0 => Some(User {
                uid: NOBODY,
                gid: NOBODY,
                groups: vec![NOBODY],
                account: None,
            }),
            Err(_) => None,
        };
        Behalf(found.map(Arc::new))
    }

    /// For a user.
    #[cfg(test)]
    fn of_user(user: User) -> Behalf {
        Behalf(Some(Arc::new(user)))
    }

    /// The number of the user; `None`: the daemon's own.
    pub(crate) fn uid(&self) -> Option<u32> {
        self.0.as_ref().map(|user| user.uid)
    }

    /// Opens a file. Its directory is made if there is none, as PM2 does. Never waits: a write to what is not a regular file may fail
    /// with [`io::ErrorKind::WouldBlock`].
    ///
    /// # Errors
    /// As `open(2)` and `mkdir(2)`; `ENXIO` for a pipe without a reader; a link of somebody else's where that is not followed.
    pub(crate) fn open(&self, path: &Path, how: How) -> io::Result<File> {
        let place = self.place(path);
        let Some(user) = place.user else {
            return made(&place.path, how, open_own);
        };
        as_user(user, || match made(path, how, open_theirs) {
            Err(denied)
                if denied.kind() == io::ErrorKind::PermissionDenied && put_left_aside(path).is_ok() =>
            {
                made(path, how, open_theirs)
            }
            opened => opened,
        })?
    }

    /// Does something else with a file, or with those beside it: `act` gets a path to it.
    ///
    /// # Errors
    /// Those of `act`.
    pub(crate) fn act<T>(&self, path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let place = self.place(path);
        match place.user {
            None => act(&place.path),
            Some(user) => as_user(user, || act(path))?,
        }
    }

    fn place(&self, path: &Path) -> Place<'_> {
        let own = |path: PathBuf, dir| Place {
            user: None,
            path,
            _dir: dir,
        };
        let Some(user) = self.0.as_deref() else {
            return own(path.to_owned(), None);
        };
        if is_beyond(user, path).unwrap_or(false) {
            return own(path.to_owned(), None);
        }
        match own_dir(user, path) {
            Some((dir, path)) => own(path, Some(dir)),
            None => Place {
                user: Some(user),
                path: path.to_owned(),
                _dir: None,
            },
        }
    }
}

/// Where a file is, and whose rights count there.
struct Place<'u> {
    /// `None`: the daemon's.
    user: Option<&'u User>,
    /// By way of the directory, where that is open.
    path: PathBuf,
    _dir: Option<OwnedFd>,
}

/// Root and the daemon's own user do nothing to the daemon.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == effective_uid()
}

/// Can the user put something into this directory?
fn may_write(user: &User, path: &Path, dir: &Metadata) -> bool {
    let group = || {
        let own = user.gid == dir.gid() || user.groups.contains(&dir.gid());
        // The bits are those of the list (acl(5)), where there is one: they do not say who is on it.
        let list = rustix::fs::lgetxattr(path, c"system.posix_acl_access", &mut [0_u8; 1024][..]);
        own || !matches!(list, Err(Errno::NODATA | Errno::OPNOTSUPP))
    };
    !is_trusted(dir.uid()) || dir.mode() & BY_ALL != 0 || (dir.mode() & BY_GROUP != 0 && group())
}

/// Has the user no say in where this path leads, and about what lies there? Walks it link by link: what a directory of root's holds
/// stays as it is while that is looked at.
fn is_beyond(user: &User, path: &Path) -> io::Result<bool> {
    if !path.is_absolute() {
        return Ok(false);
    }
    let mut at = PathBuf::from("/");
    let mut dir = fs::symlink_metadata(&at)?;
    let mut left: Vec<OsString> = Vec::new();
    push(&mut left, path);
    let mut links = 0;
    while let Some(name) = left.pop() {
        if name == ".." {
            at.pop();
            dir = fs::symlink_metadata(&at)?;
            continue;
        }
        let open = may_write(user, &at, &dir);
        let sticky = dir.mode() & STICKY != 0 && is_trusted(dir.uid());
        if open && !sticky {
            return Ok(false);
        }
        let next = at.join(&name);
        let meta = match fs::symlink_metadata(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(!open),
            meta => meta?,
        };
        // In a directory like /tmp a user can have made a hard link of anything but a directory.
        if meta.is_dir() && is_trusted(meta.uid()) {
            (at, dir) = (next, meta);
        } else if open || (meta.is_symlink() && !is_trusted(meta.uid())) {
            return Ok(false);
        } else if meta.is_symlink() {
            links += 1;
            if links > LINKS {
                return Err(Errno::LOOP.into());
            }
            let target = fs::read_link(&next)?;
            if target.is_absolute() {
                at = PathBuf::from("/");
                dir = fs::symlink_metadata(&at)?;
            }
            push(&mut left, &target);
        } else {
            // A directory of the user's, or the file.
            return Ok(!meta.is_dir());
        }
    }
    Ok(true)
}

/// The parts of a path, the first one on top.
fn push(left: &mut Vec<OsString>, path: &Path) {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    left.extend(parts);
}

/// The directory of the file, if it is the daemon's, though the user may have a say about what is above it; and the path by way of it.
/// There are no links on the way, and the file is none.
fn own_dir(user: &User, path: &Path) -> Option<(OwnedFd, PathBuf)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let (above, name) = (path.parent()?, path.file_name()?);
    let dir = rustix::fs::openat2(CWD, above, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).ok()?;
    let by_number = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    let meta = fs::metadata(&by_number).ok()?;
    let path = by_number.join(name);
    let is_link = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink());
    (!may_write(user, &by_number, &meta) && !is_link).then_some((dir, path))
}

/// Opens it, and makes its directory where there is none.
fn made(path: &Path, how: How, open: impl Fn(&Path, How) -> io::Result<File>) -> io::Result<File> {
    let makes = matches!(how, How::Append | How::AppendAndRead | How::Rewrite);
    match (open(path, how), path.parent()) {
        (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound && makes => {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            open(path, how)
        }
        (opened, _) => opened,
    }
}

/// A pipe without a reader is not waited for, a pipe or a terminal that takes no bytes says so, and a terminal does not become the
/// daemon's. A regular file knows no difference.
const PATIENT: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

fn raw_open(path: &Path, how: How, more: OFlags) -> io::Result<File> {
    let (flags, mode) = match how {
        How::Append | How::AppendThere => (OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE, 0o600),
        How::AppendAndRead => (OFlags::RDWR | OFlags::APPEND | OFlags::CREATE, 0o600),
        How::Rewrite => (OFlags::WRONLY | OFlags::CREATE, 0o666),
        How::Existing => (OFlags::WRONLY, 0),
    };
    let opened = rustix::fs::open(path, flags | PATIENT | more, Mode::from_raw_mode(mode))?;
    Ok(File::from(opened))
}

/// With the rights of the user, who may follow what links it likes.
fn open_theirs(path: &Path, how: How) -> io::Result<File> {
    let file = raw_open(path, how, OFlags::empty())?;
    let system = rustix::fs::fstatfs(&file)?.f_type;
    if SETTINGS.contains(&system) {
        return Err(refused("it is a setting of the kernel"));
    }
    Ok(file)
}

/// With the rights of the daemon. A link of somebody else's is not followed, and in a directory where everybody can put a file one of
/// somebody else's is not written to.
fn open_own(path: &Path, how: How) -> io::Result<File> {
    let above = || fs::metadata(path.parent().unwrap_or(Path::new("/")));
    let is_link = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => {
            let dir = above()?;
            let stays = dir.mode() & BY_ALL == 0 || dir.mode() & STICKY != 0;
            if !is_trusted(meta.uid()) || !stays {
                return Err(refused(
                    "it is a link that another user can have made, which is not followed",
                ));
            }
            true
        }
        Ok(_) | Err(_) => false,
    };
    let file = raw_open(
        path,
        how,
        if is_link {
            OFlags::empty()
        } else {
            OFlags::NOFOLLOW
        },
    )?;
    let meta = file.metadata()?;
    if meta.is_file() && !is_link && !is_trusted(meta.uid()) && above()?.mode() & BY_ALL != 0 {
        return Err(refused(
            "it belongs to another user, and lies where everybody can put a file",
        ));
    }
    Ok(file)
}

/// Makes way for a file of the user's where a daemon that opened everything with its own rights has left one. The user may: the directory is
/// the user's, and nothing of root's is written to there, whose file it may be in truth.
fn put_left_aside(path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_file() || meta.uid() != effective_uid() {
        return Err(Errno::ACCESS.into());
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(LEFT);
    fs::rename(path, aside)
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    const USER: u32 = 65_432;

    fn user() -> User {
        User {
            uid: USER,
            gid: USER,
            groups: vec![USER],
            account: None,
        }
    }

    /// A directory below this one, with that owner and mode.
    fn dir(path: &Path, owner: u32, mode: u32) -> PathBuf {
        fs::create_dir_all(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chown(path, Some(owner), Some(owner)).unwrap();
        path.to_owned()
    }

    #[test]
    fn the_daemons_rights_count_where_the_user_has_no_say() {
        if effective_uid() != 0 {
            return;
        }
        let root = dir(
            &std::env::temp_dir().join(format!("rpm-behalf-{}", std::process::id())),
            0,
            0o755,
        );
        let roots = dir(&root.join("roots"), 0, 0o700);
        let theirs = dir(&root.join("theirs"), USER, 0o700);
        let public = dir(&root.join("public"), 0, 0o1777);
        let group = dir(&root.join("group"), 0, 0o775);
        chown(&group, None, Some(USER)).unwrap();
        dir(&theirs.join("roots"), 0, 0o755);
        dir(&public.join("roots"), 0, 0o755);
        fs::write(roots.join("file"), "").unwrap();
        fs::write(public.join("file"), "").unwrap();
        symlink(&roots, root.join("to-roots")).unwrap();
        symlink(&theirs, root.join("to-theirs")).unwrap();
        symlink(theirs.join("file"), roots.join("link")).unwrap();
        symlink(&roots, theirs.join("link")).unwrap();
        lchown(theirs.join("link"), Some(USER), None).unwrap();
        let behalf = Behalf::of_user(user());
        for (path, own) in [
            ("roots/file", true),
            ("roots/new", true),
            ("roots/new/new", true),
            ("roots/link", false),
            ("to-roots/new", true),
            ("to-theirs/new", false),
            ("theirs/../roots/new", true),
            ("roots/../theirs/new", false),
            ("theirs/new", false),
            ("theirs/link/file", false),
            ("theirs/roots/new", true),
            ("public/new", false),
            ("public/file", false),
            ("public/roots/new", true),
            ("group/new", false),
        ] {
            let place = behalf.place(&root.join(path));
            assert_eq!(place.user.is_none(), own, "{path}");
            // Without a user they always do.
            assert!(Behalf::default().place(&root.join(path)).user.is_none());
        }
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn what_is_roots_is_not_written_to_where_the_user_may_put_it() {
        if effective_uid() != 0 {
            return;
        }
        let root = std::env::temp_dir().join(format!("rpm-left-{}", std::process::id()));
        let root = dir(&root, 0, 0o755);
        let theirs = dir(&root.join("theirs"), USER, 0o700);
        let private = |name: &str| {
            let path = root.join(name);
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        let secret = private("secret");
        let behalf = Behalf::of_user(user());
        for how in [How::Append, How::AppendThere, How::AppendAndRead, How::Rewrite] {
            let left = private("theirs/left");
            fs::hard_link(&secret, theirs.join("hard")).unwrap();
            symlink(&secret, theirs.join("soft")).unwrap();
            for path in [&left, &theirs.join("hard")] {
                let file = behalf.open(path, how).unwrap();
                assert_eq!(file.metadata().unwrap().uid(), USER, "{how:?}");
                let mut before = path.as_os_str().to_owned();
                before.push(LEFT);
                assert_eq!(fs::metadata(before).unwrap().uid(), 0);
            }
            assert!(behalf.open(&theirs.join("soft"), how).is_err(), "{how:?}");
            assert_eq!(fs::read(&secret).unwrap(), b"x");
            for entry in fs::read_dir(&theirs).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }
        let new = behalf.open(&theirs.join("new/new"), How::Append).unwrap();
        assert_eq!(new.metadata().unwrap().uid(), USER);
        assert!(behalf.open(&theirs.join("none"), How::Existing).is_err());
        // What a process is set to lies in a file of its user's. What may be set depends on who writes, and that is root.
        let mut sleep = Command::new("/bin/sleep");
        let mut process = sleep.arg("1000").uid(USER).gid(USER).spawn().unwrap();
        symlink(
            format!("/proc/{}/oom_score_adj", process.id()),
            theirs.join("setting"),
        )
        .unwrap();
        let refused = behalf.open(&theirs.join("setting"), How::Append).unwrap_err();
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(
            refused.to_string().contains("a setting of the kernel"),
            "{refused}"
        );
        fs::remove_dir_all(&root).unwrap();
    }
}
