//! The state of the screen, drawn.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table};
use rpm_wire::api::{Process, Status, Stream};

use super::keys::HELP;
use super::screen::{Screen, Sort};
use crate::render;

pub(super) fn draw(screen: &mut Screen, frame: &mut Frame<'_>) {
    let said = u16::from(!screen.said.is_empty());
    let [above, below, words, foot] = Layout::vertical([
        Constraint::Percentage(50),
        Constraint::Fill(1),
        Constraint::Length(said),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_processes(screen, frame, above);
    draw_lines(screen, frame, below);
    frame.render_widget(Paragraph::new(screen.said.as_str()), words);
    frame.render_widget(Paragraph::new(foot_of(screen)), foot);
}

fn foot_of(screen: &Screen) -> Line<'_> {
    let question = Style::new().fg(Color::Yellow);
    match &screen.asked {
        _ if screen.typing => {
            let typed = format!("/{}▏  Enter keeps it, Esc shows all", screen.filter);
            Line::styled(typed, question)
        }
        Some(asked) => Line::styled(format!("{asked}? y/N"), question),
        None => Line::raw(HELP),
    }
}

/// What the processes are, and what is wrong.
fn title(screen: &Screen) -> Line<'_> {
    let mut parts = vec![Span::raw(" processes ")];
    if !screen.filter.is_empty() {
        let (shown, all) = (screen.shown().len(), screen.count());
        let filter = format!("/{} ({shown} of {all}) ", screen.filter);
        parts.push(Span::styled(filter, Style::new().fg(Color::Yellow)));
    }
    if let Some(trouble) = &screen.trouble {
        let text = format!("{}; trying again ", render::visible(trouble));
        parts.push(Span::styled(text, Style::new().fg(Color::Red)));
    }
    Line::from(parts)
}

fn draw_processes(screen: &mut Screen, frame: &mut Frame<'_>, area: Rect) {
    let columns: [(&str, Option<Sort>, Constraint); 8] = [
        ("id", Some(Sort::Id), Constraint::Length(5)),
        ("name", Some(Sort::Name), Constraint::Fill(1)),
        ("status", None, Constraint::Length(16)),
        ("cpu", Some(Sort::Cpu), Constraint::Length(8)),
        ("memory", Some(Sort::Memory), Constraint::Length(10)),
        ("↺", Some(Sort::Restarts), Constraint::Length(5)),
        ("uptime", None, Constraint::Length(8)),
        ("conns", None, Constraint::Length(7)),
    ];
    let header = columns.map(|(name, sort, _)| match sort {
        Some(sort) if sort == screen.sort => format!("{name} {}", arrow(sort)),
        _ => name.to_owned(),
    });
    let rows: Vec<Row<'static>> = screen.shown().map(row).collect();
    // What is not known to be true any more is pale.
    let style = match screen.trouble {
        Some(_) => Style::new().add_modifier(Modifier::DIM),
        None => Style::new(),
    };
    let table = Table::new(rows, columns.map(|(.., width)| width))
        .header(Row::new(header).style(Style::new().add_modifier(Modifier::BOLD)))
        .style(style)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let block = Block::bordered().title(title(screen));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    frame.render_stateful_widget(table, inner, &mut screen.table);
}

/// The direction of an order: numbers fall.
fn arrow(sort: Sort) -> char {
    match sort {
        Sort::Id | Sort::Name => '▲',
        Sort::Cpu | Sort::Memory | Sort::Restarts => '▼',
    }
}

fn draw_lines(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let title = screen.process().map_or_else(String::new, |process| {
        format!(" output of {} ({}) ", render::visible(&process.name), process.id)
    });
    let room = usize::from(area.height.saturating_sub(2));
    let from = screen.lines.len().saturating_sub(room);
    let lines = screen.lines.iter().skip(from).map(|(stream, line)| {
        let style = match stream {
            Stream::Out => Style::new(),
            Stream::Err => Style::new().fg(Color::Red),
        };
        Line::styled(line.as_str(), style)
    });
    let text: Vec<Line<'_>> = lines.collect();
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title(title)), area);
}

fn row(process: &Process) -> Row<'static> {
    let colour = match process.status {
        Status::Online => Color::Green,
        Status::Launching | Status::Stopping | Status::WaitingRestart => Color::Yellow,
        Status::Stopped => Color::DarkGray,
        Status::Errored => Color::Red,
    };
    let figures = render::Figures::of(process);
    Row::new([
        Cell::new(process.id.to_string()),
        Cell::new(render::visible(&process.name)),
        Cell::new(process.status.as_str()).style(Style::new().fg(colour)),
        Cell::new(figures.cpu),
        Cell::new(figures.memory),
        Cell::new(process.restarts.to_string()),
        Cell::new(figures.uptime),
        Cell::new(figures.connections),
    ])
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::screen::tests::{deeds, screen};
    use super::*;

    /// What a terminal of 80 columns and 24 lines shows.
    fn seen(screen: &mut Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("no terminal is needed");
        terminal.draw(|frame| draw(screen, frame)).expect("it is drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn the_question_stands_at_the_foot_and_its_answer_is_no_command() {
        let screen = &mut screen();
        assert!(seen(screen).contains(HELP), "all of it, {}", seen(screen));
        let questions = [
            ("r", "reload web? y/N"),
            ("t", "restart web? y/N"),
            ("s", "stop web (0)? y/N"),
        ];
        for (key, question) in questions {
            assert_eq!(deeds(screen, key), []);
            assert_eq!(foot_of(screen).to_string(), question);
            assert_eq!(deeds(screen, "q"), [], "it answers the question");
            assert_eq!(foot_of(screen).to_string(), HELP);
        }
        assert_eq!(deeds(screen, "q"), [super::super::screen::Deed::Quit]);
    }

    #[test]
    fn the_filter_the_order_and_what_is_wrong_are_on_the_screen() {
        let screen = &mut screen();
        deeds(screen, "oo/api");
        screen.learn(Err("the daemon is not running".to_owned()));
        screen.say("web: done".to_owned());
        let seen = seen(screen);
        for part in [
            "cpu ▼",
            "/api (2 of 3)",
            "the daemon is not running; trying again",
            "web: done",
            "/api▏  Enter keeps it",
        ] {
            assert!(seen.contains(part), "{part}: {seen}");
        }
        assert!(!seen.contains("memory ▼") && !seen.contains(" web "), "{seen}");
    }
}
