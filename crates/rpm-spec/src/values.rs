//! Values of keys, as what they mean.

use crate::keys::Kind;
use crate::units::{memory, time};
use serde_json::Value;
use std::collections::BTreeMap;

use crate::options::{EnvFilter, Health, Logging, Mode, Watch};

/// The value is not what the key wants.
pub(crate) struct Wrong;

pub(crate) type Fits<T> = Result<T, Wrong>;

pub(crate) fn text(value: &Value) -> Fits<String> {
    value
        .as_str()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
        .ok_or(Wrong)
}

pub(crate) fn switch(value: &Value) -> Fits<bool> {
    match value {
        Value::Bool(on) => Ok(*on),
        Value::String(word) if word == "true" => Ok(true),
        Value::String(word) if word == "false" => Ok(false),
        _ => Err(Wrong),
    }
}

/// A whole number, which JSON and JavaScript may write as 2.0 or "2".
pub(crate) fn whole(value: &Value) -> Fits<i64> {
    let float = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
    match value {
        Value::Number(number) => number
            .as_i64()
            .or_else(|| number.as_f64().and_then(float))
            .ok_or(Wrong),
        Value::String(text) => text.trim().parse().map_err(|_| Wrong),
        _ => Err(Wrong),
    }
}

pub(crate) fn number(value: &Value, least: u32) -> Fits<u32> {
    let number = u32::try_from(whole(value)?).map_err(|_| Wrong)?;
    if number >= least { Ok(number) } else { Err(Wrong) }
}

pub(crate) fn numbers<T: TryFrom<i64>>(value: &Value) -> Fits<Vec<T>> {
    let one = |value: &Value| T::try_from(whole(value)?).map_err(|_| Wrong);
    match value {
        Value::Array(list) => list.iter().map(one).collect(),
        Value::String(text) if text.contains(',') => text
            .split(',')
            .map(|part| one(&Value::String(part.to_owned())))
            .collect(),
        one_value => Ok(vec![one(one_value)?]),
    }
}

pub(crate) fn instances(value: &Value) -> Fits<i32> {
    match value {
        Value::String(word) if word == "max" => Ok(0),
        other => i32::try_from(whole(other)?).map_err(|_| Wrong),
    }
}

pub(crate) fn mode(value: &Value) -> Fits<Mode> {
    match text(value)?.as_str() {
        "cluster" | "cluster_mode" => Ok(Mode::Cluster),
        "fork" | "fork_mode" => Ok(Mode::Fork),
        _ => Err(Wrong),
    }
}

pub(crate) fn milliseconds(value: &Value) -> Fits<u64> {
    match value {
        Value::String(text) => time(text).map_err(|_| Wrong),
        other => u64::try_from(whole(other)?).map_err(|_| Wrong),
    }
}

pub(crate) fn bytes(value: &Value) -> Fits<u64> {
    match value {
        Value::String(text) => memory(text).map_err(|_| Wrong),
        other => u64::try_from(whole(other)?).map_err(|_| Wrong),
    }
}

pub(crate) fn words(value: &Value) -> Fits<Vec<String>> {
    match value {
        Value::String(line) => split_words(line).ok_or(Wrong),
        other => strings(other),
    }
}

pub(crate) fn list(value: &Value) -> Fits<Vec<String>> {
    match value {
        Value::String(line) => Ok(line
            .split(',')
            .map(|part| part.trim().to_owned())
            .filter(|part| !part.is_empty())
            .collect()),
        other => strings(other),
    }
}

/// Elements may be numbers: ports, and arguments.
pub(crate) fn strings(value: &Value) -> Fits<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(on) => Ok(on.to_string()),
        _ => Err(Wrong),
    };
    value.as_array().ok_or(Wrong)?.iter().map(one).collect()
}

/// Objects become JSON, as under PM2; what is null is left out.
pub(crate) fn variables(value: &Value) -> Fits<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for (name, value) in value.as_object().ok_or(Wrong)? {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Wrong);
        }
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        variables.insert(name.clone(), text);
    }
    Ok(variables)
}

