//! What a change of an app's configuration changes, and its values as an ecosystem file has them.

use rpm_wire::api::{AppSpec, Change, KeyChange, Plan};
use rpm_wire::options::Kind;
use serde_json::Value;

use super::table::visible;
use super::units::bytes;

/// Terminals differ in many variables: only this many are named.
const SHOWN_VARIABLES: usize = 6;

/// A line for each key that changes, and one for the variables.
pub(crate) fn plan(plan: &Plan) -> Vec<String> {
    let name = visible(&plan.name);
    match plan.change {
        Change::Added => vec![format!("{name}: new")],
        Change::Unchanged => vec![format!("{name}: configuration unchanged")],
        Change::Changed => {
            let (variables, keys): (Vec<_>, Vec<_>) = plan
                .keys
                .iter()
                .partition(|change| change.key.starts_with("env."));
            let changes = keys.into_iter().map(key);
            let lines = changes.chain(changed_variables(&variables));
            lines.map(|line| visible(&format!("{name}: {line}"))).collect()
        }
    }
}

fn key(change: &KeyChange) -> String {
    let side = |text: &Option<String>| match text {
        None => absent(&change.key).to_owned(),
        // A long value was cut, and is no JSON any more.
        Some(text) => {
            serde_json::from_str(text).map_or_else(|_| text.clone(), |json| value(&change.key, &json, quoted))
        }
    };
    let colon = if change.key == "watch" { ":" } else { "" };
    format!(
        "{}{colon} {} -> {}",
        change.key,
        side(&change.from),
        side(&change.to)
    )
}

/// What is said of a key that has no value.
fn absent(key: &str) -> &'static str {
    match key {
        "watch" | "log_file" => "off",
        "args" | "node_args" | "interpreter_args" | "ignore_watch" | "cron_restart"
        | "max_memory_restart" | "health_check" | "log_date_format" | "log_max_size" | "uid" | "gid"
        | "pid_file" | "listen" => "none",
        _ => "default",
    }
}

fn changed_variables(variables: &[&KeyChange]) -> Option<String> {
    let named = variables.iter().take(SHOWN_VARIABLES).map(|change| {
        let what = match (change.added, change.removed) {
            (true, _) => "added",
            (false, true) => "removed",
            (false, false) => "changed",
        };
        format!("{} {what}", change.key)
    });
    let mut parts: Vec<String> = named.collect();
    match variables.len().saturating_sub(SHOWN_VARIABLES) {
        0 => {}
        1 => parts.push("1 more variable".to_owned()),
        more => parts.push(format!("{more} more variables")),
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A value as it would be given for this key; `text`: how strings are shown.
pub(super) fn value(key: &str, json: &Value, text: fn(&str) -> String) -> String {
    let kind = AppSpec::kind_of(key);
    match (kind, json) {
        (Some(Kind::Time), Value::Number(ms)) => ms.as_u64().map_or_else(|| ms.to_string(), time),
        (Some(Kind::Memory), Value::Number(size)) => size.as_u64().map_or_else(|| size.to_string(), bytes),
        (Some(Kind::Instances), Value::Number(count)) => instances(count.as_i64().unwrap_or_default()),
        (Some(Kind::Watch), Value::Array(paths)) => listed(paths, str::to_owned),
        (_, Value::Array(all)) => listed(all, text),
        (_, Value::String(word)) if matches!(kind, Some(Kind::Choice(_) | Kind::Signal)) => word.clone(),
        (_, Value::String(word)) => text(word),
        (_, json) => json.to_string(),
    }
}

fn listed(all: &[Value], text: fn(&str) -> String) -> String {
    let words = all
        .iter()
        .map(|it| it.as_str().map_or_else(|| it.to_string(), text));
    words.collect::<Vec<_>>().join(", ")
}

/// `2`, `max (8)`, `-1 (7)`: with how many these are here.
fn instances(count: i64) -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = i64::try_from(cpus).unwrap_or(i64::MAX);
    match count {
        1.. => count.to_string(),
        0 => format!("max ({cpus})"),
        _ => format!("{count} ({})", (cpus + count).max(1)),
    }
}

/// `1500ms`, `65s`
pub(super) fn time(ms: u64) -> String {
    match ms % 1000 {
        0 if ms > 0 => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(key: &str, from: Option<&str>, to: Option<&str>) -> KeyChange {
        KeyChange {
            key: key.to_owned(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
            removed: to.is_none(),
            added: from.is_none(),
        }
    }

    #[test]
    fn each_key_has_a_line_in_the_words_of_a_file() {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let max = format!("web: instances 2 -> max ({cpus})");
        for (key, from, to, expected) in [
            (
                "log_date_format",
                Some("\"HH\""),
                Some("\"HH:mm\""),
                "web: log_date_format \"HH\" -> \"HH:mm\"",
            ),
            (
                "listen_timeout",
                Some("5000"),
                None,
                "web: listen_timeout 5s -> default",
            ),
            (
                "kill_timeout",
                None,
                Some("1600"),
                "web: kill_timeout default -> 1600ms",
            ),
            (
                "watch",
                None,
                Some("[\"/srv/app\"]"),
                "web: watch: off -> /srv/app",
            ),
            ("instances", Some("2"), Some("0"), max.as_str()),
            (
                "max_memory_restart",
                None,
                Some("1048576"),
                "web: max_memory_restart none -> 1.0 MB",
            ),
            (
                "args",
                Some("[\"-a\",\"b c\"]"),
                None,
                "web: args \"-a\", \"b c\" -> none",
            ),
            (
                "exec_mode",
                Some("\"fork\""),
                Some("\"cluster\""),
                "web: exec_mode fork -> cluster",
            ),
            (
                "treekill",
                Some("true"),
                Some("false"),
                "web: treekill true -> false",
            ),
            (
                "script",
                Some("\"/a"),
                Some("\"/b\""),
                "web: script \"/a -> \"/b\"",
            ),
        ] {
            let lines = plan(&Plan {
                name: "web".to_owned(),
                change: Change::Changed,
                keys: vec![changed(key, from, to)],
            });
            assert_eq!(lines, [expected]);
        }
    }

    #[test]
    fn each_variable_says_what_becomes_of_it() {
        let variable = |name: &str, added, removed| KeyChange {
            added,
            removed,
            ..changed(name, None, None)
        };
        let mut keys = vec![
            changed("instances", Some("1"), Some("2")),
            variable("env.FOO", false, false),
            variable("env.NEW", true, false),
            variable("env.OLD", false, true),
        ];
        let said = |keys: &[KeyChange]| {
            plan(&Plan {
                name: "web".to_owned(),
                change: Change::Changed,
                keys: keys.to_vec(),
            })
        };
        assert_eq!(
            said(&keys),
            [
                "web: instances 1 -> 2",
                "web: env.FOO changed, env.NEW added, env.OLD removed"
            ]
        );
        keys.extend((0..5).map(|number| variable(&format!("env.V{number}"), false, false)));
        assert!(said(&keys)[1].ends_with("env.V2 changed, 2 more variables"));
    }
}
