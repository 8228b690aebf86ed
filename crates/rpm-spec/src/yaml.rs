//! YAML as js-yaml 4, which PM2 uses, reads it: `y`, `on` and `NO` are words, `1_000` is one, and `010` is ten.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Parses a text.
pub(crate) fn parse(text: &str) -> Result<Value, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
    };
    let Yaml(value) = serde_saphyr::from_str_with_options(text, options)?;
    Ok(value)
}

/// A value that JSON has, too; the numbers that it has not are their names in JavaScript.
struct Yaml(Value);

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any).map(Yaml)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(match value {
            f64::INFINITY => "Infinity".into(),
            f64::NEG_INFINITY => "-Infinity".into(),
            value if value.is_nan() => "NaN".into(),
            value => value.into(),
        })
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Yaml(element)) = elements.next_element()? {
            list.push(element);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((name, Yaml(value))) = entries.next_entry::<String, Yaml>()? {
            fields.insert(name, value);
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::javascript::text;

    /// The right column is `String(value)` of js-yaml 4.
    #[test]
    fn scalars_are_those_of_js_yaml() {
        for (scalar, expected) in [
            ("y", "y"),
            ("yes", "yes"),
            ("on", "on"),
            ("off", "off"),
            ("NO", "NO"),
            ("No", "No"),
            ("n", "n"),
            ("true", "true"),
            ("True", "true"),
            ("FALSE", "false"),
            ("010", "10"),
            ("-010", "-10"),
            ("0900", "900"),
            ("01.5", "1.5"),
            ("0o10", "8"),
            ("0x1F", "31"),
            ("0b101", "5"),
            ("+5", "5"),
            ("1_000", "1_000"),
            (".inf", "Infinity"),
            ("-.INF", "-Infinity"),
            (".nan", "NaN"),
            ("1e3", "1000"),
            ("5.0", "5"),
            ("-0.0", "0"),
            (".5", "0.5"),
            ("1.", "1"),
            ("1e", "1e"),
            ("~", "null"),
            ("Null", "null"),
            ("", "null"),
            ("1:30", "1:30"),
            ("0123abc", "0123abc"),
            ("'010'", "010"),
            ("!!str 010", "010"),
            ("123456789012345678901234567890", "1.2345678901234568e+29"),
        ] {
            let value = parse(&format!("a: {scalar}\n")).unwrap_or_else(|error| panic!("{scalar}: {error}"));
            assert_eq!(text(&value["a"]), expected, "{scalar}");
        }
        let merged = parse("a: &x {b: 1}\nc:\n  <<: *x\n  2: d\n").expect("YAML");
        assert_eq!(
            merged,
            serde_json::json!({"a": {"b": 1}, "c": {"b": 1, "2": "d"}})
        );
        assert!(parse("a: 1\na: 2\n").is_err());
    }
}
