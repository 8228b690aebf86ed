//! Going on where a daemon that is no more has stopped: its workers run, and the keeper holds what it had.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rpm_core::protocol::{Command, Exit, Input};
use rpm_core::{AppId, LeavingPhase, SlotId, StateView, WorkerId};
use rpm_keeper::{Keeper, Kept, Token};
use rpm_listen::{Listeners, StoredSocket};
use rpm_sys::intercept::Notifications;
use rpm_sys::limits::Rlimit;
use rpm_sys::pidfd::PidFd;
use rpm_sys::tree::Census;
use rpm_sys::{Signal, survive, tree};
use rpm_wire::api::AppSpec;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::apps::app::{PortSource, cpus, is_handed};
use crate::drain::CLOSE_WITHIN;
use crate::home::Home;
use crate::inbox::Event;
use crate::logs::LogSink;
use crate::persist::state::{Stored, StoredWorker};
use crate::supervisor::{Supervisor, now_ms};
use crate::workers::ending::exit_of;
use crate::workers::outputs::sources;
use crate::workers::sampling::cpu_of;
use crate::workers::worker::{Life, Process, UsageSample, Worker};

/// A worker that still runs.
struct Survivor {
    stored: StoredWorker,
    pidfd: Kept<PidFd>,
    /// Those below it, if one of them may be who listens.
    below: Vec<PidFd>,
    /// The keeper has died too: what the daemon had for it is gone, but for what it holds itself.
    bereft: bool,
}

impl Supervisor {
    /// A supervisor that has what the one before it had, and the events it is to be run with.
    ///
    /// # Errors
    /// The kernel does not let go of the sockets.
    pub(crate) fn take_over(
        (home, keeper): (Home, Keeper),
        logs: LogSink,
        child_nofile: Rlimit,
        stored: Stored,
    ) -> io::Result<(Supervisor, mpsc::Receiver<Event>)> {
        let (mut supervisor, inbox) = Supervisor::new(home, logs, child_nofile, keeper.clone())?;
        supervisor.epoch = survive::monotonic().saturating_sub(stored.origin);
        supervisor.core = stored.core;
        supervisor.apps = stored.apps.into();
        supervisor.next_app = stored.next_app;
        supervisor.next_ticket = stored.next_ticket;
        supervisor.rescues = stored.rescues;
        let census = Census::take();
        let mut survivors = BTreeMap::new();
        let mut ended = BTreeMap::new();
        for stored in stored.workers {
            let id = stored.id;
            match look(stored, &keeper, &census) {
                Some(Found::Runs(survivor)) => drop(survivors.insert(id, *survivor)),
                Some(Found::Ended(exit)) => drop(ended.insert(id, exit)),
                None => {}
            }
        }
        let denied: BTreeSet<WorkerId> = survivors
            .iter()
            .filter(|(_, it)| it.is_closed())
            .map(|(id, _)| *id)
            .collect();
        let take = |socket: &StoredSocket, holder: Option<WorkerId>| {
            let own = || {
                let survivor = holder.and_then(|worker| survivors.get(&worker))?;
                let found = survivor.find(socket)?;
                Some(keeper.keep(found, rpm_listen::owner(survivor.stored.id)))
            };
            keeper.take(socket.token).or_else(own)
        };
        let (listeners, lost) =
            Listeners::take_over(stored.listeners, &denied, take, (&keeper, cpus() as usize))?;
        supervisor.listeners = listeners;
        let alive: BTreeSet<WorkerId> = survivors.keys().copied().collect();
        let bereft = survivors.iter().filter(|(_, survivor)| survivor.bereft);
        let bereft: BTreeSet<WorkerId> = bereft.map(|(id, _)| *id).collect();
        for survivor in survivors.into_values() {
            supervisor.adopt(survivor, &census);
        }
        // Those of ports whose clients are sent on are not among the listeners' own; what nobody wants of the rest is let go.
        supervisor.fronts.kept = keeper.take_rest();
        supervisor.end_strays(&alive);
        supervisor.go_on(&alive, &lost, &ended);
        supervisor.replace_bereft(&bereft);
        Ok((supervisor, inbox))
    }

