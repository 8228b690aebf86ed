//! From an app's specification to a running process.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rpm_core::protocol::Input;
use rpm_core::{AppId, InstanceId, Revision, WorkerId};
use rpm_keeper::{Keeper, Kept};
use rpm_listen::Wanted;
use rpm_sys::intercept::Notifications;
use rpm_sys::limits::Rlimit;
use rpm_sys::scm;
use rpm_sys::spawn::{Child, Spawn, spawn};
use rpm_wire::api::{AppSpec, WorkerStage};
use tokio::io::Interest;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::apps::catalog::Catalog;
use crate::apps::revision::Version;
use crate::events::Journal;
use crate::events::subject::Facts;
use crate::failure::{chain, limit_hint};
use crate::home::Home;
use crate::logs::{Begin, LogSink, Source};
use crate::node::channel::{self, ChannelEvent};
use crate::node::places::{AgentPlace, AgentPlaces};
use crate::os::behalf::Behalf;
use crate::os::clock::now_ms;
use crate::os::users::{UserError, other_user, user};
use crate::os::watched::watched;
use crate::processes::agent::has_agent;
use crate::processes::program::{bun_options, command_line, output_pipe, standard_input, token};
use crate::processes::progress::Steps;
use crate::processes::{ProcessEvent, Reports};
use crate::proxy::fronts::Fronts;
use crate::sockets::calls;
use crate::sockets::interception::Interception;
use crate::sockets::ports::Ports;
use crate::sockets::slots::{Ask, How, Lent, NotOpened, copied};
use crate::workers::environment::environment;
use crate::workers::outputs::{logs_of, pid_file, sources, write_pid};
use crate::workers::starting::Starting;
use crate::workers::worker::{
    Channel, LastWords, Logs, OUTGOING_LIMIT, Outgoing, Place, Process, ProcessTree, Tokens, UsageSample,
    Worker,
};

/// The first descriptor after the standard three: where `LISTEN_FDS` begins, and where Node has its channel.
const FIRST_FD: i32 = 3;

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
    #[error(transparent)]
    User(#[from] UserError),
}

/// What is left in the daemon's hands when a process is started.
struct Launched {
    process: Process,
    sources: Vec<Source>,
}

/// The daemon's ends of what a process was started with.
struct Ends {
    out: OwnedFd,
    err: OwnedFd,
    stdin: Option<OwnedFd>,
    channel: Option<OwnedFd>,
}

/// What is needed to start workers, or to take them back: lent by the supervisor for one of them.
pub(crate) struct Launching<'a, E> {
    pub(crate) ports: Ports<'a>,
    pub(crate) interception: &'a mut Interception,
    pub(crate) fronts: &'a Fronts,
    pub(crate) agent_places: &'a mut AgentPlaces,
    pub(crate) starting: &'a mut Starting,
    pub(crate) steps: &'a Steps,
    pub(crate) home: &'a Home,
    pub(crate) keeper: &'a Keeper,
    pub(crate) logs: &'a LogSink,
    /// How long log files were when this daemon first had a worker write there.
    pub(crate) log_starts: &'a mut BTreeMap<PathBuf, Begin>,
    pub(crate) journal: &'a mut Journal,
    pub(crate) child_nofile: Rlimit,
    pub(crate) events: &'a mpsc::Sender<E>,
}

