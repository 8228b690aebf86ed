//! Scenes of the simulation in which only what is written here happens.

use super::*;
use crate::forward::assemble::RECORD_BYTES;

const DAY_NS: u64 = 24 * 3600 * 1_000_000_000;

impl Run {
    /// Has requests answered like this, for so many minutes. Returns how many requests there were.
    fn answer(&mut self, minutes: u64, mut answer: impl FnMut(&[&Record]) -> Outcome) -> usize {
        let mut requests = 0;
        let end_ns = self.now() + minutes * 60_000_000_000;
        while self.now() < end_ns {
            let now = self.time();
            match self.forwarder.step(now) {
                Next::Send => {
                    let outcome = answer(&self.forwarder.part());
                    requests += 1;
                    self.forwarder.answered(outcome, now, 0.5);
                }
                Next::Wait(ms) => self.world.borrow_mut().now_ns += ms.clamp(1, 1_000) * 1_000_000,
            }
            if let Some(book) = self.forwarder.book(now.ms, false) {
                self.stored = Some(book);
            }
        }
        requests
    }

    /// Lines that are whole, of one log.
    fn lines(&mut self, log: usize, texts: impl IntoIterator<Item = String>) {
        let text: String = texts.into_iter().map(|text| text + "\n").collect();
        self.writers[log].append(&mut self.world.borrow_mut(), &mut self.dice, &text);
    }

    fn restart(&mut self) {
        self.forwarder = begun(&self.world, self.stored.clone(), &self.count);
        self.learn();
    }

    /// The settings have changed, or the destination is new.
    fn restart_as(&mut self, destination: Destination) {
        let disk = Simulated(Rc::clone(&self.world));
        let (book, count) = (self.stored.clone(), Arc::clone(&self.count));
        self.forwarder = Forwarder::new(destination, disk, book, count, Handles::default(), self.now());
    }
}

fn refused() -> Outcome {
    Outcome::Refused("plain HTTP to a port of TLS".to_owned())
}

/// What a receiver has that refuses some records, and our own line if it is picky.
fn taken<'t>(
    texts: &'t mut Vec<String>,
    is_bad: impl Fn(&Record) -> bool + 't,
) -> impl FnMut(&[&Record]) -> Outcome + 't {
    move |part| {
        if part.iter().any(|record| is_bad(record)) {
            return refused();
        }
        texts.extend(part.iter().map(|record| record.text.clone()));
        Outcome::Taken
    }
}

#[test]
fn nothing_is_given_up_before_the_receiver_has_taken_something() {
    let mut run = Run::new(1);
    let lines = |from: usize| (from..from + 2_000).map(|number| format!("line {number}"));
    run.lines(0, lines(0));
    let requests = run.answer(60, |_| refused());
    assert!(
        requests < 600,
        "a wrong address is not asked without pauses: {requests}"
    );
    assert_eq!(run.count.settled(), (0, 0));
    run.restart();
    run.answer(10, |_| refused());
    assert_eq!(run.count.settled(), (0, 0));
    run.answer(10, |_| Outcome::Taken);
    assert_eq!(run.count.settled(), (2_000, 0));
    run.lines(0, lines(2_000));
    run.answer(100, |_| refused());
    assert_eq!(
        run.count.settled(),
        (2_000, 2_000),
        "it takes lines, and refuses these"
    );
    // What it has taken is known after a restart, too.
    run.restart();
    run.lines(0, lines(4_000).take(10));
    run.answer(1, |_| refused());
    assert_eq!(run.count.settled(), (2_000, 2_010));
}

#[test]
fn lines_that_are_refused_do_not_hold_up_the_others() {
    let bad = |record: &Record| record.text.starts_with("bad");
    for (is_picky, count) in [(false, 1), (false, 3_000), (true, 1), (true, 3_000)] {
        let mut run = Run::new(1);
        run.lines(0, (0..count).map(|number| format!("bad {number}")));
        run.lines(1, ["good".to_owned()]);
        let mut texts = Vec::new();
        // One that wants lines of a kind of its own refuses ours, too.
        let is_bad = move |record: &Record| bad(record) || (is_picky && record.about.app == "rpm-observe");
        run.answer(20, taken(&mut texts, is_bad));
        assert!(texts.iter().any(|text| text == "good"), "{is_picky} {count}");
        assert_eq!(run.count.settled(), (1, count), "{is_picky}");
        let own = texts.iter().filter(|text| *text != "good").count();
        assert_eq!(own, usize::from(!is_picky), "our own line is sent once");
    }
}

