//! What keys and the mouse do to the screen.

use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use ratatui::layout::Position;

use super::draw::sort_at;
use super::fleet::Row;
use super::input::{Input, Key};
use super::request::Verb;
use super::screen::{Effect, Mode, Prompt, Purpose, Screen, View};

/// Number of rows that Page Up and Page Down pass in the list.
const PAGE: isize = 10;

impl Screen {
    /// Handles an input. While a question is asked, keys are the answer, and all but one mean no.
    pub(super) fn handle_input(&mut self, input: Input) -> Effect {
        match input {
            Input::Key(key) if key.interrupts() => Effect::Quit,
            Input::Key(key) => {
                self.dismiss();
                match std::mem::take(&mut self.mode) {
                    Mode::Browse => self.browse(key),
                    Mode::Confirm(request) => match key.code {
                        KeyCode::Char('y' | 'Y') if key.is_plain() => self.confirmed(request),
                        _ => Effect::Nothing,
                    },
                    Mode::Prompt(prompt) => self.type_in(prompt, key),
                    Mode::Help => Effect::Nothing,
                }
            }
            Input::Click(at) => {
                match std::mem::take(&mut self.mode) {
                    Mode::Browse => self.click(at),
                    // A click beside a question means no.
                    Mode::Confirm(_) | Mode::Help => {}
                    prompt @ Mode::Prompt(_) => self.mode = prompt,
                }
                Effect::Nothing
            }
            Input::Wheel(at, by) => {
                if self.mode == Mode::Browse {
                    self.wheel(at, by);
                }
                Effect::Nothing
            }
            Input::Resized => Effect::Nothing,
        }
    }

    fn browse(&mut self, key: Key) -> Effect {
        if !key.is_plain() {
            return Effect::Nothing;
        }
        match key.code {
            KeyCode::Char('q') => return Effect::Quit,
            KeyCode::Esc => return self.leave(),
            KeyCode::Char('?') => self.mode = Mode::Help,
            KeyCode::Char(':') => self.prompt(Purpose::Command),
            KeyCode::Char('r') => self.ask(Verb::Reload),
            KeyCode::Char('t') => self.ask(Verb::Restart),
            KeyCode::Char('s') => self.ask(Verb::Stop),
            KeyCode::Char('S') => self.ask(Verb::Start),
            KeyCode::Char('+') => self.ask(Verb::Scale("+1".to_owned())),
            KeyCode::Char('-') => self.ask(Verb::Scale("-1".to_owned())),
            KeyCode::Char('m') => {
                self.mouse = !self.mouse;
                return Effect::Mouse(self.mouse);
            }
            KeyCode::Tab => {
                self.view = match self.view {
                    View::List => View::Detail,
                    View::Detail => View::Logs,
                    View::Logs => View::List,
                }
            }
            code => match self.view {
                View::List => self.browse_list(code),
                View::Detail => self.browse_detail(code),
                View::Logs => self.browse_logs(code),
            },
        }
        Effect::Nothing
    }

    /// Esc: back by one step.
    fn leave(&mut self) -> Effect {
        match self.view {
            View::Logs if self.book.matches().is_some() => self.book.search(""),
            View::Logs | View::Detail => self.view = View::List,
            View::List if self.fleet.filter.is_empty() => return Effect::Quit,
            View::List => self.filter(""),
        }
        Effect::Nothing
    }

