//! What is drawn above everything: a question, suggestions, the help.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Paragraph};

use super::super::layout::inner;
use super::super::request::Request;
use super::super::screen::{Mode, Prompt, Screen};
use super::header::counted;
use super::{fit, framed, put};
use crate::render;

/// The greatest number of suggestions that are shown.
const SUGGESTIONS: usize = 10;

/// The keys, in groups.
const HELP: [(&str, &[(&str, &str)]); 4] = [
    (
        "everywhere",
        &[
            ("r t", "reload, restart"),
            ("s S", "stop, start"),
            ("+ -", "one instance more, or fewer"),
            (":", "command, completed by Tab"),
            ("Tab", "list, details, logs"),
            ("m", "mouse off, to copy text"),
            ("Esc", "back"),
            ("q", "quit"),
        ],
    ),
    (
        "list",
        &[
            ("↑ ↓ k j", "choose; PgUp PgDn g G"),
            ("Space ← →", "open, close"),
            ("e", "open all, close all"),
            ("Enter l", "details, logs"),
            ("/", "filter by name"),
            ("o", "next order"),
            ("J K", "scroll the output"),
        ],
    ),
    (
        "logs",
        &[
            ("↑ ↓ g G", "scroll, to the ends"),
            ("f Space", "pause, follow"),
            ("/ n N", "search, next, previous"),
            ("w ← →", "wrap; sideways"),
            ("T", "times"),
        ],
    ),
    (
        "mouse",
        &[
            ("click", "choose; again: open"),
            ("column", "order by it"),
            ("wheel", "choose, scroll"),
        ],
    ),
];

pub(super) fn draw(screen: &Screen, frame: &mut Frame<'_>) {
    match &screen.mode {
        Mode::Browse => {}
        Mode::Confirm(request) => draw_question(screen, request, frame),
        Mode::Prompt(prompt) => draw_suggestions(screen, prompt, frame),
        Mode::Help => draw_help(screen, frame),
    }
}

/// A box in the middle, of this size at most.
fn middle(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    let x = area.x + (area.width - width) / 2;
    let y = area.y + (area.height - height) / 2;
    Rect::new(x, y, width, height)
}

fn draw_question(screen: &Screen, request: &Request, frame: &mut Frame<'_>) {
    let theme = screen.theme;
    let title = format!(" {request}? ");
    let whom = match request.target.instances {
        1 => String::new(),
        count => format!(" ({})", counted(count, "instance")),
    };
    let about = format!("{}{whom}", request.verb.consequence());
    let wanted = title.chars().count().max(about.chars().count()) + 6;
    let area = middle(frame.area(), u16::try_from(wanted).unwrap_or(u16::MAX), 5);
    frame.render_widget(Clear, area);
    frame.render_widget(framed(Line::styled(title, theme.accent()), theme, true), area);
    let area = inner(area);
    put(frame, area, 0, &Line::raw(format!("  {about}")));
    let answer = Line::from(vec![
        Span::styled("  y", theme.accent()),
        Span::raw(format!(" {}     ", request.verb.word())),
        Span::styled("n", theme.accent()),
        Span::raw(" cancel"),
    ]);
    put(frame, area, 2, &answer);
}

/// The suggestions stand above the line that is typed.
fn draw_suggestions(screen: &Screen, prompt: &Prompt, frame: &mut Frame<'_>) {
    let theme = screen.theme;
    let suggestions = screen.suggestions(prompt);
    if suggestions.is_empty() {
        return;
    }
    let chosen = prompt.choice.unwrap_or(0);
    let shown = suggestions.len().min(SUGGESTIONS);
    let from = (chosen + 1).saturating_sub(shown);
    let foot = screen.areas.foot;
    let height = u16::try_from(shown).unwrap_or(0) + 2;
    let area = Rect::new(foot.x, foot.y.saturating_sub(height), foot.width.min(78), height);
    let area = area.intersection(frame.area());
    frame.render_widget(Clear, area);
    frame.render_widget(
        framed(Line::styled(" commands ", theme.accent()), theme, true),
        area,
    );
    let area = inner(area);
    for (row, suggestion) in suggestions.iter().skip(from).take(shown).enumerate() {
        let line = Line::from(vec![
            Span::styled(
                format!(" {} ", fit(&render::visible(&suggestion.line), 24)),
                theme.bold(),
            ),
            Span::styled(suggestion.about, theme.faint()),
        ]);
        put(frame, area, row, &line);
        if prompt.choice == Some(from + row) {
            let y = area.y + u16::try_from(row).unwrap_or(0);
            frame
                .buffer_mut()
                .set_style(Rect::new(area.x, y, area.width, 1), theme.chosen());
        }
    }
}

fn draw_help(screen: &Screen, frame: &mut Frame<'_>) {
    let theme = screen.theme;
    let mut columns: Vec<Vec<Line<'static>>> = Vec::new();
    // Two groups below each other fit into 24 rows.
    for groups in HELP.chunks(2) {
        let mut lines = Vec::new();
        for (name, keys) in groups {
            lines.push(Line::styled(format!(" {name}"), theme.accent()));
            for (key, about) in *keys {
                lines.push(Line::from(vec![
                    Span::styled(format!("  {}", fit(key, 10)), theme.bold()),
                    Span::raw(*about),
                ]));
            }
            lines.push(Line::default());
        }
        columns.push(lines);
    }
    let height = columns.iter().map(Vec::len).max().unwrap_or(0) + 1;
    let area = middle(frame.area(), 80, u16::try_from(height).unwrap_or(u16::MAX));
    frame.render_widget(Clear, area);
    frame.render_widget(framed(Line::styled(" keys ", theme.accent()), theme, true), area);
    let area = inner(area);
    let halves = ratatui::layout::Layout::horizontal([ratatui::layout::Constraint::Fill(1); 2]).split(area);
    for (lines, area) in columns.into_iter().zip(halves.iter()) {
        frame.render_widget(Paragraph::new(lines), *area);
    }
}
