//! Draining workers with clients, agents and a kernel that behave as they may: none ends with a client, and each ends in time.

use std::collections::VecDeque;
use std::time::Duration;

use rpm_core::witness::{
    ANSWER_WITHIN, Action, Drains, FOREIGN_PAUSE, HANDSHAKES_WITHIN, Seen, Source, Start,
};
use rpm_core::{Tick, WorkerId};

use crate::common::{ms, seeds};
use crate::simulation::dice::Dice;

const SEEDS: u64 = 2000;
const WORKER: WorkerId = WorkerId(1);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(25);

fn seen() -> Seen {
    Seen {
        queued: 0,
        half_open: false,
        reported: None,
        counted: Some(0),
        page_due: false,
    }
}

fn start(source: Source, within: Duration) -> Start {
    Start {
        source,
        within,
        foreign: false,
    }
}

fn at(millis: u64) -> Tick {
    Tick(ms(millis))
}

fn begun(source: Source) -> Drains {
    let mut drains = Drains::default();
    drains.begin(WORKER, &start(source, ms(30_000)), at(0));
    drains
}

/// What goes between the daemon and an agent, in order.
#[derive(Clone, Copy, Debug)]
enum Word {
    Drain,
    Answer,
    Report(u64),
}

/// A worker as it is.
struct Worker {
    half_open: u32,
    queued: u32,
    open: u64,
    agent: bool,
    /// Its event loop is busy until then: it neither accepts nor speaks.
    busy: Tick,
    to_agent: VecDeque<(Tick, Word)>,
    from_agent: VecDeque<(Tick, Word)>,
    /// What was reported since the last answer.
    reported: Option<u64>,
    told_to_close: bool,
}

impl Worker {
    fn new(dice: &mut Dice, agent: bool) -> Worker {
        let some = |dice: &mut Dice| if dice.percent(60) { dice.roll(4) } else { 0 };
        Worker {
            half_open: some(dice) as u32,
            queued: some(dice) as u32,
            open: some(dice),
            agent,
            busy: Tick::default(),
            to_agent: VecDeque::new(),
            from_agent: VecDeque::new(),
            reported: Some(0),
            told_to_close: false,
        }
    }

    fn clients(&self) -> u64 {
        u64::from(self.half_open) + u64::from(self.queued) + self.open
    }

    fn tell(&mut self, dice: &mut Dice, now: Tick, word: Word) {
        self.to_agent.push_back((now + dice.up_to_ms(3), word));
    }

    fn say(&mut self, dice: &mut Dice, now: Tick, word: Word) {
        // In order: a socket does not let one overtake another.
        let last = self.from_agent.back().map_or(now, |(at, _)| *at);
        let at = last.max(now + dice.up_to_ms(3));
        self.from_agent.push_back((at, word));
    }

    /// A millisecond of its life.
    fn live(&mut self, dice: &mut Dice, now: Tick) {
        if self.half_open > 0 && (dice.percent(2) || now >= Tick(HANDSHAKES_WITHIN)) {
            self.half_open -= 1;
            self.queued += 1;
        }
        if dice.percent(1) && dice.percent(20) {
            self.busy = now + dice.up_to_ms(1500);
        }
        if now < self.busy {
            return;
        }
        if self.queued > 0 && dice.percent(30) {
            self.queued -= 1;
            self.open += 1;
        }
        let ends = if self.told_to_close { 30 } else { 1 };
        if self.open > 0 && dice.percent(ends) {
            self.open -= 1;
        }
        if !self.agent {
            return;
        }
        while self.to_agent.front().is_some_and(|(at, _)| *at <= now) {
            self.to_agent.pop_front();
            self.say(dice, now, Word::Answer);
            let open = self.open;
            self.say(dice, now, Word::Report(open));
        }
        // Changes are reported up to 20 ms late.
        if dice.percent(10) {
            let open = self.open;
            self.say(dice, now, Word::Report(open));
        }
    }

    /// What it has said arrives; `counts`: its agents report its connections.
    fn speak(&mut self, drains: &mut Drains, now: Tick, counts: bool) {
        while let Some((_, word)) = self.from_agent.front().copied().filter(|(at, _)| *at <= now) {
            self.from_agent.pop_front();
            match word {
                Word::Answer => {
                    self.reported = None;
                    drains.handle_answer(WORKER, counts);
                }
                Word::Report(open) => self.reported = Some(open),
                Word::Drain => {}
            }
        }
    }
}