    fn browse_list(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.view = View::Detail,
            KeyCode::Char(' ') => self.fleet.expand(None),
            KeyCode::Right => self.fleet.expand(Some(true)),
            KeyCode::Left => self.fleet.expand(Some(false)),
            KeyCode::Char('e') => self.fleet.expand_all(),
            _ => self.browse_detail(code),
        }
    }

    /// What the list and the details have in common.
    fn browse_detail(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter | KeyCode::Char('l') => self.view = View::Logs,
            KeyCode::Char('/') => self.prompt(Purpose::Filter),
            KeyCode::Char('o') => {
                self.fleet.sort = self.fleet.sort.next();
                self.fleet.arrange();
            }
            KeyCode::Char('J') => self.book.scroll(1),
            KeyCode::Char('K') => self.book.scroll(-1),
            _ => {
                if let Some(by) = steps(code, PAGE) {
                    self.fleet.step(by);
                }
            }
        }
    }

    fn browse_logs(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter | KeyCode::Char('l') => self.view = View::List,
            KeyCode::Char('f' | ' ') if self.book.is_followed() => self.book.pause(),
            KeyCode::Char('f' | ' ') => self.book.follow(),
            KeyCode::Char('w') => self.book.toggle_wrap(),
            KeyCode::Char('T') => self.book.times = !self.book.times,
            KeyCode::Char('/') => self.prompt(Purpose::Search),
            KeyCode::Char('n') => self.find(true),
            KeyCode::Char('N') => self.find(false),
            KeyCode::Left => self.book.shift(false),
            KeyCode::Right => self.book.shift(true),
            _ => {
                let page = isize::try_from(self.areas.lines.height).unwrap_or(PAGE);
                if let Some(by) = steps(code, (page - 1).max(1)) {
                    self.book.scroll(by);
                }
            }
        }
    }

    fn type_in(&mut self, mut prompt: Prompt, key: Key) -> Effect {
        match key.code {
            KeyCode::Char('u') if key.with.contains(KeyModifiers::CONTROL) => {
                prompt.text.clear();
                self.typed(prompt);
            }
            _ if !key.is_plain() => self.mode = Mode::Prompt(prompt),
            KeyCode::Enter => return self.enter(prompt),
            KeyCode::Esc => self.abandon(&prompt),
            KeyCode::Char(letter) => {
                prompt.text.push(letter);
                self.typed(prompt);
            }
            // Nothing is left to take back.
            KeyCode::Backspace if prompt.text.is_empty() => self.abandon(&prompt),
            KeyCode::Backspace => {
                prompt.text.pop();
                self.typed(prompt);
            }
            KeyCode::Tab => self.complete(prompt),
            code => {
                match (prompt.purpose, steps(code, PAGE)) {
                    (Purpose::Filter, Some(by)) => self.fleet.step(by),
                    (Purpose::Search, Some(by)) => self.book.scroll(by),
                    (Purpose::Command, Some(by)) => self.suggest(&mut prompt, by),
                    (_, None) => {}
                }
                self.mode = Mode::Prompt(prompt);
            }
        }
        Effect::Nothing
    }

    /// Chooses another suggestion.
    fn suggest(&self, prompt: &mut Prompt, by: isize) {
        let last = self.suggestions(prompt).len().checked_sub(1);
        prompt.choice = last.map(|last| match prompt.choice {
            None if by > 0 => 0,
            None => last,
            Some(choice) => choice.saturating_add_signed(by).min(last),
        });
    }

    /// Completes the line: to the chosen suggestion, or to the first one.
    fn complete(&mut self, mut prompt: Prompt) {
        let suggestion = self
            .suggestions(&prompt)
            .into_iter()
            .nth(prompt.choice.unwrap_or(0));
        if let Some(suggestion) = suggestion {
            prompt.text = suggestion.line;
        }
        self.typed(prompt);
    }

    /// A click chooses a row, and opens or closes it if it was chosen already; on the name of a column it orders by that.
    fn click(&mut self, at: Position) {
        let areas = self.areas;
        if areas.rows.contains(at) {
            let place = self.fleet.offset + usize::from(at.y - areas.rows.y);
            if place >= self.fleet.rows.len() {
                return;
            }
            let is_app = matches!(self.fleet.rows[place], Row::App { .. });
            match self.fleet.place() == Some(place) && is_app {
                true => self.fleet.expand(None),
                false => self.fleet.choose(place),
            }
        } else if areas.columns.contains(at)
            && let Some(sort) = sort_at(areas.columns, at.x)
        {
            self.fleet.sort = sort;
            self.fleet.arrange();
        }
    }

    fn wheel(&mut self, at: Position, by: isize) {
        if self.areas.output.contains(at) {
            self.book.scroll(by);
        } else if self.areas.list.contains(at) {
            self.fleet.step(by.signum());
        }
    }
}

/// By how much a key moves.
fn steps(code: KeyCode, page: isize) -> Option<isize> {
    Some(match code {
        KeyCode::Up | KeyCode::Char('k') => -1,
        KeyCode::Down | KeyCode::Char('j') => 1,
        KeyCode::PageUp => -page,
        KeyCode::PageDown => page,
        KeyCode::Home | KeyCode::Char('g') => isize::MIN,
        KeyCode::End | KeyCode::Char('G') => isize::MAX,
        _ => return None,
    })
}
