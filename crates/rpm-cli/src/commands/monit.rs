//! `monit`: processes and their output, live, on a terminal.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, TableState};
use rpm_wire::api::{Action, ChangeReply, Follow, LogLine, Process, ReloadRequest, Status, Stream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::{action, be_silent, concluded, event_loop, read, session};
use crate::args::Client;
use crate::render;

/// Refresh interval of the processes.
const INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of lines of output that are kept.
const LINES: usize = 500;
/// Number of past lines that a newly selected process shows.
const PAST: u32 = 50;
/// Capacity of the queue of events.
const QUEUE: usize = 256;

/// The last line while no question is asked.
const KEYS: &str = "↑↓ choose  r reload  t restart  s stop  q quit";

/// The state of the screen.
#[derive(Default)]
struct Screen {
    processes: Vec<Process>,
    chosen: TableState,
    lines: VecDeque<(Stream, String)>,
    /// Result of the last command.
    said: String,
    /// The change that waits for confirmation.
    asked: Option<Question>,
}

/// What a key requests.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    Move(isize),
    Change(Change),
    /// Of what was asked.
    Yes,
    Nothing,
}

/// A change of a process. It needs confirmation, because this window is easily mistaken for a shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Reload,
    Restart,
    Stop,
}

/// A change and its target, which is fixed: the list may change before the answer comes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Question {
    change: Change,
    name: String,
    id: u32,
}

/// Effect of a key.
#[derive(Debug, PartialEq, Eq)]
enum Deed {
    Quit,
    Change(Question),
    Nothing,
}

/// Shows processes and their output until a key ends it, and reports errors on standard error. Exit code 0 or 1.
///
/// It is not part of [`crate::run`], so that a program which does not call it has none of what draws a screen.
#[must_use]
pub fn run(client: &Client) -> ExitCode {
    if client.silent {
        be_silent();
    }
    concluded(event_loop().and_then(|runtime| runtime.block_on(monit())))
}

async fn monit() -> anyhow::Result<()> {
    if !io::stdout().is_terminal() {
        bail!("monit needs a terminal; `rpm list --json` and `rpm logs --json` are for programs");
    }
    let first: Vec<Process> = read("/v1/processes").await?;
    let mut terminal = ratatui::try_init().context("the terminal cannot be used")?;
    let ended = show(&mut terminal, first).await;
    ratatui::restore();
    ended
}

async fn show(terminal: &mut ratatui::DefaultTerminal, first: Vec<Process>) -> anyhow::Result<()> {
    let mut screen = Screen {
        processes: first,
        ..Screen::default()
    };
    let mut keys = keys()?;
    let (sender, mut lines) = mpsc::channel(QUEUE);
    let (said, mut replies) = mpsc::channel(QUEUE);
    let mut following: Option<(u32, JoinHandle<()>)> = None;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        screen.clamp();
        let chosen = screen.process().map(|process| process.id);
        if following.as_ref().map(|(id, _)| *id) != chosen {
            if let Some((_, task)) = following.take() {
                task.abort();
                while lines.try_recv().is_ok() {}
            }
            screen.lines.clear();
            following = chosen.map(|id| (id, tokio::spawn(follow(id, sender.clone()))));
        }
        terminal.draw(|frame| screen.draw(frame))?;
        tokio::select! {
            _ = ticks.tick() => screen.processes = read("/v1/processes").await?,
            line = lines.recv() => screen.push(line),
            reply = replies.recv() => screen.said = reply.unwrap_or_default(),
            wish = keys.recv() => match wish {
                None => return Ok(()),
                Some(None) => {}
                Some(Some(wish)) => match screen.follow(wish) {
                    Deed::Quit => return Ok(()),
                    Deed::Change(question) => drop(tokio::spawn(carry_out(question, said.clone()))),
                    Deed::Nothing => {}
                },
            },
        }
    }
}

/// Keys, from a thread that ends with the process; `None` means only redraw.
pub(super) fn keys() -> io::Result<mpsc::Receiver<Option<Wish>>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    std::thread::Builder::new().spawn(move || {
        while let Ok(event) = event::read() {
            let wish = match event {
                Event::Key(key) if key.kind == KeyEventKind::Press => Some(wish(key.code, key.modifiers)),
                // Redraw for the new size.
                Event::Resize(..) => None,
                _ => continue,
            };
            if sender.blocking_send(wish).is_err() {
                break;
            }
        }
    })?;
    Ok(receiver)
}

fn wish(key: KeyCode, with: KeyModifiers) -> Wish {
    match key {
        KeyCode::Char('c') if with.contains(KeyModifiers::CONTROL) => Wish::Quit,
        // Keys with Ctrl or Alt have no meaning here.
        _ if !with.difference(KeyModifiers::SHIFT).is_empty() => Wish::Nothing,
        KeyCode::Char('q') | KeyCode::Esc => Wish::Quit,
        KeyCode::Up | KeyCode::Char('k') => Wish::Move(-1),
        KeyCode::Down | KeyCode::Char('j') => Wish::Move(1),
        KeyCode::Char('r') => Wish::Change(Change::Reload),
        KeyCode::Char('t') => Wish::Change(Change::Restart),
        KeyCode::Char('s') => Wish::Change(Change::Stop),
        KeyCode::Char('y' | 'Y') => Wish::Yes,
        _ => Wish::Nothing,
    }
}

