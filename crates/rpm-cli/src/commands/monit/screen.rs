//! The state of the screen, and what keys do to it.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt::{self, Display, Formatter};

use ratatui::widgets::TableState;
use rpm_wire::api::{Process, Stream};

use super::daemon::{Known, Output};
use super::keys::{Change, Key, Typed, Wish};
use crate::render;

/// Maximum number of lines of output that are kept.
const LINES: usize = 500;
/// Maximum length of the filter, in characters.
const MAX_FILTER: usize = 64;

/// The state of the screen.
#[derive(Default)]
pub(super) struct Screen {
    /// All that the daemon knows of, by id.
    processes: Vec<Process>,
    /// Which of them are shown, in the order of the screen.
    shown: Vec<usize>,
    /// The id of the chosen one. Its place changes as others come, go and overtake it.
    chosen: Option<u32>,
    /// The place of the chosen one, and of the first one on the screen.
    pub(super) table: TableState,
    pub(super) sort: Sort,
    /// Part of a name; empty: all are shown.
    pub(super) filter: String,
    /// Keys are letters of the filter.
    pub(super) typing: bool,
    pub(super) lines: VecDeque<(Stream, String)>,
    /// Result of the last command, until the next key.
    pub(super) said: String,
    /// Why what is shown is old.
    pub(super) trouble: Option<String>,
    /// The change that waits for confirmation.
    pub(super) asked: Option<Question>,
}

/// The order of the processes. Numbers: the greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Id,
    Name,
    Cpu,
    Memory,
    Restarts,
}

/// A change and its target, which is fixed: the list may change before the answer comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) change: Change,
    pub(super) name: String,
    pub(super) id: u32,
}

/// Effect of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Quit,
    Change(Question),
    Nothing,
}

impl Display for Question {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = render::visible(&self.name);
        match self.change {
            Change::Reload => write!(f, "reload {name}"),
            Change::Restart => write!(f, "restart {name}"),
            Change::Stop => write!(f, "stop {name} ({})", self.id),
        }
    }
}

impl Sort {
    fn next(self) -> Sort {
        match self {
            Sort::Id => Sort::Name,
            Sort::Name => Sort::Cpu,
            Sort::Cpu => Sort::Memory,
            Sort::Memory => Sort::Restarts,
            Sort::Restarts => Sort::Id,
        }
    }

    /// Equal ones are in the order of their ids.
    fn compare(self, one: &Process, other: &Process) -> Ordering {
        match self {
            Sort::Id => Ordering::Equal,
            Sort::Name => one.name.cmp(&other.name),
            Sort::Cpu => other.cpu_percent.total_cmp(&one.cpu_percent),
            Sort::Memory => other.memory_bytes.cmp(&one.memory_bytes),
            Sort::Restarts => other.restarts.cmp(&one.restarts),
        }
        .then(one.id.cmp(&other.id))
    }
}

impl Screen {
    pub(super) fn of(processes: Vec<Process>) -> Screen {
        let mut screen = Screen {
            processes,
            ..Screen::default()
        };
        screen.arrange();
        screen
    }

    /// The id of the process whose output is shown.
    pub(super) fn chosen(&self) -> Option<u32> {
        self.chosen
    }

    /// The processes on the screen, from above.
    pub(super) fn shown(&self) -> impl ExactSizeIterator<Item = &Process> {
        self.shown.iter().map(|&place| &self.processes[place])
    }

    /// Number of processes that there are, shown or not.
    pub(super) fn count(&self) -> usize {
        self.processes.len()
    }

    pub(super) fn process(&self) -> Option<&Process> {
        self.shown().find(|process| Some(process.id) == self.chosen)
    }

    /// What the daemon knows. If it does not say it, what it said last stays.
    pub(super) fn learn(&mut self, known: Known) {
        self.trouble = known.map(|processes| self.processes = processes).err();
        self.arrange();
    }

    /// Shows what the filter lets pass, in order. The choice stays on its process; if that is gone, it stays at its place.
    fn arrange(&mut self) {
        let wanted = self.filter.to_lowercase();
        let passes = |process: &Process| process.name.to_lowercase().contains(&wanted);
        let processes = &self.processes;
        self.shown = (0..processes.len())
            .filter(|&place| passes(&processes[place]))
            .collect();
        self.shown
            .sort_by(|&one, &other| self.sort.compare(&processes[one], &processes[other]));
        let place = self.shown().position(|process| Some(process.id) == self.chosen);
        self.choose(place.or(self.table.selected()).unwrap_or(0));
    }

    /// Chooses the process at this place, or the last one.
    fn choose(&mut self, place: usize) {
        let last = self.shown.len().checked_sub(1);
        let place = last.map(|last| place.min(last));
        self.table.select(place);
        self.chosen = place
            .and_then(|place| self.shown().nth(place))
            .map(|process| process.id);
    }

