//! The table of processes, and common parts of all tables.

use std::fmt::Write as _;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table};
use ratatui::text::Span;
use rpm_wire::api::{ExecMode, OBSERVE, Other, Process, Status};
use rpm_wire::terminal::is_obeyed;

use super::Look;
use super::units::{bytes, duration, or_dash, percent};

/// A column of the table of processes.
struct Column {
    title: &'static str,
    /// It contains numbers.
    right: bool,
    /// Order in which columns are dropped on a narrow terminal: the highest first, those with 0 never.
    rank: u8,
}

const fn column(title: &'static str, right: bool, rank: u8) -> Column {
    Column { title, right, rank }
}

const COLUMNS: [Column; 14] = [
    column("id", true, 0),
    column("name", false, 0),
    column("mode", false, 7),
    column("plane", false, 9),
    column("pid", true, 6),
    column("uptime", true, 4),
    column("↺", true, 3),
    column("status", false, 0),
    column("port", true, 1),
    column("cpu", true, 5),
    column("memory", true, 2),
    column("conns", true, 8),
    column("namespace", false, 11),
    column("watch", false, 10),
];

// Places in it.
const ID: usize = 0;
const NAME: usize = 1;
const PID: usize = 4;
const STATUS: usize = 7;
const CONNECTIONS: usize = 11;
const NAMESPACE: usize = 12;
const WATCH: usize = 13;

/// The namespace of an app that is given none.
const USUAL_NAMESPACE: &str = "default";

/// A narrower terminal wraps the lines itself; cells of two letters would be no better. Some report 0 when they do not know their width.
const MIN_WIDTH: u16 = 60;

/// The same for the table of processes, which needs less: columns are dropped, and names are cut.
const MIN_PROCESSES_WIDTH: u16 = 34;

/// Narrower terminals wrap the lines themselves: a column of a few letters would be no better.
pub(super) const LEAST_TEXT: usize = 24;

/// Columns are dropped before names become shorter than this.
const NAME_WANTED: usize = 20;

/// Names are never shorter than this.
const NAME_LEAST: usize = 4;

/// Width of the border and margins of a column, and of the last border.
const AROUND: usize = 3;
const EDGE: usize = 1;

/// The cells of a line, and the colour of its status.
struct Line {
    cells: [String; COLUMNS.len()],
    colour: Color,
}

/// One line for each process, and one for each that comes or goes beside it. On a terminal no line is wider than that.
pub(crate) fn processes(processes: &[Process], look: Look) -> Table {
    let width = match look {
        Look::Plain => None,
        Look::Terminal | Look::Coloured => Table::new().width(),
    };
    processes_within(processes, look, width)
}

/// The same for a terminal of this many columns; `None`: as wide as it gets.
pub(super) fn processes_within(processes: &[Process], look: Look, width: Option<u16>) -> Table {
    let mut lines: Vec<Line> = Vec::new();
    for process in processes {
        lines.push(line(process));
        lines.extend(process.others.iter().map(|other| other_line(process, other)));
    }
    let wide = |index: usize| {
        let cells = lines.iter().map(|line| columns_of(&line.cells[index]));
        cells.fold(columns_of(COLUMNS[index].title), usize::max)
    };
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(wide);
    let all = present(processes);
    let room = width
        .filter(|width| *width >= MIN_PROCESSES_WIDTH)
        .map(usize::from);
    let (shown, name) = room.map_or_else(
        || (all.clone(), widths[NAME]),
        |room| fitting(&widths, all.clone(), room),
    );
    let titles: Vec<&str> = shown.iter().map(|&index| COLUMNS[index].title).collect();
    let is_right = |place: &usize| COLUMNS[shown[*place]].right;
    let right: Vec<usize> = (0..shown.len()).filter(is_right).collect();
    let mut table = table(&titles, &right, look);
    table.set_content_arrangement(ContentArrangement::Disabled);
    for Line { cells, colour } in &lines {
        table.add_row(shown.iter().map(|&index| match index {
            NAME => bold(Cell::new(cut(&cells[index], name)), look),
            STATUS => painted(Cell::new(&cells[index]), *colour, look),
            _ => Cell::new(&cells[index]),
        }));
    }
    table
}

