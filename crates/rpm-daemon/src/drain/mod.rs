//! Draining: a worker that is out of steering serves what it has, and only then is asked to end.

pub(crate) mod look;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rpm_agent::ToAgent;
use rpm_core::WorkerId;
use rpm_core::protocol::Input;
use rpm_listen::Listeners;

use crate::drain::look::{Found, Look};
use crate::node::agents::Agents;
use crate::os::pace::pause;
use crate::workers::pages::Pages;
use crate::workers::worker::Workers;

/// Between two looks at what draining workers still have.
pub(crate) const LOOK: Duration = Duration::from_millis(25);
/// So many times what a look took goes by before the next one.
const PAUSE_SHARE: u32 = 9;
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// An agent whose event loop turns has acknowledged by then. From then on, as often, it is found out whether its worker has any connection: one
/// that has is waited for, and one that has none is asked to end.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(1);
/// Between the ends of two workers whose sockets could not be taken back.
const FOREIGN_PAUSE: Duration = Duration::from_secs(1);
/// An agent that lost the daemon is back by then: it tries once a second.
const RETURN_WITHIN: Duration = Duration::from_secs(5);
/// A handshake that began before the slot left steering has ended by then, its first retransmissions included.
const HANDSHAKES_WITHIN: Duration = Duration::from_millis(3500);

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
}

/// The workers that are being drained.
#[derive(Default)]
pub(crate) struct Drains {
    running: BTreeMap<WorkerId, Drain>,
    /// Those that were told to take no client any more; do they keep those that they have?
    refusing: BTreeMap<WorkerId, bool>,
    due: Option<Instant>,
    /// When a worker was last told to end whose sockets could not be taken back.
    foreign_left: Option<Instant>,
}

struct Drain {
    since: Instant,
    /// The agent should have acknowledged by then.
    acknowledge_by: Instant,
    deadline: Instant,
    witness: Witness,
    /// No handshake was half-open on its ports at some moment since.
    settled: bool,
    closing: bool,
}

/// Who says what a draining worker still has, and how fresh its word is.
///
/// An agent reports a change up to 20 ms late, or later if its event loop is busy, and the connection that was
/// just taken from the queue would be missed. So it is asked once more when the queue has been seen empty: what
/// it reports after that answer counts everything that was ever accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Witness {
    /// Its agent, which has not acknowledged yet.
    Expected,
    /// Its agent, by its last report.
    Agent,
    /// Its agent, which was asked again and has not answered.
    Asked,
    /// Its agent, by reports made since it answered.
    Answered,
    /// The kernel's socket table: the program has no agent.
    Kernel,
}

/// What follows from a look at a worker whose queue is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Wait(Witness),
    Ask,
    Drained,
}

impl Witness {
    /// `left`: connections of the worker by this witness; `None` if it has not said.
    fn judge(self, left: Option<u64>) -> Verdict {
        match (self, left) {
            (Witness::Agent, Some(0)) => Verdict::Ask,
            (Witness::Answered | Witness::Kernel, Some(0)) => Verdict::Drained,
            (Witness::Answered, Some(_)) => Verdict::Wait(Witness::Agent),
            (
                Witness::Expected | Witness::Agent | Witness::Asked | Witness::Answered | Witness::Kernel,
                _,
            ) => Verdict::Wait(self),
        }
    }
}

impl Drain {
    /// Does the kernel say what its worker still has, or has its agent been silent for too long?
    fn asks_kernel(&self, now: Instant) -> bool {
        match self.witness {
            Witness::Kernel => true,
            Witness::Expected => now >= self.acknowledge_by,
            Witness::Agent | Witness::Asked | Witness::Answered => false,
        }
    }
}