    fn step(&mut self, by: isize) {
        let now = self.table.selected().unwrap_or(0);
        self.choose(now.saturating_add_signed(by));
    }

    /// Handles a key. While a question is asked, it is the answer; all keys but one mean no.
    pub(super) fn follow(&mut self, key: Key) -> Deed {
        self.said.clear();
        if self.typing {
            return self.type_in(key.typed());
        }
        let asked = self.asked.take();
        match (key.wish(), asked) {
            (Wish::Yes, Some(question)) => {
                self.said = format!("{question} …");
                return Deed::Change(question);
            }
            (Wish::Quit, None) => return Deed::Quit,
            (Wish::Leave, None) if self.filter.is_empty() => return Deed::Quit,
            (Wish::Leave, None) => self.filter.clear(),
            (Wish::Move(by), None) => self.step(by),
            (Wish::Filter, None) => self.typing = true,
            (Wish::Sort, None) => self.sort = self.sort.next(),
            (Wish::Change(change), None) => {
                self.asked = self.process().map(|process| Question {
                    change,
                    name: process.name.clone(),
                    id: process.id,
                });
            }
            (_, Some(_)) | (Wish::Yes | Wish::Nothing, None) => {}
        }
        self.arrange();
        Deed::Nothing
    }

    fn type_in(&mut self, typed: Typed) -> Deed {
        match typed {
            Typed::Quit => return Deed::Quit,
            Typed::Letter(letter) if self.filter.chars().count() < MAX_FILTER => self.filter.push(letter),
            Typed::Erase => self.typing = self.filter.pop().is_some(),
            Typed::Keep => self.typing = false,
            Typed::Drop => {
                self.typing = false;
                self.filter.clear();
            }
            Typed::Move(by) => self.step(by),
            Typed::Letter(_) | Typed::Nothing => {}
        }
        self.arrange();
        Deed::Nothing
    }

    /// Result of a change.
    pub(super) fn say(&mut self, reply: String) {
        self.said = reply;
    }

    pub(super) fn forget_lines(&mut self) {
        self.lines.clear();
    }

