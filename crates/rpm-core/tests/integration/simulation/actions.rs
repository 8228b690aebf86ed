//! What happens to the world: the course of a run, and its accidents.

use std::time::Duration;

use rpm_core::protocol::{Command, Exit, Input};
use rpm_core::{AppId, GroupId, InstanceId, SlotId, Ticket, WorkerId};

use super::chance::{random_app, random_config, random_instances, random_worker};
use super::death;
use super::quiet::{calm, check_end, check_quiet, quiesce};
use super::world::{Event, Fate, Slot, Verdict, Wish, World, demand};

/// A random history of so many steps, then quiet, then a shutdown.
pub(crate) fn run(world: &mut World, steps: u32) -> Verdict {
    start(world)?;
    for _ in 0..steps {
        step(world)?;
    }
    calm(world);
    quiesce(world)?;
    check_quiet(world)?;
    command(world, Command::Shutdown)?;
    quiesce(world)?;
    check_end(world)
}

/// The shell was asked to spawn: what will come of it.
pub(crate) fn plan_spawn(world: &mut World, worker: WorkerId) {
    let delay = world.dice.up_to_ms(40);
    if world.mishap(10) {
        // Without a process there is nothing that could die later: told at once.
        world.plan(delay, Event::Tell(Input::SpawnFailed { worker }));
        return;
    }
    if !world.mishap(5) {
        world.plan(delay, Event::Tell(Input::Spawned { worker }));
    }
    plan_life(world, worker, delay);
}

fn plan_life(world: &mut World, worker: WorkerId, spawned: Duration) {
    let first = world
        .processes
        .get(&worker)
        .is_some_and(|it| it.instance.0 % 3 == 0);
    let chances = match (world.mild, first) {
        (false, _) => [90, 20],
        (true, false) => [98, 0],
        (true, true) => [98, 98],
    };
    for (group, chance) in (0..).zip(chances) {
        if world.dice.percent(chance) {
            let delay = spawned + world.dice.up_to_ms(100);
            world.plan(delay, Event::Listen(worker, GroupId(group)));
        }
    }
    let slow = world.faults && !world.mild;
    let ready = spawned + world.dice.up_to_ms(if slow { 4000 } else { 200 });
    for input in [Input::Listening { worker }, Input::Ready { worker }] {
        if !world.mishap(25) {
            world.plan(ready, Event::Tell(input));
        }
    }
    if world.dice.percent(5) {
        world.plan(ready, Event::Tell(Input::Withheld { worker }));
    }
    if world.dice.percent(5) {
        let delay = spawned + world.dice.up_to_ms(1500);
        world.plan(delay, Event::Tell(Input::Starved { worker }));
    }
    if world.dice.percent(5) {
        let delay = spawned + world.dice.up_to_ms(4000);
        world.plan(delay, Event::Tell(Input::Rests { worker }));
    }
    if world.dice.percent(15) {
        let (group, fixed) = (GroupId(10), world.dice.percent(80));
        let delay = spawned + world.dice.up_to_ms(100);
        let held = Input::SharedHeld { group, worker, fixed };
        world.plan(delay, Event::Tell(held));
        if world.dice.percent(30) {
            let delay = delay + world.dice.up_to_ms(5000);
            world.plan(delay, Event::Tell(Input::SharedReleased { group, worker }));
        }
    }
    if world.mishap(40) {
        let longest = [50, 2000, 60_000][world.dice.roll(3) as usize];
        let delay = spawned + world.dice.up_to_ms(longest);
        world.plan(delay, Event::Die(worker, Exit::Code(1)));
    }
}

fn step(world: &mut World) -> Verdict {
    match world.dice.roll(100) {
        0..40 => advance(world),
        40..70 => tick(world),
        70..79 => random_command(world),
        79 => death::fall(world),
        80..86 => stray_input(world),
        86..90 => jump(world),
        90..93 => release(world),
        93..96 => {
            let alive = world.alive();
            let victim = world.dice.pick(&alive);
            victim.map_or(Ok(()), |worker| {
                happen(world, Event::Die(worker, Exit::Signal(11)))
            })
        }
        _ => {
            let alive = world.alive();
            if let Some(worker) = world.dice.pick(&alive) {
                let process = world.processes.get_mut(&worker);
                process
                    .into_iter()
                    .for_each(|process| process.frozen = !process.frozen);
            }
            Ok(())
        }
    }
}

