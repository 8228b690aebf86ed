//! From the value of a file to its apps.

use serde_json::{Map, Value};

use crate::keys::{self, State};
use crate::nearest::nearest;
use crate::observe::{self, Observing};
use crate::options::AppOptions;
use crate::site;
use crate::values::variables;

/// What a file describes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ecosystem {
    /// The apps, in their order.
    pub apps: Vec<AppOptions>,
    /// Whether the metrics are served; `None`: as it is.
    pub observe: Option<Box<Observing>>,
    /// Things worth a word that are not errors.
    pub warnings: Vec<Warning>,
}

/// Something that is not supported and therefore ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {text}")]
pub struct Warning {
    /// Which app, by its name or number; or `the file`.
    pub place: String,
    /// The message.
    pub text: String,
}

/// An error: nothing is started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {text}")]
pub struct Problem {
    /// Which app, by its name or number; or `the file`.
    pub place: String,
    /// What is wrong, and what was expected.
    pub text: String,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// All errors, in their order.
    pub problems: Vec<Problem>,
    /// What could be read in spite of them.
    pub found: Ecosystem,
}

/// Maximum number of apps in a file.
const APPS_LIMIT: usize = 2000;
/// Keys of a file: the apps, and what may stand beside them.
const TOP_KEYS: [&str; 6] = ["apps", "pm2", "deploy", "static", "observe", "$schema"];

/// The apps of a value: `{apps: [...]}` (or `pm2`), a list of apps, or one app.
///
/// # Errors
/// All errors, and what could be read in spite of them.
pub fn read(value: &Value) -> Result<Ecosystem, Faults> {
    let mut reader = Reader::default();
    let apps = reader.apps(value);
    for (number, app) in apps.into_iter().enumerate().take(APPS_LIMIT) {
        reader.app(number, app);
    }
    reader.sites(value);
    reader.deployed(value);
    reader.observed(value);
    reader.same_names();
    if reader.problems.is_empty() {
        Ok(reader.found)
    } else {
        Err(Faults {
            problems: reader.problems,
            found: reader.found,
        })
    }
}

#[derive(Default)]
struct Reader {
    found: Ecosystem,
    problems: Vec<Problem>,
}

