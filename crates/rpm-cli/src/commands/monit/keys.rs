//! Keys, and what they ask for.

use std::io;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

use super::QUEUE;

/// Number of processes that Page Up and Page Down pass.
const PAGE: isize = 10;

/// The last line while nothing is asked or typed. It fits into 80 columns.
pub(super) const HELP: &str = "↑↓ PgUp PgDn Home End  / filter  o sort  r reload  t restart  s stop  q quit";

/// A key that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Key {
    pub(super) code: KeyCode,
    pub(super) with: KeyModifiers,
}

/// What a key requests.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Wish {
    Quit,
    /// Away from the screen, or from the filter if there is one.
    Leave,
    Move(isize),
    Filter,
    Sort,
    Change(Change),
    /// Of what was asked.
    Yes,
    Nothing,
}

/// What a key does to a line that is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    Letter(char),
    Erase,
    Keep,
    Drop,
    Quit,
    Move(isize),
    Nothing,
}

/// A change of a process. It needs confirmation, because this window is easily mistaken for a shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Change {
    Reload,
    Restart,
    Stop,
}

/// Keys, from a thread that ends with the process; `None` means only redraw.
pub(in super::super) fn keys() -> io::Result<mpsc::Receiver<Option<Key>>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    std::thread::Builder::new().spawn(move || {
        while let Ok(event) = event::read() {
            let key = match event {
                Event::Key(key) if key.kind == KeyEventKind::Press => Some(Key {
                    code: key.code,
                    with: key.modifiers,
                }),
                // Redraw for the new size.
                Event::Resize(..) => None,
                _ => continue,
            };
            if sender.blocking_send(key).is_err() {
                break;
            }
        }
    })?;
    Ok(receiver)
}

impl Key {
    /// What it requests while nothing is typed.
    pub(in super::super) fn wish(self) -> Wish {
        match self.code {
            _ if self.interrupts() => Wish::Quit,
            _ if self.is_with_another() => Wish::Nothing,
            KeyCode::Char('q') => Wish::Quit,
            KeyCode::Esc => Wish::Leave,
            KeyCode::Up | KeyCode::Char('k') => Wish::Move(-1),
            KeyCode::Down | KeyCode::Char('j') => Wish::Move(1),
            KeyCode::PageUp => Wish::Move(-PAGE),
            KeyCode::PageDown => Wish::Move(PAGE),
            KeyCode::Home | KeyCode::Char('g') => Wish::Move(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => Wish::Move(isize::MAX),
            KeyCode::Char('/') => Wish::Filter,
            KeyCode::Char('o') => Wish::Sort,
            KeyCode::Char('r') => Wish::Change(Change::Reload),
            KeyCode::Char('t') => Wish::Change(Change::Restart),
            KeyCode::Char('s') => Wish::Change(Change::Stop),
            KeyCode::Char('y' | 'Y') => Wish::Yes,
            _ => Wish::Nothing,
        }
    }

    /// What it does to the line that is typed. Keys that are no letters choose a process, as always.
    pub(super) fn typed(self) -> Typed {
        match self.code {
            _ if self.interrupts() => Typed::Quit,
            _ if self.is_with_another() => Typed::Nothing,
            KeyCode::Char(letter) => Typed::Letter(letter),
            KeyCode::Backspace => Typed::Erase,
            KeyCode::Enter => Typed::Keep,
            KeyCode::Esc => Typed::Drop,
            _ => match self.wish() {
                Wish::Move(by) => Typed::Move(by),
                _ => Typed::Nothing,
            },
        }
    }

    fn interrupts(self) -> bool {
        self.code == KeyCode::Char('c') && self.with.contains(KeyModifiers::CONTROL)
    }

    /// Keys with Ctrl or Alt have no meaning here.
    fn is_with_another(self) -> bool {
        !self.with.difference(KeyModifiers::SHIFT).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_what_they_ask_for() {
        let wish = |code, with| Key { code, with }.wish();
        let plain = KeyModifiers::NONE;
        assert_eq!(wish(KeyCode::Char('q'), plain), Wish::Quit);
        assert_eq!(wish(KeyCode::Char('c'), KeyModifiers::CONTROL), Wish::Quit);
        assert_eq!(wish(KeyCode::Char('c'), plain), Wish::Nothing);
        assert_eq!(wish(KeyCode::Down, plain), Wish::Move(1));
        assert_eq!(wish(KeyCode::Char('r'), plain), Wish::Change(Change::Reload));
        assert_eq!(wish(KeyCode::Char('r'), KeyModifiers::CONTROL), Wish::Nothing);
    }

    #[test]
    fn while_a_line_is_typed_letters_are_letters() {
        let typed = |code, with| Key { code, with }.typed();
        let plain = KeyModifiers::NONE;
        assert_eq!(typed(KeyCode::Char('q'), plain), Typed::Letter('q'));
        assert_eq!(typed(KeyCode::Char('c'), KeyModifiers::CONTROL), Typed::Quit);
        assert_eq!(typed(KeyCode::Char('r'), KeyModifiers::ALT), Typed::Nothing);
        assert_eq!(typed(KeyCode::Up, plain), Typed::Move(-1));
    }
}
