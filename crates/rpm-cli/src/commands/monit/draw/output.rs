//! The output of the chosen app or instance.

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use rpm_wire::api::Stream;

use super::super::book::{Entry, Visible};
use super::super::screen::{Screen, View};
use super::super::text::{Level, columns};
use super::super::theme::Theme;
use super::{framed, put};

/// Width of `14:02:11 `.
const TIME: usize = 9;
/// Width of the mark of a stream, with a blank.
const MARK: usize = 2;

/// Columns before the text of each line.
pub(in super::super) fn margin(screen: &Screen) -> usize {
    let time = if screen.book.times { TIME } else { 0 };
    MARK + time + id_width(screen)
}

/// Columns for the id of the instance, where there are several.
fn id_width(screen: &Screen) -> usize {
    let several = screen.source().is_some_and(|source| source.several);
    let longest = || screen.fleet.processes.iter().map(|process| process.id).max();
    match several {
        true => longest().unwrap_or(0).to_string().len() + 1,
        false => 0,
    }
}

pub(super) fn draw(screen: &Screen, frame: &mut Frame<'_>) {
    let (areas, theme) = (&screen.areas, screen.theme);
    if areas.output.is_empty() {
        return;
    }
    let focused = screen.view == View::Logs;
    let block = framed(title(screen), theme, focused).title(state(screen).right_aligned());
    frame.render_widget(block, areas.output);
    let rows = screen.book.visible();
    for (row, visible) in rows.iter().enumerate() {
        if let Some(entry) = screen.book.entry(visible.line) {
            put(frame, areas.lines, row, &line(screen, entry, visible));
        }
    }
    if rows.is_empty() {
        put(
            frame,
            areas.lines,
            0,
            &Line::styled(" no output yet", theme.faint()),
        );
    }
    scroll_bar(screen, frame);
}

/// The part that is visible, at the right edge.
fn scroll_bar(screen: &Screen, frame: &mut Frame<'_>) {
    let (area, lines) = (screen.areas.output, screen.areas.lines);
    let (above, share) = screen.book.position();
    if share >= 1.0 || lines.height < 3 {
        return;
    }
    let height = f64::from(lines.height);
    // Within the height, as all shares are at most 1.
    let length = ((share * height).round() as u16).clamp(1, lines.height);
    let most = lines.height - length;
    let from = match screen.book.is_followed() {
        true => most,
        false => ((above * height).round() as u16).min(most),
    };
    let style = screen.theme.accent();
    for row in from..from + length {
        let x = area.right() - 1;
        frame.buffer_mut().set_string(x, lines.y + row, "┃", style);
    }
}

fn title(screen: &Screen) -> Line<'_> {
    let theme = screen.theme;
    let label = screen
        .source()
        .map_or_else(String::new, |source| format!("{} ", source.label));
    Line::from(vec![Span::styled(" output ", theme.accent()), Span::raw(label)])
}

/// Whether it follows, and what is searched for.
fn state(screen: &Screen) -> Line<'_> {
    let (book, theme) = (&screen.book, screen.theme);
    let mut spans = Vec::new();
    if let Some((current, all)) = book.matches() {
        let wanted = crate::render::visible(book.wanted());
        spans.push(Span::styled(
            format!(" /{wanted} {current} of {all} "),
            theme.warning(),
        ));
    }
    if screen.view == View::Logs {
        let wrap = if book.cut { "cut" } else { "wrap" };
        spans.push(Span::styled(
            format!(" {} lines  {wrap} ", book.len()),
            theme.faint(),
        ));
    }
    spans.push(match book.is_followed() {
        true => Span::styled(" ▶ following ", theme.good()),
        false => Span::styled(format!(" ⏸ paused, {} below ", book.below()), theme.warning()),
    });
    Line::from(spans)
}

fn line<'a>(screen: &'a Screen, entry: &'a Entry, visible: &Visible) -> Line<'a> {
    let theme = screen.theme;
    let mark = match entry.stream {
        Stream::Out => Span::raw("  "),
        Stream::Err => Span::styled("▎ ", theme.bad()),
    };
    let mut spans = vec![mark];
    let id_width = id_width(screen);
    if visible.first {
        if id_width > 0 {
            let id = format!("{:>width$} ", entry.id, width = id_width - 1);
            spans.push(Span::styled(id, theme.process(entry.id)));
        }
        if screen.book.times {
            spans.push(Span::styled(time(screen, entry), theme.faint()));
        }
    } else {
        spans.push(Span::raw(" ".repeat(margin(screen) - MARK)));
    }
    let style = style(entry, theme);
    let (marks, current) = screen.book.marks(visible.line);
    let mut from = visible.range.start;
    for mark in marks {
        let start = mark.start.clamp(from, visible.range.end);
        let end = mark.end.clamp(start, visible.range.end);
        if start < end {
            spans.push(Span::styled(&entry.text[from..start], style));
            spans.push(Span::styled(&entry.text[start..end], theme.found(current)));
            from = end;
        }
    }
    spans.push(Span::styled(&entry.text[from..visible.range.end], style));
    Line::from(spans)
}

/// `14:02:11 `
fn time(screen: &Screen, entry: &Entry) -> String {
    let zoned = entry
        .time_ms
        .and_then(|ms| Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok())
        .map(|time| time.to_zoned(screen.zone.clone().unwrap_or(jiff::tz::TimeZone::UTC)));
    let text = zoned.map_or_else(|| "-".to_owned(), |time| time.strftime("%H:%M:%S").to_string());
    let blanks = TIME.saturating_sub(columns(&text));
    text + &" ".repeat(blanks)
}

fn style(entry: &Entry, theme: Theme) -> Style {
    match (entry.level, entry.stream) {
        (Some(Level::Error), _) => theme.bad(),
        (Some(Level::Warning), _) => theme.warning(),
        (Some(Level::Debug), _) => theme.faint(),
        (Some(Level::Info), _) | (None, Stream::Out) => Style::new(),
        // It does not say what it is.
        (None, Stream::Err) => theme.error_text(),
    }
}
