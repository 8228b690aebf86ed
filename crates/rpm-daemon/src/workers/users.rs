//! Workers that run as another user than the daemon: who that is, and where their agents reach the daemon, whose home is closed to them.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use rpm_core::WorkerId;
use rpm_listen::{OpenError, Wanted};
use rpm_sys::user::User;
use rpm_wire::api::AppSpec;
use rustix::io::Errno;
use tracing::warn;

use crate::node::agents;
use crate::supervisor::Supervisor;
use crate::workers::launch::LaunchError;
use crate::workers::worker::Workers;

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

/// The same, if it is not the daemon's own user in another group.
///
/// # Errors
/// As [`user`].
pub(crate) fn other_user(spec: &AppSpec) -> Result<Option<User>, LaunchError> {
    let found = user(spec)?;
    Ok(found.filter(|user| user.uid != rpm_sys::peer::effective_uid()))
}

/// The first port that everybody may bind (ip(7)).
fn first_unprivileged_port() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let number = text.ok().and_then(|text| text.trim().parse().ok());
    number.unwrap_or(1024)
}

/// Does the configuration of the app say that it listens there? `ports`, `listen`, and the variable `PORT`.
fn names(spec: &AppSpec, port: u16) -> bool {
    let variable = spec.env.get("PORT").and_then(|port| port.parse().ok());
    spec.ports.contains(&port) || variable == Some(port)
}

/// What the agent in a worker is told.
#[derive(Debug)]
pub(crate) struct AgentPlace {
    /// Where it connects.
    pub(crate) socket: PathBuf,
    /// Where preloads lie that the worker can read.
    pub(crate) preloads: PathBuf,
}

/// With whose rights a worker gets what it asks for. The daemon of root could open any port for it, but opens those alone that the
/// user may bind itself, and those that the administrator has named.
///
/// # Errors
/// It gets nothing.
pub(crate) fn rights_for(
    workers: &Workers,
    worker: WorkerId,
    wanted: &Wanted,
) -> Result<Option<User>, OpenError> {
    let Some(spec) = workers.get(&worker).map(|held| &held.spec) else {
        return Ok(None);
    };
    let denied = |what: String| OpenError::Io {
        what,
        source: Errno::ACCESS.into(),
    };
    let found = other_user(spec).map_err(|error| denied(format!("anything: {error}")))?;
    let addr = match wanted {
        Wanted::Tcp { addr, .. } | Wanted::Udp { addr, .. } => *addr,
        Wanted::Unix { .. } | Wanted::WorkerFd(_) => return Ok(found),
    };
    let port = addr.port();
    if let Some(user) = &found
        && (1..first_unprivileged_port()).contains(&port)
        && !names(spec, port)
    {
        return Err(denied(format!(
            "{addr} as user {}, who may not: name the port with --ports {port}",
            user.uid
        )));
    }
    Ok(found)
}

impl Supervisor {
    /// Gives the sockets of all apps to the users that these run as: a daemon of before may have made them its own.
    pub(crate) fn give_sockets(&self) {
        for id in self.apps.keys() {
            let user = self
                .catalog()
                .present_spec(*id)
                .and_then(|spec| other_user(spec).ok().flatten());
            if let Some(user) = user
                && let Err(error) = self.listeners.belong_to(*id, user.uid)
            {
                warn!(app = %id, uid = user.uid, %error, "cannot give the sockets of an app to its user");
            }
        }
    }

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
                warn!(app = spec.name, uid, %error, "no socket for the agents of this user; its workers run without agents");
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
