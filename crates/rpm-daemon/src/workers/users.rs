//! What workers of another user than the daemon may have.

use std::fs;

use rpm_core::WorkerId;
use rpm_listen::{Listeners, OpenError, Wanted};
use rpm_sys::user::User;
use rpm_wire::api::AppSpec;
use rustix::io::Errno;
use tracing::warn;

use crate::apps::catalog::Catalog;
use crate::os::users::other_user;
use crate::workers::worker::Workers;

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

/// Gives the sockets of all apps to the users that these run as: a daemon of before may have made them its own.
pub(crate) fn give_sockets(catalog: Catalog<'_>, listeners: &Listeners) {
    for id in catalog.apps().keys() {
        let spec = catalog.present_spec(*id);
        let user = spec.and_then(|spec| other_user(spec).ok().flatten());
        if let Some(user) = user
            && let Err(error) = listeners.belong_to(*id, user.uid)
        {
            warn!(app = %id, uid = user.uid, %error, "cannot give the sockets of an app to its user");
        }
    }
}
