//! `describe`: an app in sections.

use std::fmt::Write as _;

use comfy_table::{Cell, Color, ContentArrangement, Table};
use rpm_wire::api::{AppInfo, AppSpec, Circuit, HealthCheck, ListenerInfo, Process, ProxiedInfo, SlotInfo};
use rpm_wire::pm2::Versions;
use serde_json::Value;

use super::Look;
use super::plan::{time, value};
use super::table::{columns_of, mode, painted, processes_within, table, visible};
use super::units::{local_time, or_dash};

/// The whole description, with a line break at its end. On a terminal no line is broken within a word that fits.
pub(crate) fn app(info: &AppInfo, versions: &Versions, look: Look) -> String {
    let width = match look {
        Look::Plain => None,
        Look::Terminal | Look::Coloured => Table::new().width(),
    };
    app_within(info, versions, look, width)
}

/// The same for a terminal of this many columns; `None`: as wide as it gets.
pub(super) fn app_within(info: &AppInfo, versions: &Versions, look: Look, width: Option<u16>) -> String {
    let mut text = Description {
        text: String::new(),
        width: width.filter(|width| *width >= MIN_WIDTH),
    };
    text.section(&visible(&info.spec.name), facts(info, versions, look));
    text.section("processes", processes_within(&info.processes, look, width));
    let files = text.files(&info.processes, look);
    text.section("files", files);
    for listener in &info.listeners {
        let title = format!(
            "listener {}: {} ({})",
            visible(&listener.address),
            visible(&listener.steering),
            visible(&listener.reason)
        );
        match listener.slots.is_empty() {
            true => text.heading(&title),
            false => text.section(&title, slots(listener, look)),
        }
    }
    if info.listeners.is_empty() {
        text.heading("no listeners");
    }
    text.text
}

/// A narrower terminal wraps the lines itself.
const MIN_WIDTH: u16 = 60;

/// A description that is being written.
struct Description {
    text: String,
    width: Option<u16>,
}

impl Description {
    /// A line, or several where the terminal is narrower: broken at blanks.
    fn heading(&mut self, title: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let room = self.width.map_or(usize::MAX, usize::from);
        let mut taken = 0;
        for word in title.split(' ') {
            let wide = columns_of(word);
            let fits = taken > 0 && taken + 1 + wide <= room;
            if taken > 0 {
                self.text.push(if fits { ' ' } else { '\n' });
            }
            taken = if fits { taken + 1 + wide } else { wide };
            self.text.push_str(word);
        }
        self.text.push('\n');
    }

