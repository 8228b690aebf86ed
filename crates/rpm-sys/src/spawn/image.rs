//! Program, arguments and environment in the form that `execve` takes, built before the fork.

use std::ffi::{CString, OsStr, OsString, c_char};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;

use super::{SpawnError, SpawnStep};

/// Room for the digits of a `u32` and the zero byte.
pub(super) const PID_DIGITS: usize = 11;

/// Everything that `chdir` and `execve` point at. The vectors do not change once pointers to them are taken.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) program: CString,
    pub(super) cwd: CString,
    /// Null-terminated list of pointers into `_strings`.
    pub(super) argv: Vec<*const c_char>,
    /// Null-terminated list of pointers into `_strings` and `_listen_pid`.
    pub(super) envp: Vec<*const c_char>,
    /// Where the child writes its pid: [`PID_DIGITS`] zero bytes inside `_listen_pid`; null if unwanted.
    pub(super) pid_digits: *mut u8,
    _strings: Vec<CString>,
    _listen_pid: Vec<u8>,
}

impl Image {
    pub(super) fn new(
        program: &Path,
        argv: &[OsString],
        env: &[(OsString, OsString)],
        cwd: &Path,
        listen_fds: usize,
    ) -> Result<Image, SpawnError> {
        if !program.is_absolute() {
            return Err(refuse(
                program.as_os_str(),
                "the path of a program must be absolute",
            ));
        }
        let mut strings = Vec::with_capacity(argv.len() + env.len() + 1);
        for argument in argv {
            strings.push(c_string(argument)?);
        }
        let mut argv: Vec<*const c_char> = strings.iter().map(|string| string.as_ptr()).collect();
        let first_env = strings.len();
        for (key, value) in env
            .iter()
            .filter(|(key, _)| listen_fds == 0 || !is_listen_variable(key))
        {
            strings.push(c_string(&assignment(key, value)?)?);
        }
        let mut listen_pid = Vec::new();
        if listen_fds > 0 {
            strings.push(c_string(OsStr::new(&format!("LISTEN_FDS={listen_fds}")))?);
            listen_pid.extend_from_slice(b"LISTEN_PID=");
        }
        let digits_at = listen_pid.len();
        let mut envp: Vec<*const c_char> = strings[first_env..]
            .iter()
            .map(|string| string.as_ptr())
            .collect();
        let mut pid_digits = ptr::null_mut();
        if listen_fds > 0 {
            listen_pid.resize(digits_at + PID_DIGITS, 0);
            let start = listen_pid.as_mut_ptr();
            envp.push(start.cast());
            pid_digits = start.wrapping_add(digits_at);
        }
        argv.push(ptr::null());
        envp.push(ptr::null());
        let (program, cwd) = (c_string(program.as_os_str())?, c_string(cwd.as_os_str())?);
        Ok(Image {
            program,
            cwd,
            argv,
            envp,
            pid_digits,
            _strings: strings,
            _listen_pid: listen_pid,
        })
    }
}

fn is_listen_variable(key: &OsStr) -> bool {
    key == "LISTEN_FDS" || key == "LISTEN_PID"
}

fn assignment(key: &OsStr, value: &OsStr) -> Result<OsString, SpawnError> {
    if key.is_empty() || key.as_bytes().contains(&b'=') {
        return Err(refuse(
            key,
            "the name of an environment variable is empty or contains '='",
        ));
    }
    let mut assignment = OsString::with_capacity(key.len() + 1 + value.len());
    assignment.push(key);
    assignment.push("=");
    assignment.push(value);
    Ok(assignment)
}

fn c_string(text: &OsStr) -> Result<CString, SpawnError> {
    CString::new(text.as_bytes()).map_err(|_| refuse(text, "it contains a zero byte"))
}

fn refuse(operand: &OsStr, why: &'static str) -> SpawnError {
    SpawnError::new(
        SpawnStep::Prepare,
        Path::new(operand),
        io::Error::new(io::ErrorKind::InvalidInput, why),
    )
}
