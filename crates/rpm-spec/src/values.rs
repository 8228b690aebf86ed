//! From the value of a key to what it means.

use std::net::{IpAddr, SocketAddr};

use crate::javascript;
use crate::keys::Kind;
use crate::units::{memory, time};
use rpm_wire::api::StopSignal;
use serde_json::Value;
use std::collections::BTreeMap;

use crate::options::{EnvFilter, Health, Logging, Mode, Watch};

/// The value does not fit the kind of the key: [`Kind::expected`] says what would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong;

pub(crate) type Fits<T> = Result<T, Wrong>;

/// The value of an option in the form of its field in the API: times and amounts of memory as numbers, lists as lists even if the user
/// wrote a string.
pub(crate) fn plain(kind: Kind, value: &Value) -> Fits<Value> {
    Ok(match kind {
        Kind::Text | Kind::File => string(value)?.into(),
        Kind::Switch => switch(value)?.into(),
        Kind::Number(least, most) => within(whole(value)?, least, most)?.into(),
        Kind::Ratio => ratio(value)?.into(),
        Kind::Numbers(least, most) => {
            let numbers: Vec<i64> = numbers(value)?;
            let within = numbers.into_iter().map(|number| within(number, least, most));
            within.collect::<Fits<Vec<i64>>>()?.into()
        }
        Kind::Time => milliseconds(value)?.into(),
        Kind::Memory => bytes(value)?.into(),
        Kind::List | Kind::Patterns | Kind::Files => list(value)?.into(),
        Kind::Addresses => addresses(value)?.into(),
        Kind::Choice(words) => choice(value, words)?.into(),
        Kind::Signal => signal(value)?.into(),
        Kind::Networks => networks(value)?.into(),
        Kind::Cron => cron(value)?.into(),
        Kind::User => user(value)?.into(),
        Kind::Instances
        | Kind::Words
        | Kind::Variables
        | Kind::Output
        | Kind::Watch
        | Kind::Filter
        | Kind::Health
        | Kind::Anything => {
            debug_assert!(false, "{kind:?} needs code of its own: `AppOptions::set`");
            return Err(Wrong);
        }
    })
}

/// A string. Only the command line can give an empty one: in a file it means that the key is not set.
pub(crate) fn string(value: &Value) -> Fits<String> {
    value.as_str().map(str::to_owned).ok_or(Wrong)
}

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

/// A part of a whole.
pub(crate) fn ratio(value: &Value) -> Fits<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|part| (0.0..=1.0).contains(part)).ok_or(Wrong)
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
        Value::String(line) => Ok(split_words(line)),
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

/// The two networks that contain all addresses.
const EVERYBODY: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// Networks; `true` means all, `false` none.
fn networks(value: &Value) -> Fits<Vec<String>> {
    if let Ok(all) = switch(value) {
        let everybody = EVERYBODY.map(str::to_owned);
        return Ok(if all { everybody.to_vec() } else { Vec::new() });
    }
    let list = list(value)?;
    let good = !list.is_empty() && list.iter().all(|text| is_network(text));
    good.then_some(list).ok_or(Wrong)
}

/// Whether it is an address, or a network in CIDR notation.
fn is_network(text: &str) -> bool {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.is_none_or(|bits| bits.parse().is_ok_and(|bits: u8| bits <= most))
}

/// A list of strings. Numbers are accepted too: ports and arguments.
pub(crate) fn strings(value: &Value) -> Fits<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(javascript::number(number)),
        Value::Bool(on) => Ok(on.to_string()),
        _ => Err(Wrong),
    };
    value.as_array().ok_or(Wrong)?.iter().map(one).collect()
}

/// Variables. Objects become JSON, as under PM2; those that are null are skipped.
pub(crate) fn variables(value: &Value) -> Fits<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for (name, value) in value.as_object().ok_or(Wrong)? {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Wrong);
        }
        let text = match value {
            Value::Null => continue,
            other => javascript::text(other),
        };
        variables.insert(name.clone(), text);
    }
    Ok(variables)
}