#[test]
fn lines_that_wait_for_longer_than_loki_takes_are_sent() {
    let mut run = Run::new(1);
    run.lines(0, (0..1_500).map(|number| format!("line {number}")));
    run.world.borrow_mut().now_ns += 30 * DAY_NS;
    let mut times = Vec::new();
    run.answer(1, |part| {
        let now_ns = part.iter().map(|record| record.written_ns).max().unwrap_or(0) + 30 * DAY_NS;
        let body = crate::forward::loki::body(part, &destination(), "box", now_ns);
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        for value in body["streams"][0]["values"].as_array().expect("a list") {
            let time: u64 = value[0]
                .as_str()
                .and_then(|time| time.parse().ok())
                .expect("a time");
            if time < now_ns - 7 * DAY_NS {
                return refused();
            }
            times.push(time);
        }
        Outcome::Taken
    });
    assert_eq!((run.count.settled(), times.len()), ((1_500, 0), 1_500));
}

#[test]
fn a_file_whose_number_is_used_again_hides_no_other() {
    for (read, rotations) in [0, 1, 3]
        .into_iter()
        .flat_map(|read| (5..9).map(move |count| (read, count)))
    {
        let mut run = Run::new(3);
        run.world.borrow_mut().is_full = true;
        let mut texts = Vec::new();
        run.lines(0, (0..read).map(|number| format!("line {number}")));
        run.answer(1, taken(&mut texts, |_| false));
        run.lines(0, (read..4).map(|number| format!("line {number}")));
        // Nobody reads; the file is removed, and one of the next ones gets its number.
        run.restart();
        let numbers = 4..4 + rotations;
        for number in numbers.clone() {
            let world = &mut *run.world.borrow_mut();
            run.writers[0].rotate(world, &mut run.dice);
            world.now_ns += 1_000_000_000;
            let text = format!("{}line {number}\n", "x".repeat(number * 7));
            run.writers[0].append(world, &mut run.dice, &text);
        }
        run.answer(1, taken(&mut texts, |_| false));
        let missing: Vec<usize> = numbers
            .filter(|number| !texts.iter().any(|text| text.ends_with(&format!("line {number}"))))
            .collect();
        let removed: Vec<usize> = (4..rotations - 1).collect();
        assert_eq!(missing, removed, "{read} {rotations}: only what was removed");
        assert!(run.count.gaps() > 0, "{read} {rotations}");
    }
}

#[test]
fn files_that_were_written_in_the_same_tick_are_sent_once() {
    for births in [true, false] {
        let mut run = Run::new(if births { 1 } else { 3 });
        for number in 0..3 {
            run.lines(0, [format!("line {number}")]);
            let world = &mut *run.world.borrow_mut();
            run.writers[0].rotate(world, &mut run.dice);
        }
        let mut texts = Vec::new();
        run.answer(1, taken(&mut texts, |_| false));
        assert_eq!(
            (texts.as_slice(), run.count.gaps()),
            (&["line 0", "line 1", "line 2"].map(str::to_owned)[..], 0),
            "{births}"
        );
    }
}

#[test]
fn a_file_that_gets_a_number_behind_one_with_a_date_is_sent() {
    for (births, is_begun) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut run = Run::new(if births { 1 } else { 3 });
        let mut texts = Vec::new();
        run.lines(0, ["line 0".to_owned()]);
        let file = run.writers[0].file;
        if is_begun {
            let now = run.time();
            assert_eq!(run.forwarder.step(now), Next::Wait(250));
        }
        run.writers[0].move_away(&mut run.world.borrow_mut(), &mut run.dice);
        // The daemon is told, and rotates the next file at once, in the same tick.
        run.world.borrow_mut().now_ns += 1_000_000;
        (run.writers[0].file, run.writers[0].is_moved) = (None, false);
        run.lines(0, ["line 1".to_owned()]);
        assert_ne!(run.writers[0].file, file);
        run.writers[0].rotate(&mut run.world.borrow_mut(), &mut run.dice);
        run.world.borrow_mut().now_ns += 1_000_000_000;
        run.lines(0, ["line 2".to_owned()]);
        run.answer(1, taken(&mut texts, |_| false));
        // Nothing on the disk tells which was the first.
        let expected = match births || is_begun {
            true => ["line 0", "line 1", "line 2"],
            false => ["line 1", "line 0", "line 2"],
        };
        assert_eq!(
            (texts.as_slice(), run.count.gaps()),
            (&expected.map(str::to_owned)[..], 0),
            "{births} {is_begun}"
        );
        run.restart();
        run.answer(1, taken(&mut texts, |_| false));
        assert_eq!(texts.len(), 3, "{births} {is_begun}: nothing is sent again");
    }
}

