//! What happens in one room and what it means for the others: the supervisor lends a room what it works with, and carries on what comes
//! out of it.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rpm_core::protocol::Input;
use rpm_core::{SlotId, WorkerId};
use rpm_sys::survive;
use rpm_wire::api::ScrapedPage;

use super::Supervisor;
use crate::apps::catalog::Catalog;
use crate::drain::{self, Drains};
use crate::events::Journal;
use crate::events::subject::Facts;
use crate::inbox::{Event, Handle};
use crate::node::agents::{AgentEvent, NAMED_LIMIT, News};
use crate::node::handoff;
use crate::node::hearing::Hearing;
use crate::orders::Orders;
use crate::os::reserve;
use crate::persist::state::{Known, Store};
use crate::processes::agent::doubt_agent;
use crate::processes::ending::Ending;
use crate::processes::launch::Launching;
use crate::processes::pages::{self, Target};
use crate::sockets::ports::Ports;
use crate::view::View;

/// Addresses of a worker that has ended which are remembered.
const LISTENED: usize = 8;

impl Supervisor {
    /// Lends the drains what they go by, and tells the core what follows.
    pub(super) fn drains<T>(&mut self, act: impl FnOnce(&mut Drains, &mut drain::Context<'_>) -> T) -> T {
        let mut context = drain::Context {
            now: self.now(),
            agents: &mut self.agents,
            listeners: &mut self.listeners,
            workers: &self.workers,
            pages: &mut self.pages,
            inputs: Vec::new(),
        };
        let made = act(&mut self.drains, &mut context);
        for input in context.inputs {
            self.input(input);
        }
        for worker in self.pages.begun() {
            match pages::target(&self.facts(), worker) {
                Some(target) => ask_last_page(worker, target, self.handle()),
                None => self.pages.take(worker, None, Instant::now()),
            }
        }
        made
    }

    /// What workers are found by, and named.
    pub(super) fn facts(&self) -> Facts<'_> {
        Facts {
            core: &self.core,
            apps: &self.apps,
            workers: &self.workers,
            listeners: &self.listeners,
        }
    }

    /// Lends the journal what it takes names and numbers from.
    pub(super) fn report<T>(&mut self, act: impl FnOnce(&mut Journal, &Facts<'_>) -> T) -> T {
        let facts = Facts {
            core: &self.core,
            apps: &self.apps,
            workers: &self.workers,
            listeners: &self.listeners,
        };
        act(&mut self.journal, &facts)
    }

    /// Something happened on the connection of a worker's agent.
    pub(super) fn agent_event(&mut self, event: AgentEvent) {
        match self.agents.on_event(event, &mut self.workers) {
            Some(News::Arrived(worker)) => {
                self.store.changed();
                self.drains(|drains, context| drains.agent_arrived(context, worker));
            }
            Some(News::Drains(worker)) => self.drains.acknowledged(&self.agents, worker),
            Some(News::TooMany(worker)) => {
                let most = format!("more than {NAMED_LIMIT} processes name it");
                self.complaints.warn(worker, "an agent is not heard", &most);
            }
            None => {}
        }
    }

    /// The leaders of some workers have ended, and what was left of the trees of others.
    pub(super) fn processes_ended(&mut self, leaders: &[WorkerId], trees: &[WorkerId]) {
        reserve::with(|| {
            for (worker, left) in self.ending().left_by(leaders) {
                self.leader_exited(worker, left);
            }
            for worker in self.ending().trees_gone(trees) {
                self.tree_is_gone(worker);
            }
        });
    }

    fn leader_exited(&mut self, worker: WorkerId, left: Vec<u32>) {
        let Some(end) = self.ending().leader_exited(worker, left) else {
            return;
        };
        if end.bad_option && !self.agents.has(worker) {
            doubt_agent(worker, &self.workers, &mut self.apps, &self.interception);
        }
        // Nobody speaks for it any more, and nothing of it drains.
        self.agents.forget(worker);
        self.drains.end(worker);
        self.drains.release(&mut self.agents, worker);
        if end.whole {
            self.tree_is_gone(worker);
        }
    }

    fn tree_is_gone(&mut self, worker: WorkerId) {
        let Some(gone) = self.ending().tree_is_gone(worker) else {
            return;
        };
        self.pages.forget(worker);
        self.report(|journal, facts| journal.ended(facts, worker, gone.exit));
        let listened: Vec<_> = self.listeners.addresses_of(worker).take(LISTENED).collect();
        if let Some(held) = self.workers.get_mut(&worker) {
            held.listened = listened;
        }
        // It has none any more, or never told of its end.
        self.handoffs.take_back(worker);
        for (connection, to) in self.listeners.worker_gone(worker) {
            self.hand_over([connection], &to);
        }
        let exit = gone.exit;
        self.input(Input::Exited { worker, exit });
        let mut instances = self.core.instances();
        if !instances.any(|view| view.app == gone.app && view.worker().is_some()) {
            self.listeners.close_shared(gone.app);
        }
    }

    /// Passes each connection to a worker behind one of these slots.
    pub(super) fn hand_over(&mut self, connections: impl IntoIterator<Item = OwnedFd>, to: &[SlotId]) {
        let mut context = handoff::Context {
            now: self.now(),
            listeners: &mut self.listeners,
            workers: &mut self.workers,
        };
        for connection in connections {
            self.handoffs.pass(&mut context, connection, to);
        }
    }

    /// What is there, and what it is called.
    pub(super) fn catalog(&self) -> Catalog<'_> {
        Catalog::new(&self.core, &self.apps)
    }