impl Drains {
    /// When to look again at what the workers still have.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    fn begin(&mut self, worker: WorkerId, within: Duration, witness: Witness, patience: Duration) {
        let since = Instant::now();
        let drain = Drain {
            since,
            acknowledge_by: since + patience,
            deadline: since + within,
            witness,
            settled: false,
            closing: false,
        };
        self.running.insert(worker, drain);
        self.due = Some(since + LOOK);
    }

    /// Its agent has a new connection: an answer that was awaited on the old one does not come.
    fn reconnected(&mut self, worker: WorkerId) {
        if let Some(drain) = self.running.get_mut(&worker)
            && matches!(drain.witness, Witness::Asked | Witness::Answered)
        {
            drain.witness = Witness::Agent;
        }
    }

    pub(crate) fn end(&mut self, worker: WorkerId) {
        self.running.remove(&worker);
        if self.running.is_empty() {
            self.due = None;
        }
    }

    /// It closes its listeners and drains, or cannot.
    pub(crate) fn refuse(&mut self, ctx: &mut Context<'_>, worker: WorkerId, keeps: bool) {
        if !self.running.contains_key(&worker) {
            // The drain that came before this has failed already, and said so.
            return;
        }
        self.refusing.insert(worker, keeps);
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
        if self.refusing.remove(&worker).is_some() {
            agents.tell(worker, ToAgent::Release {});
        }
    }

    pub(crate) fn drain(&mut self, ctx: &mut Context<'_>, worker: WorkerId) {
        let Some(held) = ctx.workers.get(&worker) else {
            return;
        };
        let within = crate::apps::app::drain_timeout(&held.spec);
        let deadline_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let (witness, patience) = match held.delivery.kernel_counts(held.is_intercepted()) {
            _ if ctx.agents.tell(worker, ToAgent::Drain { deadline_ms }) => {
                (Witness::Expected, ACKNOWLEDGE_WITHIN)
            }
            // It lost its connection with the daemon before this one.
            _ if ctx.agent_returns(worker) => (Witness::Expected, RETURN_WITHIN),
            true => (Witness::Kernel, ACKNOWLEDGE_WITHIN),
            false => return ctx.input(Input::DrainFailed { worker }),
        };
        self.begin(worker, within, witness, patience);
    }

    /// Goes on with a drain that the daemon before began; so much of its time is left.
    pub(crate) fn resume(&mut self, ctx: &mut Context<'_>, worker: WorkerId, left: Duration) {
        let Some(held) = ctx.workers.get(&worker) else {
            return;
        };
        let witness = match held.delivery.expects_agent() || ctx.agent_returns(worker) {
            true => Witness::Expected,
            false => Witness::Kernel,
        };
        self.begin(worker, left, witness, RETURN_WITHIN);
    }

    /// An agent is there (again). If its worker drains it may not have heard of that.
    pub(crate) fn agent_arrived(&mut self, ctx: &mut Context<'_>, worker: WorkerId) {
        self.reconnected(worker);
        if let Some(drain) = self.running.get(&worker)
            && drain.witness == Witness::Expected
        {
            let left = drain.deadline.saturating_duration_since(Instant::now());
            let deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            ctx.agents.tell(worker, ToAgent::Drain { deadline_ms });
        }
        if let Some(&keeps) = self.refusing.get(&worker) {
            Drains::tell_to_refuse(ctx, worker, keeps);
        }
    }

    pub(crate) fn acknowledged(&mut self, agents: &Agents, worker: WorkerId) {
        let Some(drain) = self.running.get_mut(&worker) else {
            return;
        };
        drain.witness = match drain.witness {
            _ if !agents.count(worker) => Witness::Kernel,
            Witness::Asked => Witness::Answered,
            Witness::Expected | Witness::Agent | Witness::Answered | Witness::Kernel => Witness::Agent,
        };
    }

    /// Looks at every draining worker. The more there are the longer that takes, and the longer it is until the next time: a tenth of the time
    /// goes into it, at most.
    pub(crate) fn look(&mut self, ctx: &mut Context<'_>) {
        let began = Instant::now();
        let workers = self.running.iter().map(|(worker, drain)| {
            let held = ctx.workers.get(worker).filter(|_| drain.asks_kernel(began));
            (*worker, held.and_then(|held| held.process()))
        });
        let workers: Vec<_> = workers.collect();
        let unsettled = self.running.values().any(|drain| !drain.settled);
        let look = Look::at(&workers, unsettled, ctx.listeners);
        let workers: Vec<WorkerId> = workers.into_iter().map(|(worker, _)| worker).collect();
        for worker in workers {
            self.look_at(ctx, worker, &look, began);
        }
        let pause = pause(began.elapsed(), PAUSE_SHARE, LOOK..=LONGEST_PAUSE);
        self.due = (!self.running.is_empty()).then(|| Instant::now() + pause);
    }

    /// At one of them; `now`: when the look at all of them began.
    fn look_at(&mut self, ctx: &mut Context<'_>, worker: WorkerId, look: &Look, now: Instant) {
        let Some(found) = look.of(worker) else { return };
        let Some(drain) = self.running.get_mut(&worker) else {
            return;
        };
        let since = now.saturating_duration_since(drain.since);
        if drain.witness == Witness::Expected {
            if drain.asks_kernel(now) {
                drain.acknowledge_by = now + ACKNOWLEDGE_WITHIN;
                let late = now >= drain.deadline;
                self.look_at_silent(ctx, worker, late, found);
            }
            return;
        }
        drain.settled = drain.settled || since >= HANDSHAKES_WITHIN || look.handshakes_are_over(found);
        let closes = !drain.closing && now >= drain.deadline;
        drain.closing |= closes;
        let (witness, settled) = (drain.witness, drain.settled);
        if closes && (witness == Witness::Kernel || !ctx.agents.tell(worker, ToAgent::Close {})) {
            // Nobody can close anything for it.
            self.end(worker);
            return ctx.input(Input::DrainFailed { worker });
        }
        if settled && found.queued == 0 {
            self.follow_verdict(
                ctx,
                worker,
                witness.judge(Drains::connections_left(ctx.agents, worker, witness, found)),
            );
        }
    }

    /// Its agent has not acknowledged. That its event loop is busy does not mean that nobody waits for it: as long as it has connections it
    /// has its time.
    fn look_at_silent(&mut self, ctx: &mut Context<'_>, worker: WorkerId, late: bool, found: &Found) {
        // What the kernel does not say is taken for some.
        let has_clients = found.queued > 0 || found.established != Some(0);
        if late || !has_clients {
            self.end(worker);
            ctx.input(Input::DrainFailed { worker });
        }
    }

    fn follow_verdict(&mut self, ctx: &mut Context<'_>, worker: WorkerId, verdict: Verdict) {
        let Some(drain) = self.running.get_mut(&worker) else {
            return;
        };
        match verdict {
            Verdict::Wait(witness) => drain.witness = witness,
            Verdict::Ask => {
                drain.witness = Witness::Asked;
                let left = drain.deadline.saturating_duration_since(Instant::now());
                let deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                if !ctx.agents.tell(worker, ToAgent::Drain { deadline_ms }) {
                    // Its connection is gone: once it is back it reports unasked, and the deadline stands.
                    self.running
                        .entry(worker)
                        .and_modify(|drain| drain.witness = Witness::Agent);
                }
            }
            Verdict::Drained if self.awaits_page(ctx, worker) => {}
            Verdict::Drained if self.waits_for_others(ctx, worker) => {}
            Verdict::Drained => {
                self.end(worker);
                ctx.input(Input::Drained { worker });
            }
        }
    }

    /// What it has counted is read before it ends. One that refuses clients takes no request for that either.
    fn awaits_page(&self, ctx: &mut Context<'_>, worker: WorkerId) -> bool {
        let held = ctx.workers.get(&worker);
        let has_one = held.is_some_and(|held| held.spec.metrics_path.is_some());
        !self.refusing.contains_key(&worker) && ctx.pages.holds_up(worker, has_one, Instant::now())
    }

    /// When a socket that the daemon has no hold of leaves its group, the kernel may choose any of the group for a moment: none
    /// of the others may be about to go then.
    fn waits_for_others(&mut self, ctx: &mut Context<'_>, worker: WorkerId) -> bool {
        // One that refuses has closed its listeners already.
        if !ctx.listeners.is_foreign(worker) || self.refusing.contains_key(&worker) {
            return false;
        }
        let last = self.foreign_left.map(|at| at.elapsed());
        let waits = last.is_some_and(|since| since < FOREIGN_PAUSE);
        if !waits {
            self.foreign_left = Some(Instant::now());
        }
        waits
    }

    fn connections_left(agents: &Agents, worker: WorkerId, witness: Witness, found: &Found) -> Option<u64> {
        match witness {
            Witness::Kernel => Some(found.established? as u64),
            Witness::Expected | Witness::Agent | Witness::Asked | Witness::Answered => {
                Some(agents.open(worker)?.connections)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_report_of_nothing_is_not_believed() {
        assert_eq!(Witness::Agent.judge(Some(0)), Verdict::Ask);
        assert_eq!(Witness::Asked.judge(Some(0)), Verdict::Wait(Witness::Asked));
        assert_eq!(Witness::Answered.judge(None), Verdict::Wait(Witness::Answered));
        assert_eq!(Witness::Answered.judge(Some(0)), Verdict::Drained);
    }

    #[test]
    fn a_connection_that_shows_up_late_begins_it_anew() {
        assert_eq!(Witness::Answered.judge(Some(1)), Verdict::Wait(Witness::Agent));
        assert_eq!(Witness::Agent.judge(Some(1)), Verdict::Wait(Witness::Agent));
        assert_eq!(Witness::Agent.judge(None), Verdict::Wait(Witness::Agent));
    }

    #[test]
    fn the_kernel_is_believed_at_once_and_an_agent_must_acknowledge_first() {
        assert_eq!(Witness::Kernel.judge(Some(0)), Verdict::Drained);
        assert_eq!(Witness::Kernel.judge(Some(2)), Verdict::Wait(Witness::Kernel));
        assert_eq!(Witness::Expected.judge(Some(0)), Verdict::Wait(Witness::Expected));
    }
}
