//! From the options of an app to what the daemon can execute: absolute paths, an existing program, the environment.

mod flags;
mod program;
mod settings;
mod shebang;
mod site;
mod surroundings;
mod typescript;
mod usual;
mod variables;
mod versions;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rpm_spec::{AppOptions, Mode};
use rpm_wire::api::{AppSpec, ExecMode};
use rpm_wire::interpreter::found_anew;

pub(crate) use flags::{options_of, overlay};
pub(crate) use site::{Site, USUAL_PORT};
pub(crate) use surroundings::Surroundings;

/// Why an app cannot be resolved.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("script not found: {script} (looked in {}); {}", looked.join(" and "), advice(.near.as_deref()))]
    ScriptNotFound {
        script: String,
        /// Directories, and `PATH`.
        looked: Vec<String>,
        /// A similar name that exists and was probably meant.
        near: Option<String>,
    },
    #[error("{} is a directory; name the script in it", .0.display())]
    ScriptIsDirectory(PathBuf),
    #[error(
        "{path} is not executable, and neither its extension nor its first line names an interpreter; chmod +x it, or name one with --interpreter",
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
    #[error(
        "{}: Node {version} does not run such files; install Bun, or Node 22.18 or newer (for .ts), or name what runs them with --interpreter, such as tsx",
        script.display()
    )]
    TypeScript { script: PathBuf, version: String },
    #[error("the working directory {} does not exist; create it, or name another with --cwd", .0.display())]
    NoSuchDirectory(PathBuf),
    #[error("{what} is not UTF-8: {text}")]
    NotUtf8 { what: &'static str, text: String },
    #[error("env_file {path} cannot be read: {why}", path = .path.display())]
    EnvFile { path: PathBuf, why: String },
    #[error("{0}")]
    Value(String),
}

/// Maximum length of a command line that becomes a name: longer ones do not fit into tables.
const LONGEST_NAME: usize = 40;

/// Resolves a new app. `env_name`: the name in `env_<name>`. `beside`: another directory to look for its script.
pub(crate) fn app_spec(
    options: &AppOptions,
    around: &Surroundings,
    env_name: Option<&str>,
    beside: Option<&Path>,
) -> Result<AppSpec, ResolveError> {
    if let Some(spec) = site::resolve(options, around, env_name, beside)? {
        return settings::with(spec, options, around.home());
    }
    let script = script_of(options, around);
    let cwd = working_directory(options, &script, around, beside)?;
    let line = program::command_line(&script, &cwd, around)?;
    // If a file sets `cwd`, its script is relative to that, as under PM2. A script on the command line is also relative to this directory.
    let here = (options.cwd.is_none() || beside.is_none()).then_some(around.cwd.as_path());
    let directory = program::package(&script, &cwd);
    let script = match (&line, directory) {
        (Some((shell, _)), _) => shell.clone(),
        (None, Some(directory)) => directory,
        (None, None) => program::find_script(&script, &cwd, here, around)?,
    };
    let interpreter = match &line {
        Some(_) => program::Interpreter::default(),
        None => program::find_interpreter(options.interpreter.as_deref(), &script, &cwd, around)?,
    };
    let line = line.map(|(_, line)| line);
    let own_args = line.iter().flat_map(|line| ["-c".to_owned(), line.clone()]);
    let args = own_args.chain(options.args.iter().flatten().cloned()).collect();
    let fallback = line
        .as_deref()
        .map_or_else(|| default_name(&script), name_of_line);
    let (exec_mode, instances) = mode(options, ExecMode::Fork, 1);
    let spec = AppSpec {
        name: name(options, &fallback, env_name),
        script: utf8("the path of the script", script)?,
        interpreter: interpreter
            .path
            .map(|path| utf8("the path of the interpreter", path))
            .transpose()?,
        interpreter_args: [
            interpreter.args,
            options.interpreter_args.clone().unwrap_or_default(),
        ]
        .concat(),
        args,
        env: variables::of_new(options, around, env_name, (&cwd, beside))?,
        exec_mode,
        instances,
        cwd: utf8("the working directory", cwd)?,
        ..usual::spec(around)?
    };
    if let (None, Some(interpreter)) = (&options.interpreter, &spec.interpreter) {
        let paths = (Path::new(&spec.script), Path::new(interpreter));
        typescript::check(paths.0, paths.1, &spec.interpreter_args, &spec.env)?;
    }
    settings::with(spec, options, around.home())
}

