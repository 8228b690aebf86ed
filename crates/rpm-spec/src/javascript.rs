//! Values as JavaScript writes them: what a program finds in its environment under PM2.

use serde_json::{Number, Value};

/// JavaScript writes numbers from here on with an exponent.
const LARGE: f64 = 1e21;
/// The same for small numbers: those below.
const SMALL: f64 = 1e-6;

/// `String(value)`; for objects and lists, `JSON.stringify(value)`.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => json(other),
    }
}

/// `String(number)`. Whole numbers stay exact, even beyond the precision of JavaScript.
pub(crate) fn number(number: &Number) -> String {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(0.0) => "0".to_owned(),
        Some(float) if float.abs() >= LARGE || float.abs() < SMALL => {
            let text = format!("{float:e}");
            match text.contains("e-") {
                true => text,
                false => text.replace('e', "e+"),
            }
        }
        Some(float) => float.to_string(),
        None => number.to_string(),
    }
}

fn json(value: &Value) -> String {
    match value {
        Value::Number(it) => number(it),
        Value::Array(list) => {
            let elements: Vec<String> = list.iter().map(json).collect();
            format!("[{}]", elements.join(","))
        }
        Value::Object(fields) => {
            let field =
                |(name, value): (&String, &Value)| format!("{}:{}", Value::from(name.as_str()), json(value));
            let fields: Vec<String> = fields.iter().map(field).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Null | Value::Bool(_) | Value::String(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right column is what Node prints.
    #[test]
    fn numbers_are_written_as_in_javascript() {
        for (json, expected) in [
            ("1e3", "1000"),
            ("5.0", "5"),
            ("-0.0", "0"),
            ("0.1", "0.1"),
            ("1e21", "1e+21"),
            ("1.5e300", "1.5e+300"),
            ("12345678901234567000.0", "12345678901234567000"),
            ("0.000001", "0.000001"),
            ("1e-7", "1e-7"),
            ("-2.5e-9", "-2.5e-9"),
            ("9007199254740993", "9007199254740993"),
            ("true", "true"),
            ("\"5.0\"", "5.0"),
            (
                r#"[1.0, {"a": 2e2, "b": "x\"y"}, null]"#,
                r#"[1,{"a":200,"b":"x\"y"},null]"#,
            ),
        ] {
            let value: Value = serde_json::from_str(json).expect("JSON");
            assert_eq!(text(&value), expected, "{json}");
        }
    }
}
