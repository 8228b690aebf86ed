//! What applying specifications would change, and what is saved to be applied again.

use rpm_core::{AppId, InstanceId, StateView};
use rpm_wire::api::{AppSpec, Change, ExecMode, KeyChange, Plan, Saved};
use serde_json::{Map, Value};

use crate::apps::app::{self, App};
use crate::apps::catalog::Catalog;

/// Longest value that is told.
const VALUE_LIMIT: usize = 200;

/// What would change.
pub(crate) fn plan(catalog: Catalog<'_>, apps: &[AppSpec]) -> Vec<Plan> {
    let plan = |spec: &AppSpec| {
        let given = catalog.find_app(&spec.name).and_then(|app| catalog.given(app));
        let keys = given.map(|given| differences(given, spec)).unwrap_or_default();
        Plan {
            name: spec.name.clone(),
            change: match given {
                None => Change::Added,
                Some(_) if keys.is_empty() => Change::Unchanged,
                Some(_) => Change::Changed,
            },
            keys,
        }
    };
    apps.iter().map(plan).collect()
}

/// The apps as they are, without the hidden ones, to be started so again.
pub(crate) fn dump(catalog: Catalog<'_>) -> Vec<Saved> {
    let saved = |(id, app): (AppId, &App)| {
        let mut spec = catalog.given(id)?.clone();
        if let Ok(count) = i32::try_from(catalog.instances_of(id).len())
            && spec.exec_mode == ExecMode::Cluster
            && app::instances(spec.instances, app::cpus()) != count.cast_unsigned()
        {
            // It was scaled since; `max` stays what it is.
            spec.instances = count;
        }
        let places = (0..).zip(catalog.instances_of(id));
        let stopped = |id: InstanceId| {
            let view = catalog.core().instance(id);
            view.is_some_and(|view| matches!(view.state, StateView::Stopped))
        };
        let rests = places.filter(|(_, id)| !app.rests && stopped(*id));
        Some(Saved {
            app: spec,
            stopped: app.rests,
            stopped_instances: rests.map(|(place, _)| place).collect(),
        })
    };
    catalog.listed().filter_map(saved).collect()
}

/// The keys that differ, in their order, variables last.
pub(crate) fn differences(from: &AppSpec, to: &AppSpec) -> Vec<KeyChange> {
    let (mut old, mut new) = (from.by_key(), to.by_key());
    let (old_env, new_env) = (old.remove("env"), new.remove("env"));
    let mut changes = compare(&old, &new, "");
    for change in compare(&object(old_env), &object(new_env), "env.") {
        // What is in a variable is nobody's business.
        changes.push(KeyChange {
            from: None,
            to: None,
            ..change
        });
    }
    changes
}

fn compare(old: &Map<String, Value>, new: &Map<String, Value>, prefix: &str) -> Vec<KeyChange> {
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let present =
        |fields: &Map<String, Value>, key: &str| fields.get(key).filter(|value| !value.is_null()).cloned();
    let mut changes = Vec::new();
    for key in keys {
        let (from, to) = (present(old, key), present(new, key));
        if from != to {
            changes.push(KeyChange {
                key: format!("{prefix}{key}"),
                removed: to.is_none(),
                added: from.is_none(),
                from: from.map(|value| shown(&value)),
                to: to.map(|value| shown(&value)),
            });
        }
    }
    changes
}

fn object(value: Option<Value>) -> Map<String, Value> {
    match value {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rpm_wire::api::ProxySpec;

    use super::*;

    #[test]
    fn differences_are_told_but_no_secret() {
        let from = AppSpec {
            name: "web".to_owned(),
            script: "/srv/a.js".to_owned(),
            env: BTreeMap::from([
                ("TOKEN".to_owned(), "hunter2".to_owned()),
                ("OLD".to_owned(), "1".to_owned()),
            ]),
            listen_timeout_ms: Some(5000),
            max_restarts: Some(3),
            proxy: ProxySpec {
                redirect_http: Some(80),
                ..ProxySpec::default()
            },
            ..AppSpec::default()
        };
        let to = AppSpec {
            proxy: ProxySpec {
                redirect_http: Some(8080),
                ..ProxySpec::default()
            },
            script: "/srv/b.js".to_owned(),
            env: BTreeMap::from([
                ("TOKEN".to_owned(), "hunter3".to_owned()),
                ("NEW".to_owned(), "1".to_owned()),
            ]),
            listen_timeout_ms: None,
            max_restarts: None,
            ..from.clone()
        };
        let told = differences(&from, &to);
        let lines: Vec<(&str, Option<&str>, Option<&str>, bool)> = told
            .iter()
            .map(|it| (it.key.as_str(), it.from.as_deref(), it.to.as_deref(), it.removed))
            .collect();
        assert_eq!(
            lines,
            [
                ("listen_timeout", Some("5000"), None, true),
                ("max_restarts", Some("3"), None, true),
                ("redirect_http", Some("80"), Some("8080"), false),
                ("script", Some("\"/srv/a.js\""), Some("\"/srv/b.js\""), false),
                ("env.NEW", None, None, false),
                ("env.OLD", None, None, true),
                ("env.TOKEN", None, None, false),
            ]
        );
        let added: Vec<&str> = told
            .iter()
            .filter(|it| it.added)
            .map(|it| it.key.as_str())
            .collect();
        assert_eq!(added, ["env.NEW"]);
        assert!(differences(&to, &to).is_empty());
    }
}