/// To the next event or deadline.
pub(crate) fn advance(world: &mut World) -> Verdict {
    let event = world.agenda.keys().next().copied();
    let deadline = world.core.poll_timeout();
    match (event, deadline) {
        (Some(key), due) if due.is_none_or(|due| key.0 <= due) => {
            world.now = world.now.max(key.0);
            let event = world.agenda.remove(&key);
            event.map_or(Ok(()), |event| happen(world, event))
        }
        (_, Some(due)) => {
            world.now = world.now.max(due);
            world.time_out()
        }
        (_, None) => Ok(()),
    }
}

fn happen(world: &mut World, event: Event) -> Verdict {
    match event {
        Event::Listen(worker, group) => listen(world, worker, group),
        Event::Release(slot, worker) => match world.slots.get_mut(&slot) {
            Some(known) if known.holder == Some(worker) => {
                known.holder = None;
                world.tell(Input::SlotReleased { slot, worker })
            }
            Some(_) | None => Ok(()),
        },
        Event::Die(worker, exit) => die(world, worker, exit),
        Event::Tell(input) => {
            match input {
                Input::Spawned { worker } => revive(world, worker),
                Input::SpawnFailed { worker } => bury(world, worker),
                // The dead tell nothing.
                Input::Listening { worker }
                | Input::Ready { worker }
                | Input::Responded { worker }
                | Input::Healthy { worker }
                | Input::Withheld { worker }
                | Input::Starved { worker }
                | Input::Rests { worker }
                | Input::SharedHeld { worker, .. }
                    if world
                        .processes
                        .get(&worker)
                        .is_none_or(|it| it.fate == Fate::Dead) =>
                {
                    return Ok(());
                }
                Input::Listening { worker } | Input::Ready { worker } => revive(world, worker),
                Input::Responded { .. }
                | Input::Healthy { .. }
                | Input::Withheld { .. }
                | Input::Starved { .. }
                | Input::Rests { .. }
                | Input::Command { .. }
                | Input::Exited { .. }
                | Input::SlotHeld { .. }
                | Input::SlotReleased { .. }
                | Input::SharedHeld { .. }
                | Input::SharedReleased { .. }
                | Input::Drained { .. }
                | Input::DrainFailed { .. }
                | Input::Queue { .. }
                | Input::Room { .. } => {}
            }
            world.tell(input)
        }
    }
}

fn revive(world: &mut World, worker: WorkerId) {
    if let Some(process) = world.processes.get_mut(&worker)
        && process.fate == Fate::Asked
    {
        process.fate = Fate::Alive;
    }
}

pub(crate) fn bury(world: &mut World, worker: WorkerId) {
    if let Some(process) = world.processes.get_mut(&worker) {
        process.fate = Fate::Dead;
    }
    for slot in world
        .slots
        .values_mut()
        .filter(|slot| slot.holder == Some(worker))
    {
        slot.holder = None;
    }
}

fn die(world: &mut World, worker: WorkerId, exit: Exit) -> Verdict {
    if world
        .processes
        .get(&worker)
        .is_none_or(|process| process.fate == Fate::Dead)
    {
        return Ok(());
    }
    bury(world, worker);
    world.rollouts.crashed(worker);
    world.tell(Input::Exited { worker, exit })
}

