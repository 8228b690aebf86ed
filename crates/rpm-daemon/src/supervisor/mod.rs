//! The event loop: kernel events and requests become inputs of the core, and its outputs become
//! system calls. Everything that decides is in `rpm-core`; everything here is on one thread.

mod dispatch;
mod effects;
mod takeover;
mod wiring;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rpm_core::protocol::{Command, Input, Outcome, Output};
use rpm_core::{Core, SlotId, Tick};
use rpm_keeper::Keeper;
use rpm_listen::Listeners;
use rpm_proxy::HealthReports;
use rpm_sys::limits::Rlimit;
use rpm_sys::tree::Census;
use tokio::io::Interest;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use crate::apps::app::Apps;
use crate::complaints::Complaints;
use crate::drain::Drains;
use crate::events::Journal;
use crate::home::Home;
use crate::inbox::ends::{self, Ends};
use crate::inbox::{Event, Handle};
use crate::logs::{Begin, LogSink};
use crate::node::actions::Actions;
use crate::node::agents::Agents;
use crate::node::channel::{ChannelEvent, Incoming};
use crate::node::handoff::{self, Handoffs};
use crate::node::messages::Subscribers;
use crate::node::places::AgentPlaces;
use crate::node::prom_client::Questions;
use crate::orders::automatic;
use crate::orders::tickets::Tickets;
use crate::os::clock::now_ms;
use crate::os::memory::PutAway;
use crate::os::systemd;
use crate::os::watched::watched;
use crate::os::{FEW_TREES, reserve};
use crate::persist::lasting::{is_question, passing};
use crate::persist::state::{Store, stores_at_once};
use crate::persist::update::Succession;
use crate::processes::progress::{Leavers, Steps};
use crate::processes::{ProcessEvent, health};
use crate::proxy::fronts::{self, Fronts};
use crate::sockets::interception::{self, Interception};
use crate::sockets::queues::{self, Queues};
use crate::sockets::slots::Audit;
use crate::upkeep::{FilesChanged, Upkeep};
use crate::workers::pages::Pages;
use crate::workers::sampling::{self, Sampling};
use crate::workers::starting::{Starting, starved};
use crate::workers::worker::Workers;

/// Events that may wait; more make their senders wait.
const EVENT_LIMIT: usize = 1024;
/// What a daemon begins with.
pub(crate) struct Means {
    pub(crate) home: Home,
    pub(crate) keeper: Keeper,
    pub(crate) logs: LogSink,
    /// The limit of open files that workers get.
    pub(crate) child_nofile: Rlimit,
}

/// What the daemon is made of.
pub(crate) struct Supervisor {
    core: Core,
    listeners: Listeners,
    /// By which descriptors outlive this daemon.
    keeper: Keeper,
    apps: Apps,
    workers: Workers,
    tickets: Tickets,
    handoffs: Handoffs,
    fronts: Fronts,
    agents: Agents,
    agent_places: AgentPlaces,
    drains: Drains,
    /// The last pages of metrics of workers that have drained.
    pages: Pages,
    interception: Interception,
    upkeep: Upkeep,
    actions: Actions,
    /// Who follows the messages of programs.
    subscribers: Subscribers,
    /// Metrics that programs are asked for over their channels.
    questions: Questions,
    complaints: Complaints,
    journal: Journal,
    home: Home,
    logs: LogSink,
    /// How long log files were when this daemon first had a worker write there.
    log_starts: BTreeMap<PathBuf, Begin>,
    events: mpsc::Sender<Event>,
    child_nofile: Rlimit,
    next_app: u32,
    rescues: u64,
    sampling: Sampling,
    steps: Steps,
    leavers: Leavers,
    queues: Queues,
    starting: Starting,
    /// All processes as they were in this step, if somebody has looked.
    census: Option<Census>,
    store: Store,
    slots: Audit,
    /// What the core wants that waits for its being written, in order.
    undone: VecDeque<Output>,
    /// What another binary is passed that takes over.
    succession: Option<Succession>,
    origin: Instant,
    /// The tick at the origin: a daemon that took over goes on with the time of the one before.
    epoch: Duration,
    usage_due: Instant,
    put_away: PutAway,
    shutdown: Option<oneshot::Receiver<Outcome>>,
}

