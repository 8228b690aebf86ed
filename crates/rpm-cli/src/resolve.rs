//! From what was typed after `start` to what the daemon can execute: absolute paths, a program that is
//! there, the environment.

mod program;
mod surroundings;
mod words;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rpm_wire::api::{AppSpec, ExecMode, HealthCheck, StartRequest};

use crate::args::StartArgs;
pub(crate) use surroundings::Surroundings;

/// Why an app cannot even be described.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("script not found: {script} (looked in {}); give its path, or set --cwd to where it is", list(.looked))]
    ScriptNotFound { script: String, looked: Vec<PathBuf> },
    #[error("{} is a directory; name the script in it", .0.display())]
    ScriptIsDirectory(PathBuf),
    #[error(
        "{path} is not executable and its extension names no interpreter; chmod +x it, or name one with --interpreter",
        path = .0.display()
    )]
    NotExecutable(PathBuf),
    #[error(
        "interpreter not found: {interpreter}, which {why} (looked in {path}); install it, or name one with --interpreter"
    )]
    InterpreterNotFound {
        interpreter: String,
        why: String,
        path: String,
    },
    #[error("the working directory {} does not exist; create it, or name another with --cwd", .0.display())]
    NoSuchDirectory(PathBuf),
    #[error("{what} is not UTF-8: {text}")]
    NotUtf8 { what: &'static str, text: String },
    #[error("unbalanced quotes in --interpreter-args: {0}")]
    Quotes(String),
}

/// A longer command does not fit into a table.
const LONGEST_NAME: usize = 40;

/// Resolves the arguments of `start`.
pub(crate) fn start_request(args: &StartArgs, around: &Surroundings) -> Result<StartRequest, ResolveError> {
    let cwd = working_directory(args, around)?;
    let line = program::command_line(&args.script, &cwd, around)?;
    let script = match &line {
        Some((shell, _)) => shell.clone(),
        None => program::find_script(&args.script, &cwd, around)?,
    };
    let interpreter = match &line {
        Some(_) => None,
        None => program::find_interpreter(args.interpreter.as_deref(), &script, &cwd, around)?,
    };
    let line = line.map(|(_, line)| line);
    let own_args = line.iter().flat_map(|line| [OsString::from("-c"), line.into()]);
    let default_name = line
        .as_deref()
        .map_or_else(|| default_name(&script), name_of_line);
    let (exec_mode, instances) = match args.instances {
        Some(instances) => (ExecMode::Cluster, instances),
        None => (ExecMode::Fork, 1),
    };
    let app = AppSpec {
        name: args.name.clone().unwrap_or(default_name),
        script: utf8("the path of the script", script)?,
        interpreter: interpreter
            .map(|path| utf8("the path of the interpreter", path))
            .transpose()?,
        interpreter_args: interpreter_args(&args.interpreter_args)?,
        args: own_args
            .chain(args.args.iter().cloned())
            .map(|arg| utf8("an argument", arg))
            .collect::<Result<_, _>>()?,
        cwd: utf8("the working directory", cwd)?,
        env: around.env.clone(),
        exec_mode,
        instances,
        listen: args.listen.clone(),
        balance: args.balance,
        policy: args.policy,
        weights: args.weights.clone(),
        intercept: !args.no_intercept,
        ports: args.ports.clone(),
        wait_ready: args.wait_ready,
        autorestart: !args.no_autorestart,
        listen_timeout_ms: args.listen_timeout,
        kill_timeout_ms: args.kill_timeout,
        kill_signal: args.kill_signal,
        treekill: !args.no_treekill,
        reload_timeout_ms: args.reload_timeout,
        drain_timeout_ms: args.drain_timeout,
        watch_after_ms: args.watch_after,
        parallel: args.parallel,
        max_surge: args.max_surge,
        max_unavailable: args.max_unavailable,
        allow_port_change: args.allow_port_change,
        health_check: health_check(args),
        agent: !args.no_agent,
        max_restarts: args.max_restarts,
        min_uptime_ms: args.min_uptime,
        restart_delay_ms: args.restart_delay,
        exp_backoff_restart_delay_ms: args.exp_backoff_restart_delay,
    };
    Ok(StartRequest {
        app,
        wait: !args.no_wait,
    })
}

fn health_check(args: &StartArgs) -> Option<HealthCheck> {
    let default = HealthCheck::of(args.health_check.clone()?);
    Some(HealthCheck {
        status: args.health_status.unwrap_or(default.status),
        interval_ms: args.health_interval.unwrap_or(default.interval_ms),
        timeout_ms: args.health_timeout.unwrap_or(default.timeout_ms),
        threshold: args.health_threshold.unwrap_or(default.threshold),
        ..default
    })
}

fn working_directory(args: &StartArgs, around: &Surroundings) -> Result<PathBuf, ResolveError> {
    let Some(dir) = &args.cwd else {
        return Ok(around.cwd.clone());
    };
    let dir = around.absolute(dir.as_ref());
    if dir.is_dir() {
        Ok(dir)
    } else {
        Err(ResolveError::NoSuchDirectory(dir))
    }
}

/// A command is called by what it is, if that can be a name, or by its program.
fn name_of_line(line: &str) -> String {
    if line.len() <= LONGEST_NAME && !line.contains('/') {
        return line.to_owned();
    }
    default_name(Path::new(line.split_whitespace().next().unwrap_or_default()))
}

/// The file name without its last extension.
fn default_name(script: &Path) -> String {
    script
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn interpreter_args(values: &[String]) -> Result<Vec<String>, ResolveError> {
    let split = |value: &String| words::split(value).ok_or_else(|| ResolveError::Quotes(value.clone()));
    let lists: Vec<_> = values.iter().map(split).collect::<Result<_, _>>()?;
    Ok(lists.concat())
}

/// The control API speaks JSON.
fn utf8(what: &'static str, value: impl Into<OsString>) -> Result<String, ResolveError> {
    let bad = |text: OsString| ResolveError::NotUtf8 {
        what,
        text: text.to_string_lossy().into_owned(),
    };
    value.into().into_string().map_err(bad)
}

fn list(paths: &[PathBuf]) -> String {
    let shown: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests;