/// A worker opens a listener: it gets the slot that it inherits, or a new one.
fn listen(world: &mut World, worker: WorkerId, group: GroupId) -> Verdict {
    let Some(process) = world
        .processes
        .get(&worker)
        .filter(|process| process.fate != Fate::Dead)
    else {
        return Ok(());
    };
    let (instance, generation) = (process.instance, process.generation);
    let own = world.core.slot_for(worker, group);
    // The configuration need not permit it.
    let fits = world.dice.percent(70);
    let former = || world.core.slot_of_former(worker, group).filter(|_| fits);
    let slot = match own.or_else(former) {
        Some(id) => {
            let vacant = world.slots.get(&id).filter(|slot| {
                slot.open
                    && slot.holder.is_none()
                    && (slot.group, slot.instance) == (group, instance)
                    && (own.is_none() || slot.generation == generation)
            });
            demand(vacant.is_some(), || format!("{worker:?} cannot inherit {id:?}"))?;
            id
        }
        None => SlotId(world.serial() as u32),
    };
    let new = Slot {
        group,
        instance,
        generation,
        holder: None,
        open: true,
        queue: 0,
    };
    let held = world.slots.entry(slot).or_insert(new);
    (held.holder, held.generation) = (Some(worker), generation);
    world.tell(Input::SlotHeld {
        slot,
        group,
        worker,
        fixed: group.0 == 0,
    })
}

fn release(world: &mut World) -> Verdict {
    let open = world.open_slots();
    let Some(slot) = world.dice.pick(&open) else {
        return Ok(());
    };
    let holder = world.slots.get_mut(&slot).and_then(|slot| slot.holder.take());
    holder.map_or(Ok(()), |worker| world.tell(Input::SlotReleased { slot, worker }))
}

/// Five milliseconds of traffic, then a sample of every queue.
fn tick(world: &mut World) -> Verdict {
    world.now = world.now + Duration::from_millis(5);
    let due = world.core.poll_timeout().is_some_and(|due| due <= world.now);
    if due && world.dice.percent(80) {
        world.time_out()?;
    }
    let mut lengths = Vec::new();
    for slot in world.open_slots() {
        let arriving = if world.steered_to(slot) {
            world.dice.roll(3) as u32
        } else {
            0
        };
        let accepting = if accepts(world, slot) {
            world.dice.roll(6) as u32
        } else {
            0
        };
        if let Some(known) = world.slots.get_mut(&slot) {
            known.queue = (known.queue + arriving).saturating_sub(accepting);
            lengths.push((slot, known.queue));
        }
    }
    if world.dice.percent(5) {
        lengths.pop();
    }
    world.sample(&lengths)
}

fn accepts(world: &World, slot: SlotId) -> bool {
    let holder = world.slots.get(&slot).and_then(|slot| slot.holder);
    let process = holder.and_then(|worker| world.processes.get(&worker));
    process.is_some_and(|process| process.fate == Fate::Alive && !process.frozen)
}

/// The shell was suspended: everything is late, and comes in any order.
fn jump(world: &mut World) -> Verdict {
    let longest = if world.mild { 1500 } else { 40_000 };
    world.now = world.now + world.dice.up_to_ms(longest);
    if world.dice.percent(50) {
        world.time_out()
    } else {
        Ok(())
    }
}

fn random_command(world: &mut World) -> Verdict {
    let app = random_app(world);
    let instances = random_instances(world);
    let few = world.apps.len() < 2;
    let reload = world.mild && !few && world.dice.percent(70);
    match if reload { 99 } else { world.dice.roll(30) } {
        0..5 if few || !world.mild => start(world),
        5..9 => {
            let hard = world.dice.percent(40);
            command(world, Command::Stop { instances, hard })
        }
        9..13 => command(world, Command::Restart { instances }),
        13..15 => {
            let hard = world.dice.percent(40);
            command(world, Command::Delete { instances, hard })
        }
        15..18 => {
            let count = world.dice.roll(6) as u32;
            command(world, Command::Scale { app, count })
        }
        18..20 => {
            let config = random_config(world);
            command(world, Command::Configure { app, config })
        }
        20 => command(world, Command::Undo { app }),
        21 => command(world, Command::Reset { instances }),
        // What is proved of whole reloads is proved of the others.
        24..26 => {
            let count = world.dice.roll(6) as u32;
            command(world, Command::RestartAndScale { app, count })?;
            // What is half done when the shell dies is what this is about.
            if world.dice.percent(25) {
                death::fall(world)
            } else {
                Ok(())
            }
        }
        22..24 if app.0.is_multiple_of(2) => command(world, Command::Replace { app, instances }),
        _ => {
            let config = world.dice.percent(60).then(|| random_config(world));
            let yields = world.dice.percent(25);
            let scales = world.dice.percent(15);
            let then_scale = scales.then(|| world.dice.roll(6) as u32);
            command(
                world,
                Command::Reload {
                    app,
                    config,
                    yields,
                    then_scale,
                },
            )
        }
    }
}

