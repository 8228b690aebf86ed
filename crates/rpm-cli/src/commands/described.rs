//! Ecosystem files: their apps, as the daemon can execute them, and all errors in them.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use anyhow::{anyhow, bail};
use rpm_spec::{AppOptions, Observing};
use rpm_wire::api::AppSpec;

use super::{Check, surroundings, tell};
use crate::args::FileArgs;
use crate::config::{self, File};
use crate::output::Output;
use crate::resolve::{Surroundings, app_name, app_spec, overlay};

/// What a file describes.
struct Described {
    file: File,
    specs: Vec<AppSpec>,
    /// What is wrong, a line each.
    faults: Vec<String>,
}

fn describe(
    target: &OsStr,
    around: &Surroundings,
    files: &FileArgs,
    flags: &AppOptions,
) -> anyhow::Result<Described> {
    let mut file = config::load(target, around)?;
    let mut faults = std::mem::take(&mut file.problems);
    faults.extend(config::set_mail_server(&mut file, around));
    let mut specs = Vec::new();
    for (number, app) in file
        .apps
        .iter()
        .enumerate()
        .filter(|(_, app)| app.script.is_some())
    {
        let app = overlay(app.clone(), flags.clone());
        let name = app_name(&app, around, files.env.as_deref());
        match app_spec(&app, around, files.env.as_deref(), file.dir.as_deref()) {
            Ok(spec) => specs.push(spec),
            Err(_) if !is_wanted(&name, files) => {}
            Err(error) => {
                let place = app
                    .name
                    .map_or_else(|| format!("app {}", number + 1), |name| format!("app {name:?}"));
                faults.push(format!("{}: {place}: {error}", file.name));
            }
        }
    }
    for (at, spec) in specs.iter().enumerate() {
        let before = specs[..at].iter().filter(|other| other.name == spec.name).count();
        let told = file
            .apps
            .iter()
            .filter(|app| app.name.as_ref() == Some(&spec.name))
            .count()
            > 1;
        if before == 1 && !told {
            faults.push(format!(
                "{}: two apps are named {:?}; give each a name of its own",
                file.name, spec.name
            ));
        }
    }
    Ok(Described { file, specs, faults })
}

fn is_wanted(name: &str, files: &FileArgs) -> bool {
    files.only.is_empty() || files.only.iter().any(|only| only == name)
}

/// The selected apps of an ecosystem file, as the daemon can execute them, and what it says of the metrics; nothing if only some apps are
/// meant.
///
/// # Errors
/// Everything that is wrong with the file, a line each.
pub(super) fn specs_of(
    target: &OsStr,
    around: &Surroundings,
    files: &FileArgs,
    flags: &AppOptions,
) -> anyhow::Result<(Vec<AppSpec>, Option<Observing>)> {
    let Described {
        file,
        mut specs,
        faults,
    } = describe(target, around, files, flags)?;
    for warning in &file.warnings {
        tell(format!("warning: {warning}"));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    check_only(&files.only, &names, &file)?;
    specs.retain(|spec| is_wanted(&spec.name, files));
    if let Some(env) = &files.env {
        let has = |app: &AppOptions| app.envs.contains_key(env);
        if !file.apps.iter().any(has) {
            let names: BTreeSet<&String> = file.apps.iter().flat_map(|app| app.envs.keys()).collect();
            let names: Vec<String> = names.into_iter().map(|name| format!("env_{name}")).collect();
            let there = match names.is_empty() {
                true => String::new(),
                false => format!("; there are: {}", names.join(", ")),
            };
            tell(format!("warning: {}: no app has env_{env}{there}", file.name));
        }
    }
    if specs.is_empty() {
        bail!("{} has no app", file.name);
    }
    let observe = file.observe.filter(|_| files.only.is_empty());
    Ok((specs, observe))
}

fn check_only(only: &[String], names: &[&str], file: &File) -> anyhow::Result<()> {
    let missing = only.iter().find(|name| !names.contains(&name.as_str()));
    let Some(missing) = missing else { return Ok(()) };
    let near = rpm_spec::nearest(missing, names.iter().copied());
    let hint = near.map_or_else(
        || format!("there are: {}", names.join(", ")),
        |near| format!("did you mean {near:?}?"),
    );
    Err(anyhow!("{} has no app {missing:?}; {hint}", file.name))
}

/// The names of the apps where an ecosystem file is meant; the targets otherwise. For these the scripts need not be there, and what
/// the file says beside them was told when they were started.
pub(super) fn names_of(targets: &[String], files: &FileArgs) -> anyhow::Result<Vec<String>> {
    let around = surroundings()?;
    let mut found = Vec::new();
    for target in targets {
        if !config::is_file(target.as_ref(), &around) {
            found.push(target.clone());
            continue;
        }
        let file = config::load(target.as_ref(), &around)?;
        if !file.problems.is_empty() {
            bail!("{}", file.problems.join("\n"));
        }
        let name = |app: &AppOptions| app_name(app, &around, files.env.as_deref());
        let names: Vec<String> = file.apps.iter().map(name).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        check_only(&files.only, &all, &file)?;
        found.extend(names.into_iter().filter(|name| is_wanted(name, files)));
    }
    Ok(found)
}

/// `validate`: reads ecosystem files, and says all that is wrong, what `start` would refuse included. `strict`: a warning is a failure.
pub(super) fn validate(
    files: &[OsString],
    strict: bool,
    check: Check,
    output: &mut Output,
) -> anyhow::Result<()> {
    let around = surroundings()?;
    let files = match files.is_empty() {
        true => vec![config::usual(&around, "the ecosystem file")?],
        false => files.to_vec(),
    };
    let mut failures = Vec::new();
    for file in &files {
        let name = file.to_string_lossy();
        if !config::is_file(file, &around) {
            failures.push(format!("{name} is not an ecosystem file"));
            continue;
        }
        match describe(file, &around, &FileArgs::default(), &AppOptions::default()) {
            Ok(found) => failures.extend(report(found, strict, check, output)?),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{}", failures.join("\n"))
}

/// Prints the apps of a file, or its errors.
fn report(found: Described, strict: bool, check: Check, output: &mut Output) -> anyhow::Result<Vec<String>> {
    let Described { file, specs, faults } = found;
    let mut failures = faults;
    for spec in &specs {
        failures.extend(check(spec).into_iter().map(|fault| {
            let hint = fault.hint.map_or_else(String::new, |hint| format!(" ({hint})"));
            format!("{}: app {:?}: {}{hint}", file.name, spec.name, fault.error)
        }));
    }
    match strict {
        true => failures.extend(file.warnings),
        false => file
            .warnings
            .iter()
            .for_each(|warning| tell(format!("warning: {warning}"))),
    }
    if failures.is_empty() {
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let apps = if names.len() == 1 { "app" } else { "apps" };
        output.line(format_args!(
            "{}: {} {apps}: {}",
            file.name,
            names.len(),
            names.join(", ")
        ))?;
    }
    Ok(failures)
}
