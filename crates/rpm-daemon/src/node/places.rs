//! Where agents reach the daemon: those of workers of other users, to whom the daemon's home is closed, have sockets of their own.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use rpm_wire::api::AppSpec;
use tokio::sync::mpsc;
use tracing::warn;

use crate::home::Home;
use crate::node::agents::{self, AgentEvent};
use crate::os::users::user;

/// The mode of that directory: Bun lists the directory of a preload before it reads it.
const OPEN: u32 = 0o755;

/// What the agent in a worker is told.
#[derive(Debug)]
pub(crate) struct AgentPlace {
    /// Where it connects.
    pub(crate) socket: PathBuf,
    /// Where preloads lie that the worker can read.
    pub(crate) preloads: PathBuf,
}

/// The sockets that agents of other users have.
#[derive(Default)]
pub(crate) struct AgentPlaces {
    users: BTreeSet<u32>,
}

impl AgentPlaces {
    /// Where the agents of workers of this app reach the daemon. Those of another user have a socket of their own, which
    /// nobody else can connect to; `None`: it cannot be made, and they go on without an agent.
    pub(crate) fn of<E>(
        &mut self,
        home: &Home,
        events: &mpsc::Sender<E>,
        spec: &AppSpec,
    ) -> Option<AgentPlace>
    where
        E: From<AgentEvent> + Send + 'static,
    {
        let uid = user(spec).ok().flatten().map_or(0, |user| user.uid);
        if uid == 0 {
            return Some(AgentPlace {
                socket: home.agent_socket(),
                preloads: home.root().to_owned(),
            });
        }
        match self.place_of(home, events, uid) {
            Ok(place) => Some(place),
            Err(error) => {
                warn!(app = spec.name, uid, %error, "no socket for the agents of this user; its workers run without agents");
                None
            }
        }
    }

    fn place_of<E>(&mut self, home: &Home, events: &mpsc::Sender<E>, uid: u32) -> io::Result<AgentPlace>
    where
        E: From<AgentEvent> + Send + 'static,
    {
        let preloads = home.open_to_others()?;
        let socket = preloads.join(format!("{uid}.sock"));
        if !self.users.contains(&uid) {
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
            agents::listen(&socket, events.clone())?;
            std::os::unix::fs::chown(&socket, Some(uid), None)?;
            self.users.insert(uid);
        }
        Ok(AgentPlace { socket, preloads })
    }
}
