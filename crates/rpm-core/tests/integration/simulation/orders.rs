//! What the core tells workers, and how they take it.

use rpm_core::WorkerId;
use rpm_core::protocol::{Exit, Input};

use super::world::{Event, Fate, Verdict, Wish, World, demand};

impl World {
    pub(crate) fn drain(&mut self, worker: WorkerId) -> Verdict {
        self.rollouts.told(worker)?;
        self.check_aside(worker)?;
        let process = self.processes.get_mut(&worker).ok_or("unknown worker drained")?;
        process.draining = true;
        let first = !std::mem::replace(&mut process.watched, true);
        demand(
            first && !process.terminated && process.fate == Fate::Alive,
            || format!("{worker:?} cannot drain"),
        )?;
        let delay = self.dice.up_to_ms(5000);
        match self.dice.roll(10) {
            0..6 => self.plan(delay, Event::Tell(Input::Drained { worker })),
            6 => self.plan(delay / 5, Event::Tell(Input::DrainFailed { worker })),
            _ => {}
        }
        Ok(())
    }

    /// The worker closes its listeners one after the other; or it cannot.
    pub(crate) fn refuse(&mut self, worker: WorkerId) -> Verdict {
        let process = self.processes.get(&worker).ok_or("unknown worker is to refuse")?;
        demand(process.fate == Fate::Alive && !process.terminated, || {
            format!("{worker:?} cannot refuse")
        })?;
        if !process.watched {
            // That it cannot drain was said already.
            return Ok(());
        }
        if self.dice.percent(20) {
            let delay = self.dice.up_to_ms(1000);
            self.plan(delay, Event::Tell(Input::DrainFailed { worker }));
            return Ok(());
        }
        let held = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.open && slot.holder == Some(worker));
        for slot in held.map(|(id, _)| *id).collect::<Vec<_>>() {
            let delay = self.dice.up_to_ms(100);
            self.plan(delay, Event::Release(slot, worker));
        }
        let delay = self.dice.up_to_ms(5000);
        self.plan(delay, Event::Tell(Input::Drained { worker }));
        Ok(())
    }

    /// A worker that drains is looked at until it has nothing left; and again when clients came to it since, or are to come no more.
    pub(crate) fn check_watched(&self, worker: WorkerId, refuses: bool) -> Verdict {
        let watched = self.processes.get(&worker).is_some_and(|it| it.watched);
        let serves = self
            .slots
            .iter()
            .any(|(id, slot)| slot.open && slot.holder == Some(worker) && self.steered_to(*id));
        demand(watched || (serves && !refuses), || {
            format!("{worker:?} drains, and nobody looks at what it has left")
        })
    }

    /// Nobody is steered to a worker that leaves while another one is online.
    pub(crate) fn check_aside(&self, worker: WorkerId) -> Verdict {
        let steered = self.slots.iter().filter(|(id, slot)| {
            slot.open && slot.holder == Some(worker) && self.steered_in(slot.group).contains(id)
        });
        for (id, slot) in steered {
            let mut others = self.slots.values().filter(|it| it.open && it.group == slot.group);
            let better = others.any(|it| it.holder.is_some_and(|worker| self.is_online(worker)));
            demand(!better, || {
                format!("{worker:?} leaves, others are online, and {id:?} is steered to")
            })?;
        }
        Ok(())
    }

    pub(crate) fn terminate(&mut self, worker: WorkerId) -> Verdict {
        self.rollouts.told(worker)?;
        self.check_aside(worker)?;
        let process = self
            .processes
            .get_mut(&worker)
            .ok_or("unknown worker terminated")?;
        let first = !std::mem::replace(&mut process.terminated, true);
        demand(first && process.fate == Fate::Alive, || {
            format!("{worker:?} cannot be terminated")
        })?;
        let (instance, drained) = (process.instance, process.draining);
        let resting = self.wishes.get(&instance) == Some(&Wish::Rest);
        let open = self
            .slots
            .values()
            .any(|slot| slot.open && slot.holder == Some(worker));
        // One that drains while others serve keeps its slots to its end: what waits in them is moved.
        demand(!(resting && open) || drained, || {
            format!("{worker:?} is told to stop before its slots are closed")
        })?;
        if !self.mishap(40) {
            let delay = self.dice.up_to_ms(if self.faults { 3000 } else { 50 });
            self.plan(delay, Event::Die(worker, Exit::Code(0)));
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self, worker: WorkerId) -> Verdict {
        self.rollouts.told(worker)?;
        let process = self.processes.get(&worker).ok_or("unknown worker killed")?;
        let told = process.terminated || self.core.worker(worker).is_some_and(|it| it.spawned.is_none());
        demand(told && process.fate != Fate::Dead, || {
            format!("{worker:?} cannot be killed")
        })?;
        if !self.mishap(20) {
            let delay = self.dice.up_to_ms(20);
            self.plan(delay, Event::Die(worker, Exit::Signal(9)));
        }
        Ok(())
    }
}
