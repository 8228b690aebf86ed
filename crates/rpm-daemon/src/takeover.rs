//! Going on where a daemon that is no more has stopped: its workers run, and hold what it had.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rpm_core::protocol::{Command, Exit, Input};
use rpm_core::{AppId, RetiringPhase, SlotId, StateView, WorkerId};
use rpm_listen::Listeners;
use rpm_sys::ebpf::Counts;
use rpm_sys::intercept::Notifications;
use rpm_sys::limits::Rlimit;
use rpm_sys::pidfd::PidFd;
use rpm_sys::survive::Holdings;
use rpm_sys::tree::Census;
use rpm_sys::{Signal, socket, survive, tree};
use rpm_wire::api::AppSpec;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::app::{Plane, cpus};
use crate::drain::CLOSE_WITHIN;
use crate::ending::exit_of;
use crate::home::Home;
use crate::logs::LogSink;
use crate::outputs::sources;
use crate::sampling::cpu_of;
use crate::state::{Stored, StoredWorker};
use crate::supervisor::{Event, Supervisor, now_ms};
use crate::worker::{Life, Parking, Process, UsageSample, Worker};

/// A worker that still runs.
struct Survivor {
    stored: StoredWorker,
    pidfd: Arc<PidFd>,
    /// Those below it, if one of them may be who listens.
    below: Vec<PidFd>,
}

/// What a worker's processes hold, its leader first.
type Held<'p> = Vec<Holdings<'p>>;

impl Supervisor {
    /// A supervisor that has what the one before it had, and the events it is to be run with.
    ///
    /// # Errors
    /// The kernel does not let go of the sockets.
    pub(crate) fn take_over(
        home: Home,
        logs: LogSink,
        child_nofile: Rlimit,
        stored: Stored,
    ) -> io::Result<(Supervisor, mpsc::Receiver<Event>)> {
        let (mut supervisor, inbox) = Supervisor::new(home, logs, child_nofile)?;
        supervisor.epoch = survive::monotonic().saturating_sub(stored.origin);
        supervisor.core = stored.core;
        supervisor.apps = stored.apps.into();
        supervisor.next_app = stored.next_app;
        supervisor.next_ticket = stored.next_ticket;
        supervisor.rescues = stored.rescues;
        let ended: BTreeMap<WorkerId, Exit> = stored.workers.iter().filter_map(ended).collect();
        let census = Census::take();
        let survivors = stored.workers.into_iter();
        let survivors: Vec<Survivor> = survivors.filter_map(|stored| survivor(stored, &census)).collect();
        let holdings: BTreeMap<WorkerId, Held<'_>> = survivors
            .iter()
            .map(|survivor| (survivor.stored.id, survivor.holdings()))
            .collect();
        let denied: BTreeSet<WorkerId> = survivors
            .iter()
            .filter(|survivor| is_denied(&holdings, survivor))
            .map(|survivor| survivor.stored.id)
            .collect();
        let mut parkings = BTreeMap::new();
        let mut parked = HashMap::new();
        for survivor in survivors
            .iter()
            .filter(|survivor| !denied.contains(&survivor.stored.id))
        {
            if let Some(parking) = parking(&holdings, survivor) {
                parked.extend(contents(&parking));
                parkings.insert(survivor.stored.id, parking);
            }
        }
        let take = |worker: WorkerId, inode: u64| {
            if let Some(fd) = parked.get(&inode) {
                return fd.try_clone().ok();
            }
            let allowed = !denied.contains(&worker);
            allowed.then(|| take(&holdings, worker, inode)).flatten()
        };
        let (listeners, lost) = Listeners::take_over(
            stored.listeners,
            &denied,
            take,
            (counts(&survivors), cpus() as usize),
        )?;
        supervisor.listeners = listeners;
        // Those of ports whose clients are sent on are not among the listeners' own.
        supervisor.fronts.kept = parked.values().filter_map(|fd| fd.try_clone().ok()).collect();
        for survivor in &survivors {
            let id = survivor.stored.id;
            supervisor.adopt(survivor, parkings.remove(&id), &census, |inode| take(id, inode));
        }
        let alive: BTreeSet<WorkerId> = survivors.iter().map(|survivor| survivor.stored.id).collect();
        supervisor.end_strays(&alive);
        supervisor.go_on(&alive, &lost, &ended);
        supervisor.replace_denied(&denied);
        Ok((supervisor, inbox))
    }

