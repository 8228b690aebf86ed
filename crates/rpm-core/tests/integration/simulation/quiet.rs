//! The end of a run: nothing goes wrong any more, and nothing may be left over.

use std::collections::BTreeSet;

use rpm_core::{SlotId, StateView, Ticket};

use super::actions::advance;
use super::world::{Verdict, World, demand};

/// From now on nothing goes wrong any more.
pub(crate) fn calm(world: &mut World) {
    world.faults = false;
    for process in world.processes.values_mut() {
        process.frozen = false;
    }
}

pub(crate) fn quiesce(world: &mut World) -> Verdict {
    for round in 0..3000 {
        if round % 10 == 0 {
            drain_queues(world)?;
        }
        if world.agenda.is_empty() && world.core.poll_timeout().is_none() {
            return drain_queues(world);
        }
        advance(world)?;
    }
    Err("no end: the core goes on by itself".to_owned())
}

fn drain_queues(world: &mut World) -> Verdict {
    let lengths: Vec<(SlotId, u32)> = world.open_slots().into_iter().map(|slot| (slot, 0)).collect();
    for (slot, _) in &lengths {
        world.slots.entry(*slot).and_modify(|slot| slot.queue = 0);
    }
    world.sample(&lengths)
}

pub(crate) fn check_quiet(world: &World) -> Verdict {
    let mut online = 0;
    for instance in world.core.instances() {
        match instance.state {
            StateView::Online { .. } => online += 1,
            StateView::Stopped | StateView::Errored => {}
            StateView::Launching { .. } | StateView::Stopping { .. } | StateView::WaitingRestart { .. } => {
                return Err(format!("left over: {instance:?}"));
            }
        }
    }
    demand(world.alive().len() == online, || {
        "processes and instances differ".to_owned()
    })?;
    check_settled(world)?;
    world.scalings.check(&world.core)?;
    for (id, slot) in world.slots.iter().filter(|(_, slot)| slot.open) {
        let serving = slot.holder.is_some_and(|worker| world.is_online(worker));
        demand(serving, || format!("{id:?} is open and nobody serves it"))?;
        demand(world.steered_to(*id), || {
            format!("{id:?} is served and not steered to")
        })?;
    }
    Ok(())
}

fn check_settled(world: &World) -> Verdict {
    let open: BTreeSet<Ticket> = world
        .tickets
        .iter()
        .filter(|(_, settled)| !**settled)
        .map(|(ticket, _)| *ticket)
        .collect();
    demand(open.is_empty(), || format!("never settled: {open:?}"))
}

pub(crate) fn check_end(world: &World) -> Verdict {
    check_settled(world)?;
    demand(world.core.instances().next().is_none(), || {
        "instances survive the shutdown".to_owned()
    })?;
    demand(world.open_slots().is_empty(), || {
        "slots survive the shutdown".to_owned()
    })?;
    demand(world.alive().is_empty(), || {
        "processes survive the shutdown".to_owned()
    })?;
    demand(world.apps.is_empty(), || {
        format!("apps survive the shutdown: {:?}", world.apps.keys())
    })
}