fn start(world: &mut World) -> Verdict {
    let app = AppId(world.serial() as u32);
    let config = random_config(world);
    world.apps.insert(app, config.clone());
    command(world, Command::Start { app, config })
}

pub(crate) fn command(world: &mut World, command: Command) -> Verdict {
    let ticket = Ticket(world.serial());
    world.tickets.insert(ticket, false);
    world.scalings.commanded(ticket, &command, &world.core);
    let (ids, wish) = match &command {
        Command::Stop { instances, .. } | Command::Delete { instances, .. } => {
            (instances.clone(), Wish::Rest)
        }
        Command::Restart { instances } => (instances.clone(), Wish::Run),
        Command::RestartAndScale { app, .. } => {
            let all = world.core.instances().filter(|it| it.app == *app);
            (all.map(|it| it.id).collect(), Wish::Run)
        }
        Command::Shutdown => (world.core.instances().map(|it| it.id).collect(), Wish::Rest),
        Command::Start { .. }
        | Command::Scale { .. }
        | Command::Configure { .. }
        | Command::Reload { .. }
        | Command::Replace { .. }
        | Command::Reset { .. }
        | Command::Undo { .. } => (Vec::new(), Wish::Run),
    };
    if let Command::Configure { app, .. } = command {
        world.rollouts.configured.insert(app);
        world.rollouts.configuring = Some(app);
    }
    if let Command::Replace { app, .. } = command {
        world.rollouts.mixed.insert(app);
    }
    world.wishes.extend(ids.into_iter().map(|id| (id, wish)));
    world.tell(Input::Command { ticket, command })
}

/// Inputs that a correct shell would not give.
fn stray_input(world: &mut World) -> Verdict {
    let worker = random_worker(world);
    let slot = SlotId(world.dice.roll(200) as u32);
    let open = world.open_slots();
    match world.dice.roll(9) {
        8 => {
            let app = random_app(world);
            let workers = world.dice.percent(70).then(|| world.dice.roll(12) as u32);
            world.tell(Input::Room { app, workers })
        }
        0 => world.tell(Input::Queue { slot, len: u32::MAX }),
        1 => world.tell(Input::SlotReleased {
            slot,
            worker: WorkerId(u64::MAX),
        }),
        2 => {
            let gone = world
                .processes
                .get(&worker)
                .is_none_or(|it| it.fate == Fate::Dead);
            let exit = Exit::Code(3);
            if gone {
                world.tell(Input::Exited { worker, exit })
            } else {
                Ok(())
            }
        }
        3 => happen(world, Event::Tell(Input::Responded { worker })),
        6 => world.tell(Input::Drained { worker }),
        7 => world.tell(Input::DrainFailed { worker }),
        4 => match world.dice.pick(&open) {
            // Somebody else's slot, a second time or for the wrong worker.
            Some(slot) if world.slots.get(&slot).is_some_and(|slot| slot.holder.is_some()) => {
                world.tell(Input::SlotHeld {
                    slot,
                    group: GroupId(0),
                    worker,
                    fixed: true,
                })
            }
            Some(_) | None => Ok(()),
        },
        _ => {
            let (slot, group) = (SlotId(world.serial() as u32), GroupId(world.dice.roll(3) as u32));
            let (instance, generation) = (InstanceId(u32::MAX), rpm_core::Generation(0));
            let orphan = Slot {
                group,
                instance,
                generation,
                holder: None,
                open: true,
                queue: 0,
            };
            world.slots.insert(slot, orphan);
            world.tell(Input::SlotHeld {
                slot,
                group,
                worker: WorkerId(u64::MAX),
                fixed: true,
            })?;
            let closed = world.slots.get(&slot).is_some_and(|slot| !slot.open);
            demand(closed, || format!("{slot:?} of an unknown worker stays open"))
        }
    }
}
