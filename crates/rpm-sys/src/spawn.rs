//! Starts a process with its own session and process group, exactly the given descriptors and default signal dispositions. An error names
//! the step that failed and its operand.

mod child;
mod image;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use self::image::Image;
use crate::intercept::{Filter, Notifications};
use crate::limits;
use crate::pidfd::{PidFd, Signal};
use crate::scm;
use crate::user::User;

/// The process to start.
#[derive(Debug)]
pub struct Spawn {
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Its arguments, `argv[0]` included.
    pub argv: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub cwd: PathBuf,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
    /// Descriptor 0; `None` is `/dev/null`.
    pub stdin: Option<OwnedFd>,
    /// Further descriptors, each with its number in the process: 3 or more, all different.
    pub fds: Vec<(OwnedFd, RawFd)>,
    /// If not 0, sets `LISTEN_FDS` to this and `LISTEN_PID` to the process's pid (sd_listen_fds(3)). The descriptors, from 3 on, are in
    /// `fds`.
    pub listen_fds: usize,
    /// `RLIMIT_NOFILE` of the process; `None` keeps the daemon's own.
    pub nofile: Option<Rlimit>,
    /// Reports `bind` and `listen` calls of the process and all its descendants ([`crate::intercept`]). The calls fail once no process
    /// holds the descriptor of the reports, so it must outlive this process elsewhere.
    pub intercept: bool,
    /// The user that it runs as; `None` for the user of this process.
    pub user: Option<User>,
    /// Set-user-ID programs and file capabilities give no rights to it and its descendants (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
}

pub use crate::limits::Rlimit;

/// A process that is executing its program.
#[derive(Debug)]
pub struct Child {
    /// Its pid, and the id of its process group.
    pub pid: u32,
    /// The process.
    pub pidfd: PidFd,
    /// Its calls of `bind` and `listen`, if they are intercepted.
    pub notifications: Option<Notifications>,
}

/// The step of a spawn that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnStep {
    /// Arguments, environment or descriptor numbers are invalid.
    Prepare,
    /// Opening and placing descriptors.
    Descriptors,
    /// Creating the process.
    Fork,
    /// Creating its session and process group.
    Group,
    /// Changing to its working directory.
    Directory,
    /// Setting its limit of open files.
    Limit,
    /// Installing the interception, which the system does not permit.
    Intercept,
    /// Becoming another user.
    User,
    /// Executing the program.
    Execute,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.headline())]
pub struct SpawnError {
    /// The step that failed.
    pub stage: SpawnStep,
    /// The operand: the program, the directory, or the invalid argument.
    pub operand: PathBuf,
    /// The likely cause, if the error number alone does not tell.
    pub hint: Option<String>,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

/// The kernel executes a local program in well under a millisecond. A program on a hung network file system must not hang the daemon.
const EXEC_DEADLINE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Starts a process, and returns once it executes its program.
///
/// The process leads its own session and process group, starts with default signal dispositions and an empty signal mask, and inherits only
/// descriptors 0, 1, 2 and `fds`. It gets SIGCONT if the calling thread dies.
///
/// # Errors
/// A step failed; nothing is left behind.
pub fn spawn(spawn: Spawn) -> Result<Child, SpawnError> {
    let Spawn {
        program,
        argv,
        env,
        cwd,
        stdout,
        stderr,
        stdin,
        fds,
        listen_fds,
        nofile,
        intercept,
        user,
        no_new_privileges,
    } = spawn;
    let image = Image::new(&program, &argv, &env, &cwd, listen_fds)?;
    check_targets(&program, &fds)?;
    let descriptors = |source| SpawnError::new(SpawnStep::Descriptors, &program, source);
    let stdin = stdin.map_or_else(dev_null, Ok).map_err(descriptors)?;
    let stdio = [(stdin, 0), (stdout, 1), (stderr, 2)];
    let placed = place(stdio.into_iter().chain(fds).collect()).map_err(descriptors)?;
    let filter = intercept.then(Filter::new);
    let (report, answer) = report_socket(&placed).map_err(descriptors)?;
    let dups: Vec<(RawFd, RawFd)> = placed.iter().map(|(fd, to)| (fd.as_raw_fd(), *to)).collect();
    let plan = child::Plan {
        image: &image,
        dups: &dups,
        nofile: nofile.map(raw_limit),
        user: user.as_ref(),
        no_new_privileges,
        filter: filter.as_ref().map(Option::as_ref),
        answer: answer.as_raw_fd(),
    };
    let mut child =
        child::fork(&plan).map_err(|source| SpawnError::new(SpawnStep::Fork, &program, source))?;
    drop(answer);
    let (stage, source) = match await_exec(&report, &child.pidfd) {
        Ok(notifications) => {
            child.notifications = notifications;
            return Ok(child);
        }
        Err(failed) => of_the_moment(failed),
    };
    let _ = child.pidfd.send_signal(Signal::KILL);
    reap(&child);
    let operand = if stage == SpawnStep::Directory {
        &cwd
    } else {
        &program
    };
    Err(SpawnError::new(stage, operand, source))
}

impl SpawnError {
    fn new(stage: SpawnStep, operand: &Path, source: io::Error) -> SpawnError {
        let hint = limit_hint(stage, &source).or_else(|| exec_hint(stage, operand, &source));
        SpawnError {
            stage,
            operand: operand.to_path_buf(),
            hint,
            source,
        }
    }

