//! `template` of a webhook: JSON of the user's own, with words in braces for what has happened.

use std::borrow::Cow;

use rpm_wire::alerts::PLACEHOLDERS;
use serde_json::Value;

use crate::nearest::nearest;

/// The longest template, in bytes.
const LONGEST: usize = 64 * 1024;

/// The template as JSON, whatever the file has: an object, a list, or the text of one, in which `{text}` may stand without quotes.
///
/// # Errors
/// What is wrong, each with its place within the template.
pub(super) fn read(value: &Value) -> Result<String, Vec<String>> {
    let value = match value {
        Value::Object(_) | Value::Array(_) => Cow::Borrowed(value),
        Value::String(text) => {
            let parsed = serde_json::from_str(&quoted(text));
            Cow::Owned(parsed.map_err(|error| {
                vec![format!(
                    " must be JSON, such as {{\"text\": \"{{text}}\"}}: {error}"
                )]
            })?)
        }
        _ => return Err(vec![" must be an object, or JSON as a string".to_owned()]),
    };
    let mut wrong = Vec::new();
    check(&value, "", &mut wrong);
    let text = value.to_string();
    if text.len() > LONGEST {
        wrong.push(format!(" has more than {LONGEST} bytes"));
    }
    match wrong.is_empty() {
        true => Ok(text),
        false => Err(wrong),
    }
}

/// Quotes placeholders that stand where a value is expected. A position in it is one in the text as it was, but for these quotes.
fn quoted(text: &str) -> String {
    let (mut quoted, mut rest, mut inside) = (String::new(), text, false);
    while let Some(char) = rest.chars().next() {
        let known = || {
            let is_next =
                |name: &&str| rest[1..].starts_with(*name) && rest[1 + name.len()..].starts_with('}');
            PLACEHOLDERS.into_iter().find(is_next)
        };
        let length = match char {
            '\\' if inside => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            '"' => {
                inside = !inside;
                1
            }
            '{' if !inside => match known() {
                Some(name) => {
                    quoted.push_str(&format!("\"{{{name}}}\""));
                    rest = &rest[name.len() + 2..];
                    continue;
                }
                None => 1,
            },
            _ => char.len_utf8(),
        };
        quoted.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    quoted
}

/// Words in braces must be known: one that is misspelt would be sent as it is.
fn check(value: &Value, place: &str, wrong: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            for name in names(text).filter(|name| !PLACEHOLDERS.contains(name)) {
                let known = PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(", ");
                let near = nearest(name, PLACEHOLDERS);
                let hint = near.map_or(format!("there are {known}"), |near| {
                    format!("did you mean {{{near}}}?")
                });
                wrong.push(format!("{place}: unknown {{{name}}}; {hint}"));
            }
        }
        Value::Array(list) => {
            for (number, value) in list.iter().enumerate() {
                check(value, &format!("{place}[{number}]"), wrong);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                check(value, &format!("{place}.{key}"), wrong);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The words in braces: of small letters, as no other text is likely to have them.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let pieces = text.split('{').skip(1);
    let named = pieces.filter_map(|piece| piece.split_once('}').map(|(name, _)| name));
    named
        .filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_is_json_with_words_in_braces() {
        for (value, expected) in [
            (
                json!({"a": "{text}!", "b": [1, null]}),
                json!({"a": "{text}!", "b": [1, null]}),
            ),
            (
                json!(r#"{"a": {text}, "b": "{app} {"}"#),
                json!({"a": "{text}", "b": "{app} {"}),
            ),
            (json!(r#"["\"{host}", {state} ]"#), json!(["\"{host}", "{state}"])),
            (json!(r#"{"a": "{A} {a-b} {}"}"#), json!({"a": "{A} {a-b} {}"})),
        ] {
            let read = read(&value).expect("a template");
            assert_eq!(
                serde_json::from_str::<Value>(&read).expect("JSON"),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn what_is_wrong_says_where() {
        for (value, told) in [
            (json!(r#"{"a": {text}"#), "line 1 column"),
            (json!(r#"{"a": {when}}"#), "line 1 column 8"),
            (
                json!({"a": [{"b": "{txt}"}]}),
                ".a[0].b: unknown {txt}; did you mean {text}?",
            ),
            (
                json!(["{nothing_like_it}"]),
                "[0]: unknown {nothing_like_it}; there are {text}, {app}",
            ),
            (json!(5), "must be an object"),
            (json!({"a": "b".repeat(LONGEST)}), "has more than"),
        ] {
            let wrong = read(&value).expect_err("it is wrong");
            assert!(wrong.len() == 1 && wrong[0].contains(told), "{value}: {wrong:?}");
        }
    }
}
