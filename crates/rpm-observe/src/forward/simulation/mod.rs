//! A seeded simulation: apps write, logs are rotated in every way, the receiver is away, and the process is killed between sending and storing
//! its positions. Every line arrives, at least once, and in order.

mod world;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use rpm_wire::forward::{Destination, Http, Receiver};

use super::book::Book;
use super::counts::Count;
use super::delivery::Outcome;
use super::forwarder::{Forwarder, Next, Now};
use super::handles::Handles;
use super::record::{About, Stream};
use world::{Dice, Simulated, World, Writer, numbers};

/// Runs, each with another seed; `RPM_SIM_SEEDS` takes another number.
const SEEDS: u64 = 25;
const STEPS: u64 = 800;

struct Run {
    seed: u64,
    dice: Dice,
    world: Rc<RefCell<World>>,
    writers: Vec<Writer>,
    forwarder: Forwarder<Simulated>,
    stored: Option<Book>,
    down_until_ns: u64,
    received: Vec<BTreeSet<u64>>,
    /// All lines before it were received, or cannot be.
    expected: Vec<u64>,
    /// Lines that were removed before they were sent: nobody can have them.
    excused: Vec<BTreeSet<u64>>,
    /// Of those, the lines in files that the rotation has removed.
    removed: Vec<BTreeSet<u64>>,
    count: Arc<Count>,
    /// How far the clock was set back.
    back_ns: u64,
}

fn destination() -> Destination {
    Destination {
        name: "loki".to_owned(),
        to: Receiver::Loki(Http {
            url: "http://a.test".to_owned(),
            headers: BTreeMap::new(),
        }),
        apps: Vec::new(),
        labels: BTreeMap::new(),
        from_end: false,
    }
}

impl Run {
    fn new(seed: u64) -> Run {
        let world = Rc::new(RefCell::new(World::new(1_000_000_000_000)));
        let writer = |number: u64| Writer::new(format!("/logs/{number}.log").into());
        let writers: Vec<Writer> = (0..3).map(writer).collect();
        let count = Arc::<Count>::default();
        let forwarder = begun(&world, None, &count);
        let mut run = Run {
            seed,
            dice: Dice(seed),
            world,
            received: vec![BTreeSet::new(); writers.len()],
            expected: vec![0; writers.len()],
            excused: vec![BTreeSet::new(); writers.len()],
            removed: vec![BTreeSet::new(); writers.len()],
            count,
            back_ns: 0,
            writers,
            forwarder,
            stored: None,
            down_until_ns: 0,
        };
        run.learn();
        run
    }

    fn now(&self) -> u64 {
        self.world.borrow().now_ns
    }

    fn learn(&mut self) {
        let about = |number: usize| About {
            app: format!("{number}"),
            others: BTreeSet::new(),
            id: None,
            stream: Some(Stream::Out),
            dated: false,
            foreign: false,
        };
        let known = self.writers.iter().enumerate();
        let known = known.map(|(number, writer)| (writer.path.clone(), about(number)));
        self.forwarder.set_logs(&known.collect());
    }

    /// Something happens to one of the logs.
    fn happen(&mut self) {
        let world = self.world.borrow();
        let waits = |writer: &Writer| {
            writer
                .unfinished
                .as_ref()
                .is_some_and(|it| world.now_ns - it.2 > 2_000_000_000)
        };
        let late = self.writers.iter().position(waits);
        drop(world);
        let number = late.unwrap_or(self.dice.roll(3) as usize);
        let (writer, dice) = (&mut self.writers[number], &mut self.dice);
        let world = &mut *self.world.borrow_mut();
        // A line that has no end for 5 s is sent without it.
        let what = if late.is_some() { 0 } else { dice.roll(100) };
        let gone = match what {
            0..70 => {
                if writer.is_moved && dice.one_in(4) {
                    // `rpm reopen-logs`
                    writer.file = None;
                    writer.is_moved = false;
                }
                writer.write(world, dice);
                Vec::new()
            }
            // Within a line, too.
            70..80 if !writer.is_moved => writer.rotate(world, dice),
            // Files that are named after dates stay, and the rotation removes younger ones: what is missing then cannot be known.
            80..83 if self.seed.is_multiple_of(2) && writer.unfinished.is_none() && !writer.is_moved => {
                writer.move_away(world, dice);
                Vec::new()
            }
            83 if writer.unfinished.is_none() => writer.empty(world),
            _ => Vec::new(),
        };
        for line in gone {
            if !self.received[number].contains(&line) {
                self.excused[number].insert(line);
                if what < 80 {
                    self.removed[number].insert(line);
                }
            }
        }
    }

    /// What the receiver makes of a request.
    fn receive(&mut self) -> Outcome {
        let later = Outcome::Later {
            why: "down".to_owned(),
            after: None,
        };
        if self.down_until_ns > self.now() {
            return later;
        }
        let part = self.forwarder.part();
        assert!(!part.is_empty() && part.len() <= 1_000, "{} records", part.len());
        let bytes: usize = part.iter().map(|record| record.size()).sum();
        assert!(bytes <= 1_400_000, "{bytes} bytes");
        let texts: Vec<(usize, String)> = part
            .iter()
            .map(|record| (record.about.app.parse().expect("a number"), record.text.clone()))
            .collect();
        let odd = self.dice.roll(10);
        if odd == 0 && texts.len() > 1 {
            return Outcome::Refused("too long".to_owned());
        }
        let again: Vec<usize> = match odd {
            1 => (texts.len() / 2..texts.len()).collect(),
            _ => Vec::new(),
        };
        for (number, (log, text)) in texts.iter().enumerate() {
            if !again.contains(&number) {
                self.receive_lines(*log, text);
            }
        }
        match odd {
            1 => Outcome::Partly {
                again,
                refused: Vec::new(),
                why: "busy".to_owned(),
            },
            // It has taken everything, and its answer is lost.
            2 => later,
            _ => Outcome::Taken,
        }
    }

