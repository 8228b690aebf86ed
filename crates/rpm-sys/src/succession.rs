//! Replaces the program of this process: it keeps its pid, its children, and the descriptors that it passes on.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;

use rustix::io::{FdFlags, fcntl_setfd};

/// Executes `program` in place of this one, with these arguments (including `argv[0]`), this environment, and these descriptors, under
/// their current numbers, besides the standard three. Returns only if that fails; then nothing has changed.
#[must_use]
pub fn become_program(
    program: &Path,
    argv: &[&OsStr],
    env: &[(OsString, OsString)],
    keep: &[BorrowedFd<'_>],
) -> io::Error {
    match prepared(program, argv, env) {
        Ok(image) => image.execute(keep),
        Err(error) => error,
    }
}

/// A descriptor that this process was passed by [`become_program`].
///
/// # Errors
/// `EBADF`: no such descriptor was passed.
pub fn passed(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: used for one fcntl only, which answers EBADF if the descriptor is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: it is open (its flag was just set), and the caller that names it gives it away.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

struct Image {
    program: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
}

fn prepared(program: &Path, argv: &[&OsStr], env: &[(OsString, OsString)]) -> io::Result<Image> {
    let entry = |(key, value): &(OsString, OsString)| {
        let entry = [key.as_bytes(), b"=", value.as_bytes()].concat();
        Ok(CString::new(entry)?)
    };
    Ok(Image {
        program: CString::new(program.as_os_str().as_bytes())?,
        argv: argv
            .iter()
            .map(|arg| Ok(CString::new(arg.as_bytes())?))
            .collect::<io::Result<_>>()?,
        env: env.iter().map(entry).collect::<io::Result<_>>()?,
    })
}

impl Image {
    fn execute(&self, keep: &[BorrowedFd<'_>]) -> io::Error {
        for fd in keep {
            if let Err(error) = fcntl_setfd(fd, FdFlags::empty()) {
                return error.into();
            }
        }
        let list = |texts: &[CString]| {
            let pointers = texts.iter().map(|text| text.as_ptr());
            pointers.chain([ptr::null()]).collect::<Vec<_>>()
        };
        let (argv, env) = (list(&self.argv), list(&self.env));
        // SAFETY: a zero-terminated string and two null-terminated lists of such, all alive.
        unsafe { libc::execve(self.program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
        let error = io::Error::last_os_error();
        for fd in keep {
            let _ = fcntl_setfd(fd, FdFlags::CLOEXEC);
        }
        error
    }
}

/// The number under which a descriptor is passed on.
#[must_use]
pub fn number(fd: BorrowedFd<'_>) -> RawFd {
    fd.as_raw_fd()
}
