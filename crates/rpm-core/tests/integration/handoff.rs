//! Connections on their way to workers that accept, refuse, freeze and die: none is lost, and none has two workers.

use std::collections::{BTreeMap, BTreeSet};

use rpm_core::handoff::{
    Answer, CLIENTS_WINDOW, Choice, Connection, Handoffs, KEPT, LIMIT, REFUSALS, Unplaced, WINDOW,
};
use rpm_core::{GroupId, SlotId, Tick, WorkerId};

use crate::common::{ms, seeds};
use crate::simulation::dice::Dice;

const SEEDS: u64 = 60;
const STEPS: u64 = 800;
const GROUP: Option<GroupId> = Some(GroupId(0));

fn slot_of(worker: WorkerId) -> SlotId {
    SlotId(u32::try_from(worker.0).expect("a small number"))
}

fn worker_of(slot: SlotId) -> WorkerId {
    WorkerId(u64::from(slot.0))
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Its worker has not answered; whether it has read from it.
    Sent {
        number: u64,
        worker: WorkerId,
        read: bool,
    },
    Waits,
    Arrived,
    Closed,
}

/// What a shell knows, by the number of a connection.
struct World {
    handoffs: Handoffs<u64>,
    dice: Dice,
    now: Tick,
    alive: BTreeSet<WorkerId>,
    next_worker: u64,
    places: BTreeMap<u64, Place>,
    came: BTreeMap<u64, Tick>,
    refusals: BTreeMap<u64, u32>,
    /// How often a worker has refused one.
    refused: u64,
    /// How many were on their way to a worker that has died.
    gone: u64,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            handoffs: Handoffs::numbered_from(0),
            dice: Dice::new(seed),
            now: Tick::default(),
            alive: (1..=3).map(WorkerId).collect(),
            next_worker: 4,
            places: BTreeMap::new(),
            came: BTreeMap::new(),
            refusals: BTreeMap::new(),
            refused: 0,
            gone: 0,
        }
    }

    fn at(&self, worker: WorkerId) -> usize {
        let sent = |place: &&Place| matches!(place, Place::Sent { worker: at, .. } if *at == worker);
        self.places.values().filter(sent).count()
    }

    fn has_room(&self) -> bool {
        self.handoffs.has_room(Choice::ByRoom, self.alive.iter().copied())
    }

    fn arrive(&mut self) {
        let free = self.alive.iter().any(|worker| self.at(*worker) < WINDOW);
        assert_eq!(self.has_room(), free);
        if !free {
            return;
        }
        let id = self.places.len() as u64;
        self.places.insert(id, Place::Waits);
        self.came.insert(id, self.now);
        let connection = Connection::new(id, GROUP, false, self.now);
        self.place(connection);
    }

    /// To a worker that has room, if any has.
    fn place(&mut self, mut connection: Connection<u64>) {
        let mut workers: Vec<WorkerId> = self.alive.iter().copied().collect();
        let first = self.dice.roll(workers.len() as u64) as usize;
        workers.rotate_left(first);
        let slots = workers.iter().map(|worker| (slot_of(*worker), Some(*worker)));
        let slots = slots.collect();
        assert!(self.handoffs.in_order(&mut connection, Choice::ByRoom, slots));
        let roomy = self.has_room();
        let worker = self.send(connection);
        let within = worker.is_none_or(|worker| self.at(worker) <= WINDOW);
        assert!(!roomy || within, "another one had room");
    }

    /// To the first that takes it. Some channels break, now and then.
    fn send(&mut self, mut connection: Connection<u64>) -> Option<WorkerId> {
        let id = connection.socket;
        let (roomy, mut broken) = (self.has_room(), false);
        while let Some(slot) = connection.next() {
            let worker = worker_of(slot);
            if !self.alive.contains(&worker) || self.dice.percent(2) {
                broken |= self.alive.contains(&worker);
                continue;
            }
            let number = self.handoffs.number();
            self.handoffs.sent(number, worker, connection);
            let read = self.dice.percent(30);
            let was = self.places.insert(id, Place::Sent { number, worker, read });
            assert_eq!(was, Some(Place::Waits), "connection {id} has two workers");
            return (roomy && !broken).then_some(worker);
        }
        self.handoffs.keep(connection);
        self.places.insert(id, Place::Waits);
        None
    }

    fn answer(&mut self) {
        let sent = self.places.iter().filter_map(|(id, place)| match place {
            Place::Sent { number, worker, .. } => Some((*id, *number, *worker)),
            Place::Waits | Place::Arrived | Place::Closed => None,
        });
        let sent: Vec<_> = sent.collect();
        let Some((id, number, of)) = self.dice.pick(&sent) else {
            return;
        };
        let accepted = self.dice.percent(80);
        for other in self.alive.iter().filter(|other| **other != of) {
            assert!(
                matches!(
                    self.handoffs.handle_answer(*other, number, accepted),
                    Answer::Unknown
                ),
                "{other:?} answers for {of:?}"
            );
        }
        match self.handoffs.handle_answer(of, number, accepted) {
            Answer::Unknown => panic!("{number} is on its way"),
            Answer::Arrived { socket, .. } => {
                assert_eq!((socket, accepted), (id, true));
                self.places.insert(id, Place::Arrived);
            }
            Answer::Refused(connection) => {
                assert!(!accepted && connection.socket == id);
                self.places.insert(id, Place::Waits);
                *self.refusals.entry(id).or_default() += 1;
                self.refused += 1;
                self.send(connection);
            }
        }
        assert!(
            matches!(self.handoffs.handle_answer(of, number, true), Answer::Unknown),
            "twice"
        );
    }

    /// A worker is gone, or frozen: then only what was not sent comes back, which it cannot have read.
    fn lose(&mut self) {
        let alive: Vec<WorkerId> = self.alive.iter().copied().collect();
        let Some(worker) = self.dice.pick(&alive) else {
            return;
        };
        let of = |place: &Place| match place {
            Place::Sent {
                number,
                worker: at,
                read,
            } if *at == worker => Some((*number, *read)),
            Place::Sent { .. } | Place::Waits | Place::Arrived | Place::Closed => None,
        };
        let read: BTreeSet<u64> = self
            .places
            .iter()
            .filter(|(_, place)| of(place).is_some_and(|(_, read)| read))
            .map(|(id, _)| *id)
            .collect();
        let dies = self.dice.percent(50);
        let numbers = self.places.values().filter_map(of).map(|(number, _)| number);
        let numbers: Vec<u64> = numbers.collect();
        if dies {
            self.alive.remove(&worker);
            self.alive.insert(WorkerId(self.next_worker));
            self.next_worker += 1;
            self.gone += numbers.len() as u64;
            self.handoffs.handle_gone(worker, |id| read.contains(id));
        } else {
            for number in &numbers {
                self.handoffs.release(*number, |id| read.contains(id));
            }
        }
        for place in self.places.values_mut() {
            if let Some((_, read)) = of(&*place) {
                *place = if read { Place::Closed } else { Place::Waits };
            }
        }
        assert_eq!(self.handoffs.unanswered(worker), 0);
    }

    fn retry(&mut self) {
        for _ in 0..self.handoffs.unplaced() {
            match self.handoffs.next_unplaced(self.now).expect("one more") {
                Unplaced::Over(id) => {
                    let refusals = self.refusals.get(&id).copied().unwrap_or(0);
                    let late = self.now - self.came[&id] >= KEPT;
                    assert!(late || refusals >= REFUSALS, "connection {id} is given up");
                    assert_eq!(self.places.insert(id, Place::Closed), Some(Place::Waits));
                }
                Unplaced::Again(connection) if self.has_room() => self.place(connection),
                Unplaced::Again(connection) => self.handoffs.keep(connection),
            }
        }
    }

    fn check(&self) {
        for &worker in &self.alive {
            assert_eq!(self.handoffs.unanswered(worker), self.at(worker), "{worker:?}");
        }
        let waiting = self.places.iter().filter(|(_, place)| **place == Place::Waits);
        let waiting: Vec<u64> = waiting.map(|(id, _)| *id).collect();
        assert_eq!(self.handoffs.unplaced(), waiting.len(), "{waiting:?}");
        let first = waiting.iter().map(|id| self.came[id] + KEPT).min();
        assert_eq!(self.handoffs.poll_timeout(), first);
    }
}