impl Reader {
    fn apps<'v>(&mut self, value: &'v Value) -> Vec<&'v Value> {
        let apps = match value {
            Value::Array(list) => list.iter().collect(),
            Value::Object(fields) if has_apps(fields) => {
                for name in fields.keys().filter(|name| !TOP_KEYS.contains(&name.as_str())) {
                    let text = unknown(name, TOP_KEYS);
                    self.warn("the file", text);
                }
                match fields.get("apps").or_else(|| fields.get("pm2")) {
                    Some(Value::Array(list)) => list.iter().collect(),
                    None if fields.contains_key("static") => Vec::new(),
                    Some(one @ Value::Object(_)) => vec![one],
                    other => {
                        let found = other.map_or_else(String::new, shown);
                        self.problem("the file", format!("`apps` must be a list of apps, not {found}"));
                        return Vec::new();
                    }
                }
            }
            Value::Object(_) => vec![value],
            other => {
                let text = format!(
                    "it must be an object with `apps`, a list of apps, or one app, not {}",
                    shown(other)
                );
                self.problem("the file", text);
                return Vec::new();
            }
        };
        if apps.len() > APPS_LIMIT {
            self.problem(
                "the file",
                format!("it has {} apps; at most {APPS_LIMIT} are read", apps.len()),
            );
        }
        apps
    }

    fn app(&mut self, number: usize, value: &Value) {
        let Some(fields) = value.as_object() else {
            let text = format!("an app is an object with at least `script`, not {}", shown(value));
            return self.problem(&place(number, None), text);
        };
        let place = place(number, fields.get("name").and_then(Value::as_str));
        let mut app = AppOptions::default();
        for (name, value) in fields {
            self.key(&place, &mut app, name, value);
        }
        let is_site = app.script.as_deref() == Some(site::SCRIPT);
        if is_site && app.env.get(site::LISTS).is_some_and(|lists| lists == "true") {
            self.warn(
                &place,
                format!("`{}` is ignored: directories are not listed", site::LISTS),
            );
        }
        if app.script.is_none() && !names_script(fields) {
            self.problem(
                &place,
                "`script` is missing: the file or program to run".to_owned(),
            );
        }
        self.found.apps.push(app);
    }

    /// Adds the variables of `deploy.<name>.env` to `env_<name>` of every app that does not set them itself, as PM2 does. Errors in that
    /// section are reported by `rpm deploy`.
    fn deployed(&mut self, value: &Value) {
        let section = value.get("deploy").and_then(Value::as_object);
        for (name, deployment) in section.into_iter().flatten() {
            let Some(Ok(env)) = deployment.get("env").map(variables) else {
                continue;
            };
            for app in &mut self.found.apps {
                let own = app.envs.entry(name.clone()).or_default();
                for (variable, value) in &env {
                    own.entry(variable.clone()).or_insert_with(|| value.clone());
                }
            }
        }
    }

    /// Whether the metrics are served: of a file with apps, for one app alone has no such key.
    fn observed(&mut self, value: &Value) {
        let fields = value.as_object().filter(|fields| has_apps(fields));
        let Some(value) = fields.and_then(|fields| fields.get("observe")) else {
            return;
        };
        match observe::read(value) {
            _ if value.is_null() => {}
            Ok(read) => self.found.observe = Some(Box::new(read)),
            Err(problems) => problems
                .into_iter()
                .for_each(|text| self.problem("the file", text)),
        }
    }

    /// The entries of `static`: directories to serve.
    fn sites(&mut self, value: &Value) {
        let list = match value.get("static") {
            None | Some(Value::Null) => return,
            Some(Value::Array(list)) => list.iter().collect(),
            Some(one) => vec![one],
        };
        for (number, site) in list.into_iter().enumerate().take(APPS_LIMIT) {
            let place = format!("static {}", number + 1);
            let Some(fields) = site.as_object() else {
                let text = format!(
                    "an entry of `static` is an object with `path` and `port`, not {}",
                    shown(site)
                );
                self.problem(&place, text);
                continue;
            };
            let read = site::read(fields);
            read.warnings.into_iter().for_each(|text| self.warn(&place, text));
            read.problems
                .into_iter()
                .for_each(|text| self.problem(&place, text));
            if read.app.env.get(site::LISTS).is_some_and(|lists| lists == "true") {
                self.warn(&place, "`ftp` is ignored: directories are not listed".to_owned());
            }
            self.found.apps.push(read.app);
        }
    }

    fn key(&mut self, place: &str, app: &mut AppOptions, name: &str, value: &Value) {
        if let Some(of) = environment_of(name, value) {
            match variables(value) {
                Ok(variables) => drop(app.envs.insert(of.to_owned(), variables)),
                Err(_) => {
                    let expected = keys::Kind::Variables.expected();
                    self.problem(
                        place,
                        format!("`{name}` must be {expected}, not {}", shown(value)),
                    );
                }
            }
            return;
        }
        let Some(key) = keys::find(name) else {
            let names = keys::all()
                .flat_map(|key| key.aliases.iter().chain([&key.name]))
                .copied();
            let text = unknown(&keys::snake_case(name), names);
            return self.warn(
                place,
                text.replace(&format!("`{}`", keys::snake_case(name)), &format!("`{name}`")),
            );
        };
        match key.state {
            State::Works if !is_set(value) => {}
            State::Works => {
                if app.set(key, value).is_err() {
                    let expected = key.kind.expected();
                    self.problem(
                        place,
                        format!("`{name}` must be {expected}, not {}", shown(value)),
                    );
                }
            }
            State::Needless(_) if polls(name, value) => self.warn(
                place,
                format!("`{name}.usePolling` is ignored: rpm sees only changes made on this machine, none on network drives"),
            ),
            State::Needless(_) => {}
            State::Instead(what) => self.warn(place, format!("`{name}` is not supported: {what}")),
        }
    }

    /// Reports apps with the same name: they would become one app.
    fn same_names(&mut self) {
        let names: Vec<String> = self
            .found
            .apps
            .iter()
            .filter_map(|app| app.name.clone())
            .collect();
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) && names[..at].iter().filter(|other| *other == name).count() == 1 {
                self.problem(
                    "the file",
                    format!("two apps are named {name:?}; give each a name of its own"),
                );
            }
        }
    }

    fn warn(&mut self, place: &str, text: String) {
        let place = place.to_owned();
        self.found.warnings.push(Warning { place, text });
    }

    fn problem(&mut self, place: &str, text: String) {
        let place = place.to_owned();
        self.problems.push(Problem { place, text });
    }
}

/// Whether it is a file with apps, and not one app.
fn has_apps(fields: &Map<String, Value>) -> bool {
    ["apps", "pm2", "static"]
        .iter()
        .any(|key| fields.contains_key(*key))
}

/// PM2 polls on network drives, where the kernel reports no changes.
fn polls(name: &str, value: &Value) -> bool {
    keys::find(name).is_some_and(|key| key.name == "watch_options")
        && value.get("usePolling") == Some(&Value::Bool(true))
}

/// Whether a script is set at all: one of the wrong type is reported as such, not as missing.
fn names_script(fields: &Map<String, Value>) -> bool {
    let is_script = |name: &str| keys::find(name).is_some_and(|key| key.name == "script");
    fields
        .iter()
        .any(|(name, value)| is_script(name) && is_set(value))
}

/// PM2 treats an empty string like `null`: the key is not set.
fn is_set(value: &Value) -> bool {
    !value.is_null() && value != ""
}

/// The name in `env_<name>`. `env_file` is a key of its own, unless it holds variables.
fn environment_of<'n>(name: &'n str, value: &Value) -> Option<&'n str> {
    let of = name.strip_prefix("env_").filter(|of| !of.is_empty())?;
    (keys::find(name).is_none() || value.is_object()).then_some(of)
}

fn place(number: usize, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("app {name:?}"),
        None => format!("app {}", number + 1),
    }
}

pub(crate) fn unknown<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(near) => format!("unknown key `{name}`; did you mean `{near}`?"),
        None => format!("unknown key `{name}`; it is ignored"),
    }
}

/// A short form of a value, for error messages.
pub(crate) fn shown(value: &Value) -> String {
    const LONGEST: usize = 40;
    let text = match value {
        Value::Null => "null".to_owned(),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string(),
    };
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
