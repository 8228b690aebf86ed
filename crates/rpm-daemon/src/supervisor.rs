//! The event loop: kernel events and requests become inputs of the core, and its outputs become
//! system calls. Everything that decides is in `rpm-core`; everything here is on one thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rpm_core::protocol::{Command, Input, Outcome, Output};
use rpm_core::sampler::{Decision, Sampler};
use rpm_core::{AppId, Core, SlotId, Tick, Ticket, WorkerId};
use rpm_keeper::Keeper;
use rpm_listen::Listeners;
use rpm_sys::limits::Rlimit;
use rpm_sys::tree::Census;
use tokio::io::Interest;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use crate::apps::app::Apps;
use crate::complaints::Complaints;
use crate::drain::Drains;
use crate::effects::{is_question, passing};
use crate::home::Home;
use crate::inbox::{Event, Handle};
use crate::logs::LogSink;
use crate::node::actions::Actions;
use crate::node::agents::Agents;
use crate::node::channel::Incoming;
use crate::node::handoff::Handoffs;
use crate::node::messages::Subscribers;
use crate::os::memory::PutAway;
use crate::os::pace::pause;
use crate::os::reserve;
use crate::os::watched::watched;
use crate::persist::state::Store;
use crate::persist::update::Succession;
use crate::proxy::fronts::Fronts;
use crate::sockets::interception::Interception;
use crate::upkeep::Upkeep;
use crate::workers::ends::{self, Ends};
use crate::workers::progress::Steps;
use crate::workers::sampling::{Sampling, room_for};
use crate::workers::starting::Starting;
use crate::workers::worker::Worker;

/// Events that may wait; more make their senders wait.
const EVENT_LIMIT: usize = 1024;
/// For more trees than this, one pass over all processes is cheaper than a search for the children of each, which costs about a thirtieth of it.
pub(crate) const FEW_TREES: usize = 24;
/// Between two samples of CPU and memory while anything runs.
const USAGE_INTERVAL: Duration = Duration::from_secs(5);
/// The pause before the next sample is at least this many times as long as the last one took.
const USAGE_SHARE: u32 = 1000;
const LONGEST_USAGE_INTERVAL: Duration = Duration::from_secs(60);
/// The same while an app has a limit of memory.
const LIMITS_INTERVAL: Duration = Duration::from_secs(1);
const LIMITS_SHARE: u32 = 100;
const LONGEST_LIMITS_INTERVAL: Duration = Duration::from_secs(5);

/// What the daemon is made of.
pub struct Supervisor {
    pub(crate) core: Core,
    pub(crate) listeners: Listeners,
    /// By which descriptors outlive this daemon.
    pub(crate) keeper: Keeper,
    pub(crate) apps: Apps,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) waiting: BTreeMap<Ticket, oneshot::Sender<Outcome>>,
    pub(crate) handoffs: Handoffs,
    pub(crate) fronts: Fronts,
    pub(crate) agents: Agents,
    /// Other users whose agents have a socket.
    pub(crate) agent_users: BTreeSet<u32>,
    pub(crate) drains: Drains,
    pub(crate) interception: Interception,
    pub(crate) upkeep: Upkeep,
    pub(crate) actions: Actions,
    /// Who follows the messages of programs.
    pub(crate) subscribers: Subscribers,
    pub(crate) complaints: Complaints,
    pub(crate) home: Home,
    pub(crate) logs: LogSink,
    /// How long log files were when this daemon first had a worker write there.
    pub(crate) log_starts: BTreeMap<PathBuf, u64>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) child_nofile: Rlimit,
    pub(crate) next_app: u32,
    pub(crate) next_ticket: u64,
    pub(crate) rescues: u64,
    pub(crate) sampling: Sampling,
    pub(crate) steps: Steps,
    /// Those who wait until nothing of these apps is on its way out.
    pub(crate) leavers: Vec<(BTreeSet<AppId>, oneshot::Sender<()>)>,
    /// The ticket of the last reload of each app that one was asked for.
    pub(crate) reloads: BTreeMap<AppId, Ticket>,
    pub(crate) sampler: Sampler,
    pub(crate) starting: Starting,
    /// All processes as they were in this step, if somebody has looked.
    pub(crate) census: Option<Census>,
    /// The slots whose queues are not empty, as the core knows them.
    pub(crate) filled: BTreeSet<SlotId>,
    pub(crate) store: Store,
    /// What the core wants that waits for its being written, in order.
    undone: VecDeque<Output>,
    /// Outputs of the core wait until more is commanded.
    holding: bool,
    /// What another binary is passed that takes over.
    pub(crate) succession: Option<Succession>,
    origin: Instant,
    /// The tick at the origin: a daemon that took over goes on with the time of the one before.
    pub(crate) epoch: Duration,
    usage_due: Instant,
    pub(crate) put_away: PutAway,
    shutdown: Option<oneshot::Receiver<Outcome>>,
}

