//! The list of apps, as a tree.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use rpm_wire::api::{Process, Status};

use super::super::fleet::{Deep, Fleet, Group, Row, Sort, is_new};
use super::super::history::Series;
use super::super::screen::Screen;
use super::super::summary::Summary;
use super::super::theme::{Theme, symbol, word};
use super::{fit, fit_right, framed, put, sparks};
use crate::render;
use crate::render::units::{bytes, duration, or_dash, percent};

/// The least width of names.
const NAME: usize = 16;
/// Names do not become wider than that while charts can.
const NAME_MOST: usize = 34;
/// The greatest width of a chart.
const GRAPH_MOST: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Id,
    Name,
    Status,
    CpuGraph,
    Cpu,
    MemoryGraph,
    Memory,
    Restarts,
    Uptime,
    Connections,
    Pid,
    Generation,
}

/// The columns from left to right, with width and rank: those of the highest rank are left out first.
const COLUMNS: [(Column, usize, u8); 12] = [
    (Column::Id, 4, 5),
    (Column::Name, NAME, 0),
    (Column::Status, 13, 0),
    (Column::CpuGraph, 8, 3),
    (Column::Cpu, 7, 1),
    (Column::MemoryGraph, 8, 10),
    (Column::Memory, 9, 2),
    (Column::Restarts, 5, 4),
    (Column::Uptime, 8, 6),
    (Column::Connections, 6, 7),
    (Column::Pid, 8, 8),
    (Column::Generation, 4, 9),
];

impl Column {
    fn title(self) -> &'static str {
        match self {
            Column::Id => "id",
            Column::Name => "name",
            Column::Status => "status",
            Column::CpuGraph | Column::MemoryGraph => "",
            Column::Cpu => "cpu",
            Column::Memory => "memory",
            Column::Restarts => "↺",
            Column::Uptime => "uptime",
            Column::Connections => "conns",
            Column::Pid => "pid",
            Column::Generation => "gen",
        }
    }

    fn sort(self) -> Option<Sort> {
        match self {
            Column::Id => Some(Sort::Id),
            Column::Name => Some(Sort::Name),
            Column::CpuGraph | Column::Cpu => Some(Sort::Cpu),
            Column::MemoryGraph | Column::Memory => Some(Sort::Memory),
            Column::Restarts => Some(Sort::Restarts),
            Column::Uptime => Some(Sort::Uptime),
            Column::Connections => Some(Sort::Connections),
            Column::Status | Column::Pid | Column::Generation => None,
        }
    }

    fn is_left(self) -> bool {
        matches!(
            self,
            Column::Name | Column::Status | Column::CpuGraph | Column::MemoryGraph
        )
    }
}

/// The columns that fit, with their widths. One column of blanks is before each.
fn columns(width: u16) -> Vec<(Column, usize)> {
    let width = usize::from(width);
    let mut ranks: Vec<u8> = COLUMNS.iter().map(|(.., rank)| *rank).collect();
    ranks.sort_unstable();
    let taken = |most: u8| -> usize {
        let shown = COLUMNS.iter().filter(|(.., rank)| *rank <= most);
        shown.map(|(_, width, _)| width + 1).sum()
    };
    let most = ranks
        .into_iter()
        .rev()
        .find(|rank| taken(*rank) <= width)
        .unwrap_or(0);
    let mut left = width.saturating_sub(taken(most));
    let shown = COLUMNS.iter().filter(|(.., rank)| *rank <= most);
    let mut columns: Vec<(Column, usize)> = shown.map(|(column, width, _)| (*column, *width)).collect();
    let has_graph = columns.iter().any(|(column, _)| *column == Column::CpuGraph);
    let mut grow = |wanted: Column, most: usize| {
        for (column, width) in &mut columns {
            if *column == wanted && *width < most {
                let more = (most - *width).min(left);
                *width += more;
                left -= more;
            }
        }
    };
    grow(
        Column::Name,
        if has_graph {
            NAME_MOST.min(width / 5).max(NAME)
        } else {
            width
        },
    );
    grow(Column::CpuGraph, GRAPH_MOST / 2);
    grow(Column::Name, if has_graph { NAME_MOST } else { width });
    grow(Column::MemoryGraph, GRAPH_MOST / 2);
    grow(Column::CpuGraph, GRAPH_MOST);
    grow(Column::Name, width);
    columns
}

