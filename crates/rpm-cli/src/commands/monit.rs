//! `monit`: apps, their instances and their output, live, on a terminal.
//!
//! What is shown, and what keys do to it, is decided by [`Screen`] without a terminal; here is what asks the daemon, the machine and the
//! user, and what draws.

mod book;
mod daemon;
mod draw;
mod fleet;
mod history;
mod input;
mod keys;
mod layout;
mod machine;
mod palette;
mod request;
mod screen;
mod summary;
mod text;
mod theme;

use std::io::{self, IsTerminal as _, Stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use rpm_wire::api::Process;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout_at};

use super::terminal::{OtherScreen, Signals};
use super::{be_silent, concluded, event_loop, read, tell};
use crate::args::Client;
use crate::output::colours_wanted;
use daemon::{Following, Reply, Seen, carry_out, look};
pub(super) use input::{Input, inputs};
use machine::Sampler;
use screen::{Effect, Screen};
use theme::Theme;

/// Capacity of the queues of inputs and of results.
const QUEUE: usize = 256;
/// Interval of looks at the machine; the first one comes sooner, as a share of time needs two looks.
const MACHINE: Duration = Duration::from_secs(1);
const MACHINE_FIRST: Duration = Duration::from_millis(250);
/// After the screen was left: for changes to be sent and answered. What takes longer goes on in the daemon.
const SETTLING: Duration = Duration::from_secs(1);
/// What is not the answer to a key is drawn at most this often.
const FRAME: Duration = Duration::from_millis(50);

/// Shows apps and their output until a key or a signal ends it, and reports errors on standard error. Exit code 0 or 1, or 128 + signal.
///
/// It is not part of [`crate::run`], so that a program which does not call it has none of what draws a screen.
#[must_use]
pub fn run(client: &Client) -> ExitCode {
    if client.silent {
        be_silent();
    }
    let coloured = !client.no_color && colours_wanted(std::env::var_os("NO_COLOR"));
    concluded(event_loop().and_then(|runtime| runtime.block_on(monit(coloured))))
}

async fn monit(coloured: bool) -> anyhow::Result<()> {
    if !io::stdout().is_terminal() {
        bail!("monit needs a terminal; `rpm list --json` and `rpm logs --json` are for programs");
    }
    let first: Vec<Process> = read("/v1/processes").await?;
    let mut signals = Signals::new().context("cannot wait for signals")?;
    let other = OtherScreen::open().context("the terminal cannot be used")?;
    let terminal =
        Terminal::new(CrosstermBackend::new(io::stdout())).context("the terminal cannot be used")?;
    let left = tokio::select! {
        ended = signals.next() => return Err(ended.into()),
        left = show(terminal, &other, first, theme(coloured)) => left?,
    };
    drop(other);
    left.settle().await;
    Ok(())
}

/// Changes that were asked for and not answered when the screen was left.
struct Unanswered {
    running: Vec<String>,
    replies: mpsc::Receiver<Reply>,
}

impl Unanswered {
    /// Says what became of them: a moment after the last key they may not be sent yet.
    async fn settle(mut self) {
        let until = Instant::now() + SETTLING;
        while !self.running.is_empty() {
            let Ok(Some(reply)) = timeout_at(until, self.replies.recv()).await else {
                break;
            };
            if let Some(at) = self.running.iter().position(|label| *label == reply.label) {
                self.running.swap_remove(at);
            }
            match reply.result {
                Ok(text) | Err(text) => tell(text),
            }
        }
        for label in self.running {
            tell(format!(
                "{label}: not answered yet; `rpm list` shows what comes of it"
            ));
        }
    }
}

fn theme(coloured: bool) -> Theme {
    let variable = |name| std::env::var(name).unwrap_or_default();
    Theme::of(coloured, &variable("TERM"), &variable("COLORTERM"))
}

/// The name of this machine.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    crate::render::visible(name.trim())
}

async fn show(
    mut terminal: Terminal<CrosstermBackend<Stdout>>,
    other: &OtherScreen,
    first: Vec<Process>,
    theme: Theme,
) -> anyhow::Result<Unanswered> {
    let began = Instant::now();
    let mut screen = Screen::new(theme);
    screen.host = host();
    screen.zone = Some(TimeZone::system());
    screen.handle_processes(Ok(first), Duration::ZERO);
    other.take_mouse(screen.mouse)?;
    let mut inputs = inputs()?;
    // The daemon is asked elsewhere, so that keys and lines never wait for it.
    let (seen, mut news) = mpsc::channel(1);
    let (ask, wanted) = watch::channel(None);
    tokio::spawn(look(seen, wanted));
    let (said, mut replies) = mpsc::channel(QUEUE);
    let mut following = Following::none();
    let mut sampler = Sampler::default();
    screen.handle_machine(sampler.read());
    let mut looks = interval_at(began + MACHINE_FIRST, MACHINE);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // When it is drawn next, unless nothing has changed.
    let (mut due, mut last) = (Some(began), began);
    loop {
        if following.turn_to(screen.source()) {
            screen.book.clear();
        }
        ask.send_if_modified(|wanted| {
            let app = screen.wanted_app();
            let is_other = *wanted != app;
            *wanted = app;
            is_other
        });
        let is_answer = tokio::select! {
            () = sleep_until(due.unwrap_or(began)), if due.is_some() => {
                terminal.draw(|frame| {
                    screen.lay_out(frame.area());
                    draw::draw(&screen, frame);
                })?;
                (due, last) = (None, Instant::now());
                continue;
            }
            Some(known) = news.recv() => {
                let known = known.map(|Seen { processes, listeners }| {
                    screen.listeners = listeners;
                    processes
                });
                screen.handle_processes(known, began.elapsed());
                false
            }
            _ = looks.tick() => { screen.handle_machine(sampler.read()); false }
            output = following.next() => { screen.handle_output(output); false }
            Some(reply) = replies.recv() => { screen.now = began.elapsed(); screen.handle_reply(reply); true }
            input = inputs.recv() => {
                screen.now = began.elapsed();
                match input.map(|input| screen.handle_input(input)) {
                    None | Some(Effect::Quit) => {
                        return Ok(Unanswered { running: screen.running, replies });
                    }
                    Some(Effect::Run(request)) => drop(tokio::spawn(carry_out(request, said.clone()))),
                    Some(Effect::Mouse(wanted)) => other.take_mouse(wanted)?,
                    Some(Effect::Nothing) => {}
                }
                true
            }
        };
        due = Some(match is_answer {
            true => Instant::now(),
            false => due.unwrap_or(last + FRAME),
        });
    }
}
