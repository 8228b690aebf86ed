//! From an app's specification to a running process.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use std::{fs, io};

use rpm_core::protocol::Input;
use rpm_core::{AppId, InstanceId, Revision, WorkerId};
use rpm_keeper::Kept;
use rpm_listen::{Grant, Request, Wanted};
use rpm_sys::spawn::{Child, Spawn, spawn};
use rpm_sys::{scm, survive};
use rpm_wire::api::{AppSpec, Stage};
use tokio::io::Interest;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::apps::app::{PortSource, is_bun, is_node, policy, proxy_sockets};
use crate::inbox::Event;
use crate::logs::Source;
use crate::node::channel::{self, OUTGOING_LIMIT, Outgoing};
use crate::os::watched::watched;
use crate::supervisor::{Supervisor, now_ms};
use crate::workers::behalf::Behalf;
use crate::workers::environment::environment;
use crate::workers::outputs::{logs_of, pid_file, sources, write_pid};
use crate::workers::users::{AgentPlace, other_user, user};
use crate::workers::worker::{Channel, LastWords, Life, Logs, Process, Tokens, UsageSample, Worker};

/// The first descriptor after the standard three: where `LISTEN_FDS` begins, and where Node has its channel.
const FIRST_FD: i32 = 3;

/// What a worker can print before a daemon reads it. Users have 64 MiB for all their pipes before new ones get two pages.
const PIPE_BYTES: usize = 256 << 10;
/// Log files of which is known how long they were; of one beyond that, how long it was when its present worker started.
const LOG_STARTS: usize = 4096;

