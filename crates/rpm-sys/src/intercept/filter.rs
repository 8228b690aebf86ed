//! The seccomp filter, and its installation between fork and exec, by system calls only.

use std::io;
use std::os::fd::RawFd;

use libc::sock_filter;

/// Linux, include/uapi/linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCH: Option<u32> = Some(0xC000_003E);
#[cfg(target_arch = "aarch64")]
const ARCH: Option<u32> = Some(0xC000_00B7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCH: Option<u32> = None;

/// Offsets in `seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// A program for [`install`].
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    program: [sock_filter; 7],
}

impl Filter {
    /// A filter that reports `bind` and `listen` and allows everything else. It allows calls of another architecture, because their numbers
    /// differ, and of x32, whose numbers have a bit of their own. `None` on a processor whose numbers are unknown here.
    pub(crate) fn new() -> Option<Filter> {
        let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
        let step = |code, yes, no, k| sock_filter {
            code,
            jt: yes,
            jf: no,
            k,
        };
        Some(Filter {
            program: [
                step(LOAD, 0, 0, ARCH_AT),
                step(JUMP_EQUAL, 0, 3, ARCH?),
                step(LOAD, 0, 0, NUMBER_AT),
                step(JUMP_EQUAL, 2, 0, number(libc::SYS_bind)),
                step(JUMP_EQUAL, 1, 0, number(libc::SYS_listen)),
                step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
                step(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
            ],
        })
    }
}

/// Installs the filter in the calling thread, irrevocably, and returns the descriptor on which calls are reported. With `CAP_SYS_ADMIN`,
/// set-user-ID programs still work below it; without, the kernel demands `PR_SET_NO_NEW_PRIVS`. This runs between fork and exec, so it uses
/// raw system calls only.
///
/// # Errors
/// `EBUSY` if another filter with such a descriptor is in force, as under some container runtimes; `EINVAL` or `ENOSYS` before Linux 5.9;
/// or whatever a container's filter returns.
pub(crate) fn install(filter: &Filter) -> io::Result<RawFd> {
    // Before Linux 5.16, a filter also turns on mitigations of speculative execution, which slow the program down. This filter is not a
    // defence against hostile code, so the program runs without them.
    let plain = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // Signals do not interrupt a waiting caller, so it never sees an EINTR that it would not have seen without the filter (Linux 5.19).
    match load(filter, plain | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => load(filter, plain),
        other => other,
    }
}

fn load(filter: &Filter, flags: libc::c_ulong) -> io::Result<RawFd> {
    match try_load(filter, flags) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            let (yes, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
            // SAFETY: numbers alone.
            let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, yes, unused, unused, unused) };
            if done == 0 {
                try_load(filter, flags)
            } else {
                Err(io::Error::last_os_error())
            }
        }
        other => other,
    }
}

fn try_load(filter: &Filter, flags: libc::c_ulong) -> io::Result<RawFd> {
    let mode = libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER);
    let program = libc::sock_fprog {
        len: filter.program.len() as u16,
        filter: filter.program.as_ptr().cast_mut(),
    };
    // SAFETY: `program` names as many live instructions as it says; the kernel reads them and writes nothing.
    let number = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    if number < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(number as RawFd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The filter's result for a call.
    fn verdict(filter: &Filter, arch: u32, number: u32) -> u32 {
        let (mut at, mut a) = (0, 0);
        loop {
            let step = &filter.program[at];
            at += 1;
            match step.code {
                LOAD if step.k == ARCH_AT => a = arch,
                LOAD => a = number,
                JUMP_EQUAL => at += usize::from(if a == step.k { step.jt } else { step.jf }),
                _ => return step.k,
            }
        }
    }

    #[test]
    fn two_calls_of_this_architecture_are_reported() {
        let filter = Filter::new().expect("a known processor");
        let arch = ARCH.unwrap();
        for (call, wanted) in [
            (libc::SYS_bind, libc::SECCOMP_RET_USER_NOTIF),
            (libc::SYS_listen, libc::SECCOMP_RET_USER_NOTIF),
            (libc::SYS_accept4, libc::SECCOMP_RET_ALLOW),
            (libc::SYS_bind | 0x4000_0000, libc::SECCOMP_RET_ALLOW),
        ] {
            assert_eq!(verdict(&filter, arch, call as u32), wanted, "{call}");
        }
        let other = arch ^ 1;
        let bind = libc::SYS_bind as u32;
        assert_eq!(verdict(&filter, other, bind), libc::SECCOMP_RET_ALLOW);
    }
}