    /// Takes back a worker: its process, its channel, its output.
    fn adopt(&mut self, survivor: Survivor, census: &Census) {
        let Survivor {
            stored,
            pidfd,
            bereft,
            ..
        } = survivor;
        let Some(spec) = self.spec_of(&stored) else {
            return;
        };
        let age = Duration::from_millis(now_ms().saturating_sub(stored.started_at_ms));
        let mut tokens = stored.tokens;
        tokens.process = pidfd.token();
        let take = |token: Option<Token>| token.and_then(|token| self.keeper.take(token));
        let pipes = [(1, take(tokens.out)), (2, take(tokens.err))];
        let [out, err] = pipes.map(|(number, kept)| {
            // A worker whose output nobody can read is ended by the system when it prints. One that has closed it needs nobody.
            let own = || pidfd.read_end(number).ok().filter(|_| bereft);
            kept.or_else(|| Some(self.keeper.keep(own()?, rpm_listen::owner(stored.id))))
        });
        (tokens.out, tokens.err) = (out.as_ref().map(Kept::token), err.as_ref().map(Kept::token));
        let channel = take(tokens.channel);
        let stdin = take(tokens.stdin);
        let mut process = Process {
            pid: stored.pid,
            start_ticks: stored.start_ticks,
            started: Instant::now().checked_sub(age).unwrap_or_else(Instant::now),
            started_at_ms: stored.started_at_ms,
            channel: channel.map(|socket| self.open_channel(stored.id, socket)),
            ending: stored.ending,
            adopted: true,
            tokens,
            bereft,
            stdin,
            notifications: self.take_calls(&stored),
            // What it used before this is no share of the time since.
            usage: UsageSample {
                at: census.taken(),
                cpu: cpu_of(stored.pid, census),
                ..UsageSample::start()
            },
            pidfd,
        };
        let pipes = [(out, false), (err, true)];
        let pipes = pipes
            .into_iter()
            .filter_map(|(pipe, is_err)| Some((pipe?, is_err)));
        for source in sources(&spec, stored.instance, &stored.logs, pipes) {
            self.logs.add(source);
        }
        // The daemon before may have died while it had stopped the worker for a moment.
        let _ = process.pidfd.send_signal(Signal::CONT);
        self.watch(stored.id, &mut process);
        info!(worker = %stored.id, pid = stored.pid, "taken back");
        let worker = Worker {
            id: stored.id,
            app: stored.app,
            instance: stored.instance,
            ports: PortSource::of(&spec),
            spec,
            logs: stored.logs,
            life: Life::Running(Box::new(process)),
            trouble: None,
            agent_seen: stored.agent_seen,
            token: stored.token,
            malformed: 0,
            withheld: Vec::new(),
            held_back: Vec::new(),
            bound: BTreeSet::new(),
            listeners: stored.listeners,
        };
        // Its agent tries to come back to where it was.
        let _ = self.agent_place(&worker.spec);
        self.workers.insert(worker.id, worker);
    }

    /// What its processes call goes on being answered; those that called meanwhile wait.
    fn take_calls(&self, stored: &StoredWorker) -> Option<Kept<Notifications>> {
        let token = stored.tokens.reports?;
        let Some(reports) = self.keeper.take_as(token, Notifications::taken_back) else {
            warn!(worker = %stored.id, "the reports of a worker's calls are gone: it can no longer listen");
            return None;
        };
        self.answer_stuck(stored.id, &reports);
        self.watch_calls(stored.id, &reports.share());
        Some(reports)
    }

    fn spec_of(&self, stored: &StoredWorker) -> Option<Arc<AppSpec>> {
        let revisions = &self.apps.get(&stored.app)?.revisions;
        let revision = self.core.worker(stored.id).map(|worker| worker.revision);
        let spec = revision.and_then(|revision| revisions.spec(revision));
        spec.or_else(|| revisions.newest()).cloned()
    }

