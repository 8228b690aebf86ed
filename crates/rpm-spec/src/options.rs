//! The options of an app as the user wrote them; `None` means not given.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::keys::{self, Key};
use crate::values::{
    Wrong, choice, filter, health, instances, list, milliseconds, mode, number, path, plain, string, switch,
    text, variables, watch, words,
};

/// How an app's processes share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// N workers behind shared ports.
    Cluster,
    /// One process.
    Fork,
}

/// Where a stream goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Logging {
    /// The default file.
    Usual,
    /// It is discarded.
    Nowhere,
    /// This file.
    File(String),
}

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Nothing.
    Nothing,
    /// The working directory.
    Everything,
    /// These.
    Paths(Vec<String>),
}

/// Variables that are not inherited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvFilter {
    /// All variables are inherited.
    Nothing,
    /// No variable is inherited.
    Everything,
    /// Those whose name contains one of these.
    Containing(Vec<String>),
}

/// A request by which a worker shows its health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Path and query.
    pub path: String,
    /// The expected status.
    pub status: Option<u16>,
    /// Time between two requests, in milliseconds.
    pub interval_ms: Option<u64>,
    /// Time for a response, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Number of good responses in a row.
    pub threshold: Option<u32>,
}

/// The options of an app, as far as they are given.
///
/// Options that `rpm-cli` resolves (paths to look up, variables, log files) have a field. All others are `settings`, which the daemon
/// gets as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each field is the key of its name, which the table of options describes"
)]
pub struct AppOptions {
    pub script: Option<String>,
    pub name: Option<String>,
    pub cwd: Option<String>,
    pub args: Option<Vec<String>>,
    pub interpreter: Option<String>,
    pub interpreter_args: Option<Vec<String>>,
    pub instances: Option<i32>,
    pub exec_mode: Option<Mode>,
    pub env: BTreeMap<String, String>,
    pub env_file: Option<Vec<String>>,
    /// The variables of `env_<name>`, by name.
    pub envs: BTreeMap<String, BTreeMap<String, String>>,
    pub out_file: Option<Logging>,
    pub error_file: Option<Logging>,
    pub log_file: Option<Logging>,
    pub log_date_format: Option<String>,
    pub time: Option<bool>,
    pub log_json: Option<bool>,
    pub disable_logs: Option<bool>,
    pub pid_file: Option<String>,
    pub watch: Option<Watch>,
    pub ignore_watch: Option<Vec<String>>,
    pub watch_delay_ms: Option<u64>,
    pub filter_env: Option<EnvFilter>,
    pub port: Option<u32>,
    pub append_env_to_name: Option<bool>,
    pub name_prefix: Option<String>,
    pub force: Option<bool>,
    pub health_check: Option<Health>,
    /// Values by the name of the option, each in the form that its field in the API has.
    pub settings: BTreeMap<&'static str, Value>,
}

impl AppOptions {
    /// Sets the option of a key that [`crate::keys::State::Works`].
    ///
    /// # Errors
    /// The value does not fit the kind of the key.
    pub fn set(&mut self, key: &'static Key, value: &Value) -> Result<(), Wrong> {
        match key.name {
            "script" => self.script = Some(text(value)?),
            "name" => self.name = Some(string(value)?),
            "cwd" => self.cwd = Some(string(value)?),
            "args" => self.args = Some(words(value)?),
            "exec_interpreter" => self.interpreter = Some(string(value)?),
            "node_args" => self.interpreter_args = Some(words(value)?),
            "instances" => self.instances = Some(instances(value)?),
            "exec_mode" => self.exec_mode = Some(mode(value)?),
            "env" => self.env = variables(value)?,
            "env_file" => self.env_file = Some(list(value)?),
            "out_file" => self.out_file = Some(path(value)?),
            "error_file" => self.error_file = Some(path(value)?),
            "log_file" => self.log_file = Some(path(value)?),
            "log_date_format" => self.log_date_format = Some(string(value)?),
            "time" => self.time = Some(switch(value)?),
            "log_type" => self.log_json = Some(choice(value, &["json", "raw"])? == "json"),
            "disable_logs" => self.disable_logs = Some(switch(value)?),
            "pid_file" => self.pid_file = Some(string(value)?),
            "watch" => self.watch = Some(watch(value)?),
            "ignore_watch" => self.ignore_watch = Some(list(value)?),
            "watch_delay" => self.watch_delay_ms = Some(milliseconds(value)?),
            "filter_env" => self.filter_env = Some(filter(value)?),
            "port" => self.port = Some(number(value, 0)?),
            "append_env_to_name" => self.append_env_to_name = Some(switch(value)?),
            "name_prefix" => self.name_prefix = Some(text(value)?),
            "force" => self.force = Some(switch(value)?),
            "health_check" => self.health_check = Some(health(value)?),
            "disable_source_map_support" => {
                let on = !switch(value)?;
                self.settings.insert("source_map_support", on.into());
            }
            _ => drop(self.settings.insert(key.name, plain(key.kind, value)?)),
        }
        Ok(())
    }

    /// The value of one of the `settings`.
    #[must_use]
    pub fn setting(&self, option: &str) -> Option<&Value> {
        debug_assert!(keys::find(option).is_some(), "there is no option {option}");
        self.settings.get(option)
    }

    /// These options, and those of `other` that are not given here. Variables come from `other`: the command line has none.
    #[must_use]
    pub fn or(self, other: AppOptions) -> AppOptions {
        macro_rules! first {
            ($($field:ident),* $(,)?) => {
                AppOptions {
                    $($field: self.$field.or(other.$field),)*
                    env: other.env,
                    envs: other.envs,
                    settings: other.settings.into_iter().chain(self.settings).collect(),
                }
            };
        }
        first!(
            script,
            name,
            cwd,
            args,
            interpreter,
            interpreter_args,
            instances,
            exec_mode,
            env_file,
            out_file,
            error_file,
            log_file,
            log_date_format,
            time,
            log_json,
            disable_logs,
            pid_file,
            watch,
            ignore_watch,
            watch_delay_ms,
            filter_env,
            port,
            append_env_to_name,
            name_prefix,
            force,
            health_check,
        )
    }
}