impl Supervisor {
    /// A supervisor without apps, and the events it is to be run with.
    ///
    /// # Errors
    /// No descriptor is left for the traffic detector.
    pub fn new(
        home: Home,
        logs: LogSink,
        child_nofile: Rlimit,
        keeper: Keeper,
    ) -> io::Result<(Supervisor, mpsc::Receiver<Event>)> {
        let (events, inbox) = mpsc::channel(EVENT_LIMIT);
        let supervisor = Supervisor {
            core: Core::new(now_ms()),
            listeners: Listeners::new(keeper.clone())?,
            keeper,
            apps: Apps::default(),
            workers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            handoffs: Handoffs::default(),
            fronts: Fronts::default(),
            agents: Agents::default(),
            agent_users: BTreeSet::new(),
            drains: Drains::default(),
            interception: Interception::new(&home),
            store: Store::new(&home),
            upkeep: Upkeep::default(),
            actions: Actions::default(),
            subscribers: Subscribers::default(),
            complaints: Complaints::default(),
            home,
            logs,
            log_starts: BTreeMap::new(),
            events,
            child_nofile,
            next_app: 0,
            next_ticket: 0,
            rescues: 0,
            sampling: Sampling::default(),
            steps: Steps::new(),
            leavers: Vec::new(),
            reloads: BTreeMap::new(),
            sampler: Sampler::new(),
            starting: Starting::default(),
            census: None,
            filled: BTreeSet::new(),
            undone: VecDeque::new(),
            holding: false,
            succession: None,
            origin: Instant::now(),
            epoch: Duration::ZERO,
            usage_due: Instant::now(),
            put_away: PutAway::new(Instant::now()),
            shutdown: None,
        };
        Ok((supervisor, inbox))
    }

