//! A core with a hand on its clock, for tests that tell a story.

pub(crate) mod rollout;

use std::time::Duration;

use rpm_core::protocol::{
    AppConfig, Command, Exit, Failure, Input, Notice, Outcome, Output, Readiness, RestartPolicy,
};
use rpm_core::{
    AppId, Core, Generation, GroupId, InstanceId, InstanceView, Revision, SlotId, StateView, Tick, Ticket,
    WorkerId,
};

pub(crate) const APP: AppId = AppId(7);
pub(crate) const GROUP: GroupId = GroupId(0);

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// How many seeds to run; `RPM_SIM_SEEDS` says otherwise.
pub(crate) fn seeds(usual: u64) -> u64 {
    let wanted = std::env::var("RPM_SIM_SEEDS").ok();
    wanted.map_or(usual, |wanted| wanted.parse().expect("RPM_SIM_SEEDS is a number"))
}

pub(crate) fn instances(ids: &[u32]) -> Vec<InstanceId> {
    ids.iter().copied().map(InstanceId).collect()
}

pub(crate) fn slots(ids: &[u32]) -> Vec<SlotId> {
    ids.iter().copied().map(SlotId).collect()
}

pub(crate) fn steer(ids: &[u32]) -> Output {
    Output::Steer {
        group: GROUP,
        slots: slots(ids),
    }
}

pub(crate) fn close(slot: u32, to: &[u32]) -> Output {
    Output::CloseSlot {
        slot: SlotId(slot),
        to: slots(to),
    }
}

pub(crate) fn rescue(slot: u32, holder: Option<u64>, to: &[u32]) -> Output {
    Output::Rescue {
        slot: SlotId(slot),
        holder: holder.map(WorkerId),
        to: slots(to),
    }
}

pub(crate) fn terminate(worker: u64) -> Output {
    Output::Terminate {
        worker: WorkerId(worker),
    }
}

pub(crate) fn drain(worker: u64) -> Output {
    Output::Drain {
        worker: WorkerId(worker),
    }
}

pub(crate) fn draining(worker: u64) -> Output {
    Output::Notice(Notice::Draining {
        worker: WorkerId(worker),
    })
}

pub(crate) fn kill(worker: u64) -> Output {
    Output::Kill {
        worker: WorkerId(worker),
    }
}

pub(crate) fn probe(worker: u64) -> Output {
    Output::Probe {
        worker: WorkerId(worker),
    }
}

pub(crate) fn stalled(slot: u32, queued: u32) -> Output {
    Output::Notice(Notice::Stalled {
        slot: SlotId(slot),
        queued,
    })
}

pub(crate) fn recovered(slot: u32) -> Output {
    Output::Notice(Notice::Recovered { slot: SlotId(slot) })
}

pub(crate) fn online(worker: u64, silent: bool) -> Output {
    Output::Notice(Notice::Online {
        worker: WorkerId(worker),
        silent,
    })
}

pub(crate) fn deleted(instance: u32) -> Output {
    Output::Notice(Notice::Deleted {
        instance: InstanceId(instance),
        app: APP,
    })
}

pub(crate) fn spawn(worker: u64, generation: u32, instance: u32, number: u32) -> Output {
    Output::Spawn {
        worker: WorkerId(worker),
        app: APP,
        generation: Generation(generation),
        revision: Revision(1),
        instance: InstanceId(instance),
        number,
    }
}

/// The outcome of a command that failed.
pub(crate) fn failed(ticket: u64, instance: Option<u32>, worker: Option<u64>, failure: Failure) -> Output {
    let (instance, worker) = (instance.map(InstanceId), worker.map(WorkerId));
    Output::Done {
        ticket: Ticket(ticket),
        outcome: Outcome::Failed {
            instance,
            worker,
            failure,
        },
    }
}

pub(crate) fn done(ticket: u64, ids: &[u32]) -> Output {
    let outcome = Outcome::Done {
        instances: instances(ids),
        silent: Vec::new(),
    };
    Output::Done {
        ticket: Ticket(ticket),
        outcome,
    }
}

