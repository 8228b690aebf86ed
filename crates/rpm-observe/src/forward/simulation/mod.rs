//! A seeded simulation: apps write, logs are rotated in every way, the receiver is away, and the process is killed between sending and storing
//! its positions. Every line arrives, at least once, and in order.

mod directed;
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
use super::record::{About, Record, Stream};
use world::{Dice, Simulated, World, Writer, numbers};

/// Runs, each with another seed; `RPM_SIM_SEEDS` takes another number.
const SEEDS: u64 = 25;
const STEPS: u64 = 800;
/// Turns at the end of a run, how far they are apart, and how many without a request say that everything is sent: longer than every wait of a log.
const END_TURNS: u32 = 1_000;
const TURN_NS: u64 = 300_000_000;
const IDLE_TURNS: u32 = 40;
/// Records that are too long a request when the receiver is slow.
const LONG: u64 = 200;
/// The system's times of files are so much behind at most.
const APART_NS: u64 = 20_000_000;

struct Run {
    seed: u64,
    dice: Dice,
    world: Rc<RefCell<World>>,
    writers: Vec<Writer>,
    forwarder: Forwarder<Simulated>,
    stored: Option<Book>,
    down_until_ns: u64,
    /// A receiver that is away lets requests wait until they are late.
    hangs: bool,
    received: Vec<BTreeSet<u64>>,
    /// All lines before it were received, or cannot be.
    expected: Vec<u64>,
    /// The time of the newest line that was received.
    newest_ns: Vec<u64>,
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
        gzip: false,
    }
}

impl Run {
    fn new(seed: u64) -> Run {
        let world = Rc::new(RefCell::new(World::new(
            1_000_000_000_000,
            !seed.is_multiple_of(3),
        )));
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
            newest_ns: vec![0; writers.len()],
            excused: vec![BTreeSet::new(); writers.len()],
            removed: vec![BTreeSet::new(); writers.len()],
            count,
            back_ns: 0,
            writers,
            forwarder,
            stored: None,
            down_until_ns: 0,
            hangs: false,
        };
        run.learn();
        run
    }

    /// The clock is never set in this run.
    fn has_true_clock(&self) -> bool {
        self.seed % 4 < 2
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
        let now = self.time();
        self.forwarder.set_logs(&known.collect(), now);
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
        let slow = Outcome::Slow {
            taken: 0,
            why: "late".to_owned(),
        };
        if self.down_until_ns > self.now() {
            return if self.hangs { slow } else { later };
        }
        let part = self.forwarder.part();
        assert!(!part.is_empty() && part.len() <= 1_000, "{} records", part.len());
        let bytes: usize = part.iter().map(|record| record.size(&destination().to)).sum();
        assert!(bytes <= 1_000_000, "{bytes} bytes");
        let log = |record: &Record| record.about.app.parse().expect("a number");
        let texts: Vec<(usize, String, u64)> = part
            .iter()
            .map(|record| (log(record), record.text.clone(), record.time_ns))
            .collect();
        let odd = self.dice.roll(10);
        if odd == 0 && texts.len() > 1 {
            return Outcome::Refused("too long".to_owned());
        }
        let again: Vec<usize> = match odd {
            1 => (texts.len() / 2..texts.len()).collect(),
            _ => Vec::new(),
        };
        for (number, (log, text, time_ns)) in texts.iter().enumerate() {
            if !again.contains(&number) {
                self.receive_lines(*log, text, *time_ns);
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
            // It is sometimes slower, and the longer a request is the more.
            3 if self.dice.roll(LONG) < texts.len() as u64 => slow,
            _ => Outcome::Taken,
        }
    }

    fn receive_lines(&mut self, log: usize, text: &str, time_ns: u64) {
        let (known, is_true) = (self.writers[log].next, self.has_true_clock());
        // Of a record that begins with this line, and not with a half of another.
        let begins = |line: u64| {
            text.trim_start()
                .trim_start_matches("at ")
                .starts_with(&format!("<{line}>"))
        };
        for line in numbers(text).into_iter().filter(|line| *line < known) {
            let next = &mut self.expected[log];
            if self.received[log].insert(line) && line >= *next {
                let world = self.world.borrow();
                let undecided = world.undecided(&self.writers[log].path);
                let may_be_late = |it: &u64| undecided.is_some_and(|it_is| it_is.overtaken.contains(it));
                let is_missing = |it: &u64| !self.excused[log].contains(it) && !may_be_late(it);
                let missing = (*next..line).find(is_missing);
                assert_eq!(
                    missing, None,
                    "seed {}: line {line} of log {log} overtakes one",
                    self.seed
                );
                *next = line + 1;
                let newest = &mut self.newest_ns[log];
                assert!(
                    !is_true || !begins(line) || time_ns.saturating_add(APART_NS) >= *newest,
                    "seed {}: line {line} of log {log} is {} ms older than one before it: {:.80}",
                    self.seed,
                    newest.saturating_sub(time_ns) / 1_000_000,
                    text
                );
                *newest = time_ns.max(*newest);
            }
        }
    }

    fn time(&self) -> Now {
        Now {
            ns: self.now() - self.back_ns,
            ms: self.now() / 1_000_000,
        }
    }

    /// One turn of the process.
    fn turn(&mut self) {
        let now = self.time();
        if self.forwarder.step(now) == Next::Send {
            let outcome = self.receive();
            self.forwarder.answered(outcome, now, 0.5);
        }
        if let Some(book) = self.forwarder.book(now.ms, false) {
            // What is stored is text, and read again.
            let text = serde_json::to_string(&book).expect("JSON");
            self.stored = Some(serde_json::from_str(&text).expect("it reads"));
        }
    }

    /// Turns until nothing is to be sent any more, or the time is over.
    fn is_sent_in_time(&mut self) -> bool {
        let mut idle = 0;
        for _ in 0..END_TURNS {
            self.world.borrow_mut().now_ns += TURN_NS;
            self.turn();
            idle = if self.forwarder.part().is_empty() {
                idle + 1
            } else {
                0
            };
            if idle == IDLE_TURNS {
                return true;
            }
        }
        false
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            self.world.borrow_mut().now_ns += 1_000_000 * self.dice.roll(300);
            self.happen();
            if self.dice.one_in(150) {
                self.down_until_ns = self.now() + 1_000_000_000 * self.dice.roll(20);
                self.hangs = self.dice.one_in(2);
            }
            if self.dice.one_in(100) {
                self.forwarder = begun(&self.world, self.stored.clone(), &self.count);
                self.learn();
            }
            if self.dice.one_in(200) && !self.has_true_clock() {
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
        // What is missing is still on its way, or lost.
        let what = match self.is_sent_in_time() {
            true => "lost",
            false => "not sent in time",
        };
        for (log, writer) in self.writers.iter().enumerate() {
            let world = self.world.borrow();
            let undecided = world.undecided(&writer.path);
            let is_torn = |line: &u64| undecided.is_some_and(|it| it.torn.contains(line));
            let is_there = |line: &u64| self.received[log].contains(line) || self.excused[log].contains(line);
            let missing = (0..writer.next).filter(|line| !is_there(line) && !is_torn(line));
            let missing: Vec<u64> = missing.collect();
            assert!(
                missing.is_empty(),
                "seed {}: {missing:?} of log {log}, which has {}, are {what}",
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
