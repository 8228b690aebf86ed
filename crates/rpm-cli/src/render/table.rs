//! The table of processes, and what all tables have in common.

use std::fmt::Write as _;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table};
use rpm_wire::api::{ExecMode, Other, Phase, Process, Status};

use super::Look;
use super::units::{bytes, duration, or_dash, percent};

const HEADER: [&str; 11] = [
    "id", "name", "mode", "plane", "pid", "uptime", "↺", "status", "cpu", "memory", "conns",
];

/// Columns of numbers.
const RIGHT: [usize; 7] = [0, 4, 5, 6, 8, 9, 10];

/// A terminal narrower than that breaks the lines itself; cells of two letters would be no better. Some
/// say 0 when they do not know.
const MIN_WIDTH: u16 = 60;

/// One line for each process.
pub(crate) fn processes(processes: &[Process], look: Look) -> Table {
    let mut table = table(&HEADER, &RIGHT, look);
    for process in processes {
        table.add_row(row(process, look));
        for other in &process.others {
            table.add_row(other_row(process, other, look));
        }
    }
    table
}

/// A line for each figure, as `list --mini-list` of PM2 has it.
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

/// A process that comes or goes beside the instance's own.
fn other_row(process: &Process, other: &Other, look: Look) -> Vec<Cell> {
    let left = other.left_ms.map(duration);
    let left = left.map_or_else(String::new, |time| match other.phase {
        Phase::Launching | Phase::Standby | Phase::Draining => format!(", {time} left"),
        Phase::Stopping => format!(", SIGKILL in {time}"),
    });
    let mut cells: Vec<Cell> = (0..HEADER.len()).map(|_| Cell::new("")).collect();
    cells[0] = Cell::new(process.id);
    cells[4] = Cell::new(other.pid);
    let status = Cell::new(format!("{}{left}", other.phase.as_str()));
    cells[7] = painted(status, Color::Yellow, look);
    cells[10] = Cell::new(or_dash(other.connections));
    cells
}

/// What is measured of a process, as text; a dash where it does not run.
pub(crate) struct Figures {
    pub(crate) uptime: String,
    pub(crate) cpu: String,
    pub(crate) memory: String,
    pub(crate) connections: String,
}

impl Figures {
    pub(crate) fn of(process: &Process) -> Figures {
        let running = process.pid.is_some();
        Figures {
            uptime: or_dash(process.uptime_ms.filter(|_| running).map(duration)),
            cpu: or_dash(running.then(|| percent(process.cpu_percent))),
            memory: or_dash(running.then(|| bytes(process.memory_bytes))),
            connections: or_dash(process.connections),
        }
    }
}

fn row(process: &Process, look: Look) -> Vec<Cell> {
    let figures = Figures::of(process);
    vec![
        Cell::new(process.id),
        bold(Cell::new(visible(&process.name)), look),
        Cell::new(mode(process.exec_mode)),
        Cell::new(visible(&process.plane)),
        Cell::new(or_dash(process.pid)),
        Cell::new(figures.uptime),
        Cell::new(process.restarts),
        painted(Cell::new(process.status.as_str()), colour(process.status), look),
        Cell::new(figures.cpu),
        Cell::new(figures.memory),
        Cell::new(figures.connections),
    ]
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

/// The text without what a terminal would obey: names come from users, reasons from the system.
pub(crate) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
