//! From process start to serving requests.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rpm_sys::lock::LockFile;
use rpm_sys::{PidFd, Signal, daemonize, limits, memory, tree, usage};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::api;
use crate::home::{Home, HomeError};
use crate::inbox::{Event, Fresh, Handle};
use crate::logs::LogSink;
use crate::logs::own_log::OwnLog;
use crate::node::agents;
use crate::os::systemd;
use crate::persist::state::Unreadable;
use crate::persist::update::Succession;
use crate::persist::{keeping, state, update};
use crate::supervisor::{Means, Supervisor};

/// For another daemon to serve or to be gone. Shorter than its client waits for this one.
const OWNED_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at what another daemon holds.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);
/// Who follows the output gets what was said last, unless it takes longer than this.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(1);

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Its directory is not usable.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// There is one already.
    #[error("a daemon (pid {pid}) serves {home} already")]
    Running {
        /// Its directory.
        home: PathBuf,
        /// Its pid, as it wrote it.
        pid: String,
    },
    /// Workers run that nobody knows any more.
    #[error(
        "the state of the daemon before {why}, and {} of its processes run on, unknown to a new one (pids {}): \
         they serve until they end; `rpm kill` ends them, then `rpm resurrect` starts what was saved",
        pids.len(),
        listed(pids)
    )]
    Lost {
        /// What is wrong with the state.
        why: String,
        /// The workers' processes.
        pids: Vec<u32>,
    },
    /// A step failed.
    #[error("cannot {step}")]
    Io {
        /// Which.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Set by a command that ends everything: workers that nobody knows are ended, too.
pub const END_LOST: &str = "RPM_END_LOST";

/// Pids that are named; of others nobody reads.
const NAMED: usize = 10;
/// For processes to end that are killed.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

fn listed(pids: &[u32]) -> String {
    let named: Vec<String> = pids.iter().take(NAMED).map(u32::to_string).collect();
    let more = if pids.len() > NAMED { ", …" } else { "" };
    format!("{}{more}", named.join(", "))
}

/// Starts from nothing. Where workers run that nobody knows, a new daemon would share their ports with them.
fn begin(means: Means, unreadable: Option<Unreadable>) -> Result<Begun, BootError> {
    let home = &means.home;
    let mut lost = state::lost(home);
    if std::env::var_os(END_LOST).is_some() {
        let deadline = Instant::now() + KILLED_WITHIN;
        while !lost.is_empty() && Instant::now() < deadline {
            for process in lost.iter().filter_map(|pid| PidFd::open(*pid).ok()) {
                let _ = process.send_signal(Signal::KILL);
            }
            std::thread::sleep(RETRY_INTERVAL);
            lost = state::lost(home);
        }
    }
    if !lost.is_empty() {
        let why = match unreadable {
            Some(Unreadable::Format(why)) => format!("cannot be read ({why})"),
            Some(Unreadable::Damaged) | None => "is damaged or gone".to_owned(),
        };
        return Err(BootError::Lost { why, pids: lost });
    }
    // The numbers of workers begin again.
    let _ = std::fs::remove_file(home.asked());
    // What is kept belongs to nothing that is known.
    drop(means.keeper.take_rest());
    Supervisor::new(means).map_err(step("start supervising"))
}

type Begun = (Supervisor, tokio::sync::mpsc::Receiver<Event>);

fn step(step: &'static str) -> impl FnOnce(io::Error) -> BootError {
    move |source| BootError::Io { step, source }
}

/// Runs the daemon of the directory `root` until it is told to stop. Leaves the session of its terminal at once. Prints `ready` on standard
/// output when it accepts requests, and lets go of that.
///
/// # Errors
/// It cannot start; nothing has been changed then.
pub fn run(root: &Path) -> Result<(), BootError> {
    // Before anything else: from here on a Ctrl-C is meant for the command that has started this daemon, and not for the apps.
    daemonize::leave_session();
    memory::keep_one_heap();
    let passed = update::succession().map_err(step("take over from the binary before"))?;
    let own_limit = limits::raise_nofile();
    let child_nofile = passed.as_ref().map_or(own_limit, |passed| passed.child_nofile);
    let home = Home::prepare(root)?;
    let (lock, listener) = match passed {
        Some(passed) => (LockFile::passed(passed.lock), Some(passed.listener)),
        None => (own(&home)?, None),
    };
    let own_log = open_log(&home)?;
    home.name_like_pm2();
    tree::set_child_subreaper().map_err(step("become the parent of orphaned processes"))?;
    let logs = LogSink::start(&home).map_err(step("start the log thread"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(step("start the event loop"))?;
    let hold = Hold {
        lock: &lock,
        own_log: &own_log,
        listener,
    };
    let served = runtime.block_on(async {
        let means = Means {
            home: home.clone(),
            keeper: keeping::open(&home),
            logs: logs.clone(),
            child_nofile,
        };
        serve(hold, means).await
    });
    logs.stop(LAST_LINES_WITHIN);
    // One that does not read must not keep the daemon.
    runtime.block_on(async {
        tokio::time::timeout(LAST_LINES_WITHIN, logs.all_read())
            .await
            .ok()
    });
    // Whoever starts the next daemon must find neither file nor lock half gone: the lock goes last.
    if served.is_ok() {
        state::forget(&home);
    }
    let _ = std::fs::remove_file(home.socket());
    let _ = std::fs::remove_file(home.agent_socket());
    if let Some(path) = home.open_to_others().ok().filter(|path| path.is_dir()) {
        let _ = std::fs::remove_dir_all(path);
    }
    let _ = std::fs::remove_file(home.pid_file());
    home.unname_like_pm2();
    drop(lock);
    info!("stopped");
    // Whoever asked for it takes the end of the connection for the end.
    runtime.shutdown_background();
    served
}

/// Could this binary take over from the daemon of the directory `root`? Its version if so.
///
/// # Errors
/// It cannot read what that one has written.
pub fn check(root: &Path) -> Result<&'static str, BootError> {
    let home = Home::prepare(root)?;
    let left = state::read(&home).map_err(io::Error::other);
    let left = left.and_then(|left| left.ok_or_else(|| io::Error::other("it is not there")));
    left.map_err(step("read the state of the daemon that runs"))?;
    Ok(env!("CARGO_PKG_VERSION"))
}

/// Takes the directory for this process. Whoever has it and does not answer is starting, or has been killed and holds it until its last
/// thread is gone: both end.
fn own(home: &Home) -> Result<LockFile, BootError> {
    let path = home.pid_file();
    let deadline = Instant::now() + OWNED_WITHIN;
    let lock = loop {
        if let Some(lock) = LockFile::try_lock(&path).map_err(step("lock the pid file"))? {
            break lock;
        }
        let pid = std::fs::read_to_string(&path).unwrap_or_default();
        let pid = pid.trim();
        if serves(home, pid) || Instant::now() >= deadline {
            return Err(BootError::Running {
                home: home.root().to_owned(),
                pid: pid.to_owned(),
            });
        }
        std::thread::sleep(RETRY_INTERVAL);
    };
    std::fs::write(&path, format!("{}\n", std::process::id())).map_err(step("write the pid file"))?;
    Ok(lock)
}

/// Whether another daemon listens. The kernel accepts clients for one that has been killed as well, until its last thread is gone.
fn serves(home: &Home, pid: &str) -> bool {
    let has_ended = |pid| usage::state(pid).is_ok_and(|state| matches!(state, 'Z' | 'X'));
    UnixStream::connect(home.socket()).is_ok() && !pid.parse().is_ok_and(has_ended)
}

fn open_log(home: &Home) -> Result<Arc<OwnLog>, BootError> {
    let log = OwnLog::open(&home.daemon_log()).map_err(step("open the daemon's log"))?;
    let log = Arc::new(log);
    // `info`, or for example `info,rpm_daemon=debug`.
    let wanted = std::env::var("RPM_LOG")
        .ok()
        .and_then(|text| text.parse::<Targets>().ok());
    let filter = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(Arc::clone(&log));
    // A second daemon in one process (a test) keeps the first one's log.
    let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
    Ok(log)
}

/// Binds the control socket. A stale one is a dead daemon's: the lock is ours.
fn bind(home: &Home) -> Result<UnixListener, BootError> {
    let path = home.socket();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(step("remove a stale socket")(error));
        }
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path).map_err(step("bind the control socket"))?;
    let private = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600));
    private.map_err(step("make the control socket private"))?;
    Ok(listener)
}

