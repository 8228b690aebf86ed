//! Effective user id and process names.

/// The effective user id of this process: sockets of one address must all have the same.
#[must_use]
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The name of a process's program (`/proc/<pid>/comm`, at most 15 bytes); `None` if it is gone.
#[must_use]
pub fn process_name(pid: u32) -> Option<String> {
    let mut buffer = [0; 64];
    let name = crate::proc::read(format_args!("/proc/{pid}/comm"), &mut buffer).ok()?;
    Some(String::from_utf8_lossy(name).trim_end().to_owned())
}
