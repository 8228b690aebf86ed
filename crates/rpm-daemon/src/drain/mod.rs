//! Draining: a worker that is out of steering serves what it has, and only then is asked to end. What it still has, and when that is believed, is
//! decided by [`rpm_core::witness`]; here agents are told, and queues, agents and the kernel are looked at.

pub(crate) mod look;

use std::time::{Duration, Instant};

use rpm_agent::ToAgent;
use rpm_core::protocol::Input;
use rpm_core::witness::{self, Action, Seen, Source, Start};
use rpm_core::{Tick, WorkerId};
use rpm_listen::Listeners;

use crate::drain::look::Look;
use crate::node::agents::Agents;
use crate::os::pace::pause;
use crate::workers::pages::Pages;
use crate::workers::worker::Workers;

/// Between two looks at what draining workers still have.
pub(crate) const LOOK: Duration = Duration::from_millis(25);
/// So many times what a look took goes by before the next one.
const PAUSE_SHARE: u32 = 9;
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a drain goes by, and what follows from it.
pub(crate) struct Context<'a> {
    /// Who tells the workers, and knows what they still have.
    pub(crate) agents: &'a mut Agents,
    /// Where clients reach them.
    pub(crate) listeners: &'a mut Listeners,
    /// The processes.
    pub(crate) workers: &'a Workers,
    /// Who has to give its last page of metrics before it ends.
    pub(crate) pages: &'a mut Pages,
    /// The time of the core.
    pub(crate) now: Tick,
    /// What the core has to know afterwards, in this order.
    pub(crate) inputs: Vec<Input>,
}

impl Context<'_> {
    fn input(&mut self, input: Input) {
        self.inputs.push(input);
    }

    /// Its agent knew the daemon before this one, and is about to come back.
    fn agent_returns(&self, worker: WorkerId) -> bool {
        let held = self.workers.get(&worker);
        held.is_some_and(|held| held.agent_seen && held.process().is_some_and(|process| process.adopted))
    }

    fn tell_to_drain(&mut self, worker: WorkerId, within: Duration) -> bool {
        let deadline_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.agents.tell(worker, ToAgent::Drain { deadline_ms })
    }
}

/// The workers that are being drained.
#[derive(Default)]
pub(crate) struct Drains {
    all: witness::Drains,
    due: Option<Instant>,
}

