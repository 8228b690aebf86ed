//! What a worker is started with: its command line, its standard streams, its names.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rpm_core::WorkerId;
use rpm_sys::{scm, survive};
use rpm_wire::api::{AppSpec, ExecMode};
use tracing::warn;

use crate::processes::launch::LaunchError;

/// What a worker can print before a daemon reads it. Users have 64 MiB for all their pipes before new ones get two pages.
const PIPE_BYTES: usize = 256 << 10;

/// In fork mode somebody may write to its standard input: the daemon's end, and its own.
pub(super) fn standard_input(spec: &AppSpec) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    if spec.exec_mode == ExecMode::Cluster {
        return Ok((None, None));
    }
    let (ours, theirs) = scm::pair()?;
    // Nobody reads from it: what a process could leave there would be closed with it.
    rustix::net::shutdown(&ours, rustix::net::Shutdown::Read)?;
    Ok((Some(ours), Some(theirs)))
}

/// What has Bun load its agent. The file is written when it is not there: it may have been removed.
pub(super) fn bun_options(place: &Path, users: Option<&str>) -> Option<String> {
    let (text, name) = rpm_agent::bun_preload();
    let path = place.join(&name);
    if !path.exists() {
        let new = path.with_extension("new");
        // Whatever the umask is: users of other workers read it, and none writes to it.
        let mode = fs::Permissions::from_mode(0o644);
        let written = fs::write(&new, text)
            .and_then(|()| fs::set_permissions(&new, mode))
            .and_then(|()| fs::rename(&new, &path));
        if let Err(error) = written {
            warn!(path = %path.display(), %error, "cannot write the agent for Bun; its workers run without it");
            return None;
        }
    }
    rpm_agent::bun_options(users, path.to_str()?)
}

/// A name that another process does not guess. The socket it is used on is private anyway.
pub(super) fn token(worker: WorkerId) -> String {
    use std::hash::{BuildHasher as _, RandomState};
    format!("{worker}-{:016x}", RandomState::new().hash_one(worker))
}

/// Wide, so that a program can print for a while when there is no daemon.
pub(super) fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = io::pipe()?;
    rustix::io::ioctl_fionbio(&read, true)?;
    let write = OwnedFd::from(write);
    survive::widen_pipe(&write, PIPE_BYTES);
    Ok((read.into(), write))
}

pub(super) fn command_line(spec: &AppSpec) -> Result<(PathBuf, Vec<OsString>), LaunchError> {
    let path = spec
        .env
        .get("PATH")
        .map_or("/usr/local/bin:/usr/bin:/bin", String::as_str);
    let mut argv: Vec<OsString> = Vec::new();
    let program = match &spec.interpreter {
        Some(interpreter) => {
            argv.push(interpreter.into());
            argv.extend(spec.interpreter_args.iter().map(OsString::from));
            argv.push((&spec.script).into());
            find(interpreter, path).ok_or_else(|| LaunchError::NoInterpreter(interpreter.clone()))?
        }
        None => {
            argv.push((&spec.script).into());
            PathBuf::from(&spec.script)
        }
    };
    argv.extend(spec.args.iter().map(OsString::from));
    Ok((program, argv))
}

fn find(program: &str, path: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|found| found.is_file());
    }
    path.split(':')
        .map(|dir| Path::new(dir).join(program))
        .find(|candidate| candidate.is_file())
}
