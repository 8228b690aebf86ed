//! Which mount a path is on, found out without touching it: a file system that does not respond (NFS without its server, FUSE without its
//! program) holds whoever asks it anything.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The mounts of this process, and a poll(2) that says when they have changed (proc_pid_mountinfo(5)).
const TABLE: &str = "/proc/self/mountinfo";
/// Links that are followed on the way to a file, as the kernel has it.
const LINKS: usize = 40;
/// Types of file systems that are in memory alone: nothing is waited for there.
const MEMORY: [&[u8]; 9] = [
    b"tmpfs",
    b"ramfs",
    b"devtmpfs",
    b"devpts",
    b"proc",
    b"sysfs",
    b"mqueue",
    b"cgroup2",
    b"hugetlbfs",
];
/// Types whose files are asked of another machine or of a program; FUSE's have a name behind a dot.
const REMOTE: [&[u8]; 14] = [
    b"nfs",
    b"nfs4",
    b"cifs",
    b"smb3",
    b"smbfs",
    b"9p",
    b"ceph",
    b"afs",
    b"lustre",
    b"gfs2",
    b"ocfs2",
    b"virtiofs",
    b"autofs",
    b"fuse",
];

/// Who answers for the files of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The kernel, from memory.
    Memory,
    /// A disk.
    Disk,
    /// Another machine, or a program.
    Remote,
}

/// Where a file system is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) point: PathBuf,
    pub(crate) kind: Kind,
}

/// The table of mounts, read again when it has changed.
#[derive(Debug)]
pub(crate) struct Mounts {
    table: Option<File>,
    by_point: BTreeMap<PathBuf, Kind>,
}

impl Mounts {
    /// Reads the table. Without one everything is on `/`.
    pub(crate) fn read() -> Mounts {
        let mut mounts = Mounts {
            table: File::open(TABLE).ok(),
            by_point: BTreeMap::new(),
        };
        mounts.read_again();
        mounts
    }

    /// These mounts, whatever the system has.
    #[cfg(test)]
    pub(crate) fn with(mounts: &[(&Path, Kind)]) -> Mounts {
        Mounts {
            table: None,
            by_point: mounts
                .iter()
                .map(|(point, kind)| (point.to_path_buf(), *kind))
                .collect(),
        }
    }

    /// The mount that a path leads to. Only where a mount `is_safe` links are read; below any other mount nothing is touched, so a link
    /// there to yet another mount is not seen.
    pub(crate) fn find(&mut self, path: &Path, is_safe: impl Fn(&Mount) -> bool) -> Mount {
        self.refresh();
        let mut at = PathBuf::from("/");
        let mut left: Vec<OsString> = Vec::new();
        push(&mut left, path);
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            at.push(name);
            if !is_safe(&self.of(&at)) {
                break;
            }
            let Ok(target) = fs::read_link(&at) else { continue };
            links += 1;
            if links > LINKS {
                break;
            }
            at.pop();
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            push(&mut left, &target);
        }
        while let Some(name) = left.pop() {
            match name == ".." {
                true => drop(at.pop()),
                false => at.push(name),
            }
        }
        self.of(&at)
    }

    /// The mount of a path that has neither links nor `..`: the longest mount point that it begins with.
    fn of(&self, path: &Path) -> Mount {
        let found = path
            .ancestors()
            .find_map(|above| self.by_point.get_key_value(above));
        let (point, kind) = found.map_or((Path::new("/"), Kind::Disk), |(point, kind)| (point, *kind));
        Mount {
            point: point.to_owned(),
            kind,
        }
    }

    fn refresh(&mut self) {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let changed = self.table.as_ref().is_some_and(|table| {
            let mut polled = [PollFd::new(table, PollFlags::PRI)];
            let ready = poll(&mut polled, Some(&now));
            ready.is_ok() && polled[0].revents().intersects(PollFlags::PRI | PollFlags::ERR)
        });
        if changed {
            self.read_again();
        }
    }

    fn read_again(&mut self) {
        let Some(table) = &mut self.table else { return };
        let mut text = Vec::new();
        let read = table.rewind().and_then(|()| table.read_to_end(&mut text));
        // The old table is better than none.
        if read.is_ok() {
            self.by_point = parsed(&text);
        }
    }
}

/// Is a path on a file system that is asked of another machine or of a program, and may never answer?
pub(crate) fn is_remote(path: &Path) -> bool {
    Mounts::read().find(path, |mount| mount.kind != Kind::Remote).kind == Kind::Remote
}

