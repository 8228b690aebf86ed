//! The new process between fork and exec: system calls only, no allocation, no panic, no lock. Another thread of the parent may have held a
//! lock at the fork, and in the child no thread would release it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::ptr;

use super::image::{Image, PID_DIGITS};
use super::{Child, SpawnStep};
use crate::intercept::{Filter, install};
use crate::pidfd::PidFd;
use crate::user::User;

// On 32-bit processors, most system calls of these names take 16-bit users, and user 65536 would be root.
#[cfg(not(target_pointer_width = "64"))]
compile_error!("users are set by system calls that are right on 64-bit Linux alone");

/// `_NSIG` of the kernel.
const SIGNALS: i32 = 64;
/// Size of the kernel's sigset_t.
const SIGSET_BYTES: usize = 8;

/// What the child has to do, prepared by the parent.
pub(super) struct Plan<'a> {
    pub(super) image: &'a Image,
    /// Source, target; every source is above every target.
    pub(super) dups: &'a [(RawFd, RawFd)],
    pub(super) nofile: Option<libc::rlimit>,
    pub(super) user: Option<&'a User>,
    /// Programs that it executes give it no further rights.
    pub(super) no_new_privileges: bool,
    /// The filter, if calls are intercepted; the inner `None` if there is none for this processor.
    pub(super) filter: Option<Option<&'a Filter>>,
    /// The socket for reports; close-on-exec, above every target.
    pub(super) answer: RawFd,
}

/// Creates the process with its pidfd, and lets it carry out the plan.
pub(super) fn fork(plan: &Plan<'_>) -> io::Result<Child> {
    // A handler of the parent must not run in the child: signals wait until dispositions are default.
    let restore = block_signals();
    let mut pidfd: RawFd = -1;
    let flags = libc::c_long::from(libc::CLONE_PIDFD | libc::SIGCHLD);
    // SAFETY: without CLONE_VM this is fork(2): the child works on a copy of this stack (a null stack
    // pointer keeps it); the kernel stores the pidfd in the live local `pidfd`, in the parent alone.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    if pid == 0 {
        run(plan);
    }
    let failed = (pid < 0).then(io::Error::last_os_error);
    set_mask(&restore);
    if let Some(error) = failed {
        return Err(error);
    }
    let pid = u32::try_from(pid).unwrap_or(0);
    // SAFETY: clone succeeded with CLONE_PIDFD, so `pidfd` is a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child {
        pid,
        pidfd: PidFd::from_parts(fd, pid),
        notifications: None,
    })
}

/// Size of a child's report: a step and an error number, in bytes.
pub(super) const MESSAGE: usize = 8;
/// The report that interception is installed; it carries the descriptor.
const INTERCEPTED: i32 = 0;

/// The failure that a child reported; `None` if it reported that interception is installed.
pub(super) fn decode(message: [u8; MESSAGE]) -> Option<(SpawnStep, io::Error)> {
    let [a, b, c, d, e, f, g, h] = message;
    let stage = match i32::from_ne_bytes([a, b, c, d]) {
        INTERCEPTED => return None,
        1 => SpawnStep::Group,
        2 => SpawnStep::Descriptors,
        3 => SpawnStep::Directory,
        4 => SpawnStep::Limit,
        5 => SpawnStep::Intercept,
        7 => SpawnStep::User,
        _ => SpawnStep::Execute,
    };
    let errno = i32::from_ne_bytes([e, f, g, h]);
    Some((stage, io::Error::from_raw_os_error(errno)))
}

fn code(stage: SpawnStep) -> i32 {
    match stage {
        SpawnStep::Group => 1,
        SpawnStep::Descriptors => 2,
        SpawnStep::Directory => 3,
        SpawnStep::Limit => 4,
        SpawnStep::Intercept => 5,
        SpawnStep::User => 7,
        SpawnStep::Prepare | SpawnStep::Fork | SpawnStep::Execute => 6,
    }
}