fn history(seed: u64) -> Result<Option<Duration>, String> {
    let mut dice = Dice::new(seed);
    let agent = dice.percent(70);
    let mut worker = Worker::new(&mut dice, agent);
    let within = dice.up_to_ms(8000);
    let source = if agent { Source::Agent } else { Source::Kernel };
    let mut drains = Drains::default();
    drains.begin(WORKER, &start(source, within), Tick::default());
    if agent {
        worker.tell(&mut dice, Tick::default(), Word::Drain);
    }
    let counts = dice.percent(90);
    let mut page_due = dice.percent(30);
    for millis in 0..40_000 {
        let now = at(millis);
        worker.live(&mut dice, now);
        worker.speak(&mut drains, now, counts);
        if millis % LOOK.as_millis() as u64 != 0 {
            continue;
        }
        let asked: Vec<_> = drains.to_look_at(now).collect();
        let [(WORKER, counted)] = asked[..] else {
            return Err(format!("it is not looked at: {asked:?}"));
        };
        let seen = Seen {
            queued: worker.queued,
            // The kernel may not say.
            half_open: worker.half_open > 0 || dice.percent(10),
            reported: worker.reported.filter(|_| counts),
            counted: if counted { Some(worker.open) } else { Some(0) }.filter(|_| !dice.percent(5)),
            page_due,
        };
        match drains.handle_look(WORKER, &seen, now) {
            Action::Wait => {}
            Action::TellToDrain { within } => {
                if within > ms(8000) {
                    return Err(format!("{within:?} are left"));
                }
                worker.tell(&mut dice, now, Word::Drain);
            }
            Action::TellToClose if worker.told_to_close => return Err("told to close twice".to_owned()),
            Action::TellToClose => {
                if now < Tick(within) {
                    return Err("told to close before its time is over".to_owned());
                }
                worker.told_to_close = true;
            }
            Action::ReadPage if worker.clients() > 0 => {
                return Err(format!("its last page is read with {} clients", worker.clients()));
            }
            // It takes some looks until it has come.
            Action::ReadPage => page_due = !dice.percent(30),
            Action::Drained if page_due => return Err("it ends before its last page was read".to_owned()),
            Action::Drained if worker.clients() > 0 => {
                return Err(format!("drained with {} clients", worker.clients()));
            }
            // Whoever cannot close anything has its time.
            Action::Failed if (worker.queued > 0 || worker.open > 0) && now >= Tick(within) => {
                return Ok(None);
            }
            Action::Failed if (worker.queued > 0 || worker.open > 0) => {
                return Err(format!("given up with {} clients", worker.clients()));
            }
            Action::Drained | Action::Failed => return Ok(Some(now.0)),
        }
    }
    Err("no end".to_owned())
}

#[test]
fn no_worker_ends_with_a_client_and_each_ends() {
    let (mut drained, mut given_up) = (0, 0);
    for seed in 0..seeds(SEEDS) {
        match history(seed) {
            Ok(Some(_)) => drained += 1,
            Ok(None) => given_up += 1,
            Err(why) => panic!("seed {seed}: {why}"),
        }
    }
    assert!(
        drained > 200 && given_up > 20,
        "{drained} drained, {given_up} given up"
    );
}

#[test]
fn an_agent_is_asked_again_and_its_fresh_report_counts() {
    let mut drains = begun(Source::Agent);
    let idle = Seen {
        reported: Some(0),
        ..seen()
    };
    assert_eq!(
        drains.handle_look(WORKER, &idle, at(25)),
        Action::Wait,
        "it has not answered"
    );
    drains.handle_answer(WORKER, true);
    let asked = drains.handle_look(WORKER, &idle, at(50));
    let within = ms(29_950);
    assert_eq!(asked, Action::TellToDrain { within });
    assert_eq!(
        drains.handle_look(WORKER, &idle, at(75)),
        Action::Wait,
        "an old report"
    );
    drains.handle_answer(WORKER, true);
    assert_eq!(
        drains.handle_look(WORKER, &seen(), at(100)),
        Action::Wait,
        "it has not reported"
    );
    assert_eq!(drains.handle_look(WORKER, &idle, at(125)), Action::Drained);
    assert!(drains.is_empty());
}

#[test]
fn one_that_refuses_clients_is_not_asked_for_its_last_page() {
    let idle = Seen {
        page_due: true,
        ..seen()
    };
    for (refuses, expected) in [(false, Action::ReadPage), (true, Action::Drained)] {
        let mut drains = begun(Source::Kernel);
        assert!(!refuses || drains.refuse(WORKER, true));
        assert_eq!(drains.handle_look(WORKER, &idle, at(25)), expected);
    }
}