#[test]
fn what_is_removed_with_its_app_is_read_or_a_gap() {
    for is_open in [true, false] {
        let mut run = Run::new(1);
        let mut texts = Vec::new();
        run.lines(0, ["one".to_owned()]);
        run.answer(1, taken(&mut texts, |_| false));
        run.lines(0, ["two".to_owned()]);
        if !is_open {
            run.restart();
        }
        run.world.borrow_mut().remove(&run.writers[0].path.clone());
        let now = run.time();
        run.forwarder.set_logs(&BTreeMap::new(), now);
        run.answer(1, taken(&mut texts, |_| false));
        let expected: &[&str] = if is_open { &["one", "two"] } else { &["one"] };
        assert_eq!(
            (texts.as_slice(), run.count.gaps()),
            (
                &expected.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()[..],
                u64::from(!is_open)
            )
        );
        let book = run.stored.clone().expect("it is stored");
        assert!(!book.logs.contains_key(&run.writers[0].path), "it is forgotten");
    }
}

#[test]
fn what_is_long_in_a_request_is_sent_in_parts() {
    let mut run = Run::new(1);
    run.lines(0, (0..40).map(|_| "\u{1}".repeat(RECORD_BYTES / 4)));
    run.answer(1, |part| {
        let body = crate::forward::loki::body(part, &destination(), "box", 0);
        assert!(body.len() < 1_000_000, "{}", body.len());
        Outcome::Taken
    });
    assert_eq!(run.count.settled(), (40, 0));
}

#[test]
fn a_destination_from_the_end_stays_one_when_it_is_killed_early() {
    let from_end = || Destination {
        from_end: true,
        ..destination()
    };
    let mut run = Run::new(1);
    run.stored = None;
    run.lines(0, ["old".to_owned()]);
    let mut texts = Vec::new();
    // Before it is known which logs there are.
    run.restart_as(from_end());
    run.answer(1, taken(&mut texts, |_| false));
    assert_eq!(run.stored, None);
    run.restart_as(from_end());
    // It is known, and nothing is read yet.
    run.learn();
    let now = run.time();
    run.stored = run.forwarder.book(now.ms, true);
    run.restart_as(from_end());
    run.learn();
    run.answer(1, taken(&mut texts, |_| false));
    run.lines(0, ["new".to_owned()]);
    run.answer(1, taken(&mut texts, |_| false));
    assert_eq!(texts, ["new"]);
}

#[test]
fn an_app_that_is_chosen_later_is_sent_from_its_present_file() {
    let only = |apps: &[&str]| Destination {
        apps: apps.iter().map(|app| (*app).to_owned()).collect(),
        ..destination()
    };
    let mut run = Run::new(1);
    run.stored = None;
    run.restart_as(only(&["0"]));
    run.learn();
    let mut texts = Vec::new();
    let turn = |run: &mut Run, text: &str, texts: &mut Vec<String>| {
        for log in 0..2 {
            run.lines(log, [format!("{log} {text}")]);
        }
        run.answer(1, taken(texts, |_| false));
        for log in 0..2 {
            run.writers[log].rotate(&mut run.world.borrow_mut(), &mut run.dice);
        }
    };
    turn(&mut run, "one", &mut texts);
    turn(&mut run, "two", &mut texts);
    for (apps, text) in [
        (&["0", "1"][..], "three"),
        (&["0"], "four"),
        (&["0", "1"], "five"),
    ] {
        run.restart_as(only(apps));
        run.learn();
        turn(&mut run, text, &mut texts);
    }
    let of = |log: &str| {
        texts
            .iter()
            .filter(|text| text.starts_with(log))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(of("0"), ["0 one", "0 two", "0 three", "0 four", "0 five"]);
    assert_eq!(of("1"), ["1 three", "1 four", "1 five"], "its position was kept");
    // One that was started while nobody looked is sent from its first file.
    run.writers.push(Writer::new("/logs/3.log".into()));
    run.restart_as(only(&[]));
    run.learn();
    run.answer(1, taken(&mut texts, |_| false));
    run.writers.push(Writer::new("/logs/4.log".into()));
    for text in ["one", "two"] {
        run.world.borrow_mut().now_ns += 1_000_000_000;
        run.lines(4, [format!("4 {text}")]);
        run.writers[4].rotate(&mut run.world.borrow_mut(), &mut run.dice);
    }
    run.restart_as(only(&[]));
    run.learn();
    run.answer(1, taken(&mut texts, |_| false));
    let last: Vec<&String> = texts.iter().filter(|text| text.starts_with('4')).collect();
    assert_eq!(last, ["4 one", "4 two"]);
}