    /// Takes back a worker: its process, its channel, its output.
    fn adopt(
        &mut self,
        survivor: &Survivor,
        parking: Option<Parking>,
        census: &Census,
        take: impl Fn(u64) -> Option<OwnedFd>,
    ) {
        let Survivor { stored, pidfd, .. } = survivor;
        let Some(spec) = self.spec_of(stored) else {
            return;
        };
        let age = Duration::from_millis(now_ms().saturating_sub(stored.started_at_ms));
        let channel = stored.kept.channel.and_then(&take);
        let notifications = self.take_calls(stored, pidfd);
        let process = Process {
            pid: stored.pid,
            pidfd: Arc::clone(pidfd),
            start_ticks: stored.start_ticks,
            started: Instant::now().checked_sub(age).unwrap_or_else(Instant::now),
            started_at_ms: stored.started_at_ms,
            channel: channel.map(|socket| self.open_channel(stored.id, socket)),
            ending: stored.ending,
            adopted: true,
            kept: stored.kept,
            parking,
            stdin: stored.kept.stdin.and_then(&take),
            notifications,
            // What it used before this is no share of the time since.
            usage: UsageSample {
                at: census.taken(),
                cpu: cpu_of(stored.pid, census),
                ..UsageSample::start()
            },
        };
        let pipes = [(stored.kept.out, false), (stored.kept.err, true)];
        let pipes = pipes.into_iter().filter_map(|(inode, is_err)| match take(inode) {
            Some(pipe) => Some((pipe, is_err)),
            None => {
                warn!(worker = %stored.id, "a worker's output cannot be taken back");
                None
            }
        });
        for source in sources(&spec, stored.instance, &stored.logs, pipes) {
            self.logs.add(source);
        }
        // The daemon before may have died while it had stopped the worker for a moment.
        let _ = pidfd.send_signal(Signal::CONT);
        self.watch(stored.id, &process);
        let worker = Worker {
            id: stored.id,
            app: stored.app,
            instance: stored.instance,
            plane: Plane::of(&spec),
            spec,
            logs: stored.logs.clone(),
            life: Life::Running(Box::new(process)),
            trouble: None,
            agent_seen: stored.agent_seen,
            token: stored.token.clone(),
            malformed: 0,
            withheld: Vec::new(),
            held_back: Vec::new(),
            bound: BTreeSet::new(),
            listeners: stored.listeners.clone(),
        };
        // Its agent tries to come back to where it was.
        let _ = self.agent_place(&worker.spec);
        self.workers.insert(stored.id, worker);
        info!(worker = %stored.id, pid = stored.pid, "taken back");
    }

    /// What its processes call goes on being answered; those that called meanwhile wait.
    fn take_calls(&self, stored: &StoredWorker, pidfd: &PidFd) -> Option<Arc<Notifications>> {
        let number = stored.kept.reports?;
        match Notifications::take_back(pidfd, number) {
            Ok(Some(reports)) => {
                self.answer_stuck(stored.id, &reports);
                let reports = Arc::new(reports);
                self.watch_calls(stored.id, &reports);
                Some(reports)
            }
            Ok(None) => {
                warn!(worker = %stored.id, "a worker does not hold the reports of its calls any more: it will wait when it wants to listen");
                None
            }
            Err(error) => {
                warn!(worker = %stored.id, %error, "the reports of a worker's calls cannot be taken back");
                None
            }
        }
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
                info!(pid, "ended: it belongs to no worker that is known");
                let _ = process.send_signal(Signal::KILL);
            }
        }
    }

    /// Has the core go on, and tells it what has happened since.
    fn go_on(&mut self, alive: &BTreeSet<WorkerId>, lost: &[SlotId], ended: &BTreeMap<WorkerId, Exit>) {
        let now = self.now();
        self.core.take_up(now, lost);
        let groups: Vec<_> = self.listeners.ids().collect();
        for group in groups {
            let eligible = self.core.eligible(group).to_vec();
            if let Err(error) = self.listeners.steer(group, &eligible) {
                warn!(%group, %error, "cannot steer");
            }
        }
        self.drain_on();
        self.close_closed();
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
            info!(app = self.label(app), "a reload was not complete; it is undone");
            drop(self.command(Command::Undo { app }));
        }
        self.end_unready();
        self.settle();
        self.upkeep.stale = true;
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

    /// Workers whose descriptors cannot be had serve on, and are replaced by others beside them.
    fn replace_denied(&mut self, denied: &BTreeSet<WorkerId>) {
        let held = denied.iter().filter_map(|worker| self.workers.get(worker));
        let apps: BTreeSet<AppId> = held.map(|worker| worker.app).collect();
        for app in apps {
            warn!(
                app = self.label(app),
                "its workers serve on, but this daemon may not take back what they hold for it (ptrace is restricted): \
                 they are replaced by a reload"
            );
            // Nobody waits for it; if it fails the workers serve on.
            drop(self.command(Command::Reload {
                app,
                config: None,
                yields: false,
            }));
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
            leaving.extend(self.core.retiring(app));
        }
        for view in leaving {
            if view.phase == RetiringPhase::Draining
                && let Some(until) = view.until
            {
                let left = (until - now).saturating_sub(CLOSE_WITHIN);
                self.drain_again(view.worker, left);
                if view.refuses {
                    self.begin_refusal(view.worker, view.keeps);
                }
            }
        }
    }
}