/// Why a worker could not be started, for people.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("interpreter {0:?} was not found in PATH; install it, or name it with --interpreter")]
    NoInterpreter(String),
    #[error("the working directory {0} does not exist; create it or set --cwd")]
    NoDirectory(String),
    #[error("cannot make a pipe or channel{}", limit_hint(.0))]
    Descriptors(#[source] io::Error),
    #[error("{address:?} cannot be passed: {reason}")]
    Listen { address: String, reason: String },
    #[error("{0}; leave out what prevents it, pass the listener with --listen, or leave --balance proxy out")]
    Unfronted(String),
    #[error(transparent)]
    Spawn(#[from] rpm_sys::spawn::SpawnError),
    #[error("it cannot run as {who}: {why}")]
    User { who: String, why: String },
}

/// In parentheses which limit of open files is behind `error`, if one is.
pub(crate) fn limit_hint(error: &io::Error) -> String {
    rpm_sys::limits::explain(error).map_or_else(String::new, |limit| format!(" ({limit})"))
}

/// What is left in the daemon's hands when a process is started.
struct Launched {
    process: Process,
    sources: Vec<Source>,
}

impl Supervisor {
    pub(crate) fn spawn(
        &mut self,
        worker: WorkerId,
        app: AppId,
        revision: Revision,
        place: (InstanceId, u32),
    ) {
        let known = self.apps.get(&app).and_then(|app| app.revisions.spec(revision));
        let Some(spec) = known.cloned() else {
            return self.input(Input::SpawnFailed { worker });
        };
        let ports = PortSource::of(&spec);
        let logs = logs_of(&self.home, &spec, place.0);
        self.note_log_starts(&logs);
        let held = Worker {
            id: worker,
            app,
            instance: place.0,
            spec: Arc::clone(&spec),
            ports,
            logs,
            life: Life::None,
            trouble: None,
            agent_seen: false,
            token: token(worker),
            malformed: 0,
            withheld: Vec::new(),
            held_back: Vec::new(),
            bound: BTreeSet::new(),
            listeners: BTreeSet::new(),
        };
        self.forget_dead(place.0);
        self.workers.insert(worker, held);
        let mut launched = self.launch(worker, &spec, place);
        if let Err(LaunchError::Spawn(error)) = &launched
            && error.stage == rpm_sys::spawn::Stage::Intercept
        {
            self.interception.deny(error);
            launched = self.launch(worker, &spec, place);
        }
        match launched {
            Ok(mut launched) => {
                info!(app = spec.name, %worker, pid = launched.process.pid, "started");
                launched
                    .sources
                    .into_iter()
                    .for_each(|source| self.logs.add(source));
                self.note_pid(&spec, place.0, launched.process.pid);
                self.watch(worker, &mut launched.process);
                if let Some(held) = self.workers.get_mut(&worker) {
                    held.life = Life::Running(Box::new(launched.process));
                }
                self.step(worker, Stage::Starting);
                self.starting.begin();
                self.input(Input::Spawned { worker });
            }
            Err(error) => {
                let text = chain(&error);
                warn!(app = spec.name, %worker, error = text, "cannot start a worker");
                if let Some(held) = self.workers.get_mut(&worker) {
                    held.trouble = Some(text);
                }
                self.listeners.worker_gone(worker);
                self.input(Input::SpawnFailed { worker });
            }
        }
    }

    /// Of the dead workers of an instance only the last is of interest: why it failed, where its lines are.
    fn forget_dead(&mut self, instance: InstanceId) {
        let dead = |w: &Worker| w.instance == instance && matches!(w.life, Life::None);
        let mut ids: Vec<WorkerId> = self.workers.values().filter(|w| dead(w)).map(|w| w.id).collect();
        ids.pop();
        for id in ids {
            self.workers.remove(&id);
        }
    }

    fn launch(
        &mut self,
        worker: WorkerId,
        spec: &AppSpec,
        (instance, number): (InstanceId, u32),
    ) -> Result<Launched, LaunchError> {
        if let Some(why) = self
            .interception
            .unfronted(spec)
            .or_else(|| self.fronts.refuses(spec))
        {
            return Err(LaunchError::Unfronted(why));
        }
        let (program, argv) = command_line(spec)?;
        if !Path::new(&spec.cwd).is_dir() {
            return Err(LaunchError::NoDirectory(spec.cwd.clone()));
        }
        let (out, stdout) = output_pipe().map_err(LaunchError::Descriptors)?;
        let (err, stderr) = output_pipe().map_err(LaunchError::Descriptors)?;
        let mut fds = self.passed_sockets(worker, spec)?;
        let listen_fds = fds.len();
        let ours = if is_node(spec) || is_bun(spec) {
            let (ours, theirs) = scm::pair().map_err(LaunchError::Descriptors)?;
            fds.push((theirs, FIRST_FD + i32::try_from(listen_fds).unwrap_or(0)));
            Some(ours)
        } else {
            None
        };
        let channel_fd = fds.last().filter(|_| ours.is_some()).map(|(_, number)| *number);
        let (stdin, theirs) = standard_input(spec).map_err(LaunchError::Descriptors)?;
        let logs = logs_of(&self.home, spec, instance);
        let user = user(spec)?;
        let no_new_privileges = spec.intercept && other_user(spec)?.is_some();
        let mut env = environment(spec, &self.home, (instance, number), &logs, user.as_ref());
        let agent = self.has_agent(worker).then(|| self.agent_place(spec)).flatten();
        self.add_runtime_env(&mut env, worker, spec, channel_fd, agent);
        let child = spawn(Spawn {
            program,
            argv,
            env: env.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
            cwd: PathBuf::from(&spec.cwd),
            stdin: theirs,
            stdout,
            stderr,
            fds,
            listen_fds,
            nofile: Some(self.child_nofile),
            intercept: self.interception.applies_to(spec),
            no_new_privileges,
            user,
        })?;
        let (process, pipes) = self.hold(worker, child, (out, err), (stdin, ours));
        Ok(Launched {
            process,
            sources: sources(spec, instance, &logs, pipes),
        })
    }

    /// Has all that belongs to the worker kept for the next daemon.
    fn hold(
        &self,
        worker: WorkerId,
        child: Child,
        (out, err): (OwnedFd, OwnedFd),
        (stdin, channel): (Option<OwnedFd>, Option<OwnedFd>),
    ) -> (Process, [(Kept<OwnedFd>, bool); 2]) {
        let owner = rpm_listen::owner(worker);
        let pidfd = self.keeper.keep_process(Arc::new(child.pidfd), owner);
        let keep = |fd: OwnedFd| self.keeper.keep(fd, owner);
        let (out, err, stdin, channel) = (keep(out), keep(err), stdin.map(keep), channel.map(keep));
        let notifications = child.notifications.map(Arc::new);
        let notifications = notifications.map(|reports| self.keeper.keep_shared(reports, owner));
        let tokens = Tokens {
            process: pidfd.token(),
            channel: channel.as_ref().map(Kept::token),
            out: Some(out.token()),
            err: Some(err.token()),
            reports: notifications.as_ref().map(Kept::token),
            stdin: stdin.as_ref().map(Kept::token),
        };
        if let Some(reports) = &notifications {
            self.watch_calls(worker, &reports.share());
        }
        let process = Process {
            pid: child.pid,
            // A process that has ended since is not one that could be taken back.
            start_ticks: pidfd.start_ticks().unwrap_or(0),
            pidfd,
            started: Instant::now(),
            started_at_ms: now_ms(),
            channel: channel.map(|socket| self.open_channel(worker, socket)),
            ending: false,
            adopted: false,
            tokens,
            bereft: false,
            stdin,
            notifications,
            usage: UsageSample::start(),
        };
        (process, [(out, false), (err, true)])
    }

    fn note_log_starts(&mut self, logs: &Logs) {
        for (path, length) in [(&logs.out, logs.out_from), (&logs.err, logs.err_from)] {
            if self.log_starts.len() < LOG_STARTS && !self.log_starts.contains_key(path) {
                self.log_starts.insert(path.clone(), length);
            }
        }
    }

    fn note_pid(&self, spec: &AppSpec, instance: InstanceId, pid: u32) {
        let path = pid_file(&self.home, spec, instance);
        if let Err(error) = write_pid(&path, &Behalf::of(spec), pid) {
            warn!(app = spec.name, path = %path.display(), %error, "cannot write the pid");
        }
    }

    /// What the worker's runtime must know: its channel, its number in the cluster, its agent.
    fn add_runtime_env(
        &self,
        env: &mut BTreeMap<String, String>,
        worker: WorkerId,
        spec: &AppSpec,
        channel_fd: Option<i32>,
        agent: Option<AgentPlace>,
    ) {
        // What is in there by now is the user's, and what is added for source maps.
        let options = env.get("NODE_OPTIONS").cloned();
        let mut add = |key: &str, value: String| drop(env.insert(key.to_owned(), value));
        add("RPM_WORKER", worker.to_string());
        if let Some(fd) = channel_fd {
            add("NODE_CHANNEL_FD", fd.to_string());
            add("NODE_CHANNEL_SERIALIZATION_MODE", "json".to_owned());
        }
        if PortSource::of(spec) == PortSource::Node {
            add("NODE_UNIQUE_ID", worker.to_string());
        }
        if let Some((place, held)) = agent.zip(self.workers.get(&worker)) {
            add(rpm_agent::TOKEN_ENV, held.token.clone());
            add(rpm_agent::SOCKET_ENV, place.socket.display().to_string());
            add("NODE_OPTIONS", rpm_agent::node_options(options.as_deref()));
            // Empty, where an app that is started by another one would inherit it.
            let kept = spec.keep_alive_timeout_ms;
            add(
                "RPM_KEEP_ALIVE_MS",
                kept.map_or_else(String::new, |ms| ms.to_string()),
            );
            let users = spec.env.get("BUN_OPTIONS").map(String::as_str);
            if let Some(options) = bun_options(&place.preloads, users) {
                add("BUN_OPTIONS", options);
            }
        }
    }

    /// Opens what `--listen` names and gives it to the worker as its slots.
    fn passed_sockets(
        &mut self,
        worker: WorkerId,
        spec: &AppSpec,
    ) -> Result<Vec<(OwnedFd, i32)>, LaunchError> {
        let Some(app) = self.workers.get(&worker).map(|w| w.app) else {
            return Ok(Vec::new());
        };
        let user = other_user(spec)?;
        let mut fds = Vec::new();
        for (address, number) in spec.listen.iter().zip(FIRST_FD..) {
            let refused = |reason| LaunchError::Listen {
                address: address.clone(),
                reason,
            };
            let wanted = Wanted::from_listen(address).map_err(|error| refused(error.to_string()))?;
            let key = format!("listen:{address}");
            let group = self.listeners.group(app, &key);
            let inherits = group.and_then(|group| self.core.slot_for(worker, group));
            let request = Request {
                app,
                key: &key,
                worker,
                inherits,
                beside: false,
                policy: policy(spec),
                weight: self.ports().weight(worker),
                handoff: false,
                proxy: proxy_sockets(spec),
                user: user.as_ref(),
            };
            match self.listeners.open(&wanted, &request) {
                Ok(Grant::Slot { slot, group, fd }) => {
                    // A program that was handed a socket expects what `socket(2)` gives: one that blocks.
                    let blocking = rustix::io::ioctl_fionbio(fd, false).map_err(io::Error::from);
                    let copy = blocking.and_then(|()| fd.try_clone_to_owned());
                    // The core hears of every slot that is open: nobody else has it closed.
                    self.input(Input::SlotHeld {
                        slot,
                        group,
                        worker,
                        fixed: wanted.is_fixed(),
                    });
                    fds.push((copy.map_err(LaunchError::Descriptors)?, number));
                }
                Ok(Grant::Shared { .. }) => {}
                Err(error) => {
                    self.ports().trouble(worker, &error);
                    let reason = self.workers.get(&worker).and_then(|w| w.trouble.clone());
                    return Err(refused(reason.unwrap_or_default()));
                }
            }
        }
        Ok(fds)
    }

    pub(crate) fn open_channel(&self, worker: WorkerId, socket: Kept<OwnedFd>) -> Channel {
        let (outgoing, inbox) = mpsc::channel::<Outgoing>(OUTGOING_LIMIT);
        let (died, death) = oneshot::channel();
        let events = self.events.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = channel::run(worker, socket, inbox, death, &events).await {
                tracing::debug!(%worker, %error, "channel ended");
            }
            let _ = events.send(Event::ChannelEnded(worker)).await;
        });
        Channel::new(outgoing, Some(LastWords::new(died, task)))
    }

    /// Reports the end of the leader, after all that it has said.
    pub(crate) fn watch(&self, worker: WorkerId, process: &mut Process) {
        let events = self.events.clone();
        let pidfd = process.pidfd.share();
        let last_words = process.channel.as_mut().and_then(Channel::last_words);
        tokio::spawn(async move {
            match watched(pidfd, Interest::READABLE) {
                Ok(ended) => drop(ended.readable().await),
                Err(error) => warn!(%worker, %error, "cannot watch a worker; it counts as dead"),
            }
            if let Some(last_words) = last_words {
                last_words.hear().await;
            }
            let _ = events.send(Event::LeaderExited(worker)).await;
        });
    }
}

/// In fork mode somebody may write to its standard input: the daemon's end, and its own.
fn standard_input(spec: &AppSpec) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    if PortSource::of(spec) != PortSource::Single {
        return Ok((None, None));
    }
    let (ours, theirs) = scm::pair()?;
    // Nobody reads from it: what a process could leave there would be closed with it.
    rustix::net::shutdown(&ours, rustix::net::Shutdown::Read)?;
    Ok((Some(ours), Some(theirs)))
}

/// What has Bun load its agent. The file is written when it is not there: it may have been removed.
fn bun_options(place: &Path, users: Option<&str>) -> Option<String> {
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
fn token(worker: WorkerId) -> String {
    use std::hash::{BuildHasher as _, RandomState};
    format!("{worker}-{:016x}", RandomState::new().hash_one(worker))
}

/// Wide, so that a program can print for a while when there is no daemon.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = io::pipe()?;
    rustix::io::ioctl_fionbio(&read, true)?;
    let write = OwnedFd::from(write);
    survive::widen_pipe(&write, PIPE_BYTES);
    Ok((read.into(), write))
}

fn command_line(spec: &AppSpec) -> Result<(PathBuf, Vec<OsString>), LaunchError> {
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

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