    /// A way in for other tasks.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            events: self.events.clone(),
            logs: self.logs.clone(),
        }
    }

    /// Runs until [`Event::Terminate`] has been obeyed.
    ///
    /// # Errors
    /// The traffic detector cannot be watched.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Event>) -> io::Result<()> {
        let ended = self.turn(&mut inbox).await;
        if ended.is_err() {
            self.keeper.abandon();
        }
        ended
    }

    async fn turn(&mut self, inbox: &mut mpsc::Receiver<Event>) -> io::Result<()> {
        let traffic = watched(
            self.listeners.traffic().as_fd().try_clone_to_owned()?,
            Interest::READABLE,
        )?;
        let arrivals = watched(
            self.listeners.arrivals().as_fd().try_clone_to_owned()?,
            Interest::READABLE,
        )?;
        loop {
            let wake = self.next_wake();
            tokio::select! {
                biased;
                outcome = gone(&mut self.shutdown) => {
                    drop(outcome);
                    self.keeper.quit();
                    return Ok(());
                }
                event = inbox.recv() => match event {
                    Some(event) => self.on_ends(ends::gather(event, inbox).await),
                    None => return Ok(()),
                },
                ready = traffic.readable() => {
                    ready?.clear_ready();
                    self.on_traffic();
                }
                ready = arrivals.readable() => {
                    ready?.clear_ready();
                    self.handoffs.note_arrivals(&self.listeners);
                }
                () = sleep(wake) => self.on_time(),
            }
            self.accept_handoffs();
            self.settle();
            self.refresh_upkeep();
        }
    }

    /// Many processes that end at once are one step: what must be looked at for it is looked at once, and what must be written is written once.
    fn on_ends(&mut self, ends: Ends) {
        if !ends.is_empty() {
            self.together(|it| {
                reserve::with(|| {
                    it.leaders_exited(&ends.leaders);
                    it.trees_gone(&ends.trees);
                });
            });
        }
        if let Some(event) = ends.next {
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            // They are taken together ([`Supervisor::on_ends`]).
            Event::LeaderExited(worker) => reserve::with(|| self.leaders_exited(&[worker])),
            Event::TreeGone(worker) => reserve::with(|| self.trees_gone(&[worker])),
            Event::Messages(worker, Incoming { messages, done }) => {
                for message in messages {
                    self.message(worker, message);
                }
                drop(done);
            }
            Event::ChannelEnded(worker) => self.channel_ended(worker),
            Event::Called(worker, call, dealt) => {
                self.called(worker, call);
                drop(dealt);
            }
            Event::FilesChanged(app, path) => self.files_changed(app, &path),
            Event::Agent(event) => self.agent_event(event),
            Event::Health(event) => self.on_health(event),
            Event::Look(look) => self.on_look(look),
            Event::Request(request) => self.on_request(request),
            Event::Terminate => self.terminate(),
        }
    }

    fn terminate(&mut self) {
        if self.shutdown.is_none() {
            self.shutdown = Some(self.command(Command::Shutdown));
        }
    }

    fn on_time(&mut self) {
        reserve::fill();
        let now = self.now();
        if self.sampler.poll_timeout().is_some_and(|due| due <= now) {
            let busy = self.sample_queues();
            match self.sampler.tick(now, busy) {
                Decision::Continue => {}
                Decision::Rearm => self.await_traffic(),
            }
        }
        self.look_at_starting(now);
        self.core.handle_timeout(now);
        if self.drains.due().is_some_and(|due| due <= Instant::now()) {
            reserve::with(|| self.drains(Drains::look));
        }
        self.handoffs.count_open(&self.listeners);
        self.look_at_clock();
        self.put_away.on_time(Instant::now());
        if self.usage_due <= Instant::now() {
            let began = Instant::now();
            self.sampling.sample_usage(&mut self.workers);
            self.enforce_limits();
            let took = began.elapsed();
            let interval = match self.upkeep.has_limits() {
                true => pause(took, LIMITS_SHARE, LIMITS_INTERVAL..=LONGEST_LIMITS_INTERVAL),
                false => pause(took, USAGE_SHARE, USAGE_INTERVAL..=LONGEST_USAGE_INTERVAL),
            };
            self.usage_due = Instant::now() + interval;
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let due = [self.core.poll_timeout(), self.sampler.poll_timeout()]
            .into_iter()
            .flatten()
            .min();
        let usage = (!self.workers.is_empty()).then_some(self.usage_due);
        let undone = (!self.undone.is_empty()).then(|| self.store.rests_until().unwrap_or_else(Instant::now));
        let due = due.map(|tick| self.origin + tick.0.saturating_sub(self.epoch));
        [
            due,
            usage,
            undone,
            self.drains.due(),
            self.starting.due(),
            self.put_away.poll_timeout(),
            self.store.due(),
            self.handoffs.due(),
            self.fronts.due(),
            self.upkeep.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Carries out what the core wants until it wants nothing more. With many workers, for which much is written, it waits if something was written a
    /// moment ago: what comes until then is written with it.
    pub(crate) fn settle(&mut self) {
        if self.holding {
            return;
        }
        loop {
            self.undone.extend(std::iter::from_fn(|| self.core.poll_output()));
            let each = self.stores_at_once();
            // What nobody must know of is done at once, if it comes before all that somebody must.
            let mut count = passing(&self.undone, each);
            if count == 0 {
                if self.undone.is_empty() || (!each && self.store.rests_until().is_some()) {
                    break;
                }
                // Nothing is done that the next daemon would not know of.
                self.store.changed();
                self.store(true);
                count = self.undone.len();
            }
            self.carry_out(count);
        }
        self.census = None;
        self.tend_fronts();
        self.store(false);
        self.tell_of_leavers();
    }

    /// The first of what is to be done.
    fn carry_out(&mut self, count: usize) {
        let outputs: Vec<Output> = self.undone.drain(..count).collect();
        let asked = outputs.iter().filter(|output| is_question(output)).count();
        if asked > FEW_TREES {
            self.census = Some(Census::take());
        }
        for output in outputs {
            match output {
                Output::Terminate { .. } | Output::Kill { .. } => reserve::with(|| self.execute(output)),
                _ => self.execute(output),
            }
        }
    }

    /// Carries out what waits for that, even if much was written a moment ago.
    pub(crate) fn settle_now(&mut self) {
        while !self.undone.is_empty() {
            self.store.hurry();
            self.settle();
        }
    }

    /// Has what `act` commands carried out together, at its end: what must be known of all of it is written once.
    pub(crate) fn together<T>(&mut self, act: impl FnOnce(&mut Supervisor) -> T) -> T {
        let outer = std::mem::replace(&mut self.holding, true);
        let made = act(self);
        self.holding = outer;
        self.settle();
        made
    }

    /// Feeds the core; its outputs are carried out at the end of the step.
    pub(crate) fn input(&mut self, input: Input) {
        let now = self.now();
        if !matches!(input, Input::Queue { .. } | Input::Responded { .. }) {
            self.store.changed();
        }
        self.core.handle(input, now);
    }

    pub(crate) fn now(&self) -> Tick {
        Tick(self.epoch + self.origin.elapsed())
    }

    /// Gives the core a command; the receiver resolves when it is settled.
    pub(crate) fn command(&mut self, command: Command) -> oneshot::Receiver<Outcome> {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        if let Command::Reload { app, .. } = &command {
            self.reloads.insert(*app, ticket);
        }
        if let Command::Reload { app, .. } | Command::Replace { app, .. } = &command {
            let workers = room_for(*app, &self.workers);
            self.input(Input::Room { app: *app, workers });
        }
        let outcome = self.await_ticket(ticket);
        self.input(Input::Command { ticket, command });
        self.settle();
        outcome
    }

    /// Whoever waited for it before does so no more.
    pub(crate) fn await_ticket(&mut self, ticket: Ticket) -> oneshot::Receiver<Outcome> {
        let (done, outcome) = oneshot::channel();
        self.waiting.insert(ticket, done);
        outcome
    }

    /// The worker's process, if it runs.
    pub(crate) fn pidfd(&self, worker: WorkerId) -> Option<Arc<rpm_sys::pidfd::PidFd>> {
        self.workers
            .get(&worker)?
            .process()
            .map(|process| process.pidfd.share())
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(instant) => sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

async fn gone(shutdown: &mut Option<oneshot::Receiver<Outcome>>) -> Option<Outcome> {
    match shutdown {
        Some(receiver) => receiver.await.ok(),
        None => std::future::pending().await,
    }
}