#[test]
fn none_is_lost_and_none_has_two_workers() {
    let (mut arrived, mut closed, mut refused, mut gone) = (0, 0, 0, 0);
    for seed in 0..seeds(SEEDS) {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            match world.dice.roll(100) {
                0..40 => world.arrive(),
                40..80 => world.answer(),
                80..83 => world.lose(),
                83..99 => world.retry(),
                _ => world.now = world.now + world.dice.up_to_ms(3000),
            }
            world.check();
        }
        world.now = world.now + KEPT;
        world.retry();
        while world
            .places
            .values()
            .any(|place| matches!(place, Place::Sent { .. }))
        {
            world.answer();
            world.now = world.now + ms(1);
            if world.places.values().any(|place| *place == Place::Waits) {
                world.now = world.now + KEPT;
                world.retry();
            }
        }
        assert!(world.handoffs.is_quiet(), "seed {seed}");
        arrived += world
            .places
            .values()
            .filter(|place| **place == Place::Arrived)
            .count();
        closed += world
            .places
            .values()
            .filter(|place| **place == Place::Closed)
            .count();
        refused += world.refused;
        gone += world.gone;
    }
    assert!(
        arrived > 3000 && closed > 50 && refused > 500 && gone > 100,
        "{arrived} arrived, {closed} closed, {refused} refused, {gone} at workers that died"
    );
}

