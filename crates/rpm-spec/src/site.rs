//! `static`: directories that PM2 serves beside the apps of a file. Each becomes an app that runs `serve` and is configured by variables, as
//! under PM2.

use serde_json::{Map, Value};

use crate::ecosystem::{shown, unknown};
use crate::options::{AppOptions, Mode};

/// The keys of an entry.
const KEYS: [&str; 9] = [
    "path",
    "directory",
    "port",
    "host",
    "spa",
    "ftp",
    "basic_auth",
    "name",
    "monitor",
];
/// Default port.
const USUAL_PORT: u64 = 8080;
/// The script of such an app.
pub(crate) const SCRIPT: &str = "serve";
/// The variable that asks for directory listings, which do not exist here.
pub(crate) const LISTS: &str = "PM2_SERVE_FTP";

/// The app of an entry, with warnings and errors.
#[derive(Default)]
pub(crate) struct Read {
    pub(crate) app: AppOptions,
    pub(crate) warnings: Vec<String>,
    pub(crate) problems: Vec<String>,
}

/// Reads an entry.
pub(crate) fn read(fields: &Map<String, Value>) -> Read {
    let mut read = Read::default();
    let mut env = Vec::new();
    let mut port = USUAL_PORT;
    for (key, value) in fields
        .iter()
        .filter(|(_, value)| !value.is_null() && *value != "")
    {
        let taken = match (key.as_str(), value) {
            ("path" | "directory", Value::String(path)) => Some(vec![("PATH", path.clone())]),
            ("port", _) => match number(value) {
                Some(number) => {
                    port = number;
                    Some(Vec::new())
                }
                None => None,
            },
            ("host", Value::String(host)) => Some(vec![("HOST", host.clone())]),
            ("spa", Value::Bool(spa)) => Some(vec![("SPA", spa.to_string())]),
            ("ftp", Value::Bool(ftp)) => Some(vec![("FTP", ftp.to_string())]),
            ("name", Value::String(name)) => {
                read.app.name = Some(name.clone());
                Some(Vec::new())
            }
            ("basic_auth", Value::Object(auth)) => password(auth),
            ("monitor", _) => Some(Vec::new()),
            (key, _) if KEYS.contains(&key) => None,
            (key, _) => {
                read.warnings.push(unknown(key, KEYS));
                Some(Vec::new())
            }
        };
        match taken {
            Some(variables) => env.extend(variables),
            None => read.problems.push(format!("`{key}` cannot be {}", shown(value))),
        }
    }
    env.push(("PORT", port.to_string()));
    let named = env
        .into_iter()
        .map(|(name, value)| (format!("PM2_SERVE_{name}"), value));
    read.app.env = named.collect();
    read.app.name.get_or_insert(format!("static-page-server-{port}"));
    read.app.script = Some(SCRIPT.to_owned());
    read.app.exec_mode = Some(Mode::Cluster);
    read
}

fn number(value: &Value) -> Option<u64> {
    let number = value
        .as_u64()
        .or_else(|| value.as_str().and_then(|text| text.parse().ok()))?;
    (1..=65535).contains(&number).then_some(number)
}

fn password(auth: &Map<String, Value>) -> Option<Vec<(&'static str, String)>> {
    let text = |key: &str| auth.get(key).and_then(Value::as_str).map(str::to_owned);
    let (user, password) = (text("username")?, text("password")?);
    Some(vec![
        ("BASIC_AUTH", "true".to_owned()),
        ("BASIC_AUTH_USERNAME", user),
        ("BASIC_AUTH_PASSWORD", password),
    ])
}
