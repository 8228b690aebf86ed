//! What is said of an app: what is not said is `None`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::values::{
    Wrong, bytes, choice, cron, filter, health, instances, list, milliseconds, mode, number, numbers, path,
    switch, text, user, variables, watch, words,
};

use crate::keys::Key;
use crate::proxy::ProxyOptions;

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
    /// The usual file.
    Usual,
    /// Nowhere.
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
    /// All are.
    Nothing,
    /// None is.
    Everything,
    /// Those whose name contains one of these.
    Containing(Vec<String>),
}

/// A request by which a worker shows its health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Path and query.
    pub path: String,
    /// The status of a good answer.
    pub status: Option<u16>,
    /// Between two requests, in milliseconds.
    pub interval_ms: Option<u64>,
    /// For an answer, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Good answers in a row.
    pub threshold: Option<u32>,
}

/// An app, as far as it is described. Times are in milliseconds, memory in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(
    missing_docs,
    reason = "each field is the key of its name, which the table of keys describes"
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
    /// Of `env_<name>`, by name.
    pub envs: BTreeMap<String, BTreeMap<String, String>>,
    pub out_file: Option<Logging>,
    pub error_file: Option<Logging>,
    pub log_file: Option<Logging>,
    pub merge_logs: Option<bool>,
    pub log_date_format: Option<String>,
    pub time: Option<bool>,
    pub log_json: Option<bool>,
    pub log_max_size: Option<u64>,
    pub log_keep: Option<u32>,
    pub disable_logs: Option<bool>,
    pub pid_file: Option<String>,
    pub autorestart: Option<bool>,
    pub autostart: Option<bool>,
    pub max_restarts: Option<u32>,
    pub min_uptime_ms: Option<u64>,
    pub restart_delay_ms: Option<u64>,
    pub exp_backoff_restart_delay_ms: Option<u64>,
    pub stop_exit_codes: Option<Vec<i32>>,
    pub max_memory_restart: Option<u64>,
    /// An empty text: none.
    pub cron_restart: Option<String>,
    pub cron_timezone: Option<String>,
    pub kill_timeout_ms: Option<u64>,
    pub wait_ready: Option<bool>,
    pub listen_timeout_ms: Option<u64>,
    pub shutdown_with_message: Option<bool>,
    pub treekill: Option<bool>,
    pub watch: Option<Watch>,
    pub ignore_watch: Option<Vec<String>>,
    pub watch_delay_ms: Option<u64>,
    pub instance_var: Option<String>,
    pub increment_var: Option<String>,
    pub namespace: Option<String>,
    pub filter_env: Option<EnvFilter>,
    pub port: Option<u32>,
    pub uid: Option<String>,
    pub gid: Option<String>,
    pub append_env_to_name: Option<bool>,
    pub name_prefix: Option<String>,
    pub force: Option<bool>,
    pub source_map_support: Option<bool>,
    pub balance: Option<String>,
    pub policy: Option<String>,
    pub weights: Option<Vec<u32>>,
    pub listen: Option<Vec<String>>,
    pub ports: Option<Vec<u16>>,
    pub intercept: Option<bool>,
    pub kill_signal: Option<String>,
    pub reload_timeout_ms: Option<u64>,
    pub drain_timeout_ms: Option<u64>,
    pub watch_after_ms: Option<u64>,
    pub parallel: Option<u32>,
    pub max_surge: Option<u32>,
    pub max_unavailable: Option<u32>,
    pub allow_port_change: Option<bool>,
    pub health_check: Option<Health>,
    pub agent: Option<bool>,
    pub proxy: ProxyOptions,
}

