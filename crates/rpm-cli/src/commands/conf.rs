//! `set`, `get`, `conf`, `unset`: a file of values. Values of an app become its variables.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use rpm_wire::api::{Action, ActionRequest, Known};
use rpm_wire::shell::word;
use serde_json::{Map, Value};

use super::{change_step_by_step, follow, read, tell};
use crate::files::{alone, write_private};
use crate::home::{home_dir, like_pm2, read_own};
use crate::output::Output;

/// Path of the file; with PM2's name in compatibility mode.
fn file() -> anyhow::Result<PathBuf> {
    let name = if like_pm2() {
        "module_conf.json"
    } else {
        "conf.json"
    };
    Ok(home_dir()?.join(name))
}

fn load() -> anyhow::Result<Map<String, Value>> {
    let path = file()?;
    let text = match read_own(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    serde_json::from_slice(text.as_bytes())
        .with_context(|| format!("{} is damaged; correct it or remove it", path.display()))
}

fn save(values: &Map<String, Value>) -> anyhow::Result<()> {
    write_private(&file()?, &format!("{:#}\n", Value::Object(values.clone())))
}

/// The keys that are set; none if the file cannot be read.
pub(crate) fn keys_that_are_set() -> Vec<String> {
    let mut keys = Vec::new();
    for (first, value) in load().unwrap_or_default() {
        match value {
            Value::Object(fields) => keys.extend(fields.keys().map(|second| format!("{first}.{second}"))),
            _ => keys.push(first),
        }
    }
    keys
}

/// `app.key` or `app:key`; a key alone has no app.
fn parts(key: &str) -> (&str, Option<&str>) {
    match key.split_once([':', '.']) {
        Some((app, key)) if !app.is_empty() && !key.is_empty() => (app, Some(key)),
        _ => (key, None),
    }
}

/// `set`: without a value, prints the current one.
pub(super) async fn set(key: Option<&str>, value: Option<&str>, output: &mut Output) -> anyhow::Result<()> {
    let (Some(key), Some(value)) = (key, value) else {
        return get(key, output);
    };
    {
        let _alone = alone(&file()?)?;
        let mut values = load()?;
        put(&mut values, key, value)?;
        save(&values)?;
    }
    tell(format!("{key} is set"));
    pass_on(&[(key, value)], output).await
}

/// `multiset`: keys and values, in turn.
pub(super) async fn multiset(words: &str, output: &mut Output) -> anyhow::Result<()> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let (pairs, rest) = words.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        bail!("expected keys and values in turn: `rpm multiset 'key value key value'`");
    }
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|[key, value]| (*key, *value)).collect();
    {
        let _alone = alone(&file()?)?;
        let mut values = load()?;
        for (key, value) in &pairs {
            put(&mut values, key, value)?;
        }
        save(&values)?;
    }
    pass_on(&pairs, output).await
}

fn put(values: &mut Map<String, Value>, key: &str, value: &str) -> anyhow::Result<()> {
    let (first, second) = parts(key);
    if first == "pm2-logrotate" {
        bail!(
            "{key} is not set, for there is no pm2-logrotate here: `rpm restart all --log-max-size 10M --log-keep 30`, or `log_max_size` and `log_keep` in the ecosystem file, have the logs of apps rotated"
        );
    }
    let Some(second) = second else {
        values.insert(first.to_owned(), value.into());
        return Ok(());
    };
    let place = values
        .entry(first.to_owned())
        .or_insert_with(|| Value::Object(Map::new()));
    match place {
        Value::Object(fields) => drop(fields.insert(second.to_owned(), value.into())),
        _ => bail!(
            "{first} has a value of its own; `rpm unset {}` first",
            word(first)
        ),
    }
    Ok(())
}

/// Applies variables to their apps, with a restart.
async fn pass_on(pairs: &[(&str, &str)], output: &mut Output) -> anyhow::Result<()> {
    let mut by_app: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    for (key, value) in pairs {
        if let (app, Some(name)) = parts(key) {
            by_app
                .entry(app)
                .or_default()
                .insert(name.to_owned(), (*value).to_owned());
        }
    }
    if by_app.is_empty() {
        return Ok(());
    }
    let known: Vec<Known> = read("/v1/known").await?;
    for (app, env) in by_app {
        if known.iter().any(|process| process.name == app) {
            let request = ActionRequest {
                env,
                follow: follow(false),
                ..super::action(Action::Restart, vec![app.to_owned()], true)
            };
            change_step_by_step("/v1/actions", &request, true, output).await?;
        }
    }
    Ok(())
}

/// `get`: one, or all.
pub(super) fn get(key: Option<&str>, output: &mut Output) -> anyhow::Result<()> {
    let values = load()?;
    let Some(key) = key else {
        return Ok(output.json(&values)?);
    };
    let (first, second) = parts(key);
    let found = values.get(first);
    let found = match second {
        Some(second) => found.and_then(|fields| fields.get(second)),
        None => found,
    };
    match found {
        Some(Value::String(text)) => Ok(output.line(text)?),
        Some(value) => Ok(output.json(value)?),
        None => bail!("{key} is not set"),
    }
}

/// `unset`: one, or `all`.
pub(super) fn unset(key: &str) -> anyhow::Result<()> {
    let _alone = alone(&file()?)?;
    let mut values = load()?;
    if key == "all" {
        values.clear();
    } else {
        let (first, second) = parts(key);
        let removed = match (second, values.get_mut(first)) {
            (Some(second), Some(Value::Object(fields))) => fields.remove(second),
            _ => values.remove(first),
        };
        if removed.is_none() {
            bail!("{key} is not set");
        }
    }
    save(&values)
}
