//! A value as Node's `util.inspect` prints it, whatever its depth: what `prettylist` has always printed.

use std::fmt::Write as _;

use serde_json::Value;

/// What fits into a line is written in one, if it is not deeper than this.
const LINE: usize = 80;
const LEVELS: usize = 3;

/// The keys of a process, in the order in which PM2 has them.
const PROCESS: [&str; 5] = ["pid", "name", "pm2_env", "pm_id", "monit"];

/// The whole value.
pub(crate) fn inspected(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value, 0);
    text
}

fn write_value(text: &mut String, value: &Value, indent: usize) {
    let (open, close, entries) = match value {
        Value::String(string) => return text.push_str(&scalar(string)),
        Value::Array(list) => (
            '[',
            ']',
            list.iter().map(|value| (None, value)).collect::<Vec<_>>(),
        ),
        Value::Object(fields) => {
            let mut entries: Vec<_> = fields.iter().map(|(name, value)| (Some(name), value)).collect();
            if fields.contains_key("pm2_env") {
                entries.sort_by_key(|(name, _)| {
                    PROCESS
                        .iter()
                        .position(|known| Some(*known) == name.map(String::as_str))
                });
            }
            ('{', '}', entries)
        }
        other => return text.push_str(&other.to_string()),
    };
    if entries.is_empty() {
        text.extend([open, close]);
        return;
    }
    let written: Vec<String> = entries
        .iter()
        .map(|(name, value)| {
            let mut entry = name.map_or_else(String::new, |name| format!("{}: ", key(name)));
            write_value(&mut entry, value, indent + 2);
            entry
        })
        .collect();
    let length: usize = written.iter().map(String::len).sum::<usize>() + written.len();
    let short = length + written.len() + indent + 11 <= LINE;
    if short && depth(value) <= LEVELS && !written.iter().any(|entry| entry.contains('\n')) {
        let _ = write!(text, "{open} {} {close}", written.join(", "));
        return;
    }
    let space = " ".repeat(indent);
    let _ = write!(
        text,
        "{open}\n{space}  {}\n{space}{close}",
        written.join(&format!(",\n{space}  "))
    );
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Names without quotes where JavaScript needs none.
fn key(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters
        .next()
        .is_some_and(|letter| letter.is_alphabetic() || letter == '_' || letter == '$');
    if first && letters.all(|letter| letter.is_alphanumeric() || letter == '_' || letter == '$') {
        name.to_owned()
    } else {
        quoted(name)
    }
}

/// Numbers in variables are numbers.
fn scalar(text: &str) -> String {
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => text.to_owned(),
        _ => quoted(text),
    }
}

fn quoted(text: &str) -> String {
    let mark = ['\'', '"', '`']
        .into_iter()
        .find(|mark| !text.contains(*mark))
        .unwrap_or('\'');
    let mut quoted = String::from(mark);
    for letter in text.chars() {
        match letter {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            letter if letter == mark => {
                quoted.push('\\');
                quoted.push(letter);
            }
            letter if (letter as u32) < 0x20 || letter as u32 == 0x7f => {
                let _ = write!(quoted, "\\x{:02X}", letter as u32);
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push(mark);
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_look_as_in_node() {
        assert_eq!(inspected(&json!([])), "[]");
        let value = json!([{
            "pid": 1, "name": "x y", "monit": {"memory": 51_896_320, "cpu": 0},
            "pm2_env": {"node_args": ["--harmony"], "PORT": "3000", "a-b": true, "text": "it's", "none": null, "empty": {}},
        }]);
        let expected = "\
[
  {
    pid: 1,
    name: 'x y',
    monit: { cpu: 0, memory: 51896320 },
    pm2_env: {
      node_args: [ '--harmony' ],
      PORT: 3000,
      'a-b': true,
      text: \"it's\",
      none: null,
      empty: {}
    }
  }
]";
        let shown = inspected(&value);
        let mut lines: Vec<&str> = shown.lines().map(|line| line.trim_end_matches(',')).collect();
        let mut wanted: Vec<&str> = expected.lines().map(|line| line.trim_end_matches(',')).collect();
        // An object has no order of its own here.
        lines.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(lines, wanted);
    }
}