fn run(plan: &Plan<'_>) -> ! {
    default_dispositions();
    // It has its own session rather than only a process group: the death of the daemon would orphan a group of the daemon's session, and
    // the kernel sends SIGHUP to an orphaned group with a stopped member.
    // SAFETY: no memory is involved.
    if unsafe { libc::setsid() } < 0 {
        fail(plan, SpawnStep::Group);
    }
    // A process that the daemon has stopped continues if the daemon dies. The signal means nothing to a running one.
    // SAFETY: two numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGCONT as libc::c_ulong) };
    place_descriptors(plan);
    // SAFETY: `cwd` is a live zero-terminated string.
    if unsafe { libc::chdir(plan.image.cwd.as_ptr()) } != 0 {
        fail(plan, SpawnStep::Directory);
    }
    if let Some(limit) = &plan.nofile {
        // SAFETY: the kernel reads one rlimit from a live reference.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) } != 0 {
            fail(plan, SpawnStep::Limit);
        }
    }
    let anybody = libc::c_ulong::MAX;
    // SAFETY: two numbers. Where Yama restricts tracing (ptrace_scope 1), this lets the next daemon, which is no ancestor, copy sockets
    // that the process binds, and its slots if the keeper has died, too. Elsewhere it fails and changes nothing.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, anybody) };
    write_pid(plan.image.pid_digits);
    if plan.no_new_privileges {
        let (yes, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
        // SAFETY: only numbers.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, yes, unused, unused, unused) } != 0 {
            fail(plan, SpawnStep::User);
        }
    }
    if let Some(filter) = plan.filter {
        intercept(plan, filter);
    }
    if let Some(user) = plan.user {
        become_user(plan, user);
    }
    set_mask(&empty_mask());
    let Image {
        program, argv, envp, ..
    } = plan.image;
    // SAFETY: a zero-terminated string and two null-terminated lists of such, all owned by the live image.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    fail(plan, SpawnStep::Execute)
}

/// Makes `bind` and `listen` wait for the parent. Only the parent gets the descriptor of the reports: it is close-on-exec here.
fn intercept(plan: &Plan<'_>, filter: Option<&Filter>) {
    let Some(filter) = filter else {
        fail_with(plan, SpawnStep::Intercept, libc::ENOSYS)
    };
    let Ok(reports) = install(filter) else {
        fail(plan, SpawnStep::Intercept)
    };
    if !send(plan.answer, reports) {
        fail(plan, SpawnStep::Intercept);
    }
}

/// Sends a descriptor to the parent.
fn send(to: RawFd, number: RawFd) -> bool {
    #[repr(C)]
    struct Ancillary {
        header: libc::cmsghdr,
        number: RawFd,
    }
    let message = [INTERCEPTED, 0];
    let mut bytes = libc::iovec {
        iov_base: message.as_ptr().cast_mut().cast(),
        iov_len: MESSAGE,
    };
    let length = size_of::<libc::cmsghdr>() + size_of::<RawFd>();
    let mut ancillary = Ancillary {
        // SAFETY: numbers, for which zero is a value.
        header: unsafe { MaybeUninit::zeroed().assume_init() },
        number,
    };
    ancillary.header.cmsg_len = length as _;
    ancillary.header.cmsg_level = libc::SOL_SOCKET;
    ancillary.header.cmsg_type = libc::SCM_RIGHTS;
    // SAFETY: numbers and pointers, for which zero is a value.
    let mut parts: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    parts.msg_iov = &raw mut bytes;
    parts.msg_iovlen = 1;
    parts.msg_control = (&raw mut ancillary).cast();
    parts.msg_controllen = length as _;
    // SAFETY: everything that `parts` points at is live, and as long as it says.
    unsafe { libc::sendmsg(to, &raw const parts, libc::MSG_NOSIGNAL) >= 0 }
}

/// Uses the system calls: the C library's functions synchronise all threads, and the child has none.
fn become_user(plan: &Plan<'_>, user: &User) {
    // SAFETY: a live list of that length.
    if unsafe { libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()) } != 0 {
        fail(plan, SpawnStep::User);
    }
    // SAFETY: three numbers.
    if unsafe { libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid) } != 0 {
        fail(plan, SpawnStep::User);
    }
    // SAFETY: three numbers.
    if unsafe { libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid) } != 0 {
        fail(plan, SpawnStep::User);
    }
    // The change of the user cleared it.
    // SAFETY: two numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGCONT as libc::c_ulong) };
}

