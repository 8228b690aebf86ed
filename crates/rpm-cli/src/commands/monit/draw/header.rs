//! The top of the screen: what there is, and how busy the machine is.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use rpm_wire::api::Status;

use super::super::machine::Machine;
use super::super::screen::Screen;
use super::super::theme::{Theme, symbol, word};
use super::{bar, fit, fit_right, put, sparks};
use crate::render::units::bytes;

/// Columns that a core needs for a bar of its own.
const CORE: u16 = 18;
/// The largest bar of a core or of the memory.
const LONGEST: usize = 80;
/// What a core has besides its bar.
const AROUND: usize = 12;

/// Number of rows of the header.
pub(in super::super) fn height(machine: Option<&Machine>, area: Rect) -> u16 {
    match machine {
        Some(machine) if area.height >= 16 => 2 + core_rows(machine.cores.len(), area),
        _ => 1,
    }
}

/// Number of bars of cores in a row.
fn in_a_row(cores: usize, area: Rect) -> usize {
    let most = usize::from((area.width / CORE).max(1));
    // Rows of the same length look better than a last one with a single core.
    let rows = cores.div_ceil(most).max(1);
    cores.div_ceil(rows).max(1)
}

/// Number of rows with bars of cores: one with a letter for each core where bars would take too much of the screen.
fn core_rows(cores: usize, area: Rect) -> u16 {
    let rows = cores.div_ceil(in_a_row(cores, area));
    match rows <= usize::from(area.height / 12).max(1) {
        true => u16::try_from(rows).unwrap_or(1),
        false => 1,
    }
}

pub(super) fn draw(screen: &Screen, frame: &mut Frame<'_>) {
    let area = screen.areas.header;
    put(frame, area, 0, &totals(screen));
    let Some(machine) = &screen.machine else { return };
    let theme = screen.theme;
    let whole = frame.area();
    let rows = usize::from(core_rows(machine.cores.len(), whole));
    let in_a_row = in_a_row(machine.cores.len(), whole);
    if rows * in_a_row >= machine.cores.len() {
        for (row, cores) in machine.cores.chunks(in_a_row).enumerate() {
            let line = core_bars(cores, row * in_a_row, (in_a_row, area.width), theme);
            put(frame, area, row + 1, &line);
        }
    } else {
        put(frame, area, 1, &core_letters(machine, theme));
    }
    // As long as those above it, where that leaves room for the rest.
    let length = bar_length(in_a_row, area.width)
        .min(usize::from(area.width).saturating_sub(58))
        .max(8);
    put(frame, area, rows + 1, &memory(machine, length, theme));
}

/// ` rpm monit  host    4 apps  9 processes  ● 8 online  ✖ 1 errored … cpu 42%  512 MB  23 conns`.
fn totals(screen: &Screen) -> Line<'_> {
    let theme = screen.theme;
    let fleet = &screen.fleet;
    let mut left = vec![
        Span::styled(" rpm monit ", theme.accent()),
        Span::styled(format!("{}  ", screen.host), theme.faint()),
        Span::raw(format!("{}  ", counted(fleet.apps(), "app"))),
    ];
    for status in [
        Status::Online,
        Status::Launching,
        Status::Stopping,
        Status::WaitingRestart,
        Status::Errored,
        Status::Stopped,
    ] {
        let count = fleet
            .processes
            .iter()
            .filter(|process| process.status == status)
            .count();
        if count > 0 {
            let text = format!("{} {count} {}  ", symbol(status), word(status));
            left.push(Span::styled(text, theme.status(status)));
        }
    }
    let cpu: f64 = fleet.processes.iter().map(|process| process.cpu_percent).sum();
    let memory: u64 = fleet.processes.iter().map(|process| process.memory_bytes).sum();
    let connections: u32 = fleet
        .processes
        .iter()
        .filter_map(|process| process.connections)
        .sum();
    let short = format!("cpu {cpu:.0}%  {}", bytes(memory));
    let long = format!("{short}  {}", counted(connections, "connection"));
    let taken: usize = left.iter().map(Span::width).sum();
    let room = usize::from(screen.areas.header.width).saturating_sub(taken + 1);
    if let Some(right) = [long, short].iter().find(|text| text.len() <= room) {
        left.push(Span::styled(fit_right(right, room), theme.bold()));
    }
    Line::from(left)
}

/// `1 app`, `2 apps`
pub(super) fn counted(count: impl std::fmt::Display, word: &str) -> String {
    let count = count.to_string();
    let plural = if count == "1" { "" } else { "s" };
    format!("{count} {word}{plural}")
}

/// Width of the bar of a core.
fn bar_length(in_a_row: usize, width: u16) -> usize {
    let each = usize::from(width) / in_a_row;
    each.saturating_sub(AROUND).clamp(3, LONGEST)
}

/// ` 0 ■■■■■■····  42%  1 ■■■…`.
fn core_bars(cores: &[f64], first: usize, (in_a_row, width): (usize, u16), theme: Theme) -> Line<'static> {
    let each = usize::from(width) / in_a_row;
    let length = bar_length(in_a_row, width);
    let mut spans = Vec::new();
    for (place, share) in cores.iter().enumerate() {
        spans.push(Span::styled(format!(" cpu{:<3}", first + place), theme.faint()));
        spans.extend(bar(*share, length, theme, None));
        spans.push(Span::styled(
            format!("{:>4.0}%", share * 100.0),
            theme.share(*share),
        ));
        let taken = AROUND + length;
        spans.push(Span::raw(" ".repeat(each.saturating_sub(taken))));
    }
    Line::from(spans)
}

/// One letter for each core.
fn core_letters(machine: &Machine, theme: Theme) -> Line<'static> {
    let mut spans = vec![Span::styled(" cpu ", theme.faint())];
    spans.extend(sparks(&machine.cores, 1.0, |share| theme.share(share)));
    let busy = format!(" {:>3.0}%", machine.busy * 100.0);
    spans.push(Span::styled(busy, theme.share(machine.busy)));
    Line::from(spans)
}

/// ` mem    ■■■■······  3.2 GB of 7.8 GB    load 1.20 0.90 0.70`.
fn memory(machine: &Machine, length: usize, theme: Theme) -> Line<'static> {
    // Exact enough: it is drawn.
    let share = machine.used as f64 / machine.memory.max(1) as f64;
    let mut spans = vec![Span::styled(" mem   ", theme.faint())];
    spans.extend(bar(share, length, theme, Some(theme.memory())));
    spans.push(Span::raw(fit(
        &format!(" {} of {}", bytes(machine.used), bytes(machine.memory)),
        22,
    )));
    if !machine.load.is_empty() {
        spans.push(Span::styled("  load ", theme.faint()));
        spans.push(Span::raw(machine.load.clone()));
    }
    Line::from(spans)
}