/// What only one daemon of a directory has.
struct Hold<'a> {
    lock: &'a LockFile,
    own_log: &'a OwnLog,
    /// The control socket, if a binary before has passed it on.
    listener: Option<OwnedFd>,
}

async fn serve(hold: Hold<'_>, means: Means) -> Result<(), BootError> {
    let (home, keeper, child_nofile) = (means.home.clone(), means.keeper.clone(), means.child_nofile);
    // What the daemon before had is taken back first: nobody is answered who could be told half of it.
    let (supervisor, inbox) = match state::read(&home) {
        Ok(Some(stored)) => {
            Supervisor::take_over(means, stored).map_err(step("take over from the daemon before"))?
        }
        Ok(None) => begin(means, None)?,
        Err(why) => begin(means, Some(why))?,
    };
    keeping::watch(keeper.clone());
    let in_place = hold.listener.is_some();
    let listener = match hold.listener {
        Some(listener) => UnixListener::from_std(listener.into()).map_err(step("take the control socket"))?,
        None => bind(&home)?,
    };
    let share = || {
        Ok(Succession {
            lock: hold.lock.share()?,
            listener: listener.as_fd().try_clone_to_owned()?,
            child_nofile,
        })
    };
    let succession = share().map_err(step("keep the control socket"))?;
    let handle = supervisor.handle();
    agents::listen(&home.agent_socket(), handle.events.clone())
        .map_err(step("listen for the workers' agents"))?;
    obey_signals(&handle).map_err(step("handle signals"))?;
    prove_life(handle.clone());
    tokio::spawn(api::serve(listener, handle));
    let leave = |log: &File| match in_place {
        true => daemonize::redirect_stdio(Some(log.as_fd())),
        false => announce(log),
    };
    hold.own_log
        .take_stdio(leave)
        .map_err(step("leave the terminal"))?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        "serving"
    );
    systemd::ready();
    // Until here the next daemon gets whatever is dropped.
    keeper.serve();
    let ran = supervisor.run(inbox, succession).await;
    ran.map_err(step("run the event loop"))
}

