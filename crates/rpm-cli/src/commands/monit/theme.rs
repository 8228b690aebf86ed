//! Colours. Text has the terminal's own colours, so it can be read on dark and on light ones; what carries a meaning has a colour besides, and
//! a symbol or a word that says the same.

use ratatui::style::{Color, Modifier, Style};
use rpm_wire::api::{Phase, Status};

/// Which colours the terminal shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Theme {
    /// None are wanted: bold, faint and reversed text only.
    Plain,
    /// The 16 that every terminal has, in shades that its user chose.
    #[default]
    Sixteen,
    /// 256 of them.
    Rich,
}

/// From little to much, for a dark and for a light background.
const RAMP: [u8; 10] = [35, 71, 107, 143, 179, 178, 172, 208, 202, 196];

impl Theme {
    /// The theme for these values of `TERM` and `COLORTERM`.
    pub(super) fn of(coloured: bool, term: &str, colorterm: &str) -> Theme {
        match coloured && term != "dumb" {
            false => Theme::Plain,
            true if term.contains("256color") || !colorterm.is_empty() => Theme::Rich,
            true => Theme::Sixteen,
        }
    }

    /// This colour of the 16, or that one of the 256.
    fn colour(self, sixteen: Color, rich: u8) -> Style {
        match self {
            Theme::Plain => Style::new(),
            Theme::Sixteen => Style::new().fg(sixteen),
            Theme::Rich => Style::new().fg(Color::Indexed(rich)),
        }
    }

    pub(super) fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(super) fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Titles and keys.
    pub(super) fn accent(self) -> Style {
        self.colour(Color::Cyan, 37).add_modifier(Modifier::BOLD)
    }

    /// The frame of what keys act on, or of something else.
    pub(super) fn frame(self, focused: bool) -> Style {
        match focused {
            true => self.colour(Color::Cyan, 37),
            false => self.faint(),
        }
    }

    pub(super) fn good(self) -> Style {
        self.colour(Color::Green, 35)
    }

    pub(super) fn warning(self) -> Style {
        self.colour(Color::Yellow, 172)
    }

    pub(super) fn bad(self) -> Style {
        self.colour(Color::Red, 196).add_modifier(Modifier::BOLD)
    }

    /// Lines of errors that do not say how bad they are.
    pub(super) fn error_text(self) -> Style {
        self.colour(Color::Red, 167)
    }

    pub(super) fn memory(self) -> Style {
        self.colour(Color::Cyan, 67)
    }

    pub(super) fn connections(self) -> Style {
        self.colour(Color::Magenta, 133)
    }

    /// A share of what there is, from 0 to 1.
    pub(super) fn share(self, share: f64) -> Style {
        // In range, because it is clamped.
        let step = (share.clamp(0.0, 1.0) * (RAMP.len() - 1) as f64).round() as usize;
        match step {
            0..=3 => self.colour(Color::Green, RAMP[step]),
            4..=6 => self.colour(Color::Yellow, RAMP[step]),
            _ => self.colour(Color::Red, RAMP[step]),
        }
    }

    /// Tells processes apart.
    pub(super) fn process(self, id: u32) -> Style {
        const COLOURS: [(Color, u8); 6] = [
            (Color::Green, 35),
            (Color::Cyan, 37),
            (Color::Yellow, 172),
            (Color::Blue, 68),
            (Color::Magenta, 133),
            (Color::Red, 167),
        ];
        let (sixteen, rich) = COLOURS[id as usize % COLOURS.len()];
        self.colour(sixteen, rich)
    }

    pub(super) fn status(self, status: Status) -> Style {
        match status {
            Status::Online => self.good(),
            Status::Launching | Status::Stopping | Status::WaitingRestart => self.warning(),
            Status::Stopped => self.faint(),
            Status::Errored => self.bad(),
        }
    }

    pub(super) fn phase(self, phase: Phase) -> Style {
        match phase {
            Phase::Launching => self.good(),
            Phase::Standby | Phase::Draining | Phase::Stopping => self.warning(),
        }
    }

    /// The chosen row: one colour from end to end.
    pub(super) fn chosen(self) -> Style {
        let style = self.colour(Color::Cyan, 37);
        let style = if self == Theme::Plain {
            style
        } else {
            style.bg(Color::Reset)
        };
        style
            .add_modifier(Modifier::REVERSED | Modifier::BOLD)
            .remove_modifier(Modifier::DIM)
    }

    /// Text that a search has found.
    pub(super) fn found(self, current: bool) -> Style {
        let style = match current {
            true => self.colour(Color::Magenta, 133),
            false => self.colour(Color::Yellow, 172),
        };
        style.add_modifier(Modifier::REVERSED)
    }
}

/// A symbol that says the status without a colour.
pub(super) fn symbol(status: Status) -> &'static str {
    match status {
        Status::Online => "●",
        Status::Launching => "◐",
        Status::Stopping => "◑",
        Status::Stopped => "○",
        Status::WaitingRestart => "↻",
        Status::Errored => "✖",
    }
}

/// Its word, short enough for a column.
pub(super) fn word(status: Status) -> &'static str {
    match status {
        Status::WaitingRestart => "waiting",
        status => status.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_the_colours_that_it_has() {
        let cases = [
            ((false, "xterm-256color", "truecolor"), Theme::Plain),
            ((true, "dumb", ""), Theme::Plain),
            ((true, "linux", ""), Theme::Sixteen),
            ((true, "xterm", ""), Theme::Sixteen),
            ((true, "tmux-256color", ""), Theme::Rich),
            ((true, "alacritty", "truecolor"), Theme::Rich),
        ];
        for ((coloured, term, colorterm), theme) in cases {
            assert_eq!(Theme::of(coloured, term, colorterm), theme, "{term}");
        }
    }

    #[test]
    fn a_plain_theme_has_no_colour() {
        let theme = Theme::Plain;
        let styles = [
            theme.accent(),
            theme.bad(),
            theme.share(0.9),
            theme.process(3),
            theme.chosen(),
            theme.found(true),
            theme.status(Status::Errored),
        ];
        assert!(
            styles
                .iter()
                .all(|style| style.fg.is_none() && style.bg.is_none())
        );
    }
}
