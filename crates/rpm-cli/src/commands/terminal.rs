//! The terminal as a screen: how a command enters it and leaves it, whatever ends the command.

use std::io::{self, Stdout, Write as _};
use std::panic;
use std::process::ExitCode;

use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{DisableMouseCapture, EnableMouseCapture};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{self, EnterAlternateScreen, LeaveAlternateScreen};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal has ended the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ended by signal {0}")]
pub(super) struct Ended(u8);

impl Ended {
    /// 128 + signal, as shells have it.
    pub(super) fn code(self) -> ExitCode {
        ExitCode::from(128 + self.0)
    }
}

/// The signals that end a program. While these are caught they end it only after the terminal is as it was.
pub(super) struct Signals {
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
}

impl Signals {
    /// Catches them. That comes before the terminal is changed: a signal in between would leave it changed.
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Ended {
        tokio::select! {
            _ = self.hangup.recv() => Ended(1),
            _ = self.interrupt.recv() => Ended(2),
            _ = self.quit.recv() => Ended(3),
            _ = self.terminate.recv() => Ended(15),
        }
    }
}

/// The other screen of the terminal, with keys that are read one by one. It is left when this is dropped, and before the message of a panic.
pub(super) struct OtherScreen(());

impl OtherScreen {
    /// Enters it.
    pub(super) fn open() -> io::Result<OtherScreen> {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            leave();
            hook(panic);
        }));
        terminal::enable_raw_mode()?;
        let screen = OtherScreen(());
        execute!(io::stdout(), EnterAlternateScreen)?;
        Ok(screen)
    }

    /// Whether clicks and the wheel come as input. Otherwise they are the terminal's, which selects text with them.
    pub(super) fn take_mouse(&self, wanted: bool) -> io::Result<()> {
        match wanted {
            true => execute!(io::stdout(), EnableMouseCapture),
            false => execute!(io::stdout(), DisableMouseCapture),
        }
    }
}

impl Drop for OtherScreen {
    fn drop(&mut self) {
        leave();
    }
}

/// A terminal that is gone needs nothing, so errors are of no interest.
fn leave() {
    let mut stdout: Stdout = io::stdout();
    let _ = execute!(stdout, DisableMouseCapture, LeaveAlternateScreen, Show);
    let _ = terminal::disable_raw_mode();
    let _ = stdout.flush();
}
