//! Progress of a change. On a terminal, a line for each app that is updated as its workers proceed. Otherwise, a line for each step of the
//! first few workers of an app, and of the 10th, 100th and so on.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write};

use rpm_wire::api::{Step, WorkerStage};

use crate::render::{cut, visible};

/// More apps than fit a small window share one line.
const MOST_ROWS: usize = 20;

/// Apps with more instances are not reported worker by worker.
const MOST_INSTANCES: usize = 8;

/// In the order in which a worker reaches them.
const STAGES: [WorkerStage; 6] = [
    WorkerStage::Starting,
    WorkerStage::Ready,
    WorkerStage::Draining,
    WorkerStage::Stopping,
    WorkerStage::Gone,
    WorkerStage::Failed,
];

/// The progress so far.
#[derive(Debug)]
pub(crate) struct Board<W> {
    out: W,
    /// Width of the terminal, if lines can be redrawn.
    terminal: Option<usize>,
    /// In the order of their names.
    apps: BTreeMap<String, Workers>,
    drawn: usize,
}

/// The workers of an app.
#[derive(Debug, Default)]
struct Workers {
    /// By id and pid.
    stages: BTreeMap<(u32, u32), WorkerStage>,
    /// Ids among them.
    instances: usize,
    /// How many have ever got to each of [`STAGES`].
    reached: [usize; STAGES.len()],
}

impl Workers {
    /// How many there have been at this stage; `None`: it is known of this one.
    fn step(&mut self, step: &Step) -> Option<usize> {
        let ids = (step.id, 0)..=(step.id, u32::MAX);
        self.instances += usize::from(self.stages.range(ids).next().is_none());
        if self.stages.insert((step.id, step.pid), step.to) == Some(step.to) {
            return None;
        }
        let at = STAGES.iter().position(|stage| *stage == step.to)?;
        self.reached[at] += 1;
        Some(self.reached[at])
    }
}

/// Where these workers are: `3 starting, 37 ready`. Those that are gone are only counted while others leave.
fn counted(workers: &[&Workers]) -> String {
    let at = |stage| {
        let stages = workers.iter().flat_map(|workers| workers.stages.values());
        stages.filter(|other| **other == stage).count()
    };
    let leaving = at(WorkerStage::Draining) + at(WorkerStage::Stopping) > 0;
    let shown = STAGES
        .iter()
        .filter(|stage| leaving || **stage != WorkerStage::Gone);
    let counts = shown.map(|stage| (at(*stage), stage.as_str()));
    let counts = counts.filter(|(count, _)| *count > 0);
    let words: Vec<String> = counts.map(|(count, word)| format!("{count} {word}")).collect();
    words.join(", ")
}

fn counted_app((app, workers): (&String, &Workers)) -> String {
    format!("{}: {}", visible(app), counted(&[workers]))
}

impl Board<std::io::Stderr> {
    pub(crate) fn on_stderr() -> Self {
        let stderr = std::io::stderr();
        let columns =
            || ratatui::crossterm::terminal::size().map_or(usize::MAX, |(columns, _)| columns.into());
        let terminal = stderr.is_terminal().then(columns);
        Board::new(stderr, terminal)
    }
}

impl<W: Write> Board<W> {
    fn new(out: W, terminal: Option<usize>) -> Self {
        Board {
            out,
            terminal,
            apps: BTreeMap::new(),
            drawn: 0,
        }
    }

    pub(crate) fn step(&mut self, step: &Step) {
        let workers = self.apps.entry(step.app.clone()).or_default();
        let Some(reached) = workers.step(step) else { return };
        let whole = workers.instances <= MOST_INSTANCES;
        let (app, stage) = (visible(&step.app), step.to.as_str());
        let line = format!("{app} ({}) {stage}, pid {}\n", step.id, step.pid);
        let failed = step.to == WorkerStage::Failed;
        let text = match self.terminal {
            Some(columns) => self.picture(if failed { &line } else { "" }, columns),
            None if whole || failed => line,
            None if is_ten_times(reached) => format!("{app}: {reached} {stage}\n"),
            None => return,
        };
        self.write(&text);
    }

    /// The names of the apps that have got anywhere.
    pub(crate) fn apps(&self) -> Vec<String> {
        self.apps.keys().cloned().collect()
    }

    /// The change is made, or is not.
    pub(crate) fn end(&mut self) {
        if self.terminal.is_none() {
            let many = self
                .apps
                .iter()
                .filter(|(_, workers)| workers.instances > MOST_INSTANCES);
            let text: String = many.map(|app| counted_app(app) + "\n").collect();
            self.write(&text);
        }
    }

    fn write(&mut self, text: &str) {
        // If standard error is closed, there is nowhere to report it.
        let _ = self.out.write_all(text.as_bytes());
    }

    /// Redraws all rows; `lasting` stays above them.
    fn picture(&mut self, lasting: &str, columns: usize) -> String {
        let mut text = match self.drawn {
            0 => String::new(),
            lines => format!("\u{1b}[{lines}A\u{1b}[J"),
        };
        text.push_str(lasting);
        let rows: Vec<String> = if self.apps.len() > MOST_ROWS {
            let all: Vec<&Workers> = self.apps.values().collect();
            vec![format!("{} apps: {}", all.len(), counted(&all))]
        } else {
            self.apps.iter().map(counted_app).collect()
        };
        for row in &rows {
            text.push_str(&cut(row, columns));
            text.push('\n');
        }
        self.drawn = rows.len();
        text
    }
}

