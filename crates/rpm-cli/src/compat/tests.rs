//! The tables are true, and so is the documentation that is made of them.

use std::fmt::Write as _;

use rpm_spec::keys::{self, State};
use rpm_wire::api::AppSpec;
use rpm_wire::events::KINDS;
use serde_json::Value;

use super::*;

/// Those of `start`, which the others share, and of `list` and `startup`.
const FLAGS: &[&str] = &[
    "name",
    "interpreter",
    "interpreter-args",
    "node-args",
    "output",
    "error",
    "log",
    "log-type",
    "log-date-format",
    "time",
    "merge-logs",
    "disable-logs",
    "env",
    "update-env",
    "filter-env",
    "force",
    "instances",
    "parallel",
    "shutdown-with-message",
    "pid",
    "kill-timeout",
    "listen-timeout",
    "wait-ready",
    "max-memory-restart",
    "restart-delay",
    "exp-backoff-restart-delay",
    "max-restarts",
    "stop-exit-codes",
    "execute-command",
    "uid",
    "gid",
    "namespace",
    "cwd",
    "cron",
    "cron-restart",
    "disable-source-map-support",
    "only",
    "watch",
    "ignore-watch",
    "watch-delay",
    "no-autostart",
    "no-autorestart",
    "no-treekill",
    "silent",
    "mini-list",
    "user",
    "hp",
    "service-name",
    "wait-ip",
    "no-daemon",
    "no-color",
    "sort",
    "attach",
];

#[test]
fn every_command_is_here_or_says_what_to_use() {
    let grammar = crate::args::grammar("rpm");
    for command in COMMANDS {
        for name in command.names {
            let found = grammar.find_subcommand(name).is_some();
            // Called `pm2` it is PM2's, otherwise another one of ours.
            let ours = *name == "link";
            assert_eq!(found, ours || command.here == Here::Works, "{name}");
        }
    }
    assert!(missing(&["link"]).starts_with("link: there is no hosted dashboard"));
    assert_eq!(
        missing(&["restrat", "my app"]),
        "there is no command \"restrat\"; did you mean `rpm restart 'my app'`?"
    );
}

#[test]
fn every_option_is_here() {
    let grammar = crate::args::grammar("rpm");
    let of = |name| {
        grammar
            .find_subcommand(name)
            .expect("it is there")
            .get_arguments()
    };
    for flag in FLAGS {
        let found = of("start")
            .chain(of("list"))
            .chain(of("startup"))
            .chain(grammar.get_arguments())
            .any(|argument| {
                let aliases = argument.get_visible_aliases().unwrap_or_default();
                argument.get_long() == Some(flag) || aliases.contains(flag)
            });
        assert!(found, "--{flag}");
    }
}

fn row(names: &str, here: Here) -> String {
    match here {
        Here::Works => format!("| {names} | works |\n"),
        Here::Instead(what) => format!("| {names} | not here: {what} |\n"),
    }
}

fn code(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

fn commands() -> String {
    let mut table = "| command | here |\n|---|---|\n".to_owned();
    for command in COMMANDS {
        table.push_str(&row(&code(command.names), command.here));
    }
    table
}

fn flags() -> String {
    let mut table = "| option | here |\n|---|---|\n".to_owned();
    for flag in FLAGS {
        table.push_str(&row(&format!("`--{flag}`"), Here::Works));
    }
    for (name, what) in crate::args::Needless::NAMES {
        let _ = writeln!(table, "| `--{name}` | accepted, and does nothing: {what} |");
    }
    table
}

fn keys() -> String {
    let mut table = "| key | other names | here |\n|---|---|---|\n".to_owned();
    for key in keys::all() {
        let here = match key.state {
            State::Works if key.pm2 => keys::described(key),
            State::Works => format!("{} (not in PM2)", keys::described(key)),
            State::Needless(why) => format!("accepted, and does nothing: {why}"),
            State::Instead(what) => format!("not here: {what}"),
        };
        let _ = writeln!(table, "| `{}` | {} | {here} |", key.name, code(key.aliases));
    }
    table
}

/// Fields of the API that are options as they are.
fn fields() -> String {
    let defaults = serde_json::to_value(AppSpec::default()).expect("JSON");
    let mut table = "| field | default | meaning |\n|---|---|---|\n".to_owned();
    for (key, field) in AppSpec::OPTIONS.iter().filter_map(|key| Some((key, key.field?))) {
        let default = match (key.default, &defaults[field]) {
            (Some(default), _) => default.to_owned(),
            (None, Value::Null) => "none".to_owned(),
            (None, Value::Array(_)) => "empty".to_owned(),
            (None, Value::String(word)) => format!("`{word}`"),
            (None, other) => other.to_string(),
        };
        let _ = writeln!(table, "| `{field}` | {default} | {} |", key.doc);
    }
    table
}

/// Kinds of events.
fn kinds() -> String {
    let mut table = "| kind | fields | when |\n|---|---|---|\n".to_owned();
    for kind in KINDS {
        let field = |(name, about): &(&str, &str)| {
            let about = about.trim().trim_end_matches('.');
            format!("`{name}`: {}{}", about[..1].to_lowercase(), &about[1..])
        };
        let fields: Vec<String> = kind.fields.iter().map(field).collect();
        let _ = writeln!(
            table,
            "| `{}` | {} | {} |",
            kind.name,
            fields.join("; "),
            kind.about.trim()
        );
    }
    table
}

/// `RPM_WRITE_DOCS=1 cargo xtask test -E 'package(rpm-cli)'` writes the tables into the documents.
#[test]
fn the_tables_of_the_documents_are_these() {
    for (document, name, table) in [
        ("FROM-PM2.md", "commands", commands()),
        ("FROM-PM2.md", "options", flags()),
        ("FROM-PM2.md", "keys", keys()),
        ("API.md", "fields", fields()),
        ("EVENTS.md", "kinds", kinds()),
    ] {
        let path = format!("{}/../../docs/{document}", env!("CARGO_MANIFEST_DIR"));
        let mut text = std::fs::read_to_string(&path).expect("the document");
        let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let from = text.find(&open).expect("its place") + open.len();
        let to = from + text[from..].find(&close).expect("its end");
        if std::env::var_os("RPM_WRITE_DOCS").is_some() {
            text.replace_range(from..to, &table);
            std::fs::write(&path, &text).expect("it is written");
        } else {
            assert!(
                text[from..to] == table,
                "{document}: RPM_WRITE_DOCS=1 cargo xtask test -E 'package(rpm-cli)' writes {name}"
            );
        }
    }
}