    fn headline(&self) -> Headline<'_> {
        Headline(self)
    }
}

struct Headline<'a>(&'a SpawnError);

impl fmt::Display for Headline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operand = self.0.operand.display();
        match self.0.stage {
            SpawnStep::Prepare => write!(f, "cannot pass {operand} to a process"),
            SpawnStep::Descriptors => write!(f, "cannot prepare the descriptors of {operand}"),
            SpawnStep::Fork => write!(f, "cannot create a process for {operand}"),
            SpawnStep::Group => write!(f, "cannot create a process group for {operand}"),
            SpawnStep::Directory => write!(f, "cannot change to the directory {operand}"),
            SpawnStep::Intercept => write!(f, "cannot intercept the calls of {operand}"),
            SpawnStep::User => write!(f, "cannot run {operand} as another user"),
            SpawnStep::Limit => write!(f, "cannot set the limit of open files of {operand}"),
            SpawnStep::Execute => write!(f, "cannot execute {operand}"),
        }?;
        match &self.0.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

fn limit_hint(stage: SpawnStep, source: &io::Error) -> Option<String> {
    if source.raw_os_error() != Some(libc::EAGAIN) || !matches!(stage, SpawnStep::Fork | SpawnStep::Execute) {
        return limits::explain(source);
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nproc).current;
    let limit = limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    Some(format!(
        "RLIMIT_NPROC, the limit of processes, is {limit}; a cgroup may have a lower pids.max"
    ))
}

/// `ENOENT` for a file that exists refers to its interpreter; `ENOEXEC` means that it names none.
fn exec_hint(stage: SpawnStep, program: &Path, source: &io::Error) -> Option<String> {
    if stage != SpawnStep::Execute || !program.exists() {
        return None;
    }
    match source.raw_os_error()? {
        libc::ENOENT | libc::ENOTDIR => Some(match interpreter(program) {
            Some(interpreter) => format!("its interpreter {interpreter:?} does not exist"),
            None => "its dynamic loader does not exist".to_owned(),
        }),
        libc::ENOEXEC => {
            Some("it is neither a program of this machine nor a script with a #! line".to_owned())
        }
        libc::EACCES => Some("it must be a file with execute permission, as must its interpreter".to_owned()),
        _ => None,
    }
}

/// The interpreter that a `#!` line names.
fn interpreter(program: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut head = Vec::new();
    // The kernel reads 256 bytes (BINPRM_BUF_SIZE).
    std::fs::File::open(program)
        .ok()?
        .take(256)
        .read_to_end(&mut head)
        .ok()?;
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let word = line.trim_matches([' ', '\t']).split([' ', '\t']).next()?;
    Some(word.to_owned())
}