/// Tells systemd, as often as it wants, that the supervisor takes events.
fn prove_life(handle: Handle) {
    let Some(interval) = systemd::watchdog_interval() else {
        return;
    };
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(interval);
        loop {
            ticks.tick().await;
            if handle.look(Fresh::Stored, |_| ()).await.is_err() {
                return;
            }
            systemd::alive();
        }
    });
}

fn announce(log: &File) -> io::Result<()> {
    let mut stdout = io::stdout();
    // Whoever started the daemon may be gone already.
    let _ = stdout.write_all(b"ready\n").and_then(|()| stdout.flush());
    daemonize::redirect_stdio(Some(log.as_fd()))
}

fn obey_signals(handle: &Handle) -> io::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut arrived = signal(kind)?;
        let events = handle.events.clone();
        tokio::spawn(async move {
            while arrived.recv().await.is_some() {
                let _ = events.send(Event::Terminate).await;
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::process::Command;
    use std::thread;

    use super::*;

    #[test]
    fn a_daemon_that_was_killed_is_waited_for_although_its_socket_still_has_clients() {
        let root = std::env::temp_dir().join(format!("rpm-own-{}", std::process::id()));
        let home = Home::prepare(&root).expect("a directory");
        let held = LockFile::try_lock(&home.pid_file())
            .expect("a file")
            .expect("nobody has it");
        let listener = UnixListener::bind(home.socket()).expect("a socket");
        let mut dead = Command::new("true").spawn().expect("it runs");
        // It stays a zombie until it is waited for.
        while usage::state(dead.id()).expect("it is ours") != 'Z' {
            thread::yield_now();
        }
        fs::write(home.pid_file(), format!("{}\n", dead.id())).expect("written");
        let owned = thread::scope(|scope| {
            let next = scope.spawn(|| own(&home));
            listener.accept().expect("the next daemon looks");
            drop(held);
            next.join().expect("it ends")
        });
        dead.wait().expect("it is ours");
        let owned = owned.map(drop);
        fs::remove_dir_all(&root).expect("it is ours");
        owned.expect("the lock is free");
    }
}