/// What a click at this column of the screen orders by.
pub(in super::super) fn sort_at(area: Rect, x: u16) -> Option<Sort> {
    let mut from = usize::from(area.x);
    for (column, width) in columns(area.width) {
        let to = from + width + 1;
        if (from..to).contains(&usize::from(x)) {
            return column.sort();
        }
        from = to;
    }
    None
}

pub(super) fn draw(screen: &Screen, frame: &mut Frame<'_>) {
    let (areas, theme) = (&screen.areas, screen.theme);
    frame.render_widget(framed(title(screen), theme, true), areas.list);
    let columns = columns(areas.columns.width);
    put(frame, areas.columns, 0, &names(&columns, screen));
    if screen.fleet.rows.is_empty() {
        put(frame, areas.rows, 0, &nothing(screen));
    }
    let height = usize::from(areas.rows.height);
    for (place, row) in screen
        .fleet
        .rows
        .iter()
        .enumerate()
        .skip(screen.fleet.offset)
        .take(height)
    {
        let line = line(screen, *row, &columns);
        let at = place - screen.fleet.offset;
        put(frame, areas.rows, at, &line);
        if screen.fleet.place() == Some(place) {
            let y = areas.rows.y + u16::try_from(at).unwrap_or(0);
            let area = Rect::new(areas.rows.x, y, areas.rows.width, 1);
            frame.buffer_mut().set_style(area, theme.chosen());
        } else if screen.trouble.is_some() {
            // What is not known to be true any more is pale.
            let y = areas.rows.y + u16::try_from(at).unwrap_or(0);
            let area = Rect::new(areas.rows.x, y, areas.rows.width, 1);
            frame.buffer_mut().set_style(area, theme.faint());
        }
    }
}

fn title(screen: &Screen) -> Line<'_> {
    let (fleet, theme) = (&screen.fleet, screen.theme);
    let mut spans = vec![Span::styled(" apps ", theme.accent())];
    if !fleet.filter.is_empty() {
        let filter = render::visible(&fleet.filter);
        let text = format!("/{filter} ({} of {}) ", fleet.groups.len(), fleet.apps());
        spans.push(Span::styled(text, theme.warning()));
    }
    let below = fleet
        .rows
        .len()
        .saturating_sub(fleet.offset + usize::from(screen.areas.rows.height));
    if fleet.offset > 0 || below > 0 {
        let text = format!("↑{} ↓{below} ", fleet.offset);
        spans.push(Span::styled(text, theme.faint()));
    }
    Line::from(spans)
}

fn nothing(screen: &Screen) -> Line<'static> {
    let text = match screen.fleet.processes.is_empty() {
        true => " no apps; `rpm start app.js -i max` starts one",
        false => " no app matches the filter; Esc shows all",
    };
    Line::styled(super::typable(text), screen.theme.faint())
}

/// The names of the columns; that of the order with an arrow.
fn names(columns: &[(Column, usize)], screen: &Screen) -> Line<'static> {
    let mut spans = Vec::new();
    for (column, width) in columns {
        let title = column.title();
        let is_sort = column.sort() == Some(screen.fleet.sort) && !title.is_empty();
        let (text, style) = match is_sort {
            true => (
                format!("{title}{}", screen.fleet.sort.arrow()),
                screen.theme.accent(),
            ),
            false => (title.to_owned(), screen.theme.faint()),
        };
        spans.push(Span::raw(" "));
        spans.push(Span::styled(aligned(*column, &text, *width), style));
    }
    Line::from(spans)
}

fn aligned(column: Column, text: &str, width: usize) -> String {
    match column.is_left() {
        true => fit(text, width),
        false => fit_right(text, width),
    }
}