impl<E: Reports> Launching<'_, E> {
    fn report_start(&mut self, worker: WorkerId, pid: u32) {
        let facts = Facts {
            core: self.ports.core,
            apps: self.ports.apps,
            workers: self.ports.workers,
            listeners: self.ports.listeners,
        };
        self.journal.runs(&facts, worker, pid, true);
    }

    pub(crate) fn spawn(&mut self, worker: WorkerId, app: AppId, revision: Revision, place: Place) {
        let known = self
            .ports
            .apps
            .get(&app)
            .and_then(|app| app.revisions.get(revision));
        let Some(version) = known.cloned() else {
            return self.ports.input(Input::SpawnFailed { worker });
        };
        let spec = version.spec();
        let mut logs = logs_of(self.home, spec, place.instance);
        logs.out_from = self.logs.begin_of(&logs.out);
        logs.err_from = self.logs.begin_of(&logs.err);
        self.note_log_starts(&logs);
        let held = Worker {
            id: worker,
            app,
            instance: place.instance,
            spec: Arc::clone(spec),
            delivery: version.delivery(),
            logs: logs.clone(),
            tree: ProcessTree::None,
            trouble: None,
            agent_seen: false,
            token: token(worker),
            malformed: 0,
            withheld: Vec::new(),
            held_back: Vec::new(),
            bound: BTreeSet::new(),
            listeners: BTreeSet::new(),
            listened: Vec::new(),
            actions: Vec::new(),
        };
        self.forget_dead(place.instance);
        self.ports.workers.insert(worker, held);
        let mut launched = self.launch(worker, &version, place, &logs);
        if let Err(LaunchError::Spawn(error)) = &launched
            && error.stage == rpm_sys::spawn::SpawnStep::Intercept
        {
            self.interception.deny(error);
            launched = self.launch(worker, &version, place, &logs);
        }
        match launched {
            Ok(mut launched) => {
                info!(app = spec.name, %worker, pid = launched.process.pid, "started");
                self.logs.add(launched.sources);
                let pid = launched.process.pid;
                self.note_pid(spec, place.instance, pid);
                self.watch(worker, &mut launched.process);
                if let Some(held) = self.ports.workers.get_mut(&worker) {
                    held.tree = ProcessTree::Running(Box::new(launched.process));
                }
                let catalog = Catalog::new(self.ports.core, self.ports.apps);
                self.steps
                    .report(catalog, self.ports.workers.get(&worker), WorkerStage::Starting);
                self.report_start(worker, pid);
                self.starting.begin();
                self.ports.input(Input::Spawned { worker });
            }
            Err(error) => {
                let text = chain(&error);
                warn!(app = spec.name, %worker, error = text, "cannot start a worker");
                if let Some(held) = self.ports.workers.get_mut(&worker) {
                    held.trouble = Some(text);
                }
                self.ports.listeners.worker_gone(worker);
                self.ports.input(Input::SpawnFailed { worker });
            }
        }
    }

    /// Of the dead workers of an instance only the last is of interest: why it failed, where its lines are.
    fn forget_dead(&mut self, instance: InstanceId) {
        let dead = |w: &Worker| w.instance == instance && matches!(w.tree, ProcessTree::None);
        let mut ids: Vec<WorkerId> = self
            .ports
            .workers
            .values()
            .filter(|w| dead(w))
            .map(|w| w.id)
            .collect();
        ids.pop();
        for id in ids {
            self.ports.workers.remove(&id);
        }
    }

    fn launch(
        &mut self,
        worker: WorkerId,
        version: &Version,
        place: Place,
        logs: &Logs,
    ) -> Result<Launched, LaunchError> {
        let (spec, delivery) = (version.spec(), version.delivery());
        if let Some(why) = self
            .interception
            .unfronted(version)
            .or_else(|| self.fronts.refuses(version))
        {
            return Err(LaunchError::Unfronted(why));
        }
        let (program, argv) = command_line(spec)?;
        if !Path::new(&spec.cwd).is_dir() {
            return Err(LaunchError::NoDirectory(spec.cwd.clone()));
        }
        let (out, stdout) = output_pipe().map_err(LaunchError::Descriptors)?;
        let (err, stderr) = output_pipe().map_err(LaunchError::Descriptors)?;
        let mut fds = self.passed_sockets(worker, version)?;
        let listen_fds = fds.len();
        let ours = if delivery.has_channel() {
            let (ours, theirs) = scm::pair().map_err(LaunchError::Descriptors)?;
            fds.push((theirs, FIRST_FD + i32::try_from(listen_fds).unwrap_or(0)));
            Some(ours)
        } else {
            None
        };
        let channel_fd = fds.last().filter(|_| ours.is_some()).map(|(_, number)| *number);
        let (stdin, theirs) = standard_input(spec).map_err(LaunchError::Descriptors)?;
        let user = user(spec)?;
        let no_new_privileges = spec.intercept && other_user(spec)?.is_some();
        let mut env = environment(spec, delivery.runtime(), self.home, place, logs, user.as_ref());
        let held = self.ports.workers.get(&worker);
        let agent = match held.is_some_and(|held| has_agent(held, self.ports.apps, self.interception)) {
            true => self.agent_places.of(self.home, self.events, spec),
            false => None,
        };
        self.add_runtime_env(&mut env, worker, version, channel_fd, agent);
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
            intercept: self.interception.applies_to(delivery),
            no_new_privileges,
            user,
        })?;
        let ends = Ends {
            out,
            err,
            stdin,
            channel: ours,
        };
        let (process, pipes) = self.hold(worker, child, ends);
        Ok(Launched {
            process,
            sources: sources(spec, place.instance, logs, pipes),
        })
    }

    /// Has all that belongs to the worker kept for the next daemon.
    fn hold(&self, worker: WorkerId, child: Child, ends: Ends) -> (Process, [(Kept<OwnedFd>, bool); 2]) {
        let owner = rpm_listen::owner(worker);
        let pidfd = self.keeper.keep_process(Arc::new(child.pidfd), owner);
        let keep = |fd: OwnedFd| self.keeper.keep(fd, owner);
        let (out, err) = (keep(ends.out), keep(ends.err));
        let (stdin, channel) = (ends.stdin.map(keep), ends.channel.map(keep));
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
            self.watch_calls(worker, reports.share());
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
            without_keeper: false,
            stdin,
            notifications,
            usage: UsageSample::start(),
        };
        (process, [(out, false), (err, true)])
    }

    fn note_log_starts(&mut self, logs: &Logs) {
        for (path, begin) in [(&logs.out, &logs.out_from), (&logs.err, &logs.err_from)] {
            if self.log_starts.len() < LOG_STARTS && !self.log_starts.contains_key(path) {
                self.log_starts.insert(path.clone(), begin.clone());
            }
        }
    }

    fn note_pid(&self, spec: &AppSpec, instance: InstanceId, pid: u32) {
        let path = pid_file(self.home, spec, instance);
        let (app, behalf, to) = (spec.name.clone(), Behalf::of(spec), path.clone());
        self.logs.act(&path, move || {
            if let Err(error) = write_pid(&to, &behalf, pid) {
                warn!(app, path = %to.display(), %error, "cannot write the pid");
            }
        });
    }

    /// What the worker's runtime must know: its channel, its number in the cluster, its agent.
    fn add_runtime_env(
        &self,
        env: &mut BTreeMap<String, String>,
        worker: WorkerId,
        version: &Version,
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
        if version.delivery().speaks_cluster() {
            add("NODE_UNIQUE_ID", worker.to_string());
        }
        if let Some((place, held)) = agent.zip(self.ports.workers.get(&worker)) {
            add(rpm_agent::TOKEN_ENV, held.token.clone());
            add(rpm_agent::SOCKET_ENV, place.socket.display().to_string());
            add("NODE_OPTIONS", rpm_agent::node_options(options.as_deref()));
            // Empty, where an app that is started by another one would inherit it.
            let kept = version.spec().keep_alive_timeout_ms;
            add(
                "RPM_KEEP_ALIVE_MS",
                kept.map_or_else(String::new, |ms| ms.to_string()),
            );
            let users = version.spec().env.get("BUN_OPTIONS").map(String::as_str);
            if let Some(options) = bun_options(&place.preloads, users) {
                add("BUN_OPTIONS", options);
            }
        }
    }

    /// Opens what `--listen` names and gives it to the worker as its slots.
    fn passed_sockets(
        &mut self,
        worker: WorkerId,
        version: &Version,
    ) -> Result<Vec<(OwnedFd, i32)>, LaunchError> {
        let spec = version.spec();
        let mut fds = Vec::new();
        for (address, number) in spec.listen.iter().zip(FIRST_FD..) {
            let refused = |reason| LaunchError::Listen {
                address: address.clone(),
                reason,
            };
            let wanted = Wanted::from_listen(address).map_err(|error| refused(error.to_string()))?;
            let ask = Ask {
                worker,
                key: &format!("listen:{address}"),
                how: How::Activation { wanted: &wanted },
            };
            match self.ports.open_slot(ask, blocking_copy) {
                Ok(opened) => fds.push((opened.passed, number)),
                Err(NotOpened::Gone) => {}
                Err(NotOpened::User(error)) => return Err(error.into()),
                Err(NotOpened::Pass(error)) => return Err(LaunchError::Descriptors(error)),
                Err(NotOpened::Open(error)) => {
                    self.ports.trouble(worker, &error);
                    let reason = self.ports.workers.get(&worker).and_then(|w| w.trouble.clone());
                    return Err(refused(reason.unwrap_or_default()));
                }
            }
        }
        Ok(fds)
    }

    /// Passes on what the processes of a worker call, as long as one lives.
    pub(super) fn watch_calls(&self, worker: WorkerId, from: Arc<Notifications>) {
        let journal = self.interception.journal().cloned();
        calls::watch(worker, from, journal, self.events.clone());
    }

    pub(super) fn open_channel(&self, worker: WorkerId, socket: Kept<OwnedFd>) -> Channel {
        let (outgoing, inbox) = mpsc::channel::<Outgoing>(OUTGOING_LIMIT);
        let (died, death) = oneshot::channel();
        let events = self.events.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = channel::run(worker, socket, inbox, death, &events).await {
                tracing::debug!(%worker, %error, "channel ended");
            }
            let _ = events.send(ChannelEvent::Ended(worker).into()).await;
        });
        Channel::new(outgoing, Some(LastWords::new(died, task)))
    }

    /// Reports the end of the leader, after all that it has said.
    pub(super) fn watch(&self, worker: WorkerId, process: &mut Process) {
        let events = self.events.clone();
        let pidfd = process.pidfd.share();
        let last_words = process.channel.as_mut().and_then(Channel::take_last_words);
        tokio::spawn(async move {
            match watched(pidfd, Interest::READABLE) {
                Ok(ended) => drop(ended.readable().await),
                Err(error) => warn!(%worker, %error, "cannot watch a worker; it counts as dead"),
            }
            if let Some(last_words) = last_words {
                last_words.hear().await;
            }
            let _ = events.send(ProcessEvent::LeaderExited(worker).into()).await;
        });
    }
}

/// A program that was handed a socket expects what `socket(2)` gives: one that blocks.
fn blocking_copy(lent: Lent<'_>) -> io::Result<OwnedFd> {
    let copy = copied(lent)?;
    rustix::io::ioctl_fionbio(&copy, false)?;
    Ok(copy)
}
