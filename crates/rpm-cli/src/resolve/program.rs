//! Which file is the script, and what runs it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rpm_wire::api::AppSpec;

use super::ResolveError;
use super::shebang::{Program, Shebang};
use super::surroundings::{Surroundings, absolute_from, is_executable};
use super::versions;

/// The value of `--interpreter` that executes the script itself.
const NO_INTERPRETER: &str = "none";

/// The script: a path from the app's working directory or from `here`, or else the name of a program on PATH.
pub(super) fn find_script(
    script: &OsStr,
    cwd: &Path,
    here: Option<&Path>,
    around: &Surroundings,
) -> Result<PathBuf, ResolveError> {
    let relative = Path::new(script);
    let mut looked = vec![cwd.to_owned()];
    let here = here.filter(|here| relative.is_relative() && *here != cwd);
    looked.extend(here.map(Path::to_owned));
    let candidates: Vec<_> = looked.iter().map(|dir| absolute_from(dir, relative)).collect();
    if let Some(file) = candidates.iter().find(|path| path.exists() && !path.is_dir()) {
        return Ok(file.clone());
    }
    let is_name = relative.components().count() == 1 && !script.as_encoded_bytes().contains(&b'/');
    if is_name && let Some(program) = around.which(script) {
        return Ok(program);
    }
    if let Some(dir) = candidates.into_iter().find(|path| path.is_dir()) {
        return Err(ResolveError::ScriptIsDirectory(dir));
    }
    let near = looked.iter().find_map(|dir| near_file(dir, relative));
    let mut looked: Vec<String> = looked.iter().map(|dir| dir.display().to_string()).collect();
    if is_name {
        looked.push("PATH".to_owned());
    }
    Err(ResolveError::ScriptNotFound {
        script: script.to_string_lossy().into_owned(),
        looked,
        near,
    })
}

/// A file with a name similar to `relative` in `dir`: with another extension or none, or misspelled.
fn near_file(dir: &Path, relative: &Path) -> Option<String> {
    let path = absolute_from(dir, relative);
    let (parent, wanted) = (path.parent()?, path.file_name()?.to_str()?);
    let files = std::fs::read_dir(parent).ok()?.flatten();
    let files = files.filter(|entry| entry.path().is_file());
    let mut names: Vec<String> = files
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let runnable = |name: &&String| {
        let path = Path::new(name);
        by_extension(path).is_some() && path.file_stem() == Path::new(wanted).file_stem()
    };
    let near = rpm_spec::nearest(wanted, names.iter().map(String::as_str));
    let near = near.or_else(|| names.iter().find(runnable).map(String::as_str))?;
    Some(relative.with_file_name(near).to_string_lossy().into_owned())
}

/// A directory that Node can run: a package, or one with an `index.js`.
pub(super) fn package(script: &OsStr, cwd: &Path) -> Option<PathBuf> {
    let path = absolute_from(cwd, Path::new(script));
    let has = |name: &str| path.join(name).is_file();
    (!script.is_empty() && path.is_dir() && (has("package.json") || has("index.js"))).then_some(path)
}

/// The arguments before those of the user: for a command line, those of the shell that runs it.
pub(super) fn own_args(spec: &AppSpec) -> &[String] {
    let shell = |name: &str| Path::new(&spec.script).file_name().is_some_and(|it| it == name);
    match spec.args.as_slice() {
        [first, _, ..] if first == "-c" && spec.interpreter.is_none() && (shell("bash") || shell("sh")) => {
            &spec.args[..2]
        }
        _ => &[],
    }
}

/// A command line, and the shell that runs it: a script with blanks that is not a file, as under PM2.
pub(super) fn command_line(
    script: &OsStr,
    cwd: &Path,
    around: &Surroundings,
) -> Result<Option<(PathBuf, String)>, ResolveError> {
    let Some(line) = script
        .to_str()
        .map(str::trim)
        .filter(|line| line.contains(char::is_whitespace))
    else {
        return Ok(None);
    };
    let is_file = [cwd, &around.cwd]
        .iter()
        .any(|dir| absolute_from(dir, Path::new(script)).exists());
    if is_file {
        return Ok(None);
    }
    let shell = on_path(&["bash", "sh"], "runs command lines", around)?;
    Ok(Some((shell, line.to_owned())))
}

/// The program that runs a script.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Interpreter {
    /// Absolute; `None` if the script is executed itself.
    pub(super) path: Option<PathBuf>,
    /// Arguments in the first line of the script.
    pub(super) args: Vec<String>,
}

