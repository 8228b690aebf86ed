//! A connection to the daemon, which is started if it is not running.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep, timeout};

use crate::home::like_pm2;
use crate::home::{Home, HomeError};

/// The argument with which the program runs as the daemon.
pub const DAEMON: &str = "daemon";

/// What the daemon (`<this program> daemon`, with `RPM_HOME` set) writes to its standard output once it
/// accepts connections. Anything else it writes there is the reason why it cannot.
pub const DAEMON_READY: &str = "ready\n";

/// The program that is started as the daemon, if that is not the one that runs.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Sets the program that is started as the daemon. A process that is not `rpm` itself does this first.
pub fn set_program(path: PathBuf) {
    // It is set once; nothing was read before.
    let _ = PROGRAM.set(path);
}

/// The program that is started as the daemon.
pub(crate) fn program() -> io::Result<PathBuf> {
    PROGRAM
        .get()
        .map_or_else(std::env::current_exe, |path| Ok(path.clone()))
}

/// Set in the environment of a daemon that must end unknown workers.
const END_LOST: &str = "RPM_END_LOST";

/// For another client to finish starting the daemon, and for the daemon to accept. A start takes
/// milliseconds; a machine that swaps gets some patience.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// Time for a running daemon to accept another connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(15);

/// Pause between two attempts to get something that another process holds.
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// Maximum length of the message of a failing daemon, in bytes.
const MAX_COMPLAINT: u64 = 16 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the daemon's directory cannot be used")]
    Home(#[source] HomeError),
    #[error("cannot connect to the daemon at {}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error(
        "user {uid} listens at {}, not the daemon of user {owner}, who owns the directory: nothing was sent; \
         end that process and remove the socket",
        path.display()
    )]
    Impostor { path: PathBuf, uid: u32, owner: u32 },
    #[error(
        "another start of the daemon has not finished after {} s; it holds the lock {}",
        START_DEADLINE.as_secs(),
        .0.display()
    )]
    Locked(PathBuf),
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("cannot start the daemon")]
    Spawn(#[source] io::Error),
    #[error("the daemon could not start: {0}")]
    Refused(String),
    #[error("the daemon ended at once ({status}); see {}", log.display())]
    Died { status: String, log: PathBuf },
    #[error("the daemon is not ready after {} s; see {}", START_DEADLINE.as_secs(), .0.display())]
    NotReady(PathBuf),
}

/// What a started daemon does with unknown workers of its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It refuses to start, and names them.
    Refuse,
    /// It ends them.
    End,
}

/// Connects to a running daemon; `None` if there is none.
pub(crate) async fn connect(home: &Home) -> Result<Option<UnixStream>, ConnectError> {
    use io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
    let path = home.socket();
    let deadline = Instant::now() + CONNECT_DEADLINE;
    loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => return genuine(home, stream).map(Some),
            Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => return Ok(None),
            // Its backlog is full: many clients at once, or it is stuck.
            Err(error) if error.kind() == WouldBlock && Instant::now() < deadline => {
                sleep(RETRY_INTERVAL).await;
            }
            Err(source) => return Err(ConnectError::Connect { path, source }),
        }
    }
}

/// Checks who listens before anything is sent: requests contain environments, which contain secrets.
fn genuine(home: &Home, stream: UnixStream) -> Result<UnixStream, ConnectError> {
    let path = home.socket();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == home.owner() => Ok(stream),
        Ok(peer) => Err(ConnectError::Impostor {
            path,
            uid: peer.uid(),
            owner: home.owner(),
        }),
        Err(source) => Err(ConnectError::Connect { path, source }),
    }
}

/// Connects, and starts the daemon as `<program> daemon` if none runs. Of several clients that do so at the
/// same time one starts it.
pub(crate) async fn connect_or_start(
    home: &Home,
    program: &Path,
    lost: Lost,
) -> Result<UnixStream, ConnectError> {
    if let Some(stream) = connect(home).await? {
        return Ok(stream);
    }
    // Held until the daemon accepts, so that the next holder finds it.
    let _lock = match locked(home).await? {
        Turn::Ours(lock) => lock,
        Turn::Needless(stream) => return Ok(stream),
    };
    if let Some(stream) = connect(home).await? {
        return Ok(stream);
    }
    if let Err(error) = start(home, program, lost).await {
        // Another daemon was there first, started by a client that is gone: it serves by now.
        return match (&error, connect(home).await?) {
            (ConnectError::Refused(_), Some(stream)) => Ok(stream),
            _ => Err(error),
        };
    }
    let gone = || ConnectError::Died {
        status: "after it was ready".to_owned(),
        log: home.log(),
    };
    connect(home).await?.ok_or_else(gone)
}

enum Turn {
    Ours(File),
    /// Another client has started the daemon meanwhile.
    Needless(UnixStream),
}

async fn locked(home: &Home) -> Result<Turn, ConnectError> {
    let file = home.lock_file().map_err(ConnectError::Home)?;
    let path = || home.root().join("rpm.lock");
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Turn::Ours(file)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(ConnectError::Locked(path()));
            }
            Err(TryLockError::WouldBlock) => sleep(RETRY_INTERVAL).await,
            Err(TryLockError::Error(source)) => return Err(ConnectError::Lock { path: path(), source }),
        }
        if let Some(stream) = connect(home).await? {
            return Ok(Turn::Needless(stream));
        }
    }
}

async fn start(home: &Home, program: &Path, lost: Lost) -> Result<(), ConnectError> {
    let mut command = Command::new(program);
    if lost == Lost::End {
        command.env(END_LOST, "1");
    }
    if like_pm2() {
        command.env("RPM_COMPAT", "pm2");
    }
    // Those of the service that this command is part of; the daemon is not its main process.
    for variable in ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"] {
        command.env_remove(variable);
    }
    let mut child = command
        .arg(DAEMON)
        .env("RPM_HOME", home.root())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(ConnectError::Spawn)?;
    let stdout = child
        .stdout
        .take()
        .map(OwnedFd::from)
        .ok_or_else(|| io::Error::other("no pipe"));
    let output = stdout
        .and_then(pipe::Receiver::from_owned_fd)
        .map_err(ConnectError::Spawn)?;
    let said = timeout(START_DEADLINE, first_words(output)).await;
    match said
        .map_err(|_| ConnectError::NotReady(home.log()))?
        .map_err(ConnectError::Spawn)?
    {
        said if said.starts_with(DAEMON_READY) => Ok(()),
        said if said.trim().is_empty() => Err(ConnectError::Died {
            status: ended(&mut child),
            log: home.log(),
        }),
        complaint => Err(ConnectError::Refused(complaint.trim().to_owned())),
    }
}

/// Reads what the daemon writes until it is ready or closes its output.
async fn first_words(output: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut output = output.take(MAX_COMPLAINT);
    let mut said = Vec::new();
    while output.read_buf(&mut said).await? > 0 {
        if said.starts_with(DAEMON_READY.as_bytes()) {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn ended(child: &mut Child) -> String {
    match child.try_wait() {
        Ok(Some(status)) => status.to_string(),
        Ok(None) | Err(_) => "it closed its output".to_owned(),
    }
}

#[cfg(test)]
mod tests;
