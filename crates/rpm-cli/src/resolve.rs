//! From what was typed after `start` to what the daemon can execute: absolute paths, a program that is
//! there, the environment.

mod flags;
mod program;
mod proxy;
mod settings;
mod surroundings;
mod versions;
mod words;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rpm_spec::{AppOptions, EnvFilter, Mode};
use rpm_wire::api::{AppSpec, ExecMode};

pub(crate) use flags::{options_of, overlay};
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
    #[error("{0}")]
    Value(String),
}

/// A longer command does not fit into a table.
const LONGEST_NAME: usize = 40;

/// What the daemon can execute of an app as it is described. `env_name`: of `env_<name>`. `beside`: where its script is looked for, too.
pub(crate) fn app_spec(
    options: &AppOptions,
    around: &Surroundings,
    env_name: Option<&str>,
    beside: Option<&Path>,
) -> Result<AppSpec, ResolveError> {
    let script = OsString::from(options.script.clone().unwrap_or_default());
    let cwd = working_directory(options, &script, around, beside)?;
    let line = program::command_line(&script, &cwd, around)?;
    let script = match &line {
        Some((shell, _)) => shell.clone(),
        None => program::find_script(&script, &cwd, around)?,
    };
    let interpreter = match &line {
        Some(_) => None,
        None => program::find_interpreter(options.interpreter.as_deref(), &script, &cwd, around)?,
    };
    let line = line.map(|(_, line)| line);
    let own_args = line.iter().flat_map(|line| ["-c".to_owned(), line.clone()]);
    let args = own_args.chain(options.args.iter().flatten().cloned()).collect();
    let fallback = line
        .as_deref()
        .map_or_else(|| default_name(&script), name_of_line);
    let (exec_mode, instances) = match (options.exec_mode, options.instances) {
        (Some(Mode::Fork), instances) => (ExecMode::Fork, instances.unwrap_or(1)),
        (Some(Mode::Cluster), instances) => (ExecMode::Cluster, instances.unwrap_or(1)),
        (None, Some(instances)) => (ExecMode::Cluster, instances),
        (None, None) => (ExecMode::Fork, 1),
    };
    let spec = AppSpec {
        name: name(options, &fallback, env_name),
        script: utf8("the path of the script", script)?,
        interpreter: interpreter
            .map(|path| utf8("the path of the interpreter", path))
            .transpose()?,
        interpreter_args: options.interpreter_args.clone().unwrap_or_default(),
        args,
        env: environment(options, around, env_name),
        exec_mode,
        instances,
        cwd: utf8("the working directory", cwd)?,
        ..AppSpec::default()
    };
    settings::with(spec, options)
}

/// The variables that an app inherits, and its own.
fn environment(
    options: &AppOptions,
    around: &Surroundings,
    env_name: Option<&str>,
) -> BTreeMap<String, String> {
    let mut env = around.env.clone();
    match &options.filter_env {
        None | Some(EnvFilter::Nothing) => {}
        Some(EnvFilter::Everything) => env.retain(|name, _| ALWAYS.contains(&name.as_str())),
        Some(EnvFilter::Containing(parts)) => {
            env.retain(|name, _| !parts.iter().any(|part| name.contains(part.as_str())));
        }
    }
    env.extend(options.port.map(|port| ("PORT".to_owned(), port.to_string())));
    env.extend(options.env.clone());
    let more = env_name.and_then(|name| options.envs.get(name));
    env.extend(
        more.into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    env
}

/// Without these no program is found, and none finds its files.
const ALWAYS: [&str; 2] = ["PATH", "HOME"];

fn name(options: &AppOptions, fallback: &str, env_name: Option<&str>) -> String {
    let base = options.name.as_deref().unwrap_or(fallback);
    let prefix = options.name_prefix.as_deref().unwrap_or("");
    match env_name.filter(|_| options.append_env_to_name == Some(true)) {
        Some(env) => format!("{prefix}{base}-{env}"),
        None => format!("{prefix}{base}"),
    }
}

fn working_directory(
    options: &AppOptions,
    script: &OsString,
    around: &Surroundings,
    beside: Option<&Path>,
) -> Result<PathBuf, ResolveError> {
    let Some(dir) = &options.cwd else {
        // As under PM2 it is the present one; but a script that lies beside its ecosystem file is found there.
        let here = around.absolute(script.as_ref()).exists();
        let there = beside.filter(|dir| !here && surroundings::absolute_from(dir, script.as_ref()).exists());
        return Ok(there.map_or_else(|| around.cwd.clone(), Path::to_owned));
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
