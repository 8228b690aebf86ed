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
use rpm_sys::socket::{self, UdpOptions};
use serde::{Deserialize, Serialize};

/// What a shared socket is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SharedKind {
    /// A UDP port.
    Udp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

pub(crate) struct Shared {
    pub(crate) app: AppId,
    pub(crate) key: String,
    pub(crate) kind: SharedKind,
    pub(crate) fd: Kept<OwnedFd>,
    pub(crate) holders: BTreeSet<WorkerId>,
    /// Numbered when it is opened.
    pub(crate) group: GroupId,
}

/// Until it is numbered.
const UNNUMBERED: GroupId = GroupId(u32::MAX);

impl Shared {
    pub(crate) fn udp(
        (app, key): (AppId, &str),
        addr: SocketAddr,
        (v6only, reuse_addr): (bool, bool),
        keeper: &Keeper,
    ) -> io::Result<Shared> {
        let fd = socket::bind_udp(
            addr,
            UdpOptions {
                v6only,
                reuse_addr,
                reuse_port: false,
            },
        )?;
        let addr = socket::local_addr(fd.as_fd())?;
        Ok(Shared {
            app,
            key: key.to_owned(),
            kind: SharedKind::Udp(addr),
            fd: keeper.keep(fd, NOBODY),
            holders: BTreeSet::new(),
            group: UNNUMBERED,
        })
    }

    /// Binds a Unix socket. One that a dead process left behind is replaced.
    pub(crate) fn unix((app, key): (AppId, &str), path: &[u8], keeper: &Keeper) -> io::Result<Shared> {
        let fd = match socket::bind_unix(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && socket::unix_is_stale(path) => {
                std::fs::remove_file(OsStr::from_bytes(path))?;
                socket::bind_unix(path)?
            }
            bound => bound?,
        };
        let path = PathBuf::from(OsStr::from_bytes(path));
        Ok(Shared {
            app,
            key: key.to_owned(),
            kind: SharedKind::Unix(path),
            fd: keeper.keep(fd, NOBODY),
            holders: BTreeSet::new(),
            group: UNNUMBERED,
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let SharedKind::Unix(path) = &self.kind
            && path.as_os_str().as_bytes().first() != Some(&0)
        {
            // libuv removes the path of a listener that it closes; whoever removed it before us is right too.
            let _ = std::fs::remove_file(path);
        }
    }
}