/// 1, 10, 100 and so on.
fn is_ten_times(mut count: usize) -> bool {
    while count > 1 && count.is_multiple_of(10) {
        count /= 10;
    }
    count == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(terminal: Option<usize>, steps: &[(&str, u32, u32, WorkerStage)]) -> String {
        let mut board = Board::new(Vec::new(), terminal);
        for &(app, id, pid, to) in steps {
            let app = app.to_owned();
            board.step(&Step { app, id, pid, to });
        }
        board.end();
        String::from_utf8(board.out).expect("UTF-8")
    }

    /// What a terminal shows in the end.
    fn shown(text: &str) -> Vec<&str> {
        let mut lines: Vec<&str> = Vec::new();
        for line in text.lines() {
            let (up, line) = match line.split_once("\u{1b}[J") {
                Some((up, line)) => (up["\u{1b}[".len()..up.len() - 1].parse().expect("lines"), line),
                None => (0, line),
            };
            lines.truncate(lines.len() - up);
            lines.push(line);
        }
        lines
    }

    #[test]
    fn a_line_for_each_step() {
        let steps = [
            ("web", 0, 7, WorkerStage::Starting),
            ("web", 0, 7, WorkerStage::Ready),
            ("web", 0, 7, WorkerStage::Ready),
            ("web", 0, 5, WorkerStage::Draining),
        ];
        assert_eq!(
            told(None, &steps),
            "web (0) starting, pid 7\nweb (0) ready, pid 7\nweb (0) draining, pid 5\n"
        );
    }

    #[test]
    fn a_terminal_has_a_line_for_each_app() {
        let steps = [
            ("web", 1, 7, WorkerStage::Starting),
            ("web", 0, 8, WorkerStage::Starting),
            ("api", 2, 9, WorkerStage::Starting),
            ("web", 1, 7, WorkerStage::Ready),
            ("web", 1, 5, WorkerStage::Draining),
        ];
        let text = told(Some(80), &steps);
        assert_eq!(
            shown(&text),
            ["api: 1 starting", "web: 1 starting, 1 ready, 1 draining"]
        );
        assert!(
            text.starts_with("web: 1 starting\n\u{1b}[1A\u{1b}[Jweb: 2 starting\n"),
            "{text:?}"
        );
        // A line that wraps could not be redrawn.
        for line in shown(&told(Some(20), &steps)) {
            assert!(ratatui::text::Span::raw(line).width() <= 20, "{line}");
        }
    }

    #[test]
    fn those_that_are_gone_are_counted_while_others_leave() {
        let steps = [
            ("web", 0, 5, WorkerStage::Stopping),
            ("web", 1, 6, WorkerStage::Gone),
            ("web", 1, 7, WorkerStage::Ready),
        ];
        assert_eq!(
            shown(&told(Some(80), &steps)),
            ["web: 1 ready, 1 stopping, 1 gone"]
        );
        let all_gone = [&steps[1..], &[("web", 0, 5, WorkerStage::Gone)]].concat();
        assert_eq!(shown(&told(Some(80), &all_gone)), ["web: 1 ready"]);
    }

    #[test]
    fn failures_stay_above_what_is_drawn_over() {
        let steps = [
            ("web", 0, 7, WorkerStage::Starting),
            ("web", 0, 7, WorkerStage::Failed),
            ("web", 0, 8, WorkerStage::Starting),
        ];
        let text = told(Some(80), &steps);
        assert_eq!(
            shown(&text),
            ["web (0) failed, pid 7", "web: 1 starting, 1 failed"]
        );
    }

    #[test]
    fn many_apps_share_a_line() {
        let names: Vec<String> = (0..30).map(|number| format!("app-{number}")).collect();
        let steps: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), 0, 7, WorkerStage::Starting))
            .collect();
        assert_eq!(shown(&told(Some(80), &steps)), ["30 apps: 30 starting"]);
        assert_eq!(told(None, &steps).lines().count(), 30);
    }

    /// A reload of 40 workers, of which one fails at first.
    #[test]
    fn an_app_of_many_workers_is_told_of_by_numbers() {
        let stage = |to, first: u32| (0..40).map(move |id| ("web", id, first + id, to));
        let failure = [
            ("web", 39, 99, WorkerStage::Starting),
            ("web", 39, 99, WorkerStage::Failed),
        ];
        let steps: Vec<_> = stage(WorkerStage::Starting, 100)
            .chain(failure)
            .chain(stage(WorkerStage::Ready, 100))
            .chain(stage(WorkerStage::Draining, 200))
            .chain(stage(WorkerStage::Gone, 200))
            .collect();
        let text = told(None, &steps);
        let lines: Vec<&str> = text.lines().collect();
        let expected: Vec<String> = (0..8)
            .map(|id| format!("web ({id}) starting, pid {}", 100 + id))
            .chain(["web: 10 starting", "web (39) failed, pid 99"].map(str::to_owned))
            .chain(
                [
                    "web: 1 ready",
                    "web: 10 ready",
                    "web: 1 draining",
                    "web: 10 draining",
                ]
                .map(str::to_owned),
            )
            .chain(["web: 1 gone", "web: 10 gone", "web: 40 ready, 1 failed"].map(str::to_owned))
            .collect();
        assert_eq!(lines, expected);
        assert_eq!(
            shown(&told(Some(80), &steps)),
            ["web (39) failed, pid 99", "web: 40 ready, 1 failed"]
        );
    }
}