/// The lines of a process until it is aborted or the daemon ends the stream.
async fn follow(id: u32, lines: mpsc::Sender<LogLine>) {
    let path = format!("/v1/logs?lines={PAST}&follow=true&target={id}");
    let Ok(mut session) = session().await else { return };
    let Ok(mut stream) = session.lines(&path).await else {
        return;
    };
    while let Ok(Some(part)) = stream.next().await {
        for line in part.split(|&byte| byte == b'\n') {
            if let Ok(line) = serde_json::from_slice(line)
                && lines.send(line).await.is_err()
            {
                return;
            }
        }
    }
}

async fn carry_out(Question { change, name, id }: Question, said: mpsc::Sender<String>) {
    let done = async {
        let mut session = session().await?;
        let reply: ChangeReply = match change {
            Change::Reload => {
                let request = ReloadRequest {
                    targets: vec![name.clone()],
                    env: std::collections::BTreeMap::new(),
                    watch_after_ms: None,
                    wait: true,
                    follow: Follow::default(),
                };
                session.post("/v1/reload", &request).await?
            }
            Change::Restart => {
                let request = action(Action::Restart, vec![name.clone()], true);
                session.post("/v1/actions", &request).await?
            }
            Change::Stop => {
                let request = action(Action::Stop, vec![id.to_string()], true);
                session.post("/v1/actions", &request).await?
            }
        };
        anyhow::Ok(reply)
    };
    let text = match done.await {
        Ok(reply) => reply
            .notes
            .first()
            .cloned()
            .unwrap_or_else(|| format!("{name}: done")),
        Err(error) => format!("{name}: {error}"),
    };
    // It fails only if the screen has ended.
    let _ = said.send(text).await;
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = render::visible(&self.name);
        match self.change {
            Change::Reload => write!(f, "reload {name}?"),
            Change::Restart => write!(f, "restart {name}?"),
            Change::Stop => write!(f, "stop {name} ({})?", self.id),
        }
    }
}

impl Screen {
    fn process(&self) -> Option<&Process> {
        self.processes.get(self.chosen.selected()?)
    }

    /// Makes sure that an existing process is selected.
    fn clamp(&mut self) {
        let last = self.processes.len().checked_sub(1);
        let chosen = last.map(|last| self.chosen.selected().unwrap_or(0).min(last));
        self.chosen.select(chosen);
    }

    fn choose(&mut self, by: isize) {
        let now = self.chosen.selected().unwrap_or(0);
        self.chosen.select(Some(now.saturating_add_signed(by)));
        self.clamp();
    }

    /// Handles a key. While a question is asked, it is the answer; all keys but one mean no.
    fn follow(&mut self, wish: Wish) -> Deed {
        let asked = self.asked.take();
        match (wish, asked) {
            (Wish::Yes, Some(question)) => Deed::Change(question),
            (Wish::Quit, None) => Deed::Quit,
            (Wish::Move(by), None) => {
                self.choose(by);
                Deed::Nothing
            }
            (Wish::Change(change), None) => {
                self.asked = self.process().map(|process| Question {
                    change,
                    name: process.name.clone(),
                    id: process.id,
                });
                Deed::Nothing
            }
            (_, Some(_)) | (Wish::Yes | Wish::Nothing, None) => Deed::Nothing,
        }
    }

