//! What comes from the terminal: keys, clicks, the wheel, a new size.

use std::io;

use ratatui::crossterm::event::{
    self, Event, KeyCode, KeyEventKind, KeyModifiers, MouseButton, MouseEventKind,
};
use ratatui::layout::Position;
use tokio::sync::mpsc;

use super::QUEUE;

/// Rows or processes that one step of the wheel passes.
const WHEEL: isize = 3;

/// Something that the user did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Input {
    /// A key was pressed.
    Key(Key),
    /// The left button was pressed at this cell.
    Click(Position),
    /// The wheel was turned over this cell, by so many rows; negative: up.
    Wheel(Position, isize),
    /// The window has another size.
    Resized,
}

/// A key that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Key {
    pub(super) code: KeyCode,
    pub(super) with: KeyModifiers,
}

impl Key {
    /// Whether it ends a screen that has nothing else to do with keys: q, Esc or Ctrl+C.
    pub(in super::super) fn quits(self) -> bool {
        self.interrupts() || self.is_plain() && matches!(self.code, KeyCode::Char('q') | KeyCode::Esc)
    }

    /// Ctrl+C.
    pub(super) fn interrupts(self) -> bool {
        self.code == KeyCode::Char('c') && self.with.contains(KeyModifiers::CONTROL)
    }

    /// Without Ctrl or Alt.
    pub(super) fn is_plain(self) -> bool {
        self.with.difference(KeyModifiers::SHIFT).is_empty()
    }
}

/// Inputs, from a thread that ends with the process.
pub(in super::super) fn inputs() -> io::Result<mpsc::Receiver<Input>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    std::thread::Builder::new().spawn(move || {
        while let Ok(event) = event::read() {
            if let Some(input) = input_of(&event)
                && sender.blocking_send(input).is_err()
            {
                break;
            }
        }
    })?;
    Ok(receiver)
}

/// `None`: an event without a meaning here, such as a moved mouse.
fn input_of(event: &Event) -> Option<Input> {
    match event {
        Event::Key(key) if key.kind == KeyEventKind::Press => Some(Input::Key(Key {
            code: key.code,
            with: key.modifiers,
        })),
        Event::Mouse(mouse) => {
            let at = Position::new(mouse.column, mouse.row);
            match mouse.kind {
                MouseEventKind::Down(MouseButton::Left) => Some(Input::Click(at)),
                MouseEventKind::ScrollUp => Some(Input::Wheel(at, -WHEEL)),
                MouseEventKind::ScrollDown => Some(Input::Wheel(at, WHEEL)),
                _ => None,
            }
        }
        Event::Resize(..) => Some(Input::Resized),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_keys_quit() {
        let quits = |code, with| Key { code, with }.quits();
        let plain = KeyModifiers::NONE;
        assert!(quits(KeyCode::Char('q'), plain) && quits(KeyCode::Esc, plain));
        assert!(quits(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!quits(KeyCode::Char('c'), plain) && !quits(KeyCode::Char('q'), KeyModifiers::ALT));
    }
}