/// A connection to one of these workers.
fn to(handoffs: &mut Handoffs<u64>, socket: u64, workers: &[u64]) -> Connection<u64> {
    let mut connection = Connection::new(socket, GROUP, true, Tick::default());
    let slots = workers
        .iter()
        .map(|id| (slot_of(WorkerId(*id)), Some(WorkerId(*id))));
    assert!(handoffs.in_order(&mut connection, Choice::ByRoom, slots.collect()));
    connection
}

fn sent(handoffs: &mut Handoffs<u64>, socket: u64, worker: u64) -> u64 {
    let connection = to(handoffs, socket, &[]);
    let number = handoffs.number();
    handoffs.sent(number, WorkerId(worker), connection);
    number
}

#[test]
fn a_full_worker_comes_last_unless_the_address_decides() {
    let mut handoffs = Handoffs::numbered_from(0);
    for socket in 0..WINDOW as u64 {
        sent(&mut handoffs, socket, 1);
    }
    let only = |handoffs: &Handoffs<u64>, choice| handoffs.has_room(choice, [WorkerId(1)]);
    assert!(!only(&handoffs, Choice::ByRoom) && only(&handoffs, Choice::ByAddress));
    let mut connection = to(&mut handoffs, 99, &[1, 2, 3]);
    assert_eq!(connection.next(), Some(SlotId(2)), "1 is full");
    let slots = vec![(SlotId(1), Some(WorkerId(1))), (SlotId(2), Some(WorkerId(2)))];
    assert!(handoffs.in_order(&mut connection, Choice::ByAddress, slots));
    assert_eq!(connection.next(), Some(SlotId(1)));
    let slots = vec![
        (SlotId(7), None),
        (SlotId(1), Some(WorkerId(1))),
        (SlotId(2), Some(WorkerId(2))),
    ];
    assert!(handoffs.in_order(&mut connection, Choice::ByRoom, slots));
    assert_eq!(connection.next(), Some(SlotId(2)), "slot 7 has no worker");
}

#[test]
fn each_slot_is_the_first_in_turn() {
    let mut handoffs = Handoffs::numbered_from(0);
    let mut firsts = BTreeMap::new();
    for socket in 0..30 {
        let mut connection = Connection::new(socket, GROUP, false, Tick::default());
        handoffs.in_turn(&mut connection, (1..=3).map(SlotId).collect());
        *firsts.entry(connection.next()).or_insert(0) += 1;
    }
    assert_eq!(firsts.into_values().collect::<Vec<_>>(), [10, 10, 10]);
    let mut connection = Connection::new(0, GROUP, false, Tick::default());
    handoffs.in_turn(&mut connection, Vec::new());
    assert_eq!(connection.next(), None);
}