    fn section(&mut self, title: &str, mut table: Table) {
        self.heading(title);
        if let Some(width) = self.width {
            table.set_width(width);
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{table}");
    }

    /// The log files: paths are not broken, so that they can be copied, if there is room at all.
    fn files(&self, processes: &[Process], look: Look) -> Table {
        let mut side_by_side = files(processes, look);
        side_by_side.set_content_arrangement(ContentArrangement::Disabled);
        let natural = side_by_side.lines().map(|line| columns_of(&line)).max();
        match self.width {
            Some(width) if natural > Some(usize::from(width)) => files_below(processes, look),
            _ => side_by_side,
        }
    }
}

fn facts(info: &AppInfo, versions: &Versions, look: Look) -> Table {
    let AppInfo {
        spec,
        plane,
        plane_reason,
        generation,
        ..
    } = info;
    let instances = match spec.instances {
        0 => "one per CPU".to_owned(),
        n if n < 0 => format!("all CPUs but {}", n.unsigned_abs()),
        n => n.to_string(),
    };
    let mut table = table(&["field", "value"], &[], look);
    let mut fact = |field: &str, value: String| {
        table.add_row([field, visible(&value).as_str()]);
    };
    fact("mode", mode(spec.exec_mode).to_owned());
    let now = info.processes.len().to_string();
    fact(
        "instances",
        match instances == now {
            true => now,
            false => format!("{instances} ({now} now)"),
        },
    );
    fact("plane", format!("{plane} ({plane_reason})"));
    fact("generation", generation.to_string());
    fact("command", command(spec));
    fact("working directory", spec.cwd.clone());
    for (field, value) in provenance(info, versions) {
        fact(field, value);
    }
    fact(
        "autorestart",
        if spec.autorestart { "yes" } else { "no" }.to_owned(),
    );
    if let Some(check) = &spec.health_check {
        fact("health_check", health(check));
    }
    for (key, value) in settings(spec) {
        fact(&key, value);
    }
    table
}

/// What of the program runs here, and since when it has been in the list. An app whose variables are shown nowhere else has `NODE_ENV` here,
/// because that is the one that is wrong most often.
fn provenance(info: &AppInfo, versions: &Versions) -> impl Iterator<Item = (&'static str, String)> {
    let created = info.processes.iter().map(|process| process.created_at_ms);
    let created = created.filter(|ms| *ms > 0).min();
    let all = [
        ("version", versions.app.clone()),
        ("Node.js", versions.node.clone()),
        ("NODE_ENV", info.spec.env.get("NODE_ENV").cloned()),
        ("created", created.and_then(local_time)),
    ];
    all.into_iter().filter_map(|(field, value)| Some((field, value?)))
}

/// Keys that other lines show, or that are too long for a line; `rpm env` prints the variables.
const SHOWN: [&str; 11] = [
    "name",
    "script",
    "interpreter",
    "node_args",
    "interpreter_args",
    "args",
    "cwd",
    "env",
    "exec_mode",
    "instances",
    "autorestart",
];

/// All other options that differ from their default, by their keys.
fn settings(spec: &AppSpec) -> Vec<(String, String)> {
    let usual = AppSpec::default().by_key();
    let is_shown = |key: &str| SHOWN.contains(&key) || key.starts_with("health_check");
    let differs = |(key, value): &(String, Value)| !is_shown(key) && usual.get(key) != Some(value);
    let shown = |(key, json): (String, Value)| {
        let text = value(&key, &json, str::to_owned);
        (key, text)
    };
    spec.by_key().into_iter().filter(differs).map(shown).collect()
}

fn health(check: &HealthCheck) -> String {
    let HealthCheck {
        path,
        status,
        interval_ms,
        timeout_ms,
        threshold,
    } = check;
    format!(
        "{path} answers {status} within {}, {threshold} in a row, asked every {}",
        time(*timeout_ms),
        time(*interval_ms)
    )
}

fn command(spec: &AppSpec) -> String {
    let words = spec
        .interpreter
        .iter()
        .chain(&spec.interpreter_args)
        .chain([&spec.script])
        .chain(&spec.args);
    words
        .map(|word| {
            if word.contains(' ') {
                format!("{word:?}")
            } else {
                word.clone()
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

fn files(processes: &[Process], look: Look) -> Table {
    let mut table = table(&["id", "output", "errors", "last exit"], &[0, 3], look);
    for process in processes {
        table.add_row([
            process.id.to_string(),
            visible(&process.out_log),
            visible(&process.err_log),
            or_dash(process.exit_code),
        ]);
    }
    table
}

/// The same, with the errors' file below that of the output.
fn files_below(processes: &[Process], look: Look) -> Table {
    let mut table = table(&["id", "output, errors", "last exit"], &[0, 2], look);
    for process in processes {
        table.add_row([
            process.id.to_string(),
            format!("{}\n{}", visible(&process.out_log), visible(&process.err_log)),
            or_dash(process.exit_code),
        ]);
    }
    table
}

/// A worker behind the proxy.
fn behind_proxy(instance: u32, eligible: bool, proxied: &ProxiedInfo, look: Look) -> [Cell; 6] {
    let circuit = match (eligible, proxied.circuit) {
        (false, _) => painted(Cell::new("out"), Color::Yellow, look),
        (true, Circuit::Closed) => painted(Cell::new("closed"), Color::Green, look),
        (true, Circuit::Open) => painted(Cell::new("open"), Color::Red, look),
        (true, Circuit::Ill) => painted(Cell::new("fails its health check"), Color::Red, look),
    };
    [
        Cell::new(instance),
        circuit,
        Cell::new(proxied.requests),
        Cell::new(proxied.in_flight),
        Cell::new(format!(
            "{:.1} ms",
            f64::from(u32::try_from(proxied.latency_us).unwrap_or(u32::MAX)) / 1000.0
        )),
        Cell::new(proxied.ejections),
    ]
}

fn slots(listener: &ListenerInfo, look: Look) -> Table {
    let header: &[&str] = match listener.slots.iter().any(|slot| slot.proxied.is_some()) {
        true => &[
            "instance",
            "circuit",
            "requests",
            "in flight",
            "latency",
            "ejections",
        ],
        false => &[
            "instance", "eligible", "open", "queued", "backlog", "steered", "rescued",
        ],
    };
    let numbers: Vec<usize> = [0].into_iter().chain(2..header.len()).collect();
    let mut table = table(header, &numbers, look);
    for slot in &listener.slots {
        let SlotInfo {
            instance,
            eligible,
            queued,
            backlog,
            steered,
            connections,
            rescued,
            proxied,
        } = slot;
        if let Some(proxied) = proxied {
            table.add_row(behind_proxy(*instance, *eligible, proxied, look));
            continue;
        }
        let eligible = match eligible {
            true => painted(Cell::new("yes"), Color::Green, look),
            false => painted(Cell::new("no"), Color::Yellow, look),
        };
        table.add_row([
            Cell::new(instance),
            eligible,
            Cell::new(or_dash(*connections)),
            Cell::new(queued),
            Cell::new(backlog),
            Cell::new(or_dash(*steered)),
            Cell::new(rescued),
        ]);
    }
    table
}
