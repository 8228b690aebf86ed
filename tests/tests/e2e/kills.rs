//! Daemon, keeper, command or worker is killed at a random moment of a command. Afterwards the list is what runs, the listeners are those
//! of the list, nothing is left over, and nothing exists twice.
//!
//! `RPM_KILLS=2000` runs that many instead of a hundred. A failure names its seed, which `RPM_KILL_SEED=N` replays.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::dice::Dice;
use rpm_e2e::outside::kill;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Process, Rpm, Status, get, wait_for, wait_until};

/// Long enough for a daemon to take over, and for processes to end, on a loaded machine.
const BOUND: Duration = Duration::from_secs(30);
/// Interleavings of all tests together, unless the environment says otherwise.
const USUAL: u64 = 100;
/// Tests that run concurrently.
const TESTS: u64 = 4;
/// A command has ended by then; before that, it is at any point of its work.
const LONGEST_MS: u64 = 120;
/// The apps: a cluster of up to four, and one process.
const CLUSTER: &str = "many";
const ALONE: &str = "one";

struct World {
    rpm: Rpm,
    program: PathBuf,
    _place: Place,
    many: Port,
    one: Port,
    /// What was done, for the message of a failure.
    history: Vec<String>,
}

impl World {
    fn new() -> World {
        let place = Place::new();
        World {
            rpm: Rpm::new(),
            program: place.small_server(),
            _place: place,
            many: Port::reserve(),
            one: Port::reserve(),
            history: Vec::new(),
        }
    }

    /// A command that applies to the current apps.
    fn command(&self, dice: &mut Dice) -> Command {
        let names = [CLUSTER, CLUSTER, ALONE];
        let name = names[dice.roll(3) as usize];
        if !self.rpm.list().iter().any(|process| process.name == name) {
            return self.start(name);
        }
        let count = (1 + dice.roll(4)).to_string();
        let words: &[&str] = match dice.roll(8) {
            0 => &["stop", name],
            1 => &["delete", name],
            2 => &["restart", name],
            3 => &["reload", name],
            4 => &["start", name],
            5 => &["save"],
            _ if name == CLUSTER => &["scale", name, &count],
            _ => &["stop", name],
        };
        self.rpm.command(words)
    }

    fn start(&self, name: &str) -> Command {
        let app = App::of([&self.program]).args([
            "--name",
            name,
            "--max-restarts",
            "100000",
            "--kill-timeout",
            "500",
        ]);
        let app = match name {
            CLUSTER => app.args(["-i", "2"]).port(&self.many),
            _ => app.port(&self.one),
        };
        app.command(&self.rpm)
    }

    /// Kills one of the processes that carry out a command, at a random moment.
    fn interrupt(&mut self, dice: &mut Dice) {
        let mut command = self.command(dice);
        let text: Vec<String> = command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let after = Duration::from_millis(dice.roll(LONGEST_MS));
        let whom = dice.roll(12);
        let daemon = self.rpm.daemon_pid();
        let workers = self.rpm.processes_of_workers();
        let mut child: Child = command.spawn().expect("rpm runs");
        // tidy: sleep because the moment of the kill is what the test is about
        std::thread::sleep(after);
        let daemon = || daemon.or_else(|| self.rpm.daemon_pid());
        let victims = match whom {
            0..4 => vec![daemon()],
            4..6 => vec![self.rpm.keeper_pid()],
            6 => vec![daemon(), self.rpm.keeper_pid()],
            7 => vec![self.rpm.keeper_pid(), daemon()],
            8..10 => vec![Some(child.id())],
            _ => {
                let which = dice.roll(workers.len().max(1) as u64) as usize;
                vec![workers.get(which).copied()]
            }
        };
        self.history
            .push(format!("{} / {whom} killed after {after:?}", text.join(" ")));
        for victim in victims.into_iter().flatten() {
            // It may have ended by itself.
            let _ = std::panic::catch_unwind(|| kill(victim));
        }
        let ended = || child.try_wait().expect("it is ours");
        wait_for("the command ends", BOUND, ended);
    }

    /// Waits until nothing is in progress, and compares.
    fn check(&self) {
        let look = || (self.rpm.list(), self.rpm.processes_of_workers());
        let agrees = |(list, runs): &(Vec<Process>, Vec<u32>)| {
            let at_rest = |process: &Process| {
                matches!(process.status, Status::Online | Status::Stopped) && process.others.is_empty()
            };
            let listed: BTreeSet<u32> = list.iter().filter_map(|process| process.pid).collect();
            let runs: BTreeSet<u32> = runs.iter().copied().collect();
            list.iter().all(at_rest) && runs == listed
        };
        let (list, runs) = wait_until("what runs is what is listed", BOUND, look, agrees);
        let online: Vec<&Process> = list
            .iter()
            .filter(|process| process.status == Status::Online)
            .collect();
        assert_eq!(runs.len(), online.len(), "{list:#?}");
        let places: BTreeSet<(&str, u32)> = list
            .iter()
            .map(|process| (process.name.as_str(), process.instance))
            .collect();
        assert_eq!(places.len(), list.len(), "{list:#?}");
        for (name, port) in [(CLUSTER, &self.many), (ALONE, &self.one)] {
            let expected = online.iter().filter(|process| process.name == name).count();
            wait_until(
                &format!("{name} has as many listeners as processes"),
                BOUND,
                || port.listeners(),
                |count| *count == expected,
            );
            let answer = get(port.number(), "/");
            assert_eq!(answer.is_ok(), expected > 0, "{name}: {answer:?}");
        }
    }
}

/// Runs one seed after the other, each on the state that the previous one left.
fn interleavings(test: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let count = number("RPM_KILLS").unwrap_or(USUAL) / TESTS;
    let first = number("RPM_KILL_SEED").unwrap_or(1_000_000 * test);
    let mut world = World::new();
    for seed in first..first + count {
        let mut dice = Dice::new(seed);
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.interrupt(&mut dice);
            world.check();
        }));
        if let Err(panic) = done {
            let last = world.history.len().saturating_sub(5);
            println!(
                "seed {seed}; before it: {:#?}\n{}",
                &world.history[last..],
                world.rpm.log()
            );
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn whoever_is_killed_nothing_is_half_done_1() {
    interleavings(1);
}

#[test]
fn whoever_is_killed_nothing_is_half_done_2() {
    interleavings(2);
}

#[test]
fn whoever_is_killed_nothing_is_half_done_3() {
    interleavings(3);
}

#[test]
fn whoever_is_killed_nothing_is_half_done_4() {
    interleavings(4);
}