    /// Ends what belongs to no worker that is known to run: those started in the last moment, and what is left of
    /// workers that have ended.
    fn end_strays(&self, alive: &BTreeSet<WorkerId>) {
        let home = format!("RPM_HOME={}", self.home.root().display());
        for pid in tree::marked(&home) {
            let worker = tree::variable(pid, "RPM_WORKER").and_then(|id| id.parse().ok());
            let known = worker.is_none_or(|id| alive.contains(&WorkerId(id)));
            if known || pid == std::process::id() || is_client(pid) {
                continue;
            }
            // Opened before it is asked again whose it is: the pid may have got another owner.
            let Ok(process) = PidFd::open(pid) else { continue };
            if tree::variable(pid, "RPM_WORKER").and_then(|id| id.parse().ok()) == worker {
                info!(pid, "ended: it belongs to no known worker");
                let _ = process.send_signal(Signal::KILL);
            }
        }
    }

    /// Has the core go on, and tells it what has happened since.
    fn go_on(&mut self, alive: &BTreeSet<WorkerId>, lost: &[SlotId], ended: &BTreeMap<WorkerId, Exit>) {
        // Sockets of workers that have ended are still there: those that only waited for that are closed now.
        let dead: BTreeSet<WorkerId> = self
            .listeners
            .holders()
            .filter(|holder| !alive.contains(holder))
            .collect();
        let mut left = Vec::new();
        for worker in dead {
            left.extend(self.listeners.worker_gone(worker));
        }
        let now = self.now();
        self.core.take_over(now, lost);
        let groups: Vec<_> = self.listeners.ids().collect();
        for group in groups {
            let eligible = self.core.eligible(group).to_vec();
            if let Err(error) = self.listeners.steer(group, &eligible) {
                warn!(%group, %error, "cannot steer");
            }
        }
        self.drain_on();
        self.close_closed();
        for (connection, to) in left {
            self.hand_over([connection], &to);
        }
        self.ask_again(alive);
        let dead: Vec<_> = self
            .core
            .workers()
            .filter(|view| !alive.contains(&view.id))
            .collect();
        for view in dead {
            let worker = view.id;
            let exit = ended.get(&worker).copied().unwrap_or_else(|| exit_of(None));
            self.input(match view.spawned {
                Some(_) => Input::Exited { worker, exit },
                None => Input::SpawnFailed { worker },
            });
        }
        let reloaded = |app: &AppId| self.core.app(*app).is_some_and(|view| view.reload.is_some());
        let apps: Vec<AppId> = self.apps.keys().copied().filter(reloaded).collect();
        for app in apps {
            info!(
                app = self.catalog().label(app),
                "a reload was not complete; undoing it"
            );
            drop(self.command(Command::Undo { app }));
        }
        self.end_unready();
        self.settle();
        self.upkeep.outdate();
        // The daemon before may have left what it knew of any.
        self.filled = self.listeners.open_slots().collect();
        self.await_traffic();
    }

    /// Closes slots that the core has closed: what it decides is written before it is done, and the daemon before died between the two.
    fn close_closed(&mut self) {
        let closed: Vec<SlotId> = self
            .listeners
            .open_slots()
            .filter(|slot| !self.core.has_slot(*slot))
            .collect();
        for slot in closed {
            let to = self.listeners.eligible_with(slot).to_vec();
            self.close_slot(slot, &to);
        }
    }

    /// Asks workers to end that the core has told to, and that the daemon before did not ask for the same reason.
    fn ask_again(&mut self, alive: &BTreeSet<WorkerId>) {
        let told = self.core.workers().filter(|view| view.ending);
        let told: Vec<WorkerId> = told.map(|view| view.id).filter(|id| alive.contains(id)).collect();
        for worker in told {
            let process = self.workers.get_mut(&worker).and_then(|held| held.process_mut());
            let Some(process) = process.filter(|process| !process.ending) else {
                continue;
            };
            // Or it did, and died before that was in the state.
            process.ending = self.store.was_asked(worker, process.start_ticks);
            if !process.ending {
                self.ask_to_stop(worker);
            }
        }
    }