/// How a worker has ended that nobody has waited for yet: the daemon that would have is dead, and a container's first process may wait for none.
fn ended(stored: &StoredWorker) -> Option<(WorkerId, Exit)> {
    let pidfd = PidFd::open(stored.pid).ok()?;
    let same = pidfd.start_ticks().ok()? == stored.start_ticks;
    let status = pidfd.exit_of_stranger().filter(|_| same)?;
    Some((stored.id, exit_of(Some(status))))
}

/// The worker, if its process still runs.
fn survivor(stored: StoredWorker, census: &Census) -> Option<Survivor> {
    let pidfd = PidFd::open(stored.pid).ok()?;
    let same = pidfd.start_ticks().ok()? == stored.start_ticks;
    let runs = same && !pidfd.peek().unwrap_or(true);
    let intercepted = stored.kept.reports.is_some();
    let below = census.descendants(stored.pid).into_iter().filter(|_| intercepted);
    let below = below.filter_map(|pid| PidFd::open(pid).ok()).collect();
    runs.then(|| Survivor {
        stored,
        pidfd: Arc::new(pidfd),
        below,
    })
}

impl Survivor {
    fn holdings(&self) -> Held<'_> {
        let below = self.below.iter().map(PidFd::holdings);
        [self.pidfd.holdings()].into_iter().chain(below).collect()
    }
}

/// Where the worker keeps sockets that it does not use itself.
fn parking(holdings: &BTreeMap<WorkerId, Held<'_>>, survivor: &Survivor) -> Option<Parking> {
    let [enter, leave] = survivor.stored.kept.parked?;
    let end = |inode| take(holdings, survivor.stored.id, inode);
    Some(Parking::of([end(enter)?, end(leave)?]))
}

/// They, by inode.
fn contents(parking: &Parking) -> Vec<(u64, OwnedFd)> {
    let parked = parking.parked().unwrap_or_else(|error| {
        warn!(%error, "sockets that a worker keeps cannot be taken back");
        Vec::new()
    });
    let by_inode = parked
        .into_iter()
        .filter_map(|fd| Some((socket::inode(&fd).ok()?, fd)));
    by_inode.collect()
}

/// What counts the connections of the workers: each of them that may need it holds the same.
fn counts(survivors: &[Survivor]) -> Option<Counts> {
    survivors.iter().find_map(|survivor| {
        let first = survivor.stored.kept.counts?;
        Counts::take_back(&survivor.pidfd, first).unwrap_or_else(|error| {
            warn!(worker = %survivor.stored.id, %error, "the counts of connections cannot be taken back");
            None
        })
    })
}

/// Is it the system that keeps us from taking what the worker holds?
fn is_denied(holdings: &BTreeMap<WorkerId, Held<'_>>, survivor: &Survivor) -> bool {
    let held = holdings.get(&survivor.stored.id).and_then(|held| held.first());
    let taken = held.map(|held| held.take(survivor.stored.kept.out));
    matches!(taken, Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied)
}

fn take(holdings: &BTreeMap<WorkerId, Held<'_>>, worker: WorkerId, inode: u64) -> Option<OwnedFd> {
    let take = |held: &Holdings<'_>| match held.take(inode) {
        Ok(taken) => taken,
        Err(error) => {
            warn!(%worker, %error, "a worker's descriptor cannot be taken back");
            None
        }
    };
    holdings.get(&worker)?.iter().find_map(take)
}

/// A command of ours that a worker runs, perhaps the one that has started this daemon.
pub(crate) fn is_client(pid: u32) -> bool {
    let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    of(pid).is_some() && of(pid) == of(std::process::id())
}