/// Mode and number of instances; those that are not given stay as they are.
fn mode(options: &AppOptions, exec_mode: ExecMode, instances: i32) -> (ExecMode, i32) {
    let said = match options.exec_mode {
        Some(Mode::Fork) => Some(ExecMode::Fork),
        Some(Mode::Cluster) => Some(ExecMode::Cluster),
        None => options.instances.map(|_| ExecMode::Cluster),
    };
    (said.unwrap_or(exec_mode), options.instances.unwrap_or(instances))
}

/// A known app with the options applied. Everything else stays as it is, including its variables.
pub(crate) fn changed(
    spec: AppSpec,
    options: &AppOptions,
    around: &Surroundings,
    update_env: bool,
) -> Result<AppSpec, ResolveError> {
    let cwd = match &options.cwd {
        Some(_) => working_directory(options, &OsString::new(), around, None)?,
        None => PathBuf::from(&spec.cwd),
    };
    let interpreter = match options.interpreter.as_deref() {
        Some(wanted) => program::find_interpreter(Some(wanted), Path::new(&spec.script), &cwd, around)?
            .path
            .map(|path| utf8("the path of the interpreter", path))
            .transpose()?,
        None if update_env => anew(&spec, around).or_else(|| spec.interpreter.clone()),
        None => spec.interpreter.clone(),
    };
    let (exec_mode, instances) = mode(options, spec.exec_mode, spec.instances);
    let own_args = || program::own_args(&spec).to_vec();
    let spec = AppSpec {
        name: options.name.clone().unwrap_or(spec.name.clone()),
        interpreter_args: match &options.interpreter_args {
            Some(args) => [program::first_line_args(&spec), args.clone()].concat(),
            None => spec.interpreter_args.clone(),
        },
        args: match &options.args {
            Some(args) => own_args().into_iter().chain(args.iter().cloned()).collect(),
            None => spec.args.clone(),
        },
        env: variables::of_known(&spec, options, around, (update_env, &cwd))?,
        interpreter,
        exec_mode,
        instances,
        cwd: utf8("the working directory", cwd)?,
        ..spec
    };
    settings::with(spec, options, around.home())
}

/// The interpreter on the current PATH, if it was found on PATH before.
fn anew(spec: &AppSpec, around: &Surroundings) -> Option<String> {
    if program::names_path(spec) {
        return None;
    }
    let before = spec.env.get("PATH").map_or("", String::as_str);
    let paths = (before, around.search_path());
    found_anew(spec.interpreter.as_deref()?, paths, surroundings::is_executable)
}

/// The name that an app will have. Its script need not exist.
pub(crate) fn app_name(options: &AppOptions, around: &Surroundings, env_name: Option<&str>) -> String {
    let script = script_of(options, around);
    let line = script.to_str().map(str::trim).filter(|line| {
        line.contains(char::is_whitespace)
            && options.name.is_none()
            && !around.absolute(line.as_ref()).exists()
    });
    let fallback = line.map_or_else(|| default_name(&around.absolute(script.as_ref())), name_of_line);
    name(options, &fallback, env_name)
}

fn script_of(options: &AppOptions, around: &Surroundings) -> OsString {
    let script = options.script.as_deref().unwrap_or_default();
    match script.strip_prefix("~/") {
        Some(_) => surroundings::path_from(&around.cwd, script, around.home()).into(),
        None => script.into(),
    }
}

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
        // As under PM2 it is the current directory; but a script beside its ecosystem file is found there.
        let here = around.absolute(script.as_ref()).exists();
        let there = beside.filter(|dir| !here && surroundings::absolute_from(dir, script.as_ref()).exists());
        return Ok(there.map_or_else(|| around.cwd.clone(), Path::to_owned));
    };
    let dir = PathBuf::from(surroundings::path_from(&around.cwd, dir, around.home()));
    if dir.is_dir() {
        Ok(dir)
    } else {
        Err(ResolveError::NoSuchDirectory(dir))
    }
}

/// The name of a command line: the line itself if it can be a name, otherwise its program.
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

fn advice(near: Option<&str>) -> String {
    near.map_or_else(
        || "give its path, or set --cwd to where it is".to_owned(),
        |near| format!("did you mean {near:?}?"),
    )
}

#[cfg(test)]
mod known_tests;
#[cfg(test)]
mod tests;
