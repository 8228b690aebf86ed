//! What is known of the chosen app or instance.

use ratatui::Frame;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use rpm_wire::api::{ExecMode, Process, SlotInfo};

use super::super::fleet::is_new;
use super::super::layout::inner;
use super::super::screen::Screen;
use super::super::theme::{symbol, word};
use super::{fit, framed, put};
use crate::render;
use crate::render::units::{bytes, duration, or_dash, percent};

/// Width of the names of facts.
const NAME: usize = 13;

pub(super) fn draw(screen: &Screen, frame: &mut Frame<'_>) {
    let (area, theme) = (screen.areas.facts, screen.theme);
    let title = screen
        .source()
        .map_or_else(|| "nothing".to_owned(), |source| source.label);
    let title = Line::styled(format!(" {title} "), theme.accent());
    frame.render_widget(framed(title, theme, true), area);
    let area = inner(area);
    let lines = match screen.fleet.instance() {
        Some(process) => of_instance(screen, process),
        None => of_app(screen),
    };
    for (row, line) in lines.iter().enumerate() {
        put(frame, area, row, line);
    }
}

/// A name and a value.
fn fact(screen: &Screen, name: &str, value: String, style: Style) -> Line<'static> {
    Line::from(vec![
        Span::styled(format!(" {}", fit(name, NAME)), screen.theme.faint()),
        Span::styled(value, style),
    ])
}

fn of_instance(screen: &Screen, process: &Process) -> Vec<Line<'static>> {
    let theme = screen.theme;
    let plain = Style::new();
    let mode = match process.exec_mode {
        ExecMode::Cluster => "cluster",
        ExecMode::Fork => "fork",
    };
    let running = process.pid.is_some();
    let status = format!("{} {}", symbol(process.status), process.status.as_str());
    let restarts = match process.unstable_restarts {
        0 => process.restarts.to_string(),
        unstable => format!("{} ({unstable} failed starts in a row)", process.restarts),
    };
    let mut lines = vec![
        fact(screen, "status", status, theme.status(process.status)),
        fact(screen, "pid", or_dash(process.pid), plain),
        fact(
            screen,
            "uptime",
            or_dash(process.uptime_ms.filter(|_| running).map(duration)),
            plain,
        ),
        fact(screen, "restarts", restarts, plain),
        fact(
            screen,
            "cpu",
            or_dash(running.then(|| percent(process.cpu_percent))),
            plain,
        ),
        fact(
            screen,
            "memory",
            or_dash(running.then(|| bytes(process.memory_bytes))),
            plain,
        ),
        fact(screen, "connections", or_dash(process.connections), plain),
        fact(
            screen,
            "mode",
            format!("{mode}, {}", render::visible(&process.plane)),
            plain,
        ),
        fact(screen, "generation", process.generation.to_string(), plain),
    ];
    if let Some(code) = process.exit_code {
        let style = if code == 0 { plain } else { theme.warning() };
        lines.push(fact(screen, "last exit", code.to_string(), style));
    }
    if !matches!(process.namespace.as_str(), "" | "default") {
        lines.push(fact(
            screen,
            "namespace",
            render::visible(&process.namespace),
            plain,
        ));
    }
    if process.watching {
        lines.push(fact(screen, "watching", "files".to_owned(), plain));
    }
    lines.extend(served(screen, process));
    lines.extend(listeners(screen, Some(process.id)));
    lines.extend(others(screen, [process]));
    lines.extend(files(screen, process));
    lines
}

/// Where its output goes.
fn files(screen: &Screen, process: &Process) -> [Line<'static>; 2] {
    // The end of a path says more than its beginning.
    let room = usize::from(screen.areas.facts.width).saturating_sub(NAME + 3);
    [("output", &process.out_log), ("errors", &process.err_log)].map(|(name, file)| {
        let file = end_of(&render::visible(file), room);
        fact(screen, name, file, screen.theme.faint())
    })
}

/// The last part of the text that fits, with a `…` if something is missing.
fn end_of(text: &str, width: usize) -> String {
    let count = text.chars().count();
    match count <= width {
        true => text.to_owned(),
        false => "…"
            .chars()
            .chain(text.chars().skip(count + 1 - width.max(1)))
            .collect(),
    }
}