/// The columns that say something: namespaces only where there is another than the usual one, and what is watched only where anything is.
fn present(processes: &[Process]) -> Vec<usize> {
    let is_named = |process: &Process| !matches!(process.namespace.as_str(), "" | USUAL_NAMESPACE);
    let says = |index: &usize| match *index {
        NAMESPACE => processes.iter().any(is_named),
        WATCH => processes.iter().any(|process| process.watching),
        _ => true,
    };
    (0..COLUMNS.len()).filter(says).collect()
}

/// Which of these columns fit into this width, and the width of the names.
fn fitting(widths: &[usize; COLUMNS.len()], mut shown: Vec<usize>, room: usize) -> (Vec<usize>, usize) {
    loop {
        let others = shown.iter().filter(|&&index| index != NAME);
        let taken: usize = others.map(|&index| widths[index] + AROUND).sum();
        let left = room.saturating_sub(taken + AROUND + EDGE);
        let last = shown.iter().copied().max_by_key(|&index| COLUMNS[index].rank);
        match last.filter(|&index| COLUMNS[index].rank > 0) {
            Some(last) if left < widths[NAME].min(NAME_WANTED) => shown.retain(|&index| index != last),
            _ => return (shown, widths[NAME].min(left.max(NAME_LEAST))),
        }
    }
}

/// Display width of the text.
pub(super) fn columns_of(text: &str) -> usize {
    Span::raw(text).width()
}