/// A later mount hides those before it at the same place.
fn parsed(table: &[u8]) -> BTreeMap<PathBuf, Kind> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            let point = fields.nth(4)?;
            // The optional fields end with a single hyphen.
            fields.find(|field| *field == b"-")?;
            Some((decoded(point), kind(fields.next()?)))
        })
        .collect()
}

fn kind(system: &[u8]) -> Kind {
    let base = system.split(|byte| *byte == b'.').next().unwrap_or(system);
    if MEMORY.contains(&system) {
        Kind::Memory
    } else if REMOTE.contains(&base) {
        Kind::Remote
    } else {
        Kind::Disk
    }
}

/// Space, tab, line feed and backslash are written as three octal digits.
fn decoded(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, more)) = rest.split_first() {
        let octal = more.first_chunk::<3>().filter(|_| *first == b'\\');
        let code = octal.and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &more[3..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The parts of a path, the first one on top.
fn push(left: &mut Vec<OsString>, path: &Path) {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    left.extend(parts);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const TEXT: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /proc rw - proc proc rw
24 22 0:6 / /dev rw,nosuid shared:2 master:3 - devtmpfs udev rw
25 22 8:2 / /srv rw - xfs /dev/sdb rw
26 25 0:50 / /srv/my\\040logs rw - nfs4 server:/logs rw
27 22 0:51 / /mnt/a rw - fuse.sshfs host: rw
28 27 0:52 / /mnt/a/b rw - fuseblk /dev/sdc rw
29 22 0:53 / /mnt/a rw - tmpfs later rw
30 22 0:54 / /back\\134slash rw - fuse stuck rw
a line that is no mount
";

    fn mounts() -> Mounts {
        Mounts {
            table: None,
            by_point: parsed(TEXT.as_bytes()),
        }
    }

    #[test]
    fn the_longest_mount_point_that_a_path_begins_with_is_its_mount() {
        for (path, point, kind) in [
            ("/", "/", Kind::Disk),
            ("/var/log/a.log", "/", Kind::Disk),
            ("/srv", "/srv", Kind::Disk),
            ("/srvs/a.log", "/", Kind::Disk),
            ("/srv/my logs/a.log", "/srv/my logs", Kind::Remote),
            ("/srv/my logs/../a.log", "/srv", Kind::Disk),
            ("/srv/my/../my logs/a.log", "/srv/my logs", Kind::Remote),
            ("/mnt/a/x/a.log", "/mnt/a", Kind::Memory),
            ("/mnt/a/b/a.log", "/mnt/a/b", Kind::Disk),
            ("/back\\slash/a.log", "/back\\slash", Kind::Remote),
            ("/dev/null", "/dev", Kind::Memory),
            ("/../..", "/", Kind::Disk),
        ] {
            let mount = mounts().find(Path::new(path), |_| false);
            assert_eq!(
                (mount.point.as_path(), mount.kind),
                (Path::new(point), kind),
                "{path}"
            );
        }
    }

    #[test]
    fn links_are_followed_up_to_a_mount_that_is_not_safe() {
        let dir = std::env::temp_dir().join(format!("rpm-mounts-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("real")).unwrap();
        let point = dir.join("real/mount");
        fs::create_dir(&point).unwrap();
        symlink("real", dir.join("relative")).unwrap();
        symlink(&point, dir.join("absolute")).unwrap();
        symlink("loop", dir.join("loop")).unwrap();
        // Below the mount that is not safe a link is not read.
        symlink("/", point.join("out")).unwrap();
        let mut mounts = Mounts::with(&[(Path::new("/"), Kind::Disk), (&point, Kind::Remote)]);
        for (path, inside) in [
            ("real/mount/a.log", true),
            ("relative/mount/a.log", true),
            ("absolute/a.log", true),
            ("absolute/../a.log", false),
            ("absolute/out/a.log", true),
            ("real/a.log", false),
            ("loop/a.log", false),
            ("none/../relative/mount/a.log", true),
        ] {
            let mount = mounts.find(&dir.join(path), |mount| mount.kind != Kind::Remote);
            assert_eq!(mount.point == point, inside, "{path}: {mount:?}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_real_table_is_read() {
        let mut mounts = Mounts::read();
        assert_eq!(
            mounts.find(Path::new("/proc/self/status"), |_| true).kind,
            Kind::Memory
        );
        mounts.refresh();
        assert!(mounts.by_point.contains_key(Path::new("/")));
    }
}