fn check_targets(program: &Path, fds: &[(OwnedFd, RawFd)]) -> Result<(), SpawnError> {
    let mut targets: Vec<RawFd> = fds.iter().map(|(_, to)| *to).collect();
    targets.sort_unstable();
    let low = targets.first().is_some_and(|&to| to < 3);
    if low || targets.windows(2).any(|pair| pair[0] == pair[1]) {
        let what = "descriptor numbers must be at least 3 and different";
        let source = io::Error::new(io::ErrorKind::InvalidInput, what);
        return Err(SpawnError::new(SpawnStep::Prepare, program, source));
    }
    Ok(())
}

fn dev_null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        c"/dev/null",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Moves every source above all targets, so that no `dup2` in the child overwrites one still needed.
fn place(fds: Vec<(OwnedFd, RawFd)>) -> io::Result<Vec<(OwnedFd, RawFd)>> {
    let floor = floor_above(&fds);
    fds.into_iter()
        .map(|(fd, to)| Ok((raise(fd, floor)?, to)))
        .collect()
}

fn raise(fd: OwnedFd, floor: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= floor {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(&fd, floor)?)
}

fn floor_above(fds: &[(OwnedFd, RawFd)]) -> RawFd {
    fds.iter().map(|(_, to)| to.saturating_add(1)).max().unwrap_or(3)
}

/// The socket on which the child reports its progress. The child's end is above all target numbers.
fn report_socket(placed: &[(OwnedFd, RawFd)]) -> io::Result<(OwnedFd, OwnedFd)> {
    let (report, answer) = scm::pair()?;
    Ok((report, raise(answer, floor_above(placed))?))
}

fn raw_limit(limit: Rlimit) -> libc::rlimit {
    libc::rlimit {
        rlim_cur: limit.soft,
        rlim_max: limit.hard,
    }
}

/// Waits until the child closes the socket without a report, which means that it executes the program.
fn await_exec(report: &OwnedFd, child: &PidFd) -> Result<Option<Notifications>, (SpawnStep, io::Error)> {
    let execute = |source| (SpawnStep::Execute, source);
    let mut received = Vec::new();
    loop {
        let mut fds = [PollFd::new(report, PollFlags::IN)];
        let waited = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&EXEC_DEADLINE)));
        if waited.map_err(|errno| execute(errno.into()))? == 0 {
            return Err(execute(io::ErrorKind::TimedOut.into()));
        }
        let mut message = [0; child::MESSAGE];
        match scm::recv(report, &mut message, &mut received).map_err(execute)? {
            0 => return Ok(received.pop().map(Notifications::new)),
            _ => child::decode(message).map_or_else(|| may_intercept(child, &received), Err)?,
        }
    }
}

/// The child has its filter. Without the right to copy its sockets, its calls could not be handled.
fn may_intercept(child: &PidFd, received: &[OwnedFd]) -> Result<(), (SpawnStep, io::Error)> {
    let intercept = |source| (SpawnStep::Intercept, source);
    if received.is_empty() {
        return Err(intercept(io::Error::from_raw_os_error(libc::EMFILE)));
    }
    match child.getfd(1) {
        // It may already have executed its program, and even ended.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EBADF)) => Ok(()),
        tried => tried.map(drop).map_err(intercept),
    }
}

/// A temporary lack of resources does not mean that calls cannot be intercepted.
fn of_the_moment((stage, source): (SpawnStep, io::Error)) -> (SpawnStep, io::Error) {
    match (stage, source.raw_os_error()) {
        (SpawnStep::Intercept, Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
            (SpawnStep::Descriptors, source)
        }
        _ => (stage, source),
    }
}

/// The child exits by itself or was killed, so the wait is short.
fn reap(child: &Child) {
    use std::os::fd::AsFd as _;
    let id = WaitId::PidFd(child.pidfd.as_fd());
    let _ = rustix::io::retry_on_intr(|| waitid(id.clone(), WaitIdOptions::EXITED));
}