    /// Workers for which the daemon before had what is gone with its keeper serve on, and are replaced by others beside them. Those that get
    /// their connections from the daemon have nothing to serve: they are restarted.
    fn replace_bereft(&mut self, bereft: &BTreeSet<WorkerId>) {
        let held = bereft.iter().filter_map(|worker| self.workers.get(worker));
        let apps: BTreeSet<AppId> = held.map(|worker| worker.app).collect();
        for app in apps {
            warn!(
                app = self.catalog().label(app),
                "the previous daemon's keeper died, too: its workers keep serving, and a reload replaces them"
            );
            let spec = self.catalog().present_spec(app);
            // Nobody waits for it; if a reload fails the workers serve on.
            drop(
                self.command(match spec.is_some_and(|spec| is_handed(spec)) {
                    true => Command::Restart {
                        instances: self
                            .core
                            .instances()
                            .filter(|view| view.app == app)
                            .map(|view| view.id)
                            .collect(),
                    },
                    false => Command::Reload {
                        app,
                        config: None,
                        yields: false,
                        then_scale: None,
                    },
                }),
            );
        }
    }

    /// A worker that was not ready may wait for an answer that the daemon before owed it.
    fn end_unready(&self) {
        let unready = self.core.instances().filter_map(|view| match view.state {
            StateView::Launching { worker } => self.pidfd(worker),
            _ => None,
        });
        for process in unready {
            let _ = process.send_signal(Signal::KILL);
        }
    }

    /// Those that drain go on; their agents come back.
    fn drain_on(&mut self) {
        let apps: Vec<AppId> = self.apps.keys().copied().collect();
        let now = self.now();
        let mut leaving = Vec::new();
        for app in apps {
            leaving.extend(self.core.leaving(app));
        }
        for view in leaving {
            if let LeavingPhase::Draining { refuses_new } = view.phase
                && let Some(until) = view.until
            {
                let left = (until - now).saturating_sub(CLOSE_WITHIN);
                self.drains(|drains, context| {
                    drains.resume(context, view.worker, left);
                    if let Some(how) = refuses_new {
                        drains.refuse(context, view.worker, how.keeps);
                    }
                });
            }
        }
    }
}

/// What has become of a worker.
enum Found {
    Runs(Box<Survivor>),
    /// How is known where nobody has waited for it yet (the daemon that would have is dead, and a container's first process may wait for none), or
    /// the kernel still tells.
    Ended(Exit),
}

fn look(stored: StoredWorker, keeper: &Keeper, census: &Census) -> Option<Found> {
    let kept = keeper.take_as(stored.tokens.process, |fd| PidFd::taken_back(fd, stored.pid));
    let bereft = stored.bereft || kept.is_none();
    let pidfd = match kept {
        Some(kept) => kept,
        None => {
            let opened = PidFd::open(stored.pid).ok()?;
            let same = opened.start_ticks().ok()? == stored.start_ticks;
            let owner = rpm_listen::owner(stored.id);
            same.then(|| keeper.keep_process(Arc::new(opened), owner))?
        }
    };
    if pidfd.peek().unwrap_or(true) {
        return pidfd
            .exit_of_stranger()
            .map(|status| Found::Ended(exit_of(Some(status))));
    }
    let intercepted = stored.tokens.reports.is_some();
    let below = census.descendants(stored.pid).into_iter().filter(|_| intercepted);
    let below = below.filter_map(|pid| PidFd::open(pid).ok()).collect();
    Some(Found::Runs(Box::new(Survivor {
        bereft,
        pidfd,
        below,
        stored,
    })))
}

impl Survivor {
    /// The socket, if one of its processes has it.
    fn find(&self, socket: &StoredSocket) -> Option<OwnedFd> {
        let find = |process: &PidFd| match process.find_socket(|fd| socket.is(fd)) {
            Ok(found) => found,
            Err(error) => {
                warn!(worker = %self.stored.id, %error, "a worker's socket cannot be taken back");
                None
            }
        };
        [&*self.pidfd].into_iter().chain(&self.below).find_map(find)
    }

    /// Nothing can be had of it: the keeper is gone, and the system restricts tracing.
    fn is_closed(&self) -> bool {
        let denied = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        self.bereft && self.pidfd.getfd(1).is_err_and(denied)
    }
}

/// A command of ours that a worker runs, perhaps the one that has started this daemon.
pub(crate) fn is_client(pid: u32) -> bool {
    let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    of(pid).is_some() && of(pid) == of(std::process::id())
}
