//! The state of the screen, drawn.

mod chart;
mod dialog;
mod facts;
mod header;
mod list;
mod output;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType};

use super::screen::{Mode, Purpose, Screen, View};
use super::theme::Theme;
use crate::hints::pasteable;
use crate::render;

pub(super) use header::height as header_height;
pub(super) use list::sort_at;
pub(super) use output::margin;

/// Columns before a message.
const MARGIN: usize = 3;
/// Maximum number of rows of a message.
const ROWS: usize = 3;

/// Draws everything; [`Screen::lay_out`] comes first.
pub(super) fn draw(screen: &Screen, frame: &mut Frame<'_>) {
    header::draw(screen, frame);
    match screen.view {
        View::List => {
            list::draw(screen, frame);
            chart::draw(screen, frame);
        }
        View::Detail => {
            facts::draw(screen, frame);
            chart::draw(screen, frame);
        }
        View::Logs => {}
    }
    output::draw(screen, frame);
    let areas = &screen.areas;
    for (row, line) in messages(screen, areas.messages.width).iter().enumerate() {
        put(frame, areas.messages, row, line);
    }
    frame.render_widget(foot(screen), areas.foot);
    dialog::draw(screen, frame);
}

/// A frame around something.
fn framed(title: Line<'_>, theme: Theme, focused: bool) -> Block<'_> {
    Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(theme.frame(focused))
        .title(title)
}

/// The text in so many columns, cut or filled with blanks.
fn fit(text: &str, width: usize) -> String {
    let text = render::cut(text, width.max(1));
    let blanks = width.saturating_sub(super::text::columns(&text));
    text + &" ".repeat(blanks)
}

/// The same, at the right end.
fn fit_right(text: &str, width: usize) -> String {
    let text = render::cut(text, width.max(1));
    let blanks = width.saturating_sub(super::text::columns(&text));
    " ".repeat(blanks) + &text
}

/// The text, with its commands as they must be typed on this machine.
fn typable(text: &str) -> String {
    render::visible(&pasteable(text))
}

/// What is wrong, and what has become of the last command or is under way, in rows of this width.
pub(super) fn messages(screen: &Screen, width: u16) -> Vec<Line<'static>> {
    let theme = screen.theme;
    let mut lines = Vec::new();
    let mut say = |symbol: &str, text: &str, style: Style| {
        let room = usize::from(width).saturating_sub(MARGIN);
        for (row, range) in super::text::rows(text, room).into_iter().take(ROWS).enumerate() {
            let symbol = if row == 0 { symbol } else { " " };
            lines.push(Line::styled(format!(" {symbol} {}", &text[range]), style));
        }
    };
    if let Some(trouble) = &screen.trouble {
        let text = format!("{}; trying again", typable(trouble));
        say("✖", &text, theme.bad());
    }
    match &screen.notice {
        Some(notice) if notice.failed => say("✖", &typable(&notice.text), theme.bad()),
        Some(notice) => say("✔", &typable(&notice.text), theme.good()),
        None if screen.running.is_empty() => {}
        None => say("◐", &format!("{} …", screen.running.join(", ")), theme.warning()),
    }
    lines
}

/// The keys of the view, or the line that is typed.
fn foot(screen: &Screen) -> Line<'_> {
    let theme = screen.theme;
    if let Mode::Prompt(prompt) = &screen.mode {
        let (sign, hint) = match prompt.purpose {
            Purpose::Filter => ("/", "Enter keeps it, Esc shows all"),
            Purpose::Search => ("/", "Enter jumps to a line, Esc ends the search"),
            Purpose::Command => (":", "Tab completes, Enter runs it, Esc leaves"),
        };
        return Line::from(vec![
            Span::styled(format!(" {sign}"), theme.accent()),
            Span::raw(format!("{}▏", render::visible(&prompt.text))),
            Span::styled(format!("  {hint}"), theme.faint()),
        ]);
    }
    let keys: &[(&str, &str)] = match (&screen.mode, screen.view) {
        (Mode::Confirm(_), _) => &[("y", "yes"), ("any other key", "no")],
        (Mode::Help, _) => &[("any key", "back")],
        (_, View::List) => &[
            ("⏎", "details"),
            ("l", "logs"),
            ("␣", "expand"),
            ("/", "filter"),
            ("o", "sort"),
            ("r", "reload"),
            ("s", "stop"),
            (":", "command"),
            ("?", "help"),
            ("q", "quit"),
        ],
        (_, View::Detail) => &[
            ("↑↓", "choose"),
            ("l", "logs"),
            ("r", "reload"),
            ("t", "restart"),
            ("s", "stop"),
            (":", "command"),
            ("?", "help"),
            ("Esc", "back"),
            ("q", "quit"),
        ],
        (_, View::Logs) => &[
            ("/", "search"),
            ("n N", "next"),
            ("f", "follow"),
            ("w", "wrap"),
            ("T", "times"),
            ("↑↓ g G", "scroll"),
            ("?", "help"),
            ("Esc", "back"),
            ("q", "quit"),
        ],
    };
    let mut spans = vec![Span::raw(" ")];
    for (key, word) in fitting(keys, usize::from(screen.areas.foot.width)) {
        spans.push(Span::styled(key, theme.accent()));
        spans.push(Span::raw(format!(" {word}  ")));
    }
    Line::from(spans)
}

/// The keys that fit into this width. The last two, which lead out, stay.
fn fitting<'a>(keys: &[(&'a str, &'a str)], width: usize) -> Vec<(&'a str, &'a str)> {
    let mut shown = keys.to_vec();
    let width_of = |(key, word): &(&str, &str)| super::text::columns(key) + word.len() + 3;
    while shown.iter().map(width_of).sum::<usize>() > width && shown.len() > 2 {
        shown.remove(shown.len() - 3);
    }
    shown
}

/// A bar of this width of which a share is full.
fn bar(share: f64, width: usize, theme: Theme, style: Option<Style>) -> Vec<Span<'static>> {
    // In range: the share is clamped, and the width that of a screen.
    let full = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    let cell = |place: usize| {
        let style = style.unwrap_or_else(|| theme.share((place as f64 + 0.5) / width as f64));
        match place < full {
            true => Span::styled("■", style),
            false => Span::styled("·", theme.faint()),
        }
    };
    (0..width).map(cell).collect()
}

/// One letter for each value: `▁▂▃▄▅▆▇█`, as parts of `most`.
fn sparks(values: &[f64], most: f64, style: impl Fn(f64) -> Style) -> Vec<Span<'static>> {
    const LEVELS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
    let spark = |value: &f64| {
        let share = if most > 0.0 {
            (value / most).clamp(0.0, 1.0)
        } else {
            0.0
        };
        // At most the last place.
        let level = (share * (LEVELS.len() - 1) as f64).round() as usize;
        Span::styled(LEVELS[level], style(*value))
    };
    values.iter().map(spark).collect()
}

/// Puts a line at a row of an area; what does not fit is cut.
fn put(frame: &mut Frame<'_>, area: Rect, row: usize, line: &Line<'_>) {
    let Ok(row) = u16::try_from(row) else { return };
    if row < area.height {
        frame
            .buffer_mut()
            .set_line(area.x, area.y + row, line, area.width);
    }
}

#[cfg(test)]
#[path = "draw/tests.rs"]
mod tests;
