//! Workers that run as another user than the daemon: who that is, and where their agents reach the daemon, whose home is closed to them.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use rpm_sys::user::User;
use rpm_wire::api::AppSpec;
use tracing::warn;

use crate::agents;
use crate::launch::LaunchError;
use crate::supervisor::Supervisor;

/// The mode of that directory: Bun lists the directory of a preload before it reads it.
const OPEN: u32 = 0o755;

/// Whom it runs as, if that is somebody else.
///
/// # Errors
/// There is no such user or group, or the daemon may not become another one.
pub(crate) fn user(spec: &AppSpec) -> Result<Option<User>, LaunchError> {
    let Some(name) = spec.uid.as_ref().or(spec.gid.as_ref()) else {
        return Ok(None);
    };
    let refused = |why: String| LaunchError::User {
        who: name.clone(),
        why,
    };
    if rpm_sys::peer::effective_uid() != 0 {
        return Err(refused(
            "only a daemon of root can; leave uid and gid out".to_owned(),
        ));
    }
    let unknown = |what: &str, name: &str| refused(format!("there is no {what} {name:?}"));
    let read = |error: io::Error| refused(error.to_string());
    let own = spec.uid.as_deref().unwrap_or("0");
    let mut user = User::find(own)
        .map_err(read)?
        .ok_or_else(|| unknown("user", own))?;
    if let Some(group) = &spec.gid {
        user = user
            .in_group(group)
            .map_err(read)?
            .ok_or_else(|| unknown("group", group))?;
    }
    Ok(Some(user))
}

/// What the agent in a worker is told.
#[derive(Debug)]
pub(crate) struct AgentPlace {
    /// Where it connects.
    pub(crate) socket: PathBuf,
    /// Where preloads lie that the worker can read.
    pub(crate) preloads: PathBuf,
}

impl Supervisor {
    /// Where the agents of workers of this app reach the daemon. Those of another user have a socket of their own, which
    /// nobody else can connect to; `None`: it cannot be made, and they go on without an agent.
    pub(crate) fn agent_place(&mut self, spec: &AppSpec) -> Option<AgentPlace> {
        let uid = user(spec).ok().flatten().map_or(0, |user| user.uid);
        if uid == 0 {
            return Some(AgentPlace {
                socket: self.home.agent_socket(),
                preloads: self.home.root().to_owned(),
            });
        }
        match self.place_of(uid) {
            Ok(place) => Some(place),
            Err(error) => {
                warn!(app = spec.name, uid, %error, "no socket for the agents of this user; its workers go on without them");
                None
            }
        }
    }

    fn place_of(&mut self, uid: u32) -> io::Result<AgentPlace> {
        let preloads = self.home.open_to_others()?;
        let socket = preloads.join(format!("{uid}.sock"));
        if !self.agent_users.contains(&uid) {
            let dir = DirBuilder::new().mode(OPEN).create(&preloads);
            dir.or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(error),
            })?;
            // In a directory of somebody else anything may lie.
            let meta = fs::symlink_metadata(&preloads)?;
            if !meta.is_dir() || meta.uid() != 0 {
                return Err(io::Error::other(format!("{} is not root's", preloads.display())));
            }
            fs::set_permissions(&preloads, Permissions::from_mode(OPEN))?;
            agents::listen(&socket, self.handle().events)?;
            std::os::unix::fs::chown(&socket, Some(uid), None)?;
            self.agent_users.insert(uid);
        }
        Ok(AgentPlace { socket, preloads })
    }
}