/// The program that runs `script`: the requested one, or else the one for its extension or its first line.
pub(super) fn find_interpreter(
    wanted: Option<&str>,
    script: &Path,
    cwd: &Path,
    around: &Surroundings,
) -> Result<Interpreter, ResolveError> {
    let by_itself = match wanted {
        Some(_) => None,
        None => by_first_line(script, around),
    };
    match by_itself {
        Some(found) => Ok(found),
        None => Ok(Interpreter {
            path: find_path(wanted, script, cwd, around)?,
            args: Vec::new(),
        }),
    }
}

/// The interpreter of its first line, if it exists. If it does not, executing the script reports that.
fn by_first_line(script: &Path, around: &Surroundings) -> Option<Interpreter> {
    let shebang = shebang_of(script)?;
    let path = match shebang.program {
        Program::At(path) => Some(path).filter(|path| is_executable(path)),
        Program::OnPath(name) => around.which(OsStr::new(&name)),
    };
    Some(Interpreter {
        path: Some(path?),
        args: shebang.args,
    })
}

/// The first line of a script whose extension names no interpreter.
fn shebang_of(script: &Path) -> Option<Shebang> {
    match by_extension(script) {
        Some(_) => None,
        None => Shebang::of(script),
    }
}

/// Those arguments of an app's interpreter that come from the first line of its script.
pub(super) fn first_line_args(spec: &AppSpec) -> Vec<String> {
    let args = shebang_of(Path::new(&spec.script)).map(|shebang| shebang.args);
    args.filter(|args| spec.interpreter.is_some() && spec.interpreter_args.starts_with(args))
        .unwrap_or_default()
}

/// Whether the first line of the script names its interpreter by a path. Then PATH does not matter.
pub(super) fn names_path(spec: &AppSpec) -> bool {
    let shebang = shebang_of(Path::new(&spec.script));
    let path = spec.interpreter.as_deref().map(PathBuf::from);
    shebang.is_some_and(|shebang| path.map(Program::At) == Some(shebang.program))
}

fn find_path(
    wanted: Option<&str>,
    script: &Path,
    cwd: &Path,
    around: &Surroundings,
) -> Result<Option<PathBuf>, ResolveError> {
    match wanted {
        Some(NO_INTERPRETER) => executable(script),
        Some(path) if path.contains('/') => {
            let absolute = absolute_from(cwd, Path::new(path));
            if is_executable(&absolute) {
                return Ok(Some(absolute));
            }
            let why = "was requested".to_owned();
            let path = absolute.display().to_string();
            Err(ResolveError::InterpreterNotFound {
                interpreter: path.clone(),
                why,
                path,
            })
        }
        Some(name) => match name.strip_prefix("node@") {
            Some(version) => versions::node(version, around).map(Some),
            None => on_path(&[name], "was requested", around).map(Some),
        },
        None if script.is_dir() => on_path(&["node"], "runs packages", around).map(Some),
        None => match by_extension(script) {
            Some((extension, names)) => on_path(names, &format!("runs .{extension} files"), around).map(Some),
            None => executable(script),
        },
    }
}

fn executable(script: &Path) -> Result<Option<PathBuf>, ResolveError> {
    if is_executable(script) {
        Ok(None)
    } else {
        Err(ResolveError::NotExecutable(script.to_owned()))
    }
}

/// The interpreters that can run a file of this kind, best first.
fn by_extension(script: &Path) -> Option<(&str, &'static [&'static str])> {
    let extension = script.extension()?.to_str()?;
    let names: &[&str] = match extension {
        "js" | "cjs" | "mjs" => &["node"],
        "ts" | "tsx" | "mts" | "cts" => &["bun", "node"],
        "py" => &["python3", "python"],
        "sh" => &["bash"],
        "rb" => &["ruby"],
        "php" => &["php"],
        "pl" => &["perl"],
        _ => return None,
    };
    Some((extension, names))
}

fn on_path(names: &[&str], why: &str, around: &Surroundings) -> Result<PathBuf, ResolveError> {
    let found = names.iter().find_map(|name| around.which(OsStr::new(name)));
    found.ok_or_else(|| ResolveError::InterpreterNotFound {
        interpreter: names.join(" or "),
        why: why.to_owned(),
        path: match around.search_path() {
            "" => "an empty PATH".to_owned(),
            path => format!("PATH: {path}"),
        },
    })
}
