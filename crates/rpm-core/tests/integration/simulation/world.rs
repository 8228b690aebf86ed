//! What the shell knows: processes, slots and tickets; and what it demands of every output.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rpm_core::protocol::{AppConfig, Exit, Input, Notice, Output};
use rpm_core::{
    AppId, Core, Generation, GroupId, InstanceId, LeavingPhase, SlotId, StateView, Tick, Ticket, WorkerId,
};

use super::dice::Dice;
use super::rollout::Rollouts;
use super::scaling::Scalings;

/// Of commands given to a shell that has died.
const NOBODY: Ticket = Ticket(u64::MAX);

/// A broken demand.
pub(crate) type Verdict = Result<(), String>;

pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) now: Tick,
    pub(crate) dice: Dice,
    /// Whether things go wrong.
    pub(crate) faults: bool,
    /// Whether they do so seldom: then most reloads get somewhere.
    pub(crate) mild: bool,
    pub(crate) agenda: BTreeMap<(Tick, u64), Event>,
    pub(crate) processes: BTreeMap<WorkerId, Process>,
    pub(crate) slots: BTreeMap<SlotId, Slot>,
    pub(crate) tickets: BTreeMap<Ticket, bool>,
    pub(crate) apps: BTreeMap<AppId, AppConfig>,
    /// Instances that were last asked to rest, or to run.
    pub(crate) wishes: BTreeMap<InstanceId, Wish>,
    pub(crate) history: Vec<(Tick, Line)>,
    pub(crate) rollouts: Rollouts,
    pub(crate) scalings: Scalings,
    /// The step that is being checked was a command.
    pub(crate) commanded: bool,
    steered: BTreeMap<GroupId, Vec<SlotId>>,
    serial: u64,
}

/// Something that is going to happen.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "most of them tell something")]
pub(crate) enum Event {
    Tell(Input),
    /// The worker opens a listener.
    Listen(WorkerId, GroupId),
    /// It closes one.
    Release(SlotId, WorkerId),
    /// Its process tree ends.
    Die(WorkerId, Exit),
}

/// What passed between the shell and the core.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    In(Input),
    Timeout,
    Fall,
    Out(Output),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Rest,
    Run,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Asked,
    Alive,
    Dead,
}

pub(crate) struct Process {
    pub(crate) instance: InstanceId,
    pub(crate) generation: Generation,
    pub(crate) fate: Fate,
    pub(crate) frozen: bool,
    pub(crate) draining: bool,
    /// The shell looks at what it has left.
    pub(crate) watched: bool,
    pub(crate) terminated: bool,
}

pub(crate) struct Slot {
    pub(crate) group: GroupId,
    pub(crate) instance: InstanceId,
    pub(crate) generation: Generation,
    pub(crate) holder: Option<WorkerId>,
    pub(crate) open: bool,
    pub(crate) queue: u32,
}

