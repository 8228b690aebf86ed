//! Sockets that all workers of an app share: Unix listeners and UDP ports, as under node:cluster.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rpm_core::{AppId, GroupId, WorkerId};
use rpm_keeper::{Keeper, Kept, NOBODY};
use rpm_sys::rights::as_user;
use rpm_sys::socket::{self, UdpOptions};
use rpm_sys::user::User;

use crate::group::Site;

/// What a shared socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedKind {
    /// A UDP port.
    Udp(SocketAddr),
    /// A Unix socket: an abstract name, or a file whose daemon did not record which one it created.
    Unix(PathBuf),
    /// A Unix socket that has a file.
    File {
        /// Its path.
        path: PathBuf,
        /// Device and inode of the file that was created.
        made: (u64, u64),
        /// The user, group and groups whose rights are used for the file; `None` for the daemon's.
        user: Option<(u32, u32, Vec<u32>)>,
    },
}

impl From<&SharedKind> for rpm_state::SharedKind {
    fn from(kind: &SharedKind) -> rpm_state::SharedKind {
        match kind.clone() {
            SharedKind::Udp(addr) => rpm_state::SharedKind::Udp(addr),
            SharedKind::Unix(path) => rpm_state::SharedKind::Unix(path),
            SharedKind::File { path, made, user } => rpm_state::SharedKind::File { path, made, user },
        }
    }
}

impl From<rpm_state::SharedKind> for SharedKind {
    fn from(stored: rpm_state::SharedKind) -> SharedKind {
        match stored {
            rpm_state::SharedKind::Udp(addr) => SharedKind::Udp(addr),
            rpm_state::SharedKind::Unix(path) => SharedKind::Unix(path),
            rpm_state::SharedKind::File { path, made, user } => SharedKind::File { path, made, user },
        }
    }
}

pub(crate) struct Shared {
    pub(crate) app: AppId,
    pub(crate) key: String,
    pub(crate) kind: SharedKind,
    pub(crate) fd: Kept<OwnedFd>,
    pub(crate) holders: BTreeSet<WorkerId>,
    /// Assigned when it is opened.
    pub(crate) group: GroupId,
}

/// Placeholder until a number is assigned.
const UNNUMBERED: GroupId = GroupId(u32::MAX);

impl Shared {
    pub(crate) fn udp(
        site: Site<'_>,
        reuse_addr: bool,
        owner: Option<u32>,
        keeper: &Keeper,
    ) -> io::Result<Shared> {
        let fd = socket::bind_udp(
            site.addr,
            UdpOptions {
                v6only: site.v6only,
                reuse_addr,
                reuse_port: false,
                owner,
            },
        )?;
        let addr = socket::local_addr(fd.as_fd())?;
        Ok(Shared {
            app: site.app,
            key: site.key.to_owned(),
            kind: SharedKind::Udp(addr),
            fd: keeper.keep(fd, NOBODY),
            holders: BTreeSet::new(),
            group: UNNUMBERED,
        })
    }

    /// Binds a Unix socket with the rights of `user`, replacing one that a dead process left behind.
    pub(crate) fn unix(
        app: AppId,
        key: &str,
        path: &[u8],
        user: Option<&User>,
        keeper: &Keeper,
    ) -> io::Result<Shared> {
        let (fd, made) = with_rights_of(user, || {
            let fd = match socket::bind_unix(path) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && socket::unix_is_stale(path) => {
                    std::fs::remove_file(OsStr::from_bytes(path))?;
                    socket::bind_unix(path)?
                }
                bound => bound?,
            };
            Ok((fd, socket::unix_file(path)))
        })?;
        let path = PathBuf::from(OsStr::from_bytes(path));
        let user = user.map(|user| (user.uid, user.gid, user.groups.clone()));
        Ok(Shared {
            app,
            key: key.to_owned(),
            kind: match made {
                Some(made) => SharedKind::File { path, made, user },
                None => SharedKind::Unix(path),
            },
            fd: keeper.keep(fd, NOBODY),
            holders: BTreeSet::new(),
            group: UNNUMBERED,
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.fd.lets_go() {
            return;
        }
        // libuv removes the path when it closes a listener, so a path that is gone is no error. A file that replaced our socket is not ours
        // to remove.
        let (path, is_ours, user) = match &self.kind {
            SharedKind::Udp(_) => return,
            SharedKind::Unix(path) => (
                path,
                socket::unix_file(path.as_os_str().as_bytes()).is_some(),
                &None,
            ),
            SharedKind::File { path, made, user } => {
                let there = socket::unix_file(path.as_os_str().as_bytes());
                (path, there == Some(*made), user)
            }
        };
        if !is_ours {
            return;
        }
        let user = user.as_ref().map(|(uid, gid, groups)| User {
            uid: *uid,
            gid: *gid,
            groups: groups.clone(),
            account: None,
        });
        let _ = with_rights_of(user.as_ref(), || std::fs::remove_file(path));
    }
}

fn with_rights_of<T>(user: Option<&User>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match user {
        Some(user) => as_user(user, act)?,
        None => act(),
    }
}