pub(crate) fn choice(value: &Value, kind: Kind) -> Fits<String> {
    let word = text(value)?;
    match kind {
        Kind::Choice(words) if words.contains(&word.as_str()) => Ok(word),
        _ => Err(Wrong),
    }
}

pub(crate) fn path(value: &Value) -> Fits<Logging> {
    match value {
        Value::Bool(true) => Ok(Logging::Usual),
        Value::Bool(false) | Value::Null => Ok(Logging::Nowhere),
        other => Ok(match text(other)?.as_str() {
            "NULL" | "/dev/null" => Logging::Nowhere,
            path => Logging::File(path.to_owned()),
        }),
    }
}

pub(crate) fn watch(value: &Value) -> Fits<Watch> {
    match value {
        Value::Bool(true) => Ok(Watch::Everything),
        Value::Bool(false) | Value::Null => Ok(Watch::Nothing),
        Value::String(word) if word == "true" => Ok(Watch::Everything),
        Value::String(word) if word == "false" => Ok(Watch::Nothing),
        other => {
            let paths = match other {
                Value::String(path) => vec![path.clone()],
                list => strings(list)?,
            };
            Ok(if paths.is_empty() {
                Watch::Nothing
            } else {
                Watch::Paths(paths)
            })
        }
    }
}

pub(crate) fn filter(value: &Value) -> Fits<EnvFilter> {
    match value {
        Value::Bool(true) => Ok(EnvFilter::Everything),
        Value::Bool(false) | Value::Null => Ok(EnvFilter::Nothing),
        other => {
            let names = list(other)?;
            Ok(if names.is_empty() {
                EnvFilter::Nothing
            } else {
                EnvFilter::Containing(names)
            })
        }
    }
}

pub(crate) fn cron(value: &Value) -> Fits<String> {
    match value {
        Value::Bool(false) | Value::Null => Ok(String::new()),
        Value::Number(zero) if zero.as_i64() == Some(0) => Ok(String::new()),
        Value::String(zero) if zero.is_empty() || zero == "0" => Ok(String::new()),
        other => text(other),
    }
}

pub(crate) fn user(value: &Value) -> Fits<String> {
    match value {
        Value::Number(_) => number(value, 0).map(|number| number.to_string()),
        other => text(other),
    }
}

pub(crate) fn health(value: &Value) -> Fits<Health> {
    let path_of = |value: &Value| {
        text(value).and_then(|path| {
            if path.starts_with('/') {
                Ok(path)
            } else {
                Err(Wrong)
            }
        })
    };
    let Some(fields) = value.as_object() else {
        return Ok(Health {
            path: path_of(value)?,
            status: None,
            interval_ms: None,
            timeout_ms: None,
            threshold: None,
        });
    };
    let known = ["path", "status", "interval", "timeout", "threshold"];
    if fields.keys().any(|name| !known.contains(&name.as_str())) {
        return Err(Wrong);
    }
    let status = fields.get("status").map(|value| number(value, 100)).transpose()?;
    Ok(Health {
        path: path_of(fields.get("path").ok_or(Wrong)?)?,
        status: status
            .map(|status| {
                u16::try_from(status)
                    .ok()
                    .filter(|status| *status < 600)
                    .ok_or(Wrong)
            })
            .transpose()?,
        interval_ms: fields.get("interval").map(milliseconds).transpose()?,
        timeout_ms: fields.get("timeout").map(milliseconds).transpose()?,
        threshold: fields
            .get("threshold")
            .map(|value| number(value, 1))
            .transpose()?,
    })
}

/// As a shell splits: blanks separate, quotes hold together, a backslash takes the next letter as it is. `None`: a quote is not closed.
#[must_use]
pub(crate) fn split_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            (mark, Some(open)) if mark == open => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().push(letters.next()?),
            (letter, Some(_)) => word.get_or_insert_default().push(letter),
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (letter, None) if letter.is_whitespace() => words.extend(word.take()),
            (letter, None) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}