    fn foot(&self) -> Line<'_> {
        match &self.asked {
            Some(question) => Line::styled(format!("{question} y/N"), Style::new().fg(Color::Yellow)),
            None => Line::raw(format!("{KEYS}   {}", self.said)),
        }
    }

    fn push(&mut self, line: Option<LogLine>) {
        if self.lines.len() >= LINES {
            self.lines.pop_front();
        }
        self.lines
            .extend(line.map(|line| (line.stream, render::visible(&line.line))));
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let [above, below, foot] = Layout::vertical([
            Constraint::Percentage(50),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.draw_processes(frame, above);
        self.draw_lines(frame, below);
        frame.render_widget(Paragraph::new(self.foot()), foot);
    }

    fn draw_processes(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let header = Row::new(["id", "name", "status", "cpu", "memory", "↺", "uptime", "conns"]);
        let rows: Vec<Row<'_>> = self.processes.iter().map(row).collect();
        let widths = [
            Constraint::Length(5),
            Constraint::Fill(1),
            Constraint::Length(16),
            Constraint::Length(8),
            Constraint::Length(10),
            Constraint::Length(5),
            Constraint::Length(8),
            Constraint::Length(7),
        ];
        let table = Table::new(rows, widths)
            .header(header.style(Style::new().add_modifier(Modifier::BOLD)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
            .block(Block::bordered().title(" processes "));
        frame.render_stateful_widget(table, area, &mut self.chosen);
    }

    fn draw_lines(&self, frame: &mut Frame<'_>, area: Rect) {
        let title = self.process().map_or_else(String::new, |process| {
            format!(" output of {} ({}) ", render::visible(&process.name), process.id)
        });
        let room = usize::from(area.height.saturating_sub(2));
        let from = self.lines.len().saturating_sub(room);
        let lines = self.lines.iter().skip(from).map(|(stream, line)| {
            let style = match stream {
                Stream::Out => Style::new(),
                Stream::Err => Style::new().fg(Color::Red),
            };
            Line::styled(line.as_str(), style)
        });
        let text: Vec<Line<'_>> = lines.collect();
        frame.render_widget(Paragraph::new(text).block(Block::bordered().title(title)), area);
    }
}

fn row(process: &Process) -> Row<'_> {
    let colour = match process.status {
        Status::Online => Color::Green,
        Status::Launching | Status::Stopping | Status::WaitingRestart => Color::Yellow,
        Status::Stopped => Color::DarkGray,
        Status::Errored => Color::Red,
    };
    let figures = render::Figures::of(process);
    Row::new([
        Cell::new(process.id.to_string()),
        Cell::new(render::visible(&process.name)),
        Cell::new(process.status.as_str()).style(Style::new().fg(colour)),
        Cell::new(figures.cpu),
        Cell::new(figures.memory),
        Cell::new(process.restarts.to_string()),
        Cell::new(figures.uptime),
        Cell::new(figures.connections),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_what_they_ask_for() {
        let plain = KeyModifiers::NONE;
        assert_eq!(wish(KeyCode::Char('q'), plain), Wish::Quit);
        assert_eq!(wish(KeyCode::Char('c'), KeyModifiers::CONTROL), Wish::Quit);
        assert_eq!(wish(KeyCode::Char('c'), plain), Wish::Nothing);
        assert_eq!(wish(KeyCode::Down, plain), Wish::Move(1));
        assert_eq!(wish(KeyCode::Char('r'), plain), Wish::Change(Change::Reload));
        assert_eq!(wish(KeyCode::Char('r'), KeyModifiers::CONTROL), Wish::Nothing);
    }

    /// What is done when these keys are pressed, one after the other.
    fn deeds(screen: &mut Screen, keys: &str) -> Vec<Deed> {
        let press = |key| screen.follow(wish(KeyCode::Char(key), KeyModifiers::NONE));
        keys.chars()
            .map(press)
            .filter(|deed| *deed != Deed::Nothing)
            .collect()
    }

    fn screen() -> Screen {
        let process = |id: u32| {
            serde_json::from_value(serde_json::json!({
                "id": id, "name": "web", "instance": id, "generation": 1, "exec_mode": "cluster", "plane": "direct",
                "status": "online", "pid": 1, "uptime_ms": 1, "started_at_ms": 0, "created_at_ms": 0, "restarts": 0,
                "unstable_restarts": 0, "cpu_percent": 0.0, "memory_bytes": 0, "connections": null, "exit_code": null,
                "out_log": "", "err_log": ""
            }))
            .expect("a process")
        };
        let mut screen = Screen {
            processes: vec![process(0), process(1)],
            ..Screen::default()
        };
        screen.clamp();
        screen
    }

    #[test]
    fn nothing_is_changed_without_a_yes() {
        let screen = &mut screen();
        for typed in ["clear; rpm ls", "rrr", "sns", "yyy", "r\u{1b}y", "ssy", "rqy"] {
            assert_eq!(deeds(screen, typed), [], "{typed:?}");
            screen.asked = None;
        }
        let changes = [('r', Change::Reload), ('t', Change::Restart), ('s', Change::Stop)];
        for (key, change) in changes {
            let name = "web".to_owned();
            let wanted = Deed::Change(Question { change, name, id: 1 });
            assert_eq!(deeds(screen, &format!("j{key}y")), [wanted]);
        }
    }

    #[test]
    fn the_question_stands_at_the_foot_and_its_answer_is_no_command() {
        let screen = &mut screen();
        let foot = |screen: &Screen| screen.foot().to_string();
        assert!(foot(screen).contains("s stop"));
        let questions = [
            ('r', "reload web? y/N"),
            ('t', "restart web? y/N"),
            ('s', "stop web (0)? y/N"),
        ];
        for (key, question) in questions {
            assert_eq!(deeds(screen, &key.to_string()), []);
            assert_eq!(foot(screen), question);
            assert_eq!(deeds(screen, "q"), [], "it answers the question");
            assert!(foot(screen).contains("s stop"));
        }
        assert_eq!(deeds(screen, "q"), [Deed::Quit]);
    }

    #[test]
    fn nothing_is_chosen_where_nothing_is() {
        let mut screen = Screen::default();
        screen.choose(1);
        assert!(screen.process().is_none());
        for number in 0..LINES + 10 {
            screen.push(Some(LogLine {
                id: 0,
                name: "a".to_owned(),
                stream: Stream::Out,
                line: format!("{number}\u{1b}[2J"),
                shared: false,
                time_ms: None,
                to: None,
            }));
        }
        assert_eq!(screen.lines.len(), LINES);
        assert!(screen.lines.iter().all(|(_, line)| !line.contains('\u{1b}')));
    }
}
