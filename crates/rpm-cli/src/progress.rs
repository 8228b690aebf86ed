//! How a change goes on: on a terminal a line for each instance that changes as its workers do, otherwise a line for
//! each step.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write};

use rpm_wire::api::{Stage, Step};

use crate::render::visible;

/// More instances than fit a small window are told of line by line.
const MOST_ROWS: usize = 20;

/// What has been told so far.
#[derive(Debug)]
pub(crate) struct Board<W> {
    out: W,
    /// Lines can be written over.
    terminal: bool,
    /// The workers of each instance, in the order in which they appeared.
    rows: BTreeMap<(String, u32), Vec<(u32, Stage)>>,
    drawn: usize,
}

impl Board<std::io::Stderr> {
    pub(crate) fn on_stderr() -> Self {
        let stderr = std::io::stderr();
        let terminal = stderr.is_terminal();
        Board::new(stderr, terminal)
    }
}

impl<W: Write> Board<W> {
    fn new(out: W, terminal: bool) -> Self {
        Board {
            out,
            terminal,
            rows: BTreeMap::new(),
            drawn: 0,
        }
    }

    pub(crate) fn step(&mut self, step: &Step) {
        let row = self.rows.entry((step.app.clone(), step.id)).or_default();
        match row.iter_mut().find(|(pid, _)| *pid == step.pid) {
            Some((_, stage)) => *stage = step.to,
            None => row.push((step.pid, step.to)),
        }
        self.terminal &= self.rows.len() <= MOST_ROWS;
        let text = if self.terminal {
            self.picture()
        } else {
            let (app, id, pid) = (visible(&step.app), step.id, step.pid);
            format!("{app} {id}: {} (pid {pid})\n", step.to.as_str())
        };
        // Nobody is left to be told that standard error is closed.
        let _ = self.out.write_all(text.as_bytes());
    }

    /// All rows, in place of those drawn before.
    fn picture(&mut self) -> String {
        let mut text = match self.drawn {
            0 => String::new(),
            lines => format!("\u{1b}[{lines}A"),
        };
        for ((app, id), workers) in &self.rows {
            let workers = workers
                .iter()
                .map(|(pid, stage)| format!("{pid} {:<9}", stage.as_str()));
            let line = format!(
                "{} {id}:  {}",
                visible(app),
                workers.collect::<Vec<_>>().join("  ")
            );
            text.push_str(line.trim_end());
            text.push_str("\u{1b}[K\n");
        }
        self.drawn = self.rows.len();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(terminal: bool, steps: &[(u32, u32, Stage)]) -> String {
        let mut board = Board::new(Vec::new(), terminal);
        for &(id, pid, to) in steps {
            let app = "web".to_owned();
            board.step(&Step { app, id, pid, to });
        }
        String::from_utf8(board.out).expect("UTF-8")
    }

    #[test]
    fn a_line_for_each_step() {
        let text = told(
            false,
            &[
                (0, 7, Stage::Starting),
                (0, 7, Stage::Ready),
                (0, 5, Stage::Draining),
            ],
        );
        assert_eq!(
            text,
            "web 0: starting (pid 7)\nweb 0: ready (pid 7)\nweb 0: draining (pid 5)\n"
        );
    }

    #[test]
    fn a_terminal_is_drawn_over() {
        let text = told(
            true,
            &[
                (1, 7, Stage::Starting),
                (0, 8, Stage::Starting),
                (1, 7, Stage::Ready),
            ],
        );
        let wanted = "web 1:  7 starting\u{1b}[K\n\
            \u{1b}[1Aweb 0:  8 starting\u{1b}[K\nweb 1:  7 starting\u{1b}[K\n\
            \u{1b}[2Aweb 0:  8 starting\u{1b}[K\nweb 1:  7 ready\u{1b}[K\n";
        assert_eq!(text, wanted);
    }

    #[test]
    fn too_many_rows_are_told_of_line_by_line() {
        let steps: Vec<_> = (0..30).map(|id| (id, 100 + id, Stage::Starting)).collect();
        assert!(told(true, &steps).ends_with("web 28: starting (pid 128)\nweb 29: starting (pid 129)\n"));
    }
}