    /// What is known now.
    pub(super) fn view(&self) -> View<'_> {
        View {
            core: &self.core,
            apps: &self.apps,
            workers: &self.workers,
            listeners: &self.listeners,
            sampling: &self.sampling,
            handoffs: &self.handoffs,
            fronts: &self.fronts,
            agents: &self.agents,
            actions: &self.actions,
            interception: &self.interception,
            home: &self.home,
            log_starts: &self.log_starts,
            journal: &self.journal,
            rescues: self.rescues,
            now: self.now(),
        }
    }

    /// What is needed to open, lend and close listeners.
    pub(super) fn ports(&mut self) -> Ports<'_> {
        Ports {
            now: self.now(),
            core: &mut self.core,
            store: &mut self.store,
            apps: &mut self.apps,
            listeners: &mut self.listeners,
            workers: &mut self.workers,
            complaints: &mut self.complaints,
        }
    }

    /// What is needed to give the core commands.
    pub(super) fn orders(&mut self) -> Orders<'_> {
        Orders {
            now: self.now(),
            core: &mut self.core,
            apps: &mut self.apps,
            next_app: &mut self.next_app,
            tickets: &mut self.tickets,
            store: &mut self.store,
            workers: &self.workers,
            listeners: &self.listeners,
            interception: &mut self.interception,
            home: &self.home,
            upkeep: &mut self.upkeep,
            put_away: &mut self.put_away,
            journal: &mut self.journal,
        }
    }

    /// What is needed to start workers, and to take them back.
    pub(super) fn launching(&mut self) -> Launching<'_, Event> {
        Launching {
            ports: Ports {
                now: self.now(),
                core: &mut self.core,
                store: &mut self.store,
                apps: &mut self.apps,
                listeners: &mut self.listeners,
                workers: &mut self.workers,
                complaints: &mut self.complaints,
            },
            interception: &mut self.interception,
            fronts: &self.fronts,
            agent_places: &mut self.agent_places,
            starting: &mut self.starting,
            steps: &self.steps,
            home: &self.home,
            keeper: &self.keeper,
            logs: &self.logs,
            log_starts: &mut self.log_starts,
            child_nofile: self.child_nofile,
            journal: &mut self.journal,
            events: &self.events,
        }
    }

    /// What is needed to end workers.
    pub(super) fn ending(&mut self) -> Ending<'_, Event> {
        Ending {
            workers: &mut self.workers,
            catalog: Catalog::new(&self.core, &self.apps),
            steps: &self.steps,
            store: &mut self.store,
            census: &mut self.census,
            home: &self.home,
            logs: &self.logs,
            events: &self.events,
        }
    }

    /// What the messages of workers concern.
    pub(super) fn hearing(&mut self) -> Hearing<'_> {
        Hearing {
            ports: Ports {
                now: self.now(),
                core: &mut self.core,
                store: &mut self.store,
                apps: &mut self.apps,
                listeners: &mut self.listeners,
                workers: &mut self.workers,
                complaints: &mut self.complaints,
            },
            handoffs: &mut self.handoffs,
            actions: &mut self.actions,
            subscribers: &mut self.subscribers,
            questions: &mut self.questions,
        }
    }

    /// What is written for the next daemon, and by whom.
    pub(super) fn stored(&mut self) -> (&mut Store, Known<'_>) {
        let known = Known {
            origin: survive::monotonic().saturating_sub(self.now().0),
            core: &self.core,
            apps: &mut self.apps,
            workers: &self.workers,
            listeners: &self.listeners,
            keeper: &self.keeper,
            home: &self.home,
            next_app: self.next_app,
            next_ticket: self.tickets.next(),
            rescues: self.rescues,
        };
        (&mut self.store, known)
    }

    /// Writes what has changed. `at_once`: something is about to be done that the next daemon must know of.
    pub(super) fn write_state(&mut self, at_once: bool) {
        let (store, mut known) = self.stored();
        store.write(&mut known, at_once);
    }
}

/// Has a worker that has drained give its last page of metrics.
fn ask_last_page(worker: WorkerId, target: Target, handle: Handle) {
    tokio::spawn(async move {
        let read = pages::ask(vec![target], &handle);
        let page = read.await.pop().filter(|page| page.page.is_some());
        let page = page.map(|page| ScrapedPage { ended: true, ..page });
        // A daemon that shuts down does not want to know.
        let _ = handle.events.send(Event::LastPage(worker, page)).await;
    });
}