#[test]
fn a_refused_connection_goes_to_those_that_were_not_tried_and_is_given_up_at_last() {
    let mut handoffs = Handoffs::numbered_from(0);
    let mut connection = to(&mut handoffs, 5, &[1, 2]);
    assert_eq!(connection.next(), Some(SlotId(1)));
    for refusal in 1..=REFUSALS {
        let number = handoffs.number();
        handoffs.sent(number, WorkerId(1), connection);
        let Answer::Refused(mut again) = handoffs.handle_answer(WorkerId(1), number, false) else {
            panic!("it was refused");
        };
        if refusal == 1 {
            assert_eq!(again.next(), Some(SlotId(2)));
        }
        assert_eq!(again.next(), None);
        handoffs.keep(again);
        match handoffs.next_unplaced(Tick::default()) {
            Some(Unplaced::Again(kept)) if refusal < REFUSALS => connection = kept,
            Some(Unplaced::Over(5)) if refusal == REFUSALS => return,
            other => panic!("after {refusal} refusals: {other:?}"),
        }
    }
}

/// A connection that belongs to the first of these workers: whether it may be sent to it.
fn may_have(handoffs: &Handoffs<u64>, workers: &[u64]) -> bool {
    let mut connection = Connection::new(0, GROUP, false, Tick::default());
    let slots = workers
        .iter()
        .map(|id| (slot_of(WorkerId(*id)), Some(WorkerId(*id))));
    handoffs.in_order(&mut connection, Choice::ByAddress, slots.collect())
}

#[test]
fn a_frozen_worker_to_which_clients_belong_does_not_stop_others() {
    let mut handoffs = Handoffs::numbered_from(0);
    let group = [WorkerId(1), WorkerId(2)];
    let mut kept = 0;
    while may_have(&handoffs, &[1, 2]) {
        sent(&mut handoffs, kept, 1);
        kept += 1;
    }
    assert_eq!(kept, CLIENTS_WINDOW as u64);
    assert!(may_have(&handoffs, &[2, 1]), "clients of the other one");
    assert!(handoffs.has_room(Choice::ByAddress, group));
    while may_have(&handoffs, &[2, 1]) {
        sent(&mut handoffs, kept, 2);
        kept += 1;
    }
    assert!(!handoffs.has_room(Choice::ByAddress, group), "both are frozen");
    assert!(handoffs.has_room(Choice::ByRoom, [WorkerId(3)]), "of another app");
    assert!(may_have(&handoffs, &[3, 4]));
}

#[test]
fn no_more_are_kept_than_there_may_be() {
    let mut handoffs = Handoffs::numbered_from(0);
    for socket in 0..LIMIT as u64 - 1 {
        sent(&mut handoffs, socket, socket % 8);
    }
    let last = to(&mut handoffs, 0, &[]);
    assert!(!handoffs.is_full());
    handoffs.keep(last);
    assert!(handoffs.is_full());
    // However many the others have, each worker may have some.
    let new = WorkerId(9);
    for choice in [Choice::ByRoom, Choice::ByAddress] {
        assert!(handoffs.has_room(choice, [new]));
    }
    for socket in 0..WINDOW as u64 {
        sent(&mut handoffs, socket, new.0);
    }
    for choice in [Choice::ByRoom, Choice::ByAddress] {
        assert!(!handoffs.has_room(choice, [new]), "{choice:?}");
    }
}

#[test]
fn what_a_dead_worker_has_read_is_not_given_to_another_one() {
    let mut handoffs = Handoffs::numbered_from(0);
    for socket in 0..4 {
        sent(&mut handoffs, socket, 1 + socket % 2);
    }
    handoffs.handle_gone(WorkerId(1), |socket| *socket == 0);
    assert_eq!(
        (handoffs.unanswered(WorkerId(1)), handoffs.unanswered(WorkerId(2))),
        (0, 2)
    );
    let again = handoffs.next_unplaced(Tick::default());
    assert!(
        matches!(again, Some(Unplaced::Again(Connection { socket: 2, .. }))),
        "{again:?}"
    );
    assert!(handoffs.next_unplaced(Tick::default()).is_none());
}