/// Makes everything above standard error close-on-exec (Linux 5.11; before, descriptors that this program inherited may leak), then gives
/// the wanted descriptors their numbers without the flag.
fn place_descriptors(plan: &Plan<'_>) {
    let all = libc::c_long::from(u32::MAX);
    let flags = libc::c_long::from(libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: only flags of descriptors change, and this process is about to execute or exit.
    unsafe { libc::syscall(libc::SYS_close_range, 3 as libc::c_long, all, flags) };
    for (from, to) in plan.dups {
        // SAFETY: both are numbers; a target that was open belongs to the copy of the parent's table.
        if unsafe { libc::dup2(*from, *to) } < 0 {
            fail(plan, SpawnStep::Descriptors);
        }
    }
}

/// execve resets handlers, but not ignored signals. The raw call is used because the C library refuses to change the two signals that it
/// reserves, which this program may have inherited as ignored.
fn default_dispositions() {
    // The kernel's sigaction has 32 bytes or less; all zero is SIG_DFL, no flags, an empty mask.
    let default = [0_u64; 4];
    let none = ptr::null_mut::<u64>();
    for signal in 1..=libc::c_long::from(SIGNALS) {
        // SAFETY: the kernel reads one of its sigactions from `default`, which is at least as long;
        // signals that cannot be changed fail with EINVAL.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                none,
                SIGSET_BYTES,
            )
        };
    }
}

/// Writes the pid in decimal at its place in the environment.
fn write_pid(digits: *mut u8) {
    if digits.is_null() {
        return;
    }
    // SAFETY: getpid has no preconditions.
    let mut rest = unsafe { libc::getpid() }.unsigned_abs();
    let mut text = [0_u8; PID_DIGITS];
    let mut len = 0;
    for slot in text.iter_mut().take(PID_DIGITS - 1) {
        *slot = b'0' + (rest % 10) as u8;
        rest /= 10;
        len += 1;
        if rest == 0 {
            break;
        }
    }
    for (at, digit) in text.iter().take(len).rev().enumerate() {
        // SAFETY: `digits` points at PID_DIGITS bytes of the image and `at` < PID_DIGITS - 1.
        unsafe { digits.wrapping_add(at).write(*digit) };
    }
}

fn fail(plan: &Plan<'_>, stage: SpawnStep) -> ! {
    // This only reads errno.
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
    fail_with(plan, stage, errno)
}

fn fail_with(plan: &Plan<'_>, stage: SpawnStep, errno: i32) -> ! {
    let message = [code(stage), errno];
    // SAFETY: 8 bytes from a live array.
    unsafe { libc::write(plan.answer, message.as_ptr().cast(), size_of_val(&message)) };
    // SAFETY: ends the child without running the parent's exit handlers.
    unsafe { libc::_exit(127) }
}

fn empty_mask() -> libc::sigset_t {
    // SAFETY: sigset_t is plain bits; all zero is the empty set.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Blocks every signal in this thread and returns the mask it had.
fn block_signals() -> libc::sigset_t {
    let mut all = empty_mask();
    let mut before = empty_mask();
    // SAFETY: writes one sigset_t through a live reference.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: reads and writes one live sigset_t each.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
    before
}

fn set_mask(mask: &libc::sigset_t) {
    // SAFETY: reads one live sigset_t; async-signal-safe.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn the_child_has_an_empty_mask_and_the_parent_keeps_its_own() {
        let restore = block_signals();
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let what = crate::spawn::Spawn {
            program: "/bin/cat".into(),
            argv: vec!["cat".into(), "/proc/self/status".into()],
            env: Vec::new(),
            cwd: "/".into(),
            stderr: writer.try_clone().unwrap(),
            stdout: writer,
            stdin: None,
            fds: Vec::new(),
            listen_fds: 0,
            nofile: None,
            intercept: false,
            user: None,
            no_new_privileges: false,
        };
        let child = crate::spawn::spawn(what).unwrap();
        let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        set_mask(&restore);
        let mut text = String::new();
        std::fs::File::from(reader).read_to_string(&mut text).unwrap();
        while child.pidfd.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        assert!(text.contains("SigBlk:\t0000000000000000"), "{text}");
        assert!(!own.contains("SigBlk:\t0000000000000000"), "{own}");
    }
}