/// How the app's listeners balance, and what the worker of each instance, or of the one of this id, has got.
fn listeners(screen: &Screen, id: Option<u32>) -> Vec<Line<'static>> {
    let theme = screen.theme;
    let is_shown = screen.fleet.group().map(|group| &group.name);
    let known = screen
        .listeners
        .as_ref()
        .filter(|known| Some(&known.app) == is_shown);
    let mut lines = Vec::new();
    for listener in known.iter().flat_map(|known| &known.all) {
        lines.push(fact(
            screen,
            "listens",
            render::visible(&listener.address),
            Style::new(),
        ));
        lines.push(fact(
            screen,
            "balanced by",
            render::visible(&listener.steering),
            Style::new(),
        ));
        let mut slots: Vec<&SlotInfo> = listener.slots.iter().collect();
        slots.sort_by_key(|slot| slot.instance);
        for slot in slots {
            if id.is_some_and(|id| id != slot.instance) {
                continue;
            }
            let (symbol, style) = match slot.eligible {
                true => ("●", theme.good()),
                false => ("○", theme.warning()),
            };
            let sent = match (slot.proxied, slot.steered) {
                (Some(proxied), _) => format!("{} requests", proxied.requests),
                (None, Some(steered)) => format!("{steered} conns"),
                (None, None) => String::new(),
            };
            let queued = if slot.queued > 0 {
                format!(" {} wait", slot.queued)
            } else {
                String::new()
            };
            let name = format!("  to {}", slot.instance);
            lines.push(fact(screen, &name, format!("{symbol} {sent}{queued}"), style));
        }
    }
    lines
}

fn served(screen: &Screen, process: &Process) -> Vec<Line<'static>> {
    let place = |served: &rpm_wire::api::Served| {
        let text = served.url.as_deref().unwrap_or(&served.address);
        fact(screen, "serves", render::visible(text), screen.theme.good())
    };
    process.serves.iter().map(place).collect()
}

/// The processes that come or go beside those of the instances: the generations side by side.
fn others<'a>(screen: &Screen, processes: impl IntoIterator<Item = &'a Process>) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for process in processes {
        for other in &process.others {
            let age = if is_new(other.phase) { "new" } else { "old" };
            let left = other
                .left_ms
                .map_or_else(String::new, |left| format!(" ≤{}", duration(left)));
            let (generation, phase, pid) = (other.generation, other.phase.as_str(), other.pid);
            let text = format!("gen {generation} {phase}{left}  pid {pid}");
            let name = format!("{age} of {}", process.id);
            lines.push(fact(screen, &name, text, screen.theme.phase(other.phase)));
        }
    }
    lines
}

fn of_app(screen: &Screen) -> Vec<Line<'static>> {
    let theme = screen.theme;
    let plain = Style::new();
    let Some(group) = screen.fleet.group() else {
        return Vec::new();
    };
    let summary = &group.summary;
    let members = || group.members.iter().map(|&place| &screen.fleet.processes[place]);
    let online = format!("{} of {} online", summary.online, summary.count);
    let style = summary.status.map_or(plain, |status| theme.status(status));
    let mut lines = vec![
        fact(screen, "status", online, style),
        fact(screen, "cpu", percent(summary.cpu), plain),
        fact(screen, "memory", bytes(summary.memory), plain),
        fact(screen, "connections", or_dash(summary.connections), plain),
        fact(screen, "restarts", summary.restarts.to_string(), plain),
        fact(screen, "uptime", or_dash(summary.uptime_ms.map(duration)), plain),
        fact(screen, "generation", summary.generation.to_string(), plain),
    ];
    if let Some(reload) = summary.reload {
        let text = format!(
            "{} of {} done, {} leaving",
            reload.done, reload.of, reload.leaving
        );
        lines.push(fact(screen, "reload", text, theme.warning()));
    }
    if let Some(first) = members().next() {
        lines.push(fact(screen, "plane", render::visible(&first.plane), plain));
        lines.extend(served(screen, first));
    }
    lines.extend(listeners(screen, None));
    lines.extend(others(screen, members()));
    lines.push(Line::default());
    for process in members() {
        let figures = format!(
            "{:>7} {:>9}",
            percent(process.cpu_percent),
            bytes(process.memory_bytes)
        );
        let status = format!(" {} {}", symbol(process.status), fit(word(process.status), 10));
        lines.push(Line::from(vec![
            Span::styled(format!(" {:>4}", process.id), theme.faint()),
            Span::styled(status, theme.status(process.status)),
            Span::raw(figures),
        ]));
    }
    lines
}