fn line(screen: &Screen, row: Row, columns: &[(Column, usize)]) -> Line<'static> {
    let mut spans = Vec::new();
    for (column, width) in columns {
        spans.push(Span::raw(" "));
        spans.extend(match row {
            Row::App { group } => app_cell(screen, &screen.fleet.groups[group], *column, *width),
            Row::Instance { process, last } => {
                let process = &screen.fleet.processes[process];
                instance_cell(screen, process, last, *column, *width)
            }
            Row::Other { process, other, deep } => other_cell(
                &screen.fleet,
                (process, other),
                deep,
                (*column, *width),
                screen.theme,
            ),
        });
    }
    Line::from(spans)
}

fn app_cell(screen: &Screen, group: &Group, column: Column, width: usize) -> Vec<Span<'static>> {
    let (theme, summary) = (screen.theme, &group.summary);
    let several = group.members.len() > 1;
    let only = || &screen.fleet.processes[group.members[0]];
    match column {
        Column::Name => {
            let opens = several || !only().others.is_empty();
            let sign = match (opens, screen.fleet.is_expanded(group)) {
                (false, _) => "  ",
                (true, false) => "▸ ",
                (true, true) => "▾ ",
            };
            let count = if several {
                format!(" ×{}", group.members.len())
            } else {
                String::new()
            };
            let room = width.saturating_sub(2 + count.chars().count());
            let name = render::cut(&render::visible(&group.name), room.max(1));
            let blanks = room.saturating_sub(super::super::text::columns(&name));
            vec![
                Span::styled(sign, theme.accent()),
                Span::styled(name, theme.bold()),
                Span::styled(count, theme.faint()),
                Span::raw(" ".repeat(blanks)),
            ]
        }
        Column::Status => vec![app_status(summary, width, theme)],
        Column::Id if several => vec![Span::raw(" ".repeat(width))],
        Column::Id => vec![Span::styled(
            fit_right(&summary.id.to_string(), width),
            theme.faint(),
        )],
        Column::Pid if several => vec![Span::raw(" ".repeat(width))],
        _ => figure_cell(
            &Figures {
                summary,
                series: screen.history.app(&group.name),
                pid: only().pid,
            },
            column,
            width,
            theme,
        ),
    }
}

/// `● online`, `● 4/4 online`, `◐ reload 2/4`.
fn app_status(summary: &Summary, width: usize, theme: Theme) -> Span<'static> {
    if let Some(reload) = summary.reload {
        let text = match reload.done < reload.of {
            true => format!("◐ reload {}/{}", reload.done, reload.of),
            false => format!("◑ {} leaving", reload.leaving),
        };
        return Span::styled(fit(&text, width), theme.warning());
    }
    let status = summary.status.unwrap_or(Status::Stopped);
    let text = match summary.count {
        0 | 1 => format!("{} {}", symbol(status), word(status)),
        count if summary.online == count => format!("{} {count} online", symbol(status)),
        count if summary.online > 0 => format!("{} {}/{count} online", symbol(status), summary.online),
        count => format!("{} {count} {}", symbol(status), word(status)),
    };
    Span::styled(fit(&text, width), theme.status(status))
}

fn instance_cell(
    screen: &Screen,
    process: &Process,
    last: bool,
    column: Column,
    width: usize,
) -> Vec<Span<'static>> {
    let theme = screen.theme;
    match column {
        Column::Id => vec![Span::raw(fit_right(&process.id.to_string(), width))],
        Column::Name => {
            let branch = if last { "  └─ " } else { "  ├─ " };
            let text = format!("instance {}", process.instance);
            vec![
                Span::styled(branch, theme.faint()),
                Span::raw(fit(&text, width.saturating_sub(5))),
            ]
        }
        Column::Status => {
            let text = format!("{} {}", symbol(process.status), word(process.status));
            vec![Span::styled(fit(&text, width), theme.status(process.status))]
        }
        _ => figure_cell(
            &Figures {
                summary: &Summary::of(&[process]),
                series: screen.history.instance(process.id),
                pid: process.pid,
            },
            column,
            width,
            theme,
        ),
    }
}

/// What the cells of an app and of an instance are made from.
struct Figures<'a> {
    summary: &'a Summary,
    series: Option<&'a Series>,
    pid: Option<u32>,
}