#[test]
fn a_lost_connection_asks_again() {
    let idle = Seen {
        reported: Some(0),
        ..seen()
    };
    let mut drains = begun(Source::ReturningAgent);
    let told = drains.handle_connected(WORKER, at(1000));
    assert_eq!(told, Action::TellToDrain { within: ms(29_000) });
    drains.handle_answer(WORKER, true);
    let asked = drains.handle_look(WORKER, &idle, at(1025));
    assert!(matches!(asked, Action::TellToDrain { .. }));
    assert_eq!(drains.handle_untold(WORKER, asked), Action::Wait);
    let again = drains.handle_look(WORKER, &idle, at(1050));
    assert!(matches!(again, Action::TellToDrain { .. }), "{again:?}");
    let told = drains.handle_connected(WORKER, at(1060));
    assert!(
        matches!(told, Action::TellToDrain { .. }),
        "it may be another process: {told:?}"
    );
    drains.handle_answer(WORKER, true);
    let again = drains.handle_look(WORKER, &idle, at(1075));
    assert!(
        matches!(again, Action::TellToDrain { .. }),
        "that was of before: {again:?}"
    );
}

#[test]
fn a_silent_agent_is_waited_for_while_the_kernel_sees_its_clients() {
    let asks = |drains: &Drains, now| drains.to_look_at(now).collect::<Vec<_>>();
    for (counted, queued) in [(Some(1), 0), (None, 0), (Some(0), 1)] {
        let mut drains = begun(Source::Agent);
        assert_eq!(asks(&drains, at(975)), [(WORKER, false)]);
        let now = Tick(ANSWER_WITHIN);
        assert_eq!(asks(&drains, now), [(WORKER, true)]);
        let busy = Seen {
            counted,
            queued,
            ..seen()
        };
        assert_eq!(drains.handle_look(WORKER, &busy, now), Action::Wait);
        assert_eq!(asks(&drains, now + LOOK), [(WORKER, false)], "not at every look");
        let now = now + ANSWER_WITHIN;
        assert_eq!(
            drains.handle_look(WORKER, &seen(), now),
            Action::Failed,
            "no client is left"
        );
        let mut drains = begun(Source::Agent);
        assert_eq!(
            drains.handle_look(WORKER, &busy, at(30_000)),
            Action::Failed,
            "it is late"
        );
    }
}

#[test]
fn nobody_else_can_close_anything_when_its_time_is_over() {
    let busy = Seen {
        reported: Some(1),
        counted: Some(1),
        ..seen()
    };
    let mut kernel = begun(Source::Kernel);
    assert_eq!(kernel.handle_look(WORKER, &busy, at(29_999)), Action::Wait);
    assert_eq!(kernel.handle_look(WORKER, &busy, at(30_000)), Action::Failed);
    let mut agent = begun(Source::Agent);
    agent.handle_answer(WORKER, true);
    assert_eq!(agent.handle_look(WORKER, &busy, at(30_000)), Action::TellToClose);
    assert_eq!(agent.handle_look(WORKER, &busy, at(30_025)), Action::Wait, "once");
    let mut gone = begun(Source::Agent);
    gone.handle_answer(WORKER, true);
    let close = gone.handle_look(WORKER, &busy, at(30_000));
    assert_eq!(gone.handle_untold(WORKER, close), Action::Failed);
    assert!(gone.is_empty());
}

#[test]
fn a_handshake_may_still_arrive() {
    let opening = Seen {
        half_open: true,
        ..seen()
    };
    let mut drains = begun(Source::Kernel);
    assert!(drains.awaits_handshakes());
    assert_eq!(drains.handle_look(WORKER, &opening, at(3475)), Action::Wait);
    assert_eq!(
        drains.handle_look(WORKER, &opening, Tick(HANDSHAKES_WITHIN)),
        Action::Drained
    );
    let mut drains = begun(Source::Kernel);
    let queued = Seen { queued: 1, ..seen() };
    assert_eq!(drains.handle_look(WORKER, &queued, at(25)), Action::Wait);
    assert!(!drains.awaits_handshakes());
    assert_eq!(
        drains.handle_look(WORKER, &opening, at(50)),
        Action::Drained,
        "a new one is not ours"
    );
}

#[test]
fn those_with_foreign_sockets_end_one_after_the_other() {
    let foreign = Start {
        foreign: true,
        ..start(Source::Kernel, ms(30_000))
    };
    let mut drains = Drains::default();
    for id in 1..=3 {
        drains.begin(WorkerId(id), &foreign, at(0));
    }
    assert!(drains.refuse(WorkerId(3), false));
    let mut look = |id, now| drains.handle_look(WorkerId(id), &seen(), now);
    assert_eq!(look(1, at(25)), Action::Drained);
    assert_eq!(look(2, at(25)), Action::Wait);
    assert_eq!(look(3, at(25)), Action::Drained, "it has closed its listeners");
    assert_eq!(look(2, at(25) + FOREIGN_PAUSE), Action::Drained);
}

#[test]
fn what_drains_no_more_is_not_told_to_refuse() {
    let mut drains = begun(Source::Kernel);
    assert!(drains.refuse(WORKER, true));
    assert_eq!(drains.refuses(WORKER), Some(true));
    drains.end(WORKER);
    assert!(!drains.refuse(WORKER, false));
    assert!(drains.release(WORKER) && !drains.release(WORKER), "once");
}
