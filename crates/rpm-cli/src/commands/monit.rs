//! `monit`: processes and their output, live, on a terminal.

mod daemon;
mod draw;
mod keys;
mod screen;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use rpm_wire::api::Process;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::{be_silent, concluded, event_loop, read};
use crate::args::Client;
use daemon::{Following, carry_out, watch};
pub(super) use keys::{Wish, keys};
use screen::{Deed, Screen};

/// Capacity of the queues of keys, of lines and of results.
const QUEUE: usize = 256;

/// Shows processes and their output until a key or a signal ends it, and reports errors on standard error. Exit code 0 or 1, or 128 + signal.
///
/// It is not part of [`crate::run`], so that a program which does not call it has none of what draws a screen.
#[must_use]
pub fn run(client: &Client) -> ExitCode {
    if client.silent {
        be_silent();
    }
    match event_loop().and_then(|runtime| runtime.block_on(monit())) {
        Ok(End::Signal(number)) => ExitCode::from(128 + number),
        Ok(End::Key) => ExitCode::SUCCESS,
        Err(error) => concluded(Err(error)),
    }
}

/// Why the screen ended.
enum End {
    Key,
    /// Its number.
    Signal(u8),
}

async fn monit() -> anyhow::Result<End> {
    if !io::stdout().is_terminal() {
        bail!("monit needs a terminal; `rpm list --json` and `rpm logs --json` are for programs");
    }
    let first: Vec<Process> = read("/v1/processes").await?;
    // Before the terminal changes: a signal that came in between would leave it changed.
    let mut signals = Signals::new().context("cannot wait for signals")?;
    let mut terminal = ratatui::try_init().context("the terminal cannot be used")?;
    let ended = tokio::select! {
        number = signals.next() => Ok(End::Signal(number)),
        ended = show(&mut terminal, first) => ended.map(|()| End::Key),
    };
    ratatui::restore();
    ended
}

/// The signals that end a program. They only end it after the terminal is as it was.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The number of the next one.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.hangup.recv() => 1,
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
        }
    }
}

async fn show(terminal: &mut ratatui::DefaultTerminal, first: Vec<Process>) -> anyhow::Result<()> {
    let mut screen = Screen::of(first);
    let mut keys = keys()?;
    // The daemon is asked elsewhere, so that keys and lines never wait for it.
    let (seen, mut news) = mpsc::channel(1);
    tokio::spawn(watch(seen));
    let (said, mut replies) = mpsc::channel(QUEUE);
    let mut following = Following::none();
    loop {
        if following.turn_to(screen.chosen()) {
            screen.forget_lines();
        }
        terminal.draw(|frame| draw::draw(&mut screen, frame))?;
        tokio::select! {
            Some(known) = news.recv() => screen.learn(known),
            output = following.next() => screen.take(output),
            Some(reply) = replies.recv() => screen.say(reply),
            key = keys.recv() => match key {
                None => return Ok(()),
                // The window has another size.
                Some(None) => {}
                Some(Some(key)) => match screen.follow(key) {
                    Deed::Quit => return Ok(()),
                    Deed::Change(question) => drop(tokio::spawn(carry_out(question, said.clone()))),
                    Deed::Nothing => {}
                },
            },
        }
    }
}
