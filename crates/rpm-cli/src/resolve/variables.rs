//! The variables of an app: what it inherits, what files say, and its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rpm_spec::{AppOptions, EnvFilter, MAX_BYTES, parse_env};
use rpm_wire::api::{AppSpec, OF_THE_USER};

use super::ResolveError;
use super::surroundings::{Surroundings, path_from};

/// Programs need these to be found, and to find their files.
const ALWAYS: [&str; 2] = ["PATH", "HOME"];

/// Of an app that is new. Later ones win: files, as with Node's `--env-file`; what this command has; the app's own, and those of
/// `env_<name>`. `places`: where the files are looked for.
pub(super) fn of_new(
    options: &AppOptions,
    around: &Surroundings,
    env_name: Option<&str>,
    places: (&Path, Option<&Path>),
) -> Result<BTreeMap<String, String>, ResolveError> {
    let mut inherited = around.env.clone();
    filter(&mut inherited, options);
    if options.setting("uid").is_some() {
        inherited.retain(|name, _| !OF_THE_USER.contains(&name.as_str()));
    }
    let mut env = of_files(options, around, places)?;
    env.extend(inherited);
    env.extend(own(options));
    let more = env_name.and_then(|name| options.envs.get(name));
    env.extend(more.cloned().unwrap_or_default());
    Ok(env)
}

/// The variables of a known app. Those of files override what it has, since the origin of that is unknown. `cwd`: its working directory.
pub(super) fn of_known(
    spec: &AppSpec,
    options: &AppOptions,
    around: &Surroundings,
    (update_env, cwd): (bool, &Path),
) -> Result<BTreeMap<String, String>, ResolveError> {
    let mut env = spec.env.clone();
    env.extend(of_files(options, around, (&around.cwd, Some(cwd)))?);
    if update_env {
        env.extend(around.env.clone());
    }
    if options.setting("uid").is_some() || spec.uid.is_some() {
        // Those of another value are the app's own.
        let inherited = |name: &str, value: &String| around.env.get(name) == Some(value);
        env.retain(|name, value| !(OF_THE_USER.contains(&name.as_str()) && inherited(name, value)));
    }
    filter(&mut env, options);
    env.extend(own(options));
    Ok(env)
}

fn own(options: &AppOptions) -> BTreeMap<String, String> {
    let port = options.port.map(|port| ("PORT".to_owned(), port.to_string()));
    port.into_iter().chain(options.env.clone()).collect()
}

fn filter(env: &mut BTreeMap<String, String>, options: &AppOptions) {
    match &options.filter_env {
        None | Some(EnvFilter::Nothing) => {}
        Some(EnvFilter::Everything) => env.retain(|name, _| ALWAYS.contains(&name.as_str())),
        Some(EnvFilter::Containing(parts)) => {
            env.retain(|name, _| !parts.iter().any(|part| name.contains(part.as_str())));
        }
    }
}

fn of_files(
    options: &AppOptions,
    around: &Surroundings,
    (cwd, beside): (&Path, Option<&Path>),
) -> Result<BTreeMap<String, String>, ResolveError> {
    let mut env = BTreeMap::new();
    for name in options.env_file.iter().flatten() {
        let from = |dir: &Path| PathBuf::from(path_from(dir, name, around.home()));
        let path = from(cwd);
        let path = match beside.map(from) {
            Some(other) if !path.exists() && other.exists() => other,
            _ => path,
        };
        let text = read(&path).map_err(|why| ResolveError::EnvFile { path, why })?;
        env.extend(
            parse_env(&text)
                .into_iter()
                .filter(|(name, _)| !name.contains('\0')),
        );
    }
    Ok(env)
}

fn read(path: &Path) -> Result<String, String> {
    let meta = fs::metadata(path).map_err(|error| error.to_string())?;
    if !meta.is_file() || meta.len() > MAX_BYTES as u64 {
        return Err(format!("it is not a file of at most {MAX_BYTES} bytes"));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    match text.contains('\0') {
        true => Err("it contains a NUL byte".to_owned()),
        false => Ok(text),
    }
}