impl Supervisor {
    /// The first daemon here: a supervisor without apps, and the events it is to be run with.
    ///
    /// # Errors
    /// No descriptor is left for the traffic detector, or no thread for the journal.
    pub(crate) fn new(means: Means) -> io::Result<(Supervisor, mpsc::Receiver<Event>)> {
        let begun = empty(means)?;
        begun.0.journal.began();
        Ok(begun)
    }

    /// A way in for other tasks.
    #[must_use]
    pub(crate) fn handle(&self) -> Handle {
        Handle {
            events: self.events.clone(),
            logs: self.logs.clone(),
        }
    }

    /// Runs until [`Event::Terminate`] has been obeyed. An update passes on what is in `succession`.
    ///
    /// # Errors
    /// The traffic detector cannot be watched.
    pub(crate) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Event>,
        succession: Succession,
    ) -> io::Result<()> {
        self.succession = Some(succession);
        let ended = self.turn(&mut inbox).await;
        self.journal.end();
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
                    if Queues::has_fired(&self.listeners) {
                        self.queues.note_traffic(self.now());
                        self.look_at_queues(Queues::look);
                    }
                }
                ready = arrivals.readable() => {
                    ready?.clear_ready();
                    self.handoffs.note_arrivals(&self.listeners);
                }
                () = sleep(wake) => self.on_time(),
            }
            let mut context = handoff::Context {
                now: self.now(),
                listeners: &mut self.listeners,
                workers: &mut self.workers,
            };
            if self.handoffs.accept(&mut context) {
                self.queues.note_traffic(self.now());
            }
            self.settle();
            if self.upkeep.is_outdated() {
                let wants = automatic::wants(self.catalog(), &self.home);
                self.upkeep.refresh(wants, &self.events);
            }
        }
    }

    /// Many processes that end at once are one step: what must be looked at for it is looked at once, and what must be written is written once.
    fn on_ends(&mut self, ends: Ends) {
        if !ends.is_empty() {
            self.processes_ended(&ends.leaders, &ends.trees);
            self.settle();
        }
        if let Some(event) = ends.next {
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            // They are taken together ([`Supervisor::on_ends`]).
            Event::Process(ProcessEvent::LeaderExited(worker)) => self.processes_ended(&[worker], &[]),
            Event::Process(ProcessEvent::TreeGone(worker)) => self.processes_ended(&[], &[worker]),
            Event::Channel(ChannelEvent::Messages(worker, Incoming { messages, done })) => {
                let mut hearing = self.hearing();
                for message in messages {
                    hearing.hear(worker, message);
                }
                drop(done);
            }
            Event::Channel(ChannelEvent::Ended(worker)) => self.hearing().ended(worker),
            Event::Called(called) => {
                interception::called(&mut self.ports(), called.worker, called.call);
                drop(called.dealt);
            }
            Event::FilesChanged(FilesChanged { app, path }) => self.orders().files_changed(app, &path),
            Event::Agent(event) => self.agent_event(event),
            Event::Health(event) => {
                let mut context = health::Context {
                    core: &self.core,
                    listeners: &self.listeners,
                    workers: &mut self.workers,
                    handoffs: &mut self.handoffs,
                    apps: &self.apps,
                    journal: &mut self.journal,
                };
                if let Some(input) = context.on_event(event) {
                    self.input(input);
                }
            }
            Event::Upstream(slot, failing) => {
                if let Some(worker) = self.listeners.holder(slot) {
                    self.report(|journal, facts| journal.health(facts, worker, failing.as_deref()));
                }
            }
            Event::LastPage(worker, page) => self.pages.take(worker, page, Instant::now()),
            Event::Look(look) => self.on_look(look),
            Event::Request(request) => self.on_request(request),
            Event::Terminate if self.shutdown.is_some() => {}
            Event::Terminate => {
                systemd::stopping();
                self.shutdown = Some(self.orders().command(Command::Shutdown));
            }
        }
    }

    fn on_time(&mut self) {
        reserve::fill();
        let now = self.now();
        if self.queues.poll_timeout().is_some_and(|due| due <= now) {
            self.look_at_queues(Queues::on_time);
        }
        for input in starved(&self.core, &self.workers, now) {
            self.input(input);
        }
        for input in self.starting.look(&self.core, &self.workers) {
            self.input(input);
        }
        self.core.handle_timeout(now);
        if self.drains.due().is_some_and(|due| due <= Instant::now()) {
            reserve::with(|| self.drains(Drains::look));
        }
        self.handoffs.count_open(&self.listeners);
        self.orders().look_at_clock();
        self.put_away.on_time(Instant::now());
        self.report(|journal, facts| journal.on_time(facts, Instant::now()));
        if self.usage_due <= Instant::now() {
            let began = Instant::now();
            self.sampling.sample_usage(&mut self.workers);
            self.orders().enforce_limits();
            let interval = sampling::interval(began.elapsed(), self.upkeep.has_limits());
            self.usage_due = Instant::now() + interval;
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let due = [
            self.core.poll_timeout(),
            self.queues.poll_timeout(),
            self.handoffs.kept_until(),
        ];
        let due = due.into_iter().flatten().min();
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
            self.journal.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Carries out what the core wants until it wants nothing more. With many workers, for which much is written, it waits if something was written a
    /// moment ago: what comes until then is written with it.
    pub(crate) fn settle(&mut self) {
        loop {
            self.undone.extend(std::iter::from_fn(|| self.core.poll_output()));
            let each = stores_at_once(&self.workers);
            // What nobody must know of is done at once, if it comes before all that somebody must.
            let mut count = passing(&self.undone, each);
            if count == 0 {
                if self.undone.is_empty() || (!each && self.store.rests_until().is_some()) {
                    break;
                }
                // Nothing is done that the next daemon would not know of.
                self.store.changed();
                self.write_state(true);
                count = self.undone.len();
            }
            self.carry_out(count);
        }
        self.census = None;
        self.fronts.tend(&mut fronts::Context {
            core: &self.core,
            apps: &self.apps,
            workers: &self.workers,
            listeners: &mut self.listeners,
            store: &mut self.store,
        });
        self.write_state(false);
        self.leavers.tell(&self.core);
        if self.undone.is_empty() {
            self.slots.after_step(&self.core, &self.listeners);
        }
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

    fn look_at_queues<T>(&mut self, look: impl FnOnce(&mut Queues, &mut queues::Context<'_>) -> T) {
        let now = self.now();
        let mut context = queues::Context {
            core: &mut self.core,
            now,
            listeners: &self.listeners,
            handed: self.handoffs.queues(&self.listeners),
        };
        look(&mut self.queues, &mut context);
    }
}

/// A supervisor without apps, and the events it is to be run with.
fn empty(means: Means) -> io::Result<(Supervisor, mpsc::Receiver<Event>)> {
    let Means {
        home,
        keeper,
        logs,
        child_nofile,
    } = means;
    let (events, inbox) = mpsc::channel(EVENT_LIMIT);
    let hearer = events.clone();
    // One that finds no room is not heard; the next change is.
    let health = HealthReports::new(move |upstream, failing| {
        let _ = hearer.try_send(Event::Upstream(SlotId(upstream.0), failing));
    });
    let supervisor = Supervisor {
        core: Core::new(now_ms()),
        listeners: Listeners::new(keeper.clone())?,
        keeper,
        apps: Apps::default(),
        workers: BTreeMap::new(),
        tickets: Tickets::default(),
        handoffs: Handoffs::numbered_since(now_ms()),
        fronts: Fronts::new(health),
        agents: Agents::default(),
        agent_places: AgentPlaces::default(),
        drains: Drains::default(),
        pages: Pages::default(),
        interception: Interception::new(&home),
        store: Store::new(&home),
        upkeep: Upkeep::default(),
        actions: Actions::default(),
        subscribers: Subscribers::default(),
        questions: Questions::default(),
        complaints: Complaints::default(),
        journal: Journal::start(&home, &logs)?,
        home,
        logs,
        log_starts: BTreeMap::new(),
        events,
        child_nofile,
        next_app: 0,
        rescues: 0,
        sampling: Sampling::default(),
        steps: Steps::new(),
        leavers: Leavers::default(),
        queues: Queues::new(),
        starting: Starting::default(),
        census: None,
        slots: Audit::default(),
        undone: VecDeque::new(),
        succession: None,
        origin: Instant::now(),
        epoch: Duration::ZERO,
        usage_due: Instant::now(),
        put_away: PutAway::new(Instant::now()),
        shutdown: None,
    };
    Ok((supervisor, inbox))
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
