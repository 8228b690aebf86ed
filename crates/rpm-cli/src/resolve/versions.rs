//! `--interpreter node@20`: a version that nvm, fnm, n or volta has installed.

use std::fs;
use std::path::{Path, PathBuf};

use super::ResolveError;
use super::surroundings::{Surroundings, is_executable};

/// The newest installed Node of a version: `20`, `20.11`, `v20.11.1`.
pub(super) fn node(version: &str, around: &Surroundings) -> Result<PathBuf, ResolveError> {
    let wanted: Option<Vec<u64>> = numbers(version);
    let places = places(around);
    let installed = places.iter().flat_map(|(dir, below)| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(move |entry| {
            let version = numbers(entry.file_name().to_str()?)?;
            Some((version, entry.path().join(below)))
        })
    });
    let fits = |(version, path): &(Vec<u64>, PathBuf)| {
        wanted.as_ref().is_some_and(|wanted| version.starts_with(wanted)) && is_executable(path)
    };
    let newest = installed
        .filter(fits)
        .max_by(|(one, _), (other, _)| one.cmp(other));
    newest.map(|(_, path)| path).ok_or_else(|| {
        let looked: Vec<String> = places.iter().map(|(dir, _)| dir.display().to_string()).collect();
        ResolveError::InterpreterNotFound {
            interpreter: format!("node@{version}"),
            why: "was requested, among those that nvm, fnm, n or volta have installed".to_owned(),
            path: match looked.is_empty() {
                true => {
                    "no directory: HOME, NVM_DIR, FNM_DIR, N_PREFIX and VOLTA_HOME are not set".to_owned()
                }
                false => looked.join(", "),
            },
        }
    })
}

/// Directories with one for each version, and where Node is in that.
fn places(around: &Surroundings) -> Vec<(PathBuf, &'static str)> {
    let variable = |name: &str| {
        around
            .env
            .get(name)
            .filter(|text| !text.is_empty())
            .map(PathBuf::from)
    };
    let home = variable("HOME");
    let in_home = |below: &str| home.as_ref().map(|home| home.join(below));
    let place = |root: Option<PathBuf>, below: &str, node| Some((root?.join(below), node));
    [
        place(
            variable("NVM_DIR").or(in_home(".nvm")),
            "versions/node",
            "bin/node",
        ),
        place(
            variable("FNM_DIR").or(in_home(".local/share/fnm")),
            "node-versions",
            "installation/bin/node",
        ),
        place(
            variable("N_PREFIX").or(Some("/usr/local".into())),
            "n/versions/node",
            "bin/node",
        ),
        place(
            variable("VOLTA_HOME").or(in_home(".volta")),
            "tools/image/node",
            "bin/node",
        ),
    ]
    .into_iter()
    .flatten()
    .filter(|(dir, _): &(PathBuf, &str)| Path::is_absolute(dir))
    .collect()
}

/// The parts of a version.
fn numbers(version: &str) -> Option<Vec<u64>> {
    let version = version.strip_prefix('v').unwrap_or(version);
    version.split('.').map(|part| part.parse().ok()).collect()
}