impl Drains {
    /// When to look again at what the workers still have.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    fn begin(&mut self, ctx: &Context<'_>, worker: WorkerId, source: Source, within: Duration) {
        let start = Start {
            source,
            within,
            foreign: ctx.listeners.is_foreign(worker),
        };
        self.all.begin(worker, &start, ctx.now);
        self.due = Some(Instant::now() + LOOK);
    }

    pub(crate) fn end(&mut self, worker: WorkerId) {
        self.all.end(worker);
        if self.all.is_empty() {
            self.due = None;
        }
    }

    /// It closes its listeners and drains, or cannot.
    pub(crate) fn refuse(&mut self, ctx: &mut Context<'_>, worker: WorkerId, keeps: bool) {
        if !self.all.refuse(worker, keeps) {
            return;
        }
        let told = Drains::tell_to_refuse(ctx, worker, keeps);
        let held = ctx.workers.get(&worker);
        let waits = held.is_some_and(|held| held.delivery.expects_agent()) || ctx.agent_returns(worker);
        if !told && !waits {
            // Its program knows by the signal how to stop, and by nothing else.
            self.end(worker);
            ctx.input(Input::DrainFailed { worker });
        }
    }

    /// Has its agent close its listeners; `false`: it has none. It tells nobody of the sockets that it made itself: they are the worker's alone
    /// from now on, so that they are closed when it closes them.
    fn tell_to_refuse(ctx: &mut Context<'_>, worker: WorkerId, keeps: bool) -> bool {
        if !ctx.agents.tell(worker, ToAgent::Refuse { keeps }) {
            return false;
        }
        for slot in ctx.listeners.slots_of(worker) {
            if ctx.listeners.is_own(slot) {
                ctx.listeners.leave_to(slot, worker);
                ctx.input(Input::SlotReleased { slot, worker });
            }
        }
        true
    }

    /// Lets it end by itself.
    pub(crate) fn release(&mut self, agents: &mut Agents, worker: WorkerId) {
        if self.all.release(worker) {
            agents.tell(worker, ToAgent::Release {});
        }
    }

    /// Lets it finish what it has begun, within this time.
    pub(crate) fn drain(&mut self, ctx: &mut Context<'_>, worker: WorkerId, within: Duration) {
        let Some(held) = ctx.workers.get(&worker) else {
            return;
        };
        let source = match held.delivery.kernel_counts(held.is_intercepted()) {
            _ if ctx.tell_to_drain(worker, within) => Source::Agent,
            // It lost its connection with the daemon before this one.
            _ if ctx.agent_returns(worker) => Source::ReturningAgent,
            true => Source::Kernel,
            false => return ctx.input(Input::DrainFailed { worker }),
        };
        self.begin(ctx, worker, source, within);
    }

    /// Goes on with a drain that the daemon before began; so much of its time is left.
    pub(crate) fn resume(&mut self, ctx: &mut Context<'_>, worker: WorkerId, left: Duration) {
        let Some(held) = ctx.workers.get(&worker) else {
            return;
        };
        let source = match held.delivery.expects_agent() || ctx.agent_returns(worker) {
            true => Source::ReturningAgent,
            false => Source::Kernel,
        };
        self.begin(ctx, worker, source, left);
    }

    /// An agent is there (again). If its worker drains it may not have heard of that.
    pub(crate) fn agent_arrived(&mut self, ctx: &mut Context<'_>, worker: WorkerId) {
        let action = self.all.handle_connected(worker, ctx.now);
        self.carry_out(ctx, worker, action);
        if let Some(keeps) = self.all.refuses(worker) {
            Drains::tell_to_refuse(ctx, worker, keeps);
        }
    }

    pub(crate) fn acknowledged(&mut self, agents: &Agents, worker: WorkerId) {
        self.all.handle_answer(worker, agents.count(worker));
    }

    /// Looks at every draining worker. The more there are the longer that takes, and the longer it is until the next time: a tenth of the time
    /// goes into it, at most.
    pub(crate) fn look(&mut self, ctx: &mut Context<'_>) {
        let began = Instant::now();
        let workers = self.all.to_look_at(ctx.now).map(|(worker, is_counted)| {
            let held = ctx.workers.get(&worker).filter(|_| is_counted);
            (worker, held.and_then(|held| held.process()))
        });
        let workers: Vec<_> = workers.collect();
        let look = Look::at(&workers, self.all.awaits_handshakes(), ctx.listeners);
        let workers: Vec<WorkerId> = workers.into_iter().map(|(worker, _)| worker).collect();
        for worker in workers {
            if let Some(seen) = seen(ctx, worker, &look) {
                let action = self.all.handle_look(worker, &seen, ctx.now);
                self.carry_out(ctx, worker, action);
            }
        }
        let pause = pause(began.elapsed(), PAUSE_SHARE, LOOK..=LONGEST_PAUSE);
        self.due = (!self.all.is_empty()).then(|| Instant::now() + pause);
    }

    fn carry_out(&mut self, ctx: &mut Context<'_>, worker: WorkerId, action: Action) {
        let told = match action {
            Action::Wait => return,
            Action::ReadPage => return ctx.pages.read(worker),
            Action::TellToDrain { within } => ctx.tell_to_drain(worker, within),
            Action::TellToClose => ctx.agents.tell(worker, ToAgent::Close {}),
            Action::Drained => return ctx.input(Input::Drained { worker }),
            Action::Failed => return ctx.input(Input::DrainFailed { worker }),
        };
        if !told {
            let action = self.all.handle_untold(worker, action);
            self.carry_out(ctx, worker, action);
        }
    }
}

/// What a look has shown of one worker, and what its agents say.
fn seen(ctx: &Context<'_>, worker: WorkerId, look: &Look) -> Option<Seen> {
    let found = look.of(worker)?;
    let held = ctx.workers.get(&worker);
    let has_page = held.is_some_and(|held| held.spec.has_metrics());
    Some(Seen {
        queued: found.queued,
        half_open: !look.handshakes_are_over(found),
        reported: ctx.agents.open(worker).map(|open| open.connections),
        page_due: ctx.pages.is_due(worker, has_page, Instant::now()),
        counted: found.open.map(|count| count as u64),
    })
}
