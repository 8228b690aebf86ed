//! Whom the workers of an app run as.

use std::io;

use rpm_sys::user::User;
use rpm_wire::api::AppSpec;

/// Why a worker cannot run as its user.
#[derive(Debug, thiserror::Error)]
#[error("it cannot run as {who}: {why}")]
pub(crate) struct UserError {
    who: String,
    why: String,
}

/// Whom it runs as, if that is somebody else.
///
/// # Errors
/// There is no such user or group, or the daemon may not become another one.
pub(crate) fn user(spec: &AppSpec) -> Result<Option<User>, UserError> {
    let Some(name) = spec.uid.as_ref().or(spec.gid.as_ref()) else {
        return Ok(None);
    };
    let refused = |why: String| UserError {
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
pub(crate) fn other_user(spec: &AppSpec) -> Result<Option<User>, UserError> {
    let found = user(spec)?;
    Ok(found.filter(|user| user.uid != rpm_sys::peer::effective_uid()))
}
