//! The parts of the stories about reloads.

use rpm_core::protocol::{
    AppConfig, Command, Failure, Input, Notice, Outcome, Output, Readiness, RestartPolicy, UndoCause,
};
use rpm_core::{Generation, InstanceId, LeavingPhase, Ticket, WorkerId};

use super::{APP, Rig, online};

pub(crate) fn proved(worker: u64) -> [Output; 2] {
    let ready = Notice::CandidateReady {
        worker: WorkerId(worker),
    };
    [online(worker, false), Output::Notice(ready)]
}

pub(crate) fn begun(generation: u32, instances: u32) -> Output {
    Output::Notice(Notice::ReloadBegun {
        app: APP,
        generation: Generation(generation),
        instances,
    })
}

/// The second generation serves.
pub(crate) fn reload_done() -> Output {
    Output::Notice(Notice::ReloadDone {
        app: APP,
        generation: Generation(2),
        returned: false,
    })
}

/// The second generation is removed.
pub(crate) fn undone(cause: UndoCause) -> Output {
    Output::Notice(Notice::ReloadUndone {
        app: APP,
        generation: Generation(2),
        cause,
    })
}

pub(crate) fn failure_of(instance: u32, worker: u64, failure: Failure) -> UndoCause {
    UndoCause::Failed {
        instance: InstanceId(instance),
        worker: WorkerId(worker),
        failure,
    }
}

pub(crate) fn failed(ticket: u64, instance: u32, worker: u64, failure: Failure) -> Output {
    Output::Done {
        ticket: Ticket(ticket),
        outcome: Outcome::Failed {
            instance: Some(InstanceId(instance)),
            worker: Some(WorkerId(worker)),
            failure,
        },
    }
}

pub(crate) fn reload(rig: &mut Rig) -> Vec<Output> {
    rig.command(Command::Reload {
        app: APP,
        config: None,
        yields: false,
        then_scale: None,
    })
}

/// A reload that nobody waits for.
pub(crate) fn reload_yielding(rig: &mut Rig) -> Vec<Output> {
    rig.command(Command::Reload {
        app: APP,
        config: None,
        yields: true,
        then_scale: None,
    })
}

pub(crate) fn reload_with(rig: &mut Rig, config: AppConfig) -> Vec<Output> {
    rig.command(Command::Reload {
        app: APP,
        config: Some(config),
        yields: false,
        then_scale: None,
    })
}

pub(crate) fn drained(rig: &mut Rig, worker: u64) -> Vec<Output> {
    rig.input(Input::Drained {
        worker: WorkerId(worker),
    })
}

/// The candidate runs, takes this slot and listens.
pub(crate) fn prove(rig: &mut Rig, slot: u32, worker: u64) -> Vec<Output> {
    rig.spawned(worker);
    rig.take_slot(slot, worker)
}

/// It drains, and takes clients that come.
pub(crate) const DRAINING: LeavingPhase = LeavingPhase::Draining { refuses_new: None };

pub(crate) fn leaving(rig: &Rig) -> Vec<(u64, LeavingPhase)> {
    rig.core
        .leaving(APP)
        .map(|view| (view.worker.0, view.phase))
        .collect()
}

pub(crate) fn is_ready(rig: &Rig, worker: u64) -> bool {
    rig.core
        .worker(WorkerId(worker))
        .is_some_and(|worker| worker.online)
}

/// Two instances; the first is served by its new worker, 3 on slot 10; the candidate of the second is 4.
pub(crate) fn halfway() -> Rig {
    let mut rig = Rig::serving(2);
    reload(&mut rig);
    prove(&mut rig, 10, 3);
    rig.spawned(4);
    rig
}

/// One instance on slot 0; the candidate is worker 2, whose process runs.
pub(crate) fn beginning(policy: RestartPolicy) -> Rig {
    let mut rig = Rig::started(1, Readiness::Listens, policy);
    rig.take_slot(0, 1);
    reload(&mut rig);
    rig.spawned(2);
    rig
}