fn within(number: i64, least: i64, most: i64) -> Fits<i64> {
    (least..=most).contains(&number).then_some(number).ok_or(Wrong)
}

pub(crate) fn choice(value: &Value, words: &[&str]) -> Fits<String> {
    let word = text(value)?;
    words.contains(&word.as_str()).then_some(word).ok_or(Wrong)
}

/// With or without `SIG`, in any case.
fn signal(value: &Value) -> Fits<String> {
    let signal: StopSignal = text(value)?.parse().map_err(|_| Wrong)?;
    Ok(signal.to_string())
}

/// `8080`, `:8080`, `127.0.0.1:8080` or `[::1]:8080`; also as a number.
fn addresses(value: &Value) -> Fits<Vec<String>> {
    let list = match value {
        Value::Number(number) => vec![javascript::number(number)],
        other => list(other)?,
    };
    let is_port = |text: &str| text.strip_prefix(':').unwrap_or(text).parse::<u16>().is_ok();
    let good = list
        .iter()
        .all(|text| is_port(text) || text.parse::<SocketAddr>().is_ok());
    good.then_some(list).ok_or(Wrong)
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

/// `None` removes the schedule.
fn cron(value: &Value) -> Fits<Option<String>> {
    match value {
        Value::Bool(false) | Value::Null => Ok(None),
        Value::Number(zero) if zero.as_i64() == Some(0) => Ok(None),
        Value::String(zero) if zero.is_empty() || zero == "0" => Ok(None),
        other => text(other).map(Some),
    }
}

fn user(value: &Value) -> Fits<String> {
    match value {
        Value::Number(_) => number(value, 0).map(|number| number.to_string()),
        other => string(other),
    }
}

pub(crate) fn health(value: &Value) -> Fits<Health> {
    let path_of = |value: &Value| {
        text(value).and_then(|path| {
            let is_path = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
            is_path.then_some(path).ok_or(Wrong)
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

/// Splits like PM2: at blanks, except within quotes that begin a word. Backslashes, quotes inside a word and unclosed quotes are ordinary
/// characters.
fn split_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let quoted = matches!(first, '"' | '\'')
            .then(|| rest[1..].split_once(first))
            .flatten();
        let (word, left) = quoted.unwrap_or_else(|| {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            rest.split_at(end)
        });
        if !word.is_empty() {
            words.push(word.to_owned());
        }
        rest = left.trim_start();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right column is what programs got from PM2 7.
    #[test]
    fn words_are_those_of_pm2() {
        for (line, expected) in [
            (r#"--json {"a":1}"#, vec!["--json", r#"{"a":1}"#]),
            (r"--re ^\d+$", vec!["--re", r"^\d+$"]),
            (r"--path C:\data", vec!["--path", r"C:\data"]),
            ("--msg it's", vec!["--msg", "it's"]),
            ("--name 'a b'", vec!["--name", "a b"]),
            (r#"a"b c"d"#, vec![r#"a"b"#, r#"c"d"#]),
            (r#""a b"c"#, vec!["a b", "c"]),
            (r#""" x"#, vec!["x"]),
            ("'it' s", vec!["it", "s"]),
            (r#""unclosed x"#, vec![r#""unclosed"#, "x"]),
            ("a\tb  c\nd", vec!["a", "b", "c", "d"]),
            (r#"\"q r\""#, vec![r#"\"q"#, r#"r\""#]),
            (r#" lead "t w" "#, vec!["lead", "t w"]),
            (r#""a \" b" c"#, vec![r"a \", r#"b""#, "c"]),
            ("'a' 'b c'", vec!["a", "b c"]),
            (r#"--x="a b""#, vec![r#"--x="a"#, r#"b""#]),
            (r#""a b""c d""#, vec!["a b", "c d"]),
            ("", vec![]),
        ] {
            assert_eq!(split_words(line), expected, "{line}");
        }
    }
}