    pub(super) fn take(&mut self, output: Output) {
        let line = match output {
            Output::Anew => return self.forget_lines(),
            Output::Line(line) => line,
        };
        if self.lines.len() >= LINES {
            self.lines.pop_front();
        }
        self.lines.push_back((line.stream, render::visible(&line.line)));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ratatui::crossterm::event::{KeyCode, KeyModifiers};
    use rpm_wire::api::LogLine;

    use super::*;

    fn key(code: KeyCode) -> Key {
        let with = KeyModifiers::NONE;
        Key { code, with }
    }

    /// What is done when these keys are pressed, one after the other.
    pub(in super::super) fn deeds(screen: &mut Screen, keys: &str) -> Vec<Deed> {
        let press = |letter| {
            screen.follow(key(match letter {
                '\u{1b}' => KeyCode::Esc,
                '\n' => KeyCode::Enter,
                '\u{8}' => KeyCode::Backspace,
                letter => KeyCode::Char(letter),
            }))
        };
        keys.chars()
            .map(press)
            .filter(|deed| *deed != Deed::Nothing)
            .collect()
    }

    fn process(id: u32, name: &str, (cpu, memory, restarts): (f64, u64, u32)) -> Process {
        serde_json::from_value(serde_json::json!({
            "id": id, "name": name, "instance": 0, "generation": 1, "exec_mode": "cluster", "plane": "direct",
            "status": "online", "pid": 1, "uptime_ms": 1, "started_at_ms": 0, "created_at_ms": 0,
            "restarts": restarts, "unstable_restarts": 0, "cpu_percent": cpu, "memory_bytes": memory,
            "connections": null, "exit_code": null, "out_log": "", "err_log": ""
        }))
        .expect("a process")
    }

    fn some() -> Vec<Process> {
        vec![
            process(0, "web", (1.0, 30, 0)),
            process(3, "Api", (3.0, 10, 0)),
            process(7, "api-jobs", (2.0, 20, 5)),
        ]
    }

    pub(in super::super) fn screen() -> Screen {
        Screen::of(some())
    }

    fn ids(screen: &Screen) -> Vec<u32> {
        screen.shown().map(|process| process.id).collect()
    }

    #[test]
    fn nothing_is_changed_without_a_yes() {
        let screen = &mut screen();
        for typed in [
            "clear; rpm ls",
            "rrr",
            "sns",
            "yyy",
            "r\u{1b}y",
            "ssy",
            "rqy",
            "/sy\n",
        ] {
            assert_eq!(deeds(screen, typed), [], "{typed:?}");
            screen.asked = None;
        }
        let changes = [('r', Change::Reload), ('t', Change::Restart), ('s', Change::Stop)];
        for (letter, change) in changes {
            let screen = &mut Screen::of(some());
            let name = "Api".to_owned();
            let wanted = Deed::Change(Question { change, name, id: 3 });
            assert_eq!(deeds(screen, &format!("j{letter}y")), [wanted]);
            assert!(screen.said.ends_with("…"), "{}", screen.said);
        }
    }

    #[test]
    fn the_choice_stays_on_its_process() {
        let screen = &mut screen();
        deeds(screen, "j");
        assert_eq!(screen.chosen(), Some(3));
        screen.learn(Ok(some().split_off(1)));
        assert_eq!((screen.chosen(), screen.table.selected()), (Some(3), Some(0)));
        screen.learn(Ok(some()));
        assert_eq!((screen.chosen(), screen.table.selected()), (Some(3), Some(1)));
        let mut others = some();
        others.remove(1);
        screen.learn(Ok(others));
        assert_eq!(screen.chosen(), Some(7), "the one at its place");
        screen.learn(Ok(Vec::new()));
        assert_eq!((screen.chosen(), screen.table.selected()), (None, None));
        deeds(screen, "jkr");
        assert!(screen.asked.is_none());
    }

    #[test]
    fn what_was_known_stays_while_the_daemon_is_gone() {
        let screen = &mut screen();
        screen.learn(Err("it is gone".to_owned()));
        assert_eq!(
            (ids(screen).len(), screen.trouble.as_deref()),
            (3, Some("it is gone"))
        );
        screen.learn(Ok(some()));
        assert_eq!(screen.trouble, None);
    }

    #[test]
    fn each_order_keeps_the_choice() {
        let screen = &mut screen();
        deeds(screen, "jj");
        let orders: [(Sort, [u32; 3]); 5] = [
            (Sort::Name, [3, 7, 0]),
            (Sort::Cpu, [3, 7, 0]),
            (Sort::Memory, [0, 7, 3]),
            (Sort::Restarts, [7, 0, 3]),
            (Sort::Id, [0, 3, 7]),
        ];
        for (sort, order) in orders {
            deeds(screen, "o");
            assert_eq!((screen.sort, ids(screen).as_slice()), (sort, order.as_slice()));
            assert_eq!(screen.process().map(|process| process.id), Some(7));
        }
    }

    #[test]
    fn a_filter_is_typed_kept_and_dropped() {
        let screen = &mut screen();
        assert_eq!(deeds(screen, "/API"), []);
        assert_eq!(
            (ids(screen).as_slice(), screen.chosen()),
            ([3, 7].as_slice(), Some(3))
        );
        assert_eq!(deeds(screen, "-q\u{8}j\u{8}\n"), [], "letters are letters");
        assert_eq!(
            (screen.filter.as_str(), ids(screen).as_slice()),
            ("API-", [7].as_slice())
        );
        assert_eq!(deeds(screen, "\u{1b}"), [], "the first one drops the filter");
        assert_eq!((ids(screen).len(), screen.chosen()), (3, Some(7)));
        assert_eq!(deeds(screen, "/x\u{1b}"), []);
        assert_eq!(ids(screen).len(), 3);
        assert_eq!(
            deeds(screen, "/\u{8}\u{1b}"),
            [Deed::Quit],
            "nothing is left to drop"
        );
    }

    #[test]
    fn a_page_and_an_end_of_the_list_are_one_key_away() {
        let many = (0..25).map(|id| process(id, "web", (0.0, 0, 0))).collect();
        let screen = &mut Screen::of(many);
        let steps = [
            (KeyCode::End, 24),
            (KeyCode::PageDown, 24),
            (KeyCode::PageUp, 14),
            (KeyCode::Home, 0),
            (KeyCode::PageUp, 0),
            (KeyCode::PageDown, 10),
            (KeyCode::Char('G'), 24),
            (KeyCode::Char('g'), 0),
        ];
        for (code, id) in steps {
            assert_eq!(screen.follow(key(code)), Deed::Nothing);
            assert_eq!(screen.chosen(), Some(id), "{code:?}");
        }
    }

    #[test]
    fn lines_are_bounded_and_cannot_steer_the_terminal() {
        let mut screen = Screen::default();
        let line = |text: String| LogLine {
            id: 0,
            name: "a".to_owned(),
            stream: Stream::Out,
            line: text,
            shared: false,
            time_ms: None,
            to: None,
        };
        for number in 0..LINES + 10 {
            screen.take(Output::Line(line(format!("{number}\u{1b}[2J"))));
        }
        assert_eq!(screen.lines.len(), LINES);
        assert!(screen.lines.iter().all(|(_, line)| !line.contains('\u{1b}')));
        screen.take(Output::Anew);
        assert!(screen.lines.is_empty(), "the stream brings them again");
    }
}