pub(crate) fn demand(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(what()) }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        World {
            core: Core::new(seed),
            now: Tick::default(),
            dice: Dice::new(seed),
            faults: true,
            mild: seed % 2 == 1,
            agenda: BTreeMap::new(),
            processes: BTreeMap::new(),
            slots: BTreeMap::new(),
            tickets: BTreeMap::new(),
            apps: BTreeMap::new(),
            wishes: BTreeMap::new(),
            history: Vec::new(),
            rollouts: Rollouts::default(),
            scalings: Scalings::default(),
            commanded: false,
            steered: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Does something go wrong that does so in so many percent of all cases?
    pub(crate) fn mishap(&mut self, percent: u64) -> bool {
        self.faults && self.dice.percent(if self.mild { percent / 5 } else { percent })
    }

    pub(crate) fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn plan(&mut self, delay: Duration, event: Event) {
        let key = (self.now + delay, self.serial());
        self.agenda.insert(key, event);
    }

    /// Passes an input to the core, does what it says, and checks everything.
    pub(crate) fn tell(&mut self, input: Input) -> Verdict {
        self.pass_on(input)?;
        self.check()
    }

    /// Samples all these queues; one step, as far as the checks are concerned.
    pub(crate) fn sample(&mut self, lengths: &[(SlotId, u32)]) -> Verdict {
        for &(slot, len) in lengths {
            self.pass_on(Input::Queue { slot, len })?;
        }
        self.check()
    }

    fn pass_on(&mut self, input: Input) -> Verdict {
        self.history.push((self.now, Line::In(input.clone())));
        self.commanded = matches!(input, Input::Command { .. });
        if let Input::Drained { worker } | Input::DrainFailed { worker } = input
            && let Some(process) = self.processes.get_mut(&worker)
        {
            process.watched = false;
        }
        self.core.handle(input, self.now);
        self.obey_all()
    }

    pub(crate) fn time_out(&mut self) -> Verdict {
        self.history.push((self.now, Line::Timeout));
        self.commanded = false;
        self.core.handle_timeout(self.now);
        self.obey_all()?;
        self.check()
    }

    pub(crate) fn alive(&self) -> Vec<WorkerId> {
        let alive = |(&id, process): (&WorkerId, &Process)| (process.fate == Fate::Alive).then_some(id);
        self.processes.iter().filter_map(alive).collect()
    }

    pub(crate) fn open_slots(&self) -> Vec<SlotId> {
        let open = |(&id, slot): (&SlotId, &Slot)| slot.open.then_some(id);
        self.slots.iter().filter_map(open).collect()
    }

    pub(crate) fn is_online(&self, worker: WorkerId) -> bool {
        self.core.worker(worker).is_some_and(|worker| worker.online)
    }

    pub(crate) fn steered_to(&self, slot: SlotId) -> bool {
        self.slots
            .get(&slot)
            .is_some_and(|known| self.steered_in(known.group).contains(&slot))
    }

    pub(crate) fn steered_in(&self, group: GroupId) -> &[SlotId] {
        self.steered.get(&group).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn obey_all(&mut self) -> Verdict {
        while let Some(output) = self.core.poll_output() {
            self.history.push((self.now, Line::Out(output.clone())));
            self.obey(output)?;
        }
        Ok(())
    }

    fn check(&mut self) -> Verdict {
        self.core
            .check_invariants()
            .map_err(|violation| violation.to_string())?;
        let core = &self.core;
        self.wishes.retain(|id, _| core.instance(*id).is_some());
        self.rollouts.check(&self.core, self.commanded)?;
        self.check_steering()?;
        self.check_leaving()?;
        self.check_waits()
    }

    fn obey(&mut self, output: Output) -> Verdict {
        match output {
            Output::Spawn {
                worker,
                generation,
                instance,
                ..
            } => {
                self.check_spawn(worker, instance)?;
                let fate = Fate::Asked;
                let process = Process {
                    instance,
                    generation,
                    fate,
                    frozen: false,
                    draining: false,
                    watched: false,
                    terminated: false,
                };
                self.processes.insert(worker, process);
                super::actions::plan_spawn(self, worker);
                Ok(())
            }
            Output::Terminate { worker } => self.terminate(worker),
            Output::CheckHealth { worker } => {
                if !self.mishap(10) {
                    let delay = self.dice.up_to_ms(300);
                    self.plan(delay, Event::Tell(Input::Healthy { worker }));
                }
                Ok(())
            }
            Output::Drain { worker } => self.drain(worker),
            Output::RefuseNew { worker, .. } => self.refuse(worker),
            Output::Kill { worker } => self.kill(worker),
            Output::Steer { group, slots } => self.steer(group, slots),
            Output::Rescue { slot, holder, to } => self.rescue(slot, holder, &to),
            Output::CloseSlot { slot, to } => self.close(slot, &to),
            Output::Probe { worker } => self.probe(worker),
            Output::Done {
                ticket: NOBODY,
                outcome,
            } => {
                self.scalings.settled_for_nobody(&outcome, &self.core);
                Ok(())
            }
            Output::Done { ticket, outcome } => {
                self.scalings.settled(ticket, &outcome);
                let earlier = self.tickets.insert(ticket, true);
                demand(earlier == Some(false), || {
                    format!("{ticket:?} settled twice or unknown")
                })
            }
            Output::Notice(notice) => self.check_notice(notice),
            Output::AppGone { app } => {
                let known = self.apps.remove(&app).is_some();
                let left = self.core.instances().any(|instance| instance.app == app);
                demand(known && !left, || format!("{app:?} is not gone"))
            }
        }
    }

    fn check_spawn(&self, worker: WorkerId, instance: InstanceId) -> Verdict {
        let newest = self.processes.keys().all(|&earlier| earlier < worker);
        demand(newest && worker.0 > 0, || format!("{worker:?} is not new"))?;
        let generation = self.core.worker(worker).map(|it| it.generation);
        let twin = |(&id, process): (&WorkerId, &Process)| {
            process.fate != Fate::Dead
                && process.instance == instance
                && Some(process.generation) == generation
                && !self.is_leaving(id)
        };
        demand(!self.processes.iter().any(twin), || {
            format!("{instance:?} has two workers of one generation")
        })
    }

    fn is_leaving(&self, worker: WorkerId) -> bool {
        self.leaving(worker).is_some_and(|phase| match phase {
            LeavingPhase::Standby => false,
            LeavingPhase::Draining { .. } | LeavingPhase::Terminating => true,
        })
    }

    fn leaving(&self, worker: WorkerId) -> Option<LeavingPhase> {
        let instance = self.processes.get(&worker)?.instance;
        let app = self.core.instance(instance)?.app;
        let view = self.core.leaving(app).find(|it| it.worker == worker);
        view.map(|view| view.phase)
    }

    fn steer(&mut self, group: GroupId, slots: Vec<SlotId>) -> Verdict {
        for slot in &slots {
            let known = self
                .slots
                .get(slot)
                .filter(|slot| slot.open && slot.group == group);
            demand(known.is_some(), || {
                format!("steered to {slot:?}, which is closed or foreign")
            })?;
        }
        demand(slots.is_sorted(), || format!("unsorted: {slots:?}"))?;
        demand(self.steered_in(group) != slots, || {
            format!("{group:?}: nothing changed")
        })?;
        self.steered.insert(group, slots);
        Ok(())
    }

    fn rescue(&mut self, id: SlotId, holder: Option<WorkerId>, to: &[SlotId]) -> Verdict {
        let slot = self
            .slots
            .get_mut(&id)
            .filter(|slot| slot.open)
            .ok_or("rescue of a closed slot")?;
        demand(slot.holder == holder, || {
            format!("{id:?} is held by {:?}, not {holder:?}", slot.holder)
        })?;
        let queue = std::mem::take(&mut slot.queue);
        self.move_queue(id, queue, to)?;
        demand(!to.is_empty(), || format!("rescue of {id:?} to nowhere"))
    }

    fn close(&mut self, id: SlotId, to: &[SlotId]) -> Verdict {
        demand(!self.steered_to(id), || {
            format!("{id:?} is closed while steered to")
        })?;
        let slot = self
            .slots
            .get_mut(&id)
            .filter(|slot| slot.open)
            .ok_or("slot closed twice")?;
        (slot.open, slot.holder) = (false, None);
        let queue = std::mem::take(&mut slot.queue);
        self.move_queue(id, queue, to)
    }

    fn move_queue(&mut self, from: SlotId, queue: u32, to: &[SlotId]) -> Verdict {
        for target in to {
            let fit = *target != from && self.steered_to(*target);
            demand(fit, || {
                format!("the queue of {from:?} goes to {target:?}, which is not eligible")
            })?;
        }
        if let Some(slot) = to.first().and_then(|first| self.slots.get_mut(first)) {
            slot.queue += queue;
        }
        Ok(())
    }

    fn probe(&mut self, worker: WorkerId) -> Verdict {
        let process = self.processes.get(&worker).ok_or("unknown worker probed")?;
        demand(process.fate == Fate::Alive, || {
            format!("{worker:?} is probed and not alive")
        })?;
        if !self.faults || (!process.frozen && self.dice.percent(70)) {
            let delay = self.dice.up_to_ms(30);
            self.plan(delay, Event::Tell(Input::Responded { worker }));
        }
        Ok(())
    }

    fn check_notice(&mut self, notice: Notice) -> Verdict {
        self.rollouts.note(notice);
        self.scalings.note(notice, &self.processes, &self.core);
        match notice {
            Notice::Crashed { retry_in, .. } => {
                let longest = Duration::from_millis(16_500);
                let in_bounds = retry_in.is_none_or(|delay| delay <= longest);
                demand(in_bounds, || format!("{retry_in:?} is above every cap"))
            }
            Notice::Stalled { slot, .. } => demand(!self.steered_to(slot), || {
                format!("{slot:?} is stalled, and nobody else is there")
            }),
            Notice::Recovered { slot } => demand(self.steered_to(slot), || {
                format!("{slot:?} is said to be back and is not")
            }),
            // Of several deadlines that are met late, one may undo what another did.
            Notice::Online { worker, .. } => {
                demand(self.is_online(worker) || self.is_leaving(worker), || {
                    format!("{worker:?} is said to be online and is not")
                })
            }
            Notice::CandidateReady { .. }
            | Notice::Draining { .. }
            | Notice::ReloadBegun { .. }
            | Notice::ReloadDone { .. }
            | Notice::Scaled { .. }
            | Notice::Deleted { .. }
            | Notice::ReloadUndone { .. } => Ok(()),
        }
    }

    /// Workers that leave have a deadline, and are out of steering.
    fn check_leaving(&self) -> Verdict {
        let apps: BTreeSet<AppId> = self.core.instances().map(|it| it.app).collect();
        for view in apps.into_iter().flat_map(|app| self.core.leaving(app)) {
            let due = match view.phase {
                LeavingPhase::Standby => true,
                LeavingPhase::Draining { .. } | LeavingPhase::Terminating => {
                    view.until >= self.core.poll_timeout()
                }
            };
            demand(due, || format!("{view:?} has no deadline"))?;
            if view.phase != LeavingPhase::Standby {
                self.check_aside(view.worker)?;
            }
            if let LeavingPhase::Draining { refuses_new } = view.phase {
                self.check_watched(view.worker, refuses_new.is_some())?;
            }
        }
        Ok(())
    }

    /// What is in force is what the core says, and no group with an open slot goes without.
    fn check_steering(&self) -> Verdict {
        for slot in self.slots.values().filter(|slot| slot.open) {
            let steered = self.steered_in(slot.group);
            let group = slot.group;
            demand(!steered.is_empty(), || {
                format!("{group:?} has open slots and is steered nowhere")
            })?;
            demand(self.core.eligible(group) == steered, || {
                format!("{group:?}: steering is stale")
            })?;
        }
        Ok(())
    }

    /// Whoever waits has a deadline.
    fn check_waits(&self) -> Verdict {
        let waiting = |instance: rpm_core::InstanceView| match instance.state {
            StateView::Launching { .. } | StateView::Stopping { .. } | StateView::WaitingRestart { .. } => {
                true
            }
            StateView::Online { .. } | StateView::Stopped | StateView::Errored => false,
        };
        let wait = self.core.instances().any(waiting);
        demand(!wait || self.core.poll_timeout().is_some(), || {
            "a wait without a deadline".to_owned()
        })
    }
}