pub(crate) struct Rig {
    pub(crate) core: Core,
    pub(crate) now: Tick,
    next_ticket: u64,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Rig {
            core: Core::new(1),
            now: Tick::default(),
            next_ticket: 1,
        }
    }

    /// An app of `count` instances, spawned; its ticket is 1.
    pub(crate) fn started(count: u32, readiness: Readiness, policy: RestartPolicy) -> Self {
        let mut rig = Rig::new();
        rig.start(count, readiness, policy);
        for worker in 1..=u64::from(count) {
            rig.input(Input::Spawned {
                worker: WorkerId(worker),
            });
        }
        rig
    }

    /// An app of `count` online instances with default policy: worker `i + 1` serves slot `i`.
    pub(crate) fn serving(count: u32) -> Self {
        let mut rig = Rig::started(count, Readiness::Listens, RestartPolicy::default());
        for slot in 0..count {
            rig.take_slot(slot, u64::from(slot) + 1);
        }
        rig
    }

    pub(crate) fn start(&mut self, count: u32, readiness: Readiness, policy: RestartPolicy) -> Vec<Output> {
        let config = AppConfig {
            instances: count,
            readiness,
            policy,
            ..AppConfig::default()
        };
        self.command(Command::Start { app: APP, config })
    }

    /// The worker gets the slot and listens.
    pub(crate) fn take_slot(&mut self, slot: u32, worker: u64) -> Vec<Output> {
        let mut outputs = self.hold(slot, worker);
        outputs.extend(self.input(Input::Listening {
            worker: WorkerId(worker),
        }));
        outputs
    }

    pub(crate) fn hold(&mut self, slot: u32, worker: u64) -> Vec<Output> {
        let (slot, worker) = (SlotId(slot), WorkerId(worker));
        self.input(Input::SlotHeld {
            slot,
            group: GROUP,
            worker,
            fixed: true,
        })
    }

    pub(crate) fn command(&mut self, command: Command) -> Vec<Output> {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.input(Input::Command { ticket, command })
    }

    pub(crate) fn stop(&mut self, ids: &[u32]) -> Vec<Output> {
        self.command(Command::Stop {
            instances: instances(ids),
            hard: true,
        })
    }

    pub(crate) fn restart(&mut self, ids: &[u32]) -> Vec<Output> {
        self.command(Command::Restart {
            instances: instances(ids),
        })
    }

    pub(crate) fn delete(&mut self, ids: &[u32]) -> Vec<Output> {
        self.command(Command::Delete {
            instances: instances(ids),
            hard: true,
        })
    }

    pub(crate) fn spawned(&mut self, worker: u64) -> Vec<Output> {
        self.input(Input::Spawned {
            worker: WorkerId(worker),
        })
    }

    pub(crate) fn listening(&mut self, worker: u64) -> Vec<Output> {
        self.input(Input::Listening {
            worker: WorkerId(worker),
        })
    }

    pub(crate) fn exited(&mut self, worker: u64) -> Vec<Output> {
        self.exited_with(worker, Exit::Code(1))
    }

    pub(crate) fn exited_with(&mut self, worker: u64, exit: Exit) -> Vec<Output> {
        self.input(Input::Exited {
            worker: WorkerId(worker),
            exit,
        })
    }

    pub(crate) fn queue(&mut self, slot: u32, len: u32) -> Vec<Output> {
        self.input(Input::Queue {
            slot: SlotId(slot),
            len,
        })
    }

    /// Samples several slots, 5 ms after the last time.
    pub(crate) fn tick(&mut self, lengths: &[(u32, u32)]) -> Vec<Output> {
        let mut outputs = self.pass(ms(5));
        for &(slot, len) in lengths {
            outputs.extend(self.queue(slot, len));
        }
        outputs
    }

    pub(crate) fn input(&mut self, input: Input) -> Vec<Output> {
        self.core.handle(input, self.now);
        self.drain()
    }

    /// Lets time pass, with every deadline met on time.
    pub(crate) fn pass(&mut self, span: Duration) -> Vec<Output> {
        let end = self.now + span;
        let mut outputs = Vec::new();
        while let Some(at) = self.core.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.core.handle_timeout(self.now);
            outputs.extend(self.drain());
        }
        self.now = end;
        outputs
    }

    /// Lets time pass at once, as for a daemon that was suspended: all deadlines of it are met together, late.
    pub(crate) fn pass_asleep(&mut self, span: Duration) -> Vec<Output> {
        self.now = self.now + span;
        self.core.handle_timeout(self.now);
        self.drain()
    }

    pub(crate) fn view(&self, instance: u32) -> InstanceView {
        self.core
            .instance(InstanceId(instance))
            .expect("no such instance")
    }

    pub(crate) fn should_listen(&self) -> Vec<(WorkerId, Duration)> {
        self.core.should_listen().collect()
    }

    pub(crate) fn state(&self, instance: u32) -> StateView {
        self.view(instance).state
    }

    fn drain(&mut self) -> Vec<Output> {
        let outputs = std::iter::from_fn(|| self.core.poll_output()).collect();
        if let Err(violation) = self.core.check_invariants() {
            panic!("{violation}; outputs: {outputs:?}");
        }
        outputs
    }
}
