//! The shell dies, and another one takes up what it had stored.

use rpm_core::protocol::{Command, Exit, Input};
use rpm_core::{AppId, Core, SlotId, WorkerId};

use super::actions::{bury, command};
use super::world::{Fate, Line, Verdict, World, demand};

/// The shell dies. Some processes do so too while there is none; those that were not known to run are ended by
/// the next one.
pub(crate) fn fall(world: &mut World) -> Verdict {
    let mut ended = Vec::new();
    for worker in world.processes.keys().copied().collect::<Vec<_>>() {
        let dies = world.mishap(20);
        let fate = world.processes.get(&worker).map(|process| process.fate);
        let spawned = world.core.worker(worker).is_some_and(|it| it.spawned.is_some());
        match fate {
            Some(Fate::Alive) if spawned && !dies => {}
            Some(Fate::Alive | Fate::Asked) => ended.push((worker, spawned)),
            Some(Fate::Dead) | None => {}
        }
    }
    let ids: Vec<WorkerId> = ended.iter().map(|(worker, _)| *worker).collect();
    world.fall(&ids)?;
    for (worker, spawned) in ended {
        bury(world, worker);
        world.rollouts.crashed(worker);
        let exit = Exit::Signal(9);
        world.tell(if spawned {
            Input::Exited { worker, exit }
        } else {
            Input::SpawnFailed { worker }
        })?;
    }
    let reloads = |app: &AppId| world.core.app(*app).is_some_and(|view| view.reload.is_some());
    let apps: Vec<AppId> = world.apps.keys().copied().filter(reloads).collect();
    for app in apps {
        command(world, Command::Undo { app })?;
    }
    Ok(())
}

/// What follows from a snapshot and is not in it (indexes, deadlines, eligible slots), with the rest of instances, workers and slots. The
/// core's clock, its random numbers, and who waits for a reload are not what they were.
fn derived(core: &Core) -> String {
    let text = format!("{core:?}");
    let from = text.find(", instances: Instances {").expect("all instances");
    let to = text.find(", tickets: Tickets {").expect("the tickets");
    text[from..to].to_owned()
}

impl World {
    /// The shell dies and another one goes on. Processes with these ids have ended meanwhile.
    fn fall(&mut self, ended: &[WorkerId]) -> Verdict {
        let snapshot = self.core.snapshot();
        let before = derived(&self.core);
        // Which delays are drawn from now on is decided by how far the world is.
        let seed = self.history.len() as u64;
        self.core = Core::restore(snapshot.clone(), seed).map_err(|error| error.to_string())?;
        let again = self.core.snapshot();
        demand(again == snapshot, || {
            format!("before: {snapshot:?}\nafter: {again:?}")
        })?;
        let after = derived(&self.core);
        demand(after == before, || format!("before: {before}\nafter: {after}"))?;
        for settled in self.tickets.values_mut() {
            *settled = true;
        }
        let lost: Vec<SlotId> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.open && slot.holder.is_none_or(|worker| ended.contains(&worker)))
            .map(|(id, _)| *id)
            .collect();
        self.scalings.fall();
        for process in self.processes.values_mut() {
            process.watched = false;
        }
        self.history.push((self.now, Line::Fall));
        self.commanded = true;
        self.core.take_over(self.now, &lost);
        self.obey_all()?;
        // The next shell goes on with every drain.
        for process in self.processes.values_mut() {
            process.watched = process.draining && !process.terminated;
        }
        for &worker in ended {
            self.rollouts.crashed(worker);
        }
        self.core
            .check_invariants()
            .map_err(|violation| violation.to_string())
    }
}
