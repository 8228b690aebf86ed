//! The settings of an app by the names that an ecosystem file has for them.

use serde_json::{Map, Value, json};

use super::{AppSpec, LogSpec};
use crate::api::{HealthCheck, ProxySpec};
use crate::options::{Key, Kind};

impl AppSpec {
    /// The values by the keys of an ecosystem file, without those that say nothing. Times are in milliseconds, memory in bytes. What
    /// differs between two specifications differs here as well.
    #[must_use]
    pub fn by_key(&self) -> Map<String, Value> {
        let mut fields = object(serde_json::to_value(self).ok());
        let logs = object(fields.remove("logs"));
        let proxy = object(fields.remove("proxy"));
        fields.remove("watch");
        let check = object(fields.remove("health_check"));
        let mut keys = Map::new();
        let mut insert = |options: &[Key], field: &str, value: Value| {
            let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
            if !is_empty {
                keys.insert(key_of(options, field).to_owned(), value);
            }
        };
        for (field, value) in fields {
            insert(AppSpec::OPTIONS, &field, value);
        }
        for (field, value) in proxy {
            insert(ProxySpec::OPTIONS, &field, value);
        }
        for (field, value) in logs {
            insert(LogSpec::OPTIONS, &field, log_value(&field, value));
        }
        let usual = object(serde_json::to_value(HealthCheck::of(String::new())).ok());
        for (field, value) in check {
            if usual.get(&field) != Some(&value) {
                let part = field.trim_end_matches("_ms");
                let key = if part == "path" {
                    "health_check".to_owned()
                } else {
                    format!("health_check.{part}")
                };
                insert(&[], &key, value);
            }
        }
        if let Some(watch) = &self.watch {
            insert(&[], "ignore_watch", json!(watch.ignore));
            let delay = (watch.delay_ms > 0).then_some(watch.delay_ms);
            insert(&[], "watch_delay", json!(delay));
            // An empty list is not the same as no watching.
            keys.insert("watch".to_owned(), json!(watch.paths));
        }
        keys
    }

    /// What kind of value this key of [`AppSpec::by_key`] has.
    #[must_use]
    pub fn kind_of(key: &str) -> Option<Kind> {
        if matches!(key, "health_check.interval" | "health_check.timeout") {
            return Some(Kind::Time);
        }
        let options = AppSpec::OPTIONS
            .iter()
            .chain(ProxySpec::OPTIONS)
            .chain(LogSpec::OPTIONS);
        options
            .clone()
            .find(|option| option.name == key)
            .map(|option| option.kind)
    }
}

fn object(value: Option<Value>) -> Map<String, Value> {
    match value {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn key_of<'a>(options: &'a [Key], field: &'a str) -> &'a str {
    let known = options.iter().find(|option| option.field == Some(field));
    match (known, field) {
        (Some(option), _) => option.name,
        (None, "out") => "out_file",
        (None, "err") => "error_file",
        (None, "both") => "log_file",
        (None, "date_format") => "log_date_format",
        (None, "json") => "log_type",
        (None, other) => other,
    }
}

/// A field of the logs as the key has it: paths, `true` for the usual file of both streams.
fn log_value(field: &str, value: Value) -> Value {
    match (field, value) {
        ("out" | "err", Value::String(usual)) if usual == "usual" => Value::Null,
        ("both", Value::String(usual)) if usual == "usual" => Value::Bool(true),
        ("out" | "err" | "both", Value::String(_)) => json!("/dev/null"),
        ("out" | "err" | "both", Value::Object(mut file)) => file.remove("file").unwrap_or_default(),
        ("json", value) => match value == Value::Bool(true) {
            true => json!("json"),
            false => Value::Null,
        },
        (_, value) => value,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::{LogTarget, WatchSpec};

    fn changed(change: impl FnOnce(&mut AppSpec)) -> Value {
        let mut spec = AppSpec::default();
        let usual = spec.by_key();
        change(&mut spec);
        let mut keys = spec.by_key();
        keys.retain(|key, value| usual.get(key) != Some(value));
        Value::Object(keys)
    }

    #[test]
    fn values_stand_below_the_keys_of_a_file() {
        assert_eq!(
            changed(|spec| {
                spec.listen_timeout_ms = Some(5000);
                spec.proxy.sticky = Some("sid".to_owned());
                spec.logs.date_format = Some("HH:mm".to_owned());
                spec.logs.err = LogTarget::File("/var/log/web".to_owned());
                spec.logs.both = Some(LogTarget::Usual);
                spec.logs.out = LogTarget::Nowhere;
                spec.logs.json = true;
                spec.logs.max_bytes = Some(7);
                spec.health_check = Some(HealthCheck {
                    timeout_ms: 9,
                    ..HealthCheck::of("/health".to_owned())
                });
                spec.watch = Some(WatchSpec {
                    paths: vec!["/srv".to_owned()],
                    ignore: Vec::new(),
                    delay_ms: 0,
                });
            }),
            json!({
                "listen_timeout": 5000, "sticky": "sid", "log_date_format": "HH:mm", "error_file": "/var/log/web", "log_file": true,
                "out_file": "/dev/null", "log_type": "json", "log_max_size": 7, "health_check": "/health", "health_check.timeout": 9,
                "watch": ["/srv"],
            })
        );
        let nothing = WatchSpec {
            paths: Vec::new(),
            ignore: Vec::new(),
            delay_ms: 5,
        };
        assert_eq!(
            changed(|spec| spec.watch = Some(nothing)),
            json!({"watch": [], "watch_delay": 5})
        );
    }

    #[test]
    fn every_value_has_a_key_that_a_file_may_have() {
        let options = || {
            AppSpec::OPTIONS
                .iter()
                .chain(ProxySpec::OPTIONS)
                .chain(LogSpec::OPTIONS)
        };
        let names: BTreeSet<&str> = options()
            .flat_map(|option| option.aliases.iter().copied().chain([option.name]))
            .collect();
        let keys = AppSpec::default().by_key();
        let unknown: Vec<&String> = keys.keys().filter(|key| !names.contains(key.as_str())).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