fn figure_cell(figures: &Figures<'_>, column: Column, width: usize, theme: Theme) -> Vec<Span<'static>> {
    let summary = figures.summary;
    let running = summary.runs();
    // Of what its instances could use.
    let share = |cpu: f64| cpu / 100.0 / summary.count.max(1) as f64;
    let graph = |shares: Vec<f64>, style: &dyn Fn(f64) -> Style| {
        let mut spans = vec![Span::raw(" ".repeat(width - shares.len().min(width)))];
        spans.extend(sparks(&shares, 1.0, |share| {
            if running { style(share) } else { theme.faint() }
        }));
        spans
    };
    let values = |values: fn(&Series, usize) -> Vec<f64>| {
        figures
            .series
            .map_or_else(Vec::new, |series| values(series, width))
    };
    let (text, style) = match column {
        Column::CpuGraph => {
            let values = values(|series, count| series.cpu(count).collect());
            // What does next to nothing is flat, and the greatest of the rest reaches the top.
            let most = values.iter().copied().fold(5.0, f64::max);
            let shares = values.iter().map(|cpu| cpu / most).collect();
            return graph(shares, &|height| theme.share(share(height * most)));
        }
        Column::MemoryGraph => {
            let values = values(|series, count| series.memory(count).collect());
            return graph(changes(&values), &|_| theme.memory());
        }
        Column::Cpu => {
            let text = or_dash(running.then(|| percent(summary.cpu)));
            let style = if running {
                theme.share(share(summary.cpu))
            } else {
                theme.faint()
            };
            (text, style)
        }
        Column::Memory => (or_dash(running.then(|| bytes(summary.memory))), Style::new()),
        Column::Restarts => {
            let style = if summary.restarts > 0 {
                theme.warning()
            } else {
                theme.faint()
            };
            (summary.restarts.to_string(), style)
        }
        Column::Uptime => (or_dash(summary.uptime_ms.map(duration)), Style::new()),
        Column::Connections => (
            or_dash(summary.connections),
            match summary.connections {
                Some(1..) => theme.connections(),
                Some(0) | None => theme.faint(),
            },
        ),
        Column::Pid => (or_dash(figures.pid), theme.faint()),
        Column::Generation => (summary.generation.to_string(), theme.faint()),
        Column::Id | Column::Name | Column::Status => (String::new(), Style::new()),
    };
    vec![Span::styled(aligned(column, &text, width), style)]
}

/// How these change, from 0 to 1: memory is rarely near to nothing, so its height alone would say little.
fn changes(values: &[f64]) -> Vec<f64> {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    // A tenth of the whole, at least, from the bottom to the top: less is no change.
    let range = (most - least).max(most / 10.0).max(1.0);
    values.iter().map(|value| (value - least) / range).collect()
}

/// A process beside the instance's own: which generation, how far it is, how long that takes at most.
fn other_cell(
    fleet: &Fleet,
    (process, other): (usize, usize),
    deep: Deep,
    (column, width): (Column, usize),
    theme: Theme,
) -> Vec<Span<'static>> {
    let other = fleet.other(process, other);
    let style = theme.phase(other.phase);
    let text = match column {
        Column::Name => {
            let trunk = match (deep.below_instance, deep.instance_last) {
                (false, _) => "",
                (true, false) => "  │",
                (true, true) => "   ",
            };
            let branch = format!("{trunk}  {} ", if deep.last { "└" } else { "├" });
            let age = if is_new(other.phase) { "new" } else { "old" };
            let room = width.saturating_sub(branch.chars().count());
            return vec![
                Span::styled(branch, theme.faint()),
                Span::styled(fit(&format!("{age} gen {}", other.generation), room), style),
            ];
        }
        Column::Status => format!(
            "{} {}",
            if is_new(other.phase) { "◐" } else { "◑" },
            other.phase.as_str()
        ),
        Column::Uptime => other
            .left_ms
            .map_or_else(String::new, |left| format!("≤{}", duration(left))),
        Column::Connections => or_dash(other.connections),
        Column::Pid => other.pid.to_string(),
        Column::Generation => other.generation.to_string(),
        Column::Id
        | Column::CpuGraph
        | Column::Cpu
        | Column::MemoryGraph
        | Column::Memory
        | Column::Restarts => String::new(),
    };
    vec![Span::styled(aligned(column, &text, width), style)]
}

#[cfg(test)]
mod tests;