impl AppOptions {
    /// Takes what is said by a key that [`crate::keys::State::Works`].
    pub(crate) fn set(&mut self, key: &Key, value: &Value) -> Result<(), Wrong> {
        match key.name {
            "script" => self.script = Some(text(value)?),
            "name" => self.name = Some(text(value)?),
            "cwd" => self.cwd = Some(text(value)?),
            "args" => self.args = Some(words(value)?),
            "exec_interpreter" => self.interpreter = Some(text(value)?),
            "node_args" => self.interpreter_args = Some(words(value)?),
            "instances" => self.instances = Some(instances(value)?),
            "exec_mode" => self.exec_mode = Some(mode(value)?),
            "env" => self.env = variables(value)?,
            "env_file" => self.env_file = Some(list(value)?),
            "autorestart" => self.autorestart = Some(switch(value)?),
            "autostart" => self.autostart = Some(switch(value)?),
            "max_restarts" => self.max_restarts = Some(number(value, 0)?),
            "min_uptime" => self.min_uptime_ms = Some(milliseconds(value)?),
            "restart_delay" => self.restart_delay_ms = Some(milliseconds(value)?),
            "exp_backoff_restart_delay" => self.exp_backoff_restart_delay_ms = Some(milliseconds(value)?),
            "stop_exit_codes" => self.stop_exit_codes = Some(numbers(value)?),
            "max_memory_restart" => self.max_memory_restart = Some(bytes(value)?),
            "cron_restart" => self.cron_restart = Some(cron(value)?),
            "cron_timezone" => self.cron_timezone = Some(text(value)?),
            "kill_timeout" => self.kill_timeout_ms = Some(milliseconds(value)?),
            "wait_ready" => self.wait_ready = Some(switch(value)?),
            "listen_timeout" => self.listen_timeout_ms = Some(milliseconds(value)?),
            "shutdown_with_message" => self.shutdown_with_message = Some(switch(value)?),
            "treekill" => self.treekill = Some(switch(value)?),
            "watch" => self.watch = Some(watch(value)?),
            "ignore_watch" => self.ignore_watch = Some(list(value)?),
            "watch_delay" => self.watch_delay_ms = Some(milliseconds(value)?),
            "namespace" => self.namespace = Some(text(value)?),
            "uid" => self.uid = Some(user(value)?),
            "gid" => self.gid = Some(user(value)?),
            _ => return self.set_more(key, value),
        }
        Ok(())
    }

    /// How it is named, what it is given, and what becomes of its output.
    fn set_more(&mut self, key: &Key, value: &Value) -> Result<(), Wrong> {
        match key.name {
            "out_file" => self.out_file = Some(path(value)?),
            "error_file" => self.error_file = Some(path(value)?),
            "log_file" => self.log_file = Some(path(value)?),
            "merge_logs" => self.merge_logs = Some(switch(value)?),
            "log_date_format" => self.log_date_format = Some(text(value)?),
            "time" => self.time = Some(switch(value)?),
            "log_type" => self.log_json = Some(choice(value, key.kind)? == "json"),
            "log_max_size" => self.log_max_size = Some(bytes(value)?),
            "log_keep" => self.log_keep = Some(number(value, 0)?),
            "disable_logs" => self.disable_logs = Some(switch(value)?),
            "pid_file" => self.pid_file = Some(text(value)?),
            "instance_var" => self.instance_var = Some(text(value)?),
            "increment_var" => self.increment_var = Some(text(value)?),
            "filter_env" => self.filter_env = Some(filter(value)?),
            "port" => self.port = Some(number(value, 0)?),
            "append_env_to_name" => self.append_env_to_name = Some(switch(value)?),
            "name_prefix" => self.name_prefix = Some(text(value)?),
            "force" => self.force = Some(switch(value)?),
            "source_map_support" => self.source_map_support = Some(switch(value)?),
            "disable_source_map_support" => self.source_map_support = Some(!switch(value)?),
            _ => return self.set_balance(key, value),
        }
        Ok(())
    }

    /// What PM2 does not have.
    fn set_balance(&mut self, key: &Key, value: &Value) -> Result<(), Wrong> {
        match key.name {
            "balance" => self.balance = Some(choice(value, key.kind)?),
            "policy" => self.policy = Some(choice(value, key.kind)?),
            "kill_signal" => self.kill_signal = Some(choice(value, key.kind)?),
            "weights" => self.weights = Some(numbers(value)?),
            "ports" => self.ports = Some(numbers(value)?),
            "listen" => self.listen = Some(list(value)?),
            "intercept" => self.intercept = Some(switch(value)?),
            "reload_timeout" => self.reload_timeout_ms = Some(milliseconds(value)?),
            "drain_timeout" => self.drain_timeout_ms = Some(milliseconds(value)?),
            "watch_after" => self.watch_after_ms = Some(milliseconds(value)?),
            "parallel" => self.parallel = Some(number(value, 0)?),
            "max_surge" => self.max_surge = Some(number(value, 0)?),
            "max_unavailable" => self.max_unavailable = Some(number(value, 0)?),
            "allow_port_change" => self.allow_port_change = Some(switch(value)?),
            "health_check" => self.health_check = Some(health(value)?),
            "agent" => self.agent = Some(switch(value)?),
            unknown => {
                if self.proxy.set(key, value)? {
                    return Ok(());
                }
                debug_assert!(false, "{unknown} works, and nothing is done for it");
                return Err(Wrong);
            }
        }
        Ok(())
    }
}
