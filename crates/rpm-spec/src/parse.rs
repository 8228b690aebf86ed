//! From the text of a file to a value.

use serde_json::Value;

use crate::yaml;

/// Maximum size of a file, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// Maximum nesting of lists and objects.
pub const MAX_DEPTH: usize = 64;

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JavaScript module, which the caller has to evaluate.
    Script,
    /// JSON5: JSON with comments, trailing commas, and names without quotes.
    Json,
    /// YAML.
    Yaml,
    /// TOML.
    Toml,
}

/// Why a text cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It is too long.
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLong,
    /// Lists or objects are nested too deeply.
    #[error("lists and objects are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// Syntax error: where and why.
    #[error("{0}")]
    Syntax(String),
}

/// The format of a file of this name, if it may be an ecosystem file: `.json`, `.yaml`, `.yml`, `.toml`, and `.config.` followed by
/// `js`, `cjs`, `mjs` or `ts`.
#[must_use]
pub fn format_of(name: &str) -> Option<Format> {
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    if ends(&[
        ".config.js",
        ".config.cjs",
        ".config.mjs",
        ".config.ts",
        ".config.cts",
        ".config.mts",
    ]) {
        Some(Format::Script)
    } else if ends(&[".json", ".json5", ".jsonc"]) {
        Some(Format::Json)
    } else if ends(&[".yaml", ".yml"]) {
        Some(Format::Yaml)
    } else if ends(&[".toml"]) {
        Some(Format::Toml)
    } else {
        None
    }
}

/// Parses a text. For [`Format::Script`] it is what the evaluation has printed: strict JSON.
///
/// # Errors
/// It is too long, too deep, or not in the format.
pub fn parse(text: &str, format: Format) -> Result<Value, ParseError> {
    if text.len() > MAX_BYTES {
        return Err(ParseError::TooLong);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let value = match format {
        Format::Script => serde_json::from_slice(text.as_bytes()).map_err(|error| syntax(&error))?,
        Format::Json => {
            // Parsers recurse for each level.
            if brackets_are_deep(text) {
                return Err(ParseError::TooDeep);
            }
            json5::from_str(text).map_err(|error| syntax(&error))?
        }
        Format::Yaml => yaml::parse(text).map_err(|error| syntax(&error))?,
        Format::Toml => dates_as_text(toml::from_str(text).map_err(|error| syntax(&error))?),
    };
    if is_deep(&value, MAX_DEPTH) {
        return Err(ParseError::TooDeep);
    }
    Ok(value)
}

/// The TOML parser represents a date, which JSON does not have, as an object with this field.
const TOML_DATE: &str = "$__toml_private_datetime";

fn dates_as_text(value: Value) -> Value {
    match value {
        Value::Object(mut fields) => match fields.remove(TOML_DATE) {
            Some(date) => date,
            None => Value::Object(
                fields
                    .into_iter()
                    .map(|(name, it)| (name, dates_as_text(it)))
                    .collect(),
            ),
        },
        Value::Array(list) => Value::Array(list.into_iter().map(dates_as_text).collect()),
        other => other,
    }
}

fn syntax(error: &dyn std::fmt::Display) -> ParseError {
    ParseError::Syntax(error.to_string().trim().to_owned())
}

/// Whether too many brackets are open at a time. Those in strings and comments count too: they are balanced there as well, or few.
fn brackets_are_deep(text: &str) -> bool {
    let mut depth = 0_usize;
    text.bytes().any(|byte| {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > 2 * MAX_DEPTH
    })
}

fn is_deep(value: &Value, left: usize) -> bool {
    let mut inside: Box<dyn Iterator<Item = &Value>> = match value {
        Value::Array(list) => Box::new(list.iter()),
        Value::Object(fields) => Box::new(fields.values()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return false,
    };
    left == 0 || inside.any(|value| is_deep(value, left - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_format_says_the_same() {
        let expected =
            json!({"apps": [{"name": "web", "script": "app.js", "instances": 2, "env": {"A": "1"}}]});
        let json = "// the site\n{apps: [{name: 'web', script: \"app.js\", instances: 2, env: {A: '1'},},]}";
        let yaml = "apps:\n  - name: web\n    script: app.js\n    instances: 2\n    env: {A: '1'}\n";
        let toml = "[[apps]]\nname = 'web'\nscript = 'app.js'\ninstances = 2\nenv.A = '1'\n";
        for (text, format) in [(json, Format::Json), (yaml, Format::Yaml), (toml, Format::Toml)] {
            assert_eq!(parse(text, format).unwrap(), expected, "{format:?}");
        }
        assert_eq!(parse(&expected.to_string(), Format::Script).unwrap(), expected);
    }

    #[test]
    fn names_tell_the_format() {
        for (name, format) in [
            ("ecosystem.config.js", Some(Format::Script)),
            ("pm2.config.mjs", Some(Format::Script)),
            ("x.config.ts", Some(Format::Script)),
            ("apps.json", Some(Format::Json)),
            ("apps.yml", Some(Format::Yaml)),
            ("apps.toml", Some(Format::Toml)),
            ("app.js", None),
            ("config.js", None),
            ("json", None),
        ] {
            assert_eq!(format_of(name), format, "{name}");
        }
    }

    #[test]
    fn faults_say_where() {
        for (text, format) in [
            ("{apps: [}", Format::Json),
            ("apps: [\n", Format::Yaml),
            ("[apps", Format::Toml),
            ("nonsense", Format::Script),
        ] {
            let ParseError::Syntax(why) = parse(text, format).unwrap_err() else {
                panic!("{text}");
            };
            assert!(why.contains(['1', '2']), "{format:?}: {why}");
        }
    }

    #[test]
    fn a_date_of_toml_is_its_text() {
        let text = "[env]\nA = 2020-01-01\nB = [2020-01-01T07:32:00Z, 1]\n";
        let expected = json!({"env": {"A": "2020-01-01", "B": ["2020-01-01T07:32:00Z", 1]}});
        assert_eq!(parse(text, Format::Toml).unwrap(), expected);
    }

    #[test]
    fn what_is_too_much_is_refused_in_every_format() {
        let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        assert_eq!(parse(&deep("[", "]"), Format::Json), Err(ParseError::TooDeep));
        for format in [Format::Yaml, Format::Toml, Format::Script] {
            let text = match format {
                Format::Toml => format!("a = {}", deep("[", "]")),
                Format::Yaml | Format::Script | Format::Json => deep("[", "]"),
            };
            assert!(parse(&text, format).is_err());
        }
        let bit_deep = format!("{}1{}", "[".repeat(MAX_DEPTH + 2), "]".repeat(MAX_DEPTH + 2));
        for format in [Format::Json, Format::Yaml, Format::Script] {
            assert!(parse(&bit_deep, format).is_err(), "{format:?}");
        }
        assert_eq!(
            parse(&" ".repeat(MAX_BYTES + 1), Format::Yaml),
            Err(ParseError::TooLong)
        );
        let laughs = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                      d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\n\
                      g: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
        assert!(parse(laughs, Format::Yaml).is_err());
    }
}