    fn receive_lines(&mut self, log: usize, text: &str) {
        let known = self.writers[log].next;
        for line in numbers(text).into_iter().filter(|line| *line < known) {
            let next = &mut self.expected[log];
            if self.received[log].insert(line) && line >= *next {
                let missing = (*next..line).find(|it| !self.excused[log].contains(it));
                assert_eq!(
                    missing, None,
                    "seed {}: line {line} of log {log} overtakes one",
                    self.seed
                );
                *next = line + 1;
            }
        }
    }

    fn time(&self) -> Now {
        Now {
            ns: self.now() - self.back_ns,
            ms: self.now() / 1_000_000,
        }
    }

    /// Has every request answered like this, for a while. Returns how many lines were taken and given up so far.
    fn answer(&mut self, outcome: &Outcome) -> (u64, u64) {
        for _ in 0..100 {
            self.world.borrow_mut().now_ns += 31_000_000_000;
            let now = self.time();
            if self.forwarder.step(now) == Next::Send {
                self.forwarder.answered(outcome.clone(), now.ms, 0.5);
            }
        }
        self.count.settled()
    }

    fn write(&mut self) {
        self.writers[0].write(&mut self.world.borrow_mut(), &mut self.dice);
    }

    /// One turn of the process.
    fn turn(&mut self) {
        let now = self.time();
        if self.forwarder.step(now) == Next::Send {
            let outcome = self.receive();
            self.forwarder.answered(outcome, now.ms, 0.5);
        }
        if let Some(book) = self.forwarder.book(now.ms, false) {
            // What is stored is text, and read again.
            let text = serde_json::to_string(&book).expect("JSON");
            self.stored = Some(serde_json::from_str(&text).expect("it reads"));
        }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            self.world.borrow_mut().now_ns += 1_000_000 * self.dice.roll(300);
            self.happen();
            if self.dice.one_in(150) {
                self.down_until_ns = self.now() + 1_000_000_000 * self.dice.roll(20);
            }
            if self.dice.one_in(100) {
                self.forwarder = begun(&self.world, self.stored.clone(), &self.count);
                self.learn();
            }
            if self.dice.one_in(200) {
                self.back_ns = 1_000_000_000 * self.dice.roll(900);
            }
            self.turn();
        }
        self.down_until_ns = 0;
        for writer in &mut self.writers {
            (writer.is_moved, writer.file) = (false, None);
            // The last line has an end.
            while writer.next == 0 || writer.unfinished.is_some() {
                writer.write(&mut self.world.borrow_mut(), &mut self.dice);
            }
        }
        for _ in 0..1_000 {
            self.world.borrow_mut().now_ns += 300_000_000;
            self.turn();
        }
        for (log, writer) in self.writers.iter().enumerate() {
            let is_there = |line: &u64| self.received[log].contains(line) || self.excused[log].contains(line);
            let missing: Vec<u64> = (0..writer.next).filter(|line| !is_there(line)).collect();
            assert!(
                missing.is_empty(),
                "seed {}: {missing:?} of log {log}, which has {}, are missing",
                self.seed,
                writer.next
            );
        }
        let lost = |log: &usize| !self.removed[*log].is_subset(&self.received[*log]);
        let lost = (0..self.writers.len()).filter(lost).count() as u64;
        assert!(
            self.seed.is_multiple_of(2) || self.count.gaps() >= lost,
            "seed {}: lines of {lost} logs are missing, and {} gaps were counted",
            self.seed,
            self.count.gaps()
        );
    }
}

fn begun(world: &Rc<RefCell<World>>, book: Option<Book>, count: &Arc<Count>) -> Forwarder<Simulated> {
    let now = world.borrow().now_ns;
    Forwarder::new(
        destination(),
        Simulated(Rc::clone(world)),
        book,
        Arc::clone(count),
        Handles::default(),
        now,
    )
}

#[test]
fn nothing_is_given_up_before_the_receiver_has_taken_something() {
    let mut run = Run::new(1);
    let refused = Outcome::Refused("plain HTTP to a port of TLS".to_owned());
    run.write();
    assert_eq!(run.answer(&refused), (0, 0));
    let (taken, given_up) = run.answer(&Outcome::Taken);
    assert!(taken > 0 && given_up == 0, "{taken} {given_up}");
    run.write();
    let (still, given_up) = run.answer(&refused);
    assert!(still == taken && given_up > 0, "{still} {given_up}");
}

#[test]
fn every_line_arrives_in_order_whatever_happens() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse::<u64>().ok())
    };
    match number("RPM_SIM_SEED") {
        Some(seed) => Run::new(seed).run(),
        None => (0..number("RPM_SIM_SEEDS").unwrap_or(SEEDS)).for_each(|seed| Run::new(seed).run()),
    }
}