/// The words in as many lines of this display width as they need; `None`: in one.
pub(super) fn wrapped(text: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room.filter(|room| *room >= LEAST_TEXT) else {
        return vec![text.to_owned()];
    };
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().map(|line| (columns_of(line), line));
        match last {
            Some((0, line)) => line.push_str(word),
            Some((width, line)) if width + 1 + columns_of(word) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The text cut to this display width, with a `…` if something is missing.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if columns_of(text) <= most {
        return text.to_owned();
    }
    let mut short = String::new();
    for letter in text.chars() {
        short.push(letter);
        if columns_of(&short) >= most {
            short.pop();
            break;
        }
    }
    short.push('…');
    short
}

/// A line for each value, like `list --mini-list` of PM2.
pub(crate) fn lines(processes: &[Process]) -> String {
    let mut text = String::new();
    for process in processes {
        let figures = Figures::of(process);
        let fields = [
            ("namespace", visible(&process.namespace)),
            ("pid", or_dash(process.pid)),
            ("id", process.id.to_string()),
            ("status", process.status.as_str().to_owned()),
            ("mode", mode(process.exec_mode).to_owned()),
            ("restarted", process.restarts.to_string()),
            ("uptime", figures.uptime),
            ("memory usage", figures.memory),
            ("cpu usage", figures.cpu),
        ];
        let _ = writeln!(text, "+--- {}", visible(&process.name));
        for (name, value) in fields {
            let _ = writeln!(text, "{name} : {value}");
        }
    }
    text
}

/// The id, unless it is one of a hidden process: that has ten digits, and the name does as well.
fn id_of(process: &Process) -> String {
    or_dash((process.name != OBSERVE).then_some(process.id))
}

/// A process that comes or goes beside the instance's own: how far it is, and how long that takes at most.
fn other_line(process: &Process, other: &Other) -> Line {
    let left = other.left_ms.map(duration);
    let left = left.map_or_else(String::new, |time| format!(" ≤{time}"));
    let mut cells: [String; COLUMNS.len()] = Default::default();
    cells[ID] = id_of(process);
    cells[PID] = other.pid.to_string();
    cells[STATUS] = format!("{}{left}", other.phase.as_str());
    cells[CONNECTIONS] = or_dash(other.connections);
    Line {
        cells,
        colour: Color::Yellow,
    }
}

/// The measurements of a process as text; a dash if it does not run.
struct Figures {
    pub(crate) uptime: String,
    pub(crate) cpu: String,
    pub(crate) memory: String,
    pub(crate) connections: String,
}

impl Figures {
    fn of(process: &Process) -> Figures {
        let running = process.pid.is_some();
        Figures {
            uptime: or_dash(process.uptime_ms.filter(|_| running).map(duration)),
            cpu: or_dash(running.then(|| percent(process.cpu_percent))),
            memory: or_dash(running.then(|| bytes(process.memory_bytes))),
            connections: or_dash(process.connections),
        }
    }
}

fn line(process: &Process) -> Line {
    let figures = Figures::of(process);
    Line {
        cells: [
            id_of(process),
            visible(&process.name),
            mode(process.exec_mode).to_owned(),
            visible(&process.plane),
            or_dash(process.pid),
            figures.uptime,
            process.restarts.to_string(),
            process.status.as_str().to_owned(),
            ports(process),
            figures.cpu,
            figures.memory,
            figures.connections,
            visible(&process.namespace),
            if process.watching { "on" } else { "" }.to_owned(),
        ],
        colour: colour(process.status),
    }
}

/// Number of ports that are named.
const PORTS_NAMED: usize = 2;

/// `3000`, `3000 53/udp`, `80 443 +2`, `unix`. An app that listens on IPv4 and IPv6 has one port.
fn ports(process: &Process) -> String {
    let mut ports: Vec<String> = Vec::new();
    for served in &process.serves {
        let (kind, address) = served.address.split_once(' ').unwrap_or_default();
        let number = address.rsplit(':').next().unwrap_or_default();
        let port = match kind {
            "tcp" => visible(number),
            "udp" => visible(&format!("{number}/udp")),
            other => visible(other),
        };
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    let more = ports.len().saturating_sub(PORTS_NAMED);
    ports.truncate(PORTS_NAMED);
    ports.extend((more > 0).then(|| format!("+{more}")));
    or_dash((!ports.is_empty()).then(|| ports.join(" ")))
}

/// A line for each URL at which these are found; where there are several apps it says whose it is.
pub(crate) fn served(processes: &[Process]) -> Vec<String> {
    let several = processes.iter().any(|process| process.name != processes[0].name);
    let mut lines: Vec<String> = Vec::new();
    for process in processes {
        for url in process.serves.iter().filter_map(|served| served.url.as_deref()) {
            let line = match several {
                true => format!("{}: serving {}", visible(&process.name), visible(url)),
                false => format!("serving {}", visible(url)),
            };
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

pub(super) fn mode(mode: ExecMode) -> &'static str {
    match mode {
        ExecMode::Cluster => "cluster",
        ExecMode::Fork => "fork",
    }
}

fn colour(status: Status) -> Color {
    match status {
        Status::Online => Color::Green,
        Status::Launching | Status::Stopping | Status::WaitingRestart => Color::Yellow,
        Status::Stopped => Color::DarkGrey,
        Status::Errored => Color::Red,
    }
}

/// An empty table; `right` names the columns that are aligned to the right.
pub(super) fn table(header: &[&str], right: &[usize], look: Look) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED.with_rounded_corners());
    if look == Look::Plain {
        table.force_no_tty();
    } else if table.width().is_some_and(|columns| columns >= MIN_WIDTH) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header(
        header
            .iter()
            .map(|&name| bold(Cell::new(name), look))
            .collect::<Vec<_>>(),
    );
    for &index in right {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

pub(super) fn painted(cell: Cell, colour: Color, look: Look) -> Cell {
    if look == Look::Coloured {
        cell.fg(colour)
    } else {
        cell
    }
}

fn bold(cell: Cell, look: Look) -> Cell {
    if look == Look::Coloured {
        cell.add_attribute(Attribute::Bold)
    } else {
        cell
    }
}

/// The text without control sequences: names come from users, reasons from the system.
pub(crate) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if is_obeyed(c) { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::online;
    use super::*;

    #[test]
    fn namespaces_and_watching_are_shown_where_there_are_any() {
        let head = |list: &[Process], width| {
            let table = processes_within(list, Look::Plain, width).to_string();
            table.lines().nth(1).unwrap_or_default().to_owned()
        };
        let plain = [online(0), online(1)];
        assert!(!head(&plain, None).contains("namespace") && !head(&plain, None).contains("watch"));
        let mut both = plain;
        both[1].namespace = "shop".into();
        both[0].watching = true;
        let wide = head(&both, None);
        assert!(wide.contains("namespace ┆ watch"), "{wide}");
        let rows = processes_within(&both, Look::Plain, None).to_string();
        assert!(rows.contains("┆ shop ") && rows.contains("┆ on "), "{rows}");
        let narrow = head(&both, Some(80));
        assert!(
            !narrow.contains("namespace") && narrow.contains("memory"),
            "{narrow}"
        );
        assert!(Span::raw(narrow.as_str()).width() <= 80, "{narrow}");
    }
}
