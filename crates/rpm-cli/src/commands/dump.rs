//! `save`, `resurrect`, `cleardump`, `import`: the apps as they are, in a file, and back.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use rpm_spec::pm2_dump;
use rpm_wire::api::{AppSpec, ApplyMode, ApplyRequest, Saved};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{change_step_by_step, follow, read, session, surroundings, tell};
use crate::files::write_private;
use crate::home::{home_dir, like_pm2};
use crate::output::Output;
use crate::resolve::app_spec;

/// Of the file. Another one is not read.
const FORMAT: u32 = 1;

/// The file.
#[derive(Serialize, Deserialize)]
struct Dump {
    format: u32,
    apps: Vec<Saved>,
}

/// PM2's name where it is wanted.
fn file() -> anyhow::Result<PathBuf> {
    Ok(home_dir()?.join(if like_pm2() { "dump.pm2" } else { "dump.json" }))
}

fn backup_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bak");
    name.into()
}

/// `save`.
pub(super) async fn save(force: bool) -> anyhow::Result<()> {
    let apps: Vec<Saved> = read("/v1/dump").await?;
    let path = file()?;
    if apps.is_empty() && !force {
        tell(format!(
            "nothing is saved: there are no apps; `save --force` writes the empty list over {}",
            path.display()
        ));
        return Ok(());
    }
    match fs::read_to_string(&path) {
        Ok(before) => write_private(&backup_of(&path), &before)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let count = apps.len();
    let dump = Dump { format: FORMAT, apps };
    write_private(&path, &format!("{}\n", serde_json::to_string_pretty(&dump)?))?;
    tell(format!("{count} apps saved in {}", path.display()));
    Ok(())
}

/// `cleardump`.
pub(super) fn clear() -> anyhow::Result<()> {
    let path = file()?;
    match fs::remove_file(&path) {
        Ok(()) => tell(format!("{} is removed", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => tell("nothing was saved"),
        Err(error) => return Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
    Ok(())
}

/// `resurrect`: what was saved. What runs is left alone.
pub(super) async fn resurrect(wait: bool, output: &mut Output) -> anyhow::Result<()> {
    let path = file()?;
    if !path.exists() && !backup_of(&path).exists() {
        // A service that starts at boot needs the daemon all the same.
        drop(session().await?);
        tell("nothing was saved; `save` writes the list of apps");
        return Ok(());
    }
    let saved = match load(&path) {
        Ok(saved) => saved,
        Err(error) if backup_of(&path).exists() => {
            tell(format!(
                "warning: {error:#}; the list saved before it is taken: {}",
                backup_of(&path).display()
            ));
            load(&backup_of(&path))?
        }
        Err(error) => return Err(error),
    };
    restore(saved, wait, output).await
}

/// `import`: the apps that PM2 has saved.
pub(super) async fn import(file: Option<&Path>, wait: bool, output: &mut Output) -> anyhow::Result<()> {
    let path = match file {
        Some(path) => path.to_owned(),
        None => {
            let home = std::env::var_os("HOME").context("HOME is not set; name the file: import FILE")?;
            Path::new(&home).join(".pm2/dump.pm2")
        }
    };
    restore(load(&path)?, wait, output).await
}

fn load(path: &Path) -> anyhow::Result<Vec<Saved>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{} is not there; `save` writes it", path.display())
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let damaged = || format!("{} is damaged", path.display());
    let value: Value = serde_json::from_str(&text).with_context(damaged)?;
    if value.is_array() {
        return of_pm2(&value).with_context(|| format!("{} cannot be taken over", path.display()));
    }
    let dump: Dump = serde_json::from_value(value).with_context(damaged)?;
    if dump.format != FORMAT {
        bail!(
            "{} is of another version of this program (format {}, expected {FORMAT})",
            path.display(),
            dump.format
        );
    }
    Ok(dump.apps)
}

/// What PM2 has written.
fn of_pm2(value: &Value) -> anyhow::Result<Vec<Saved>> {
    let around = surroundings()?;
    let dumped = pm2_dump::apps(value);
    let found = rpm_spec::read(&Value::Array(dumped.apps)).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow!("{}", lines.join("\n"))
    })?;
    let mut saved = Vec::new();
    for app in &found.apps {
        let name = app.name.clone().unwrap_or_default();
        match app_spec(app, &around, None, None) {
            Ok(app) => saved.push(Saved {
                stopped: dumped.stopped.contains(&app.name),
                stopped_instances: Vec::new(),
                app,
            }),
            // The others can be started all the same.
            Err(error) => tell(format!("warning: {name} is left out: {error}")),
        }
    }
    Ok(saved)
}

async fn restore(saved: Vec<Saved>, wait: bool, output: &mut Output) -> anyhow::Result<()> {
    if saved.is_empty() {
        tell("no apps were saved");
        return Ok(());
    }
    let stopped = saved.iter().filter(|saved| saved.stopped);
    let stopped = stopped.map(|saved| saved.app.name.clone()).collect();
    let partly = saved.iter().filter(|saved| !saved.stopped_instances.is_empty());
    let stopped_instances = partly
        .map(|saved| (saved.app.name.clone(), saved.stopped_instances.clone()))
        .collect();
    let apps: Vec<AppSpec> = saved.into_iter().map(|saved| saved.app).collect();
    let request = ApplyRequest {
        stopped,
        stopped_instances,
        wait,
        follow: follow(false),
        ..ApplyRequest::new(apps, ApplyMode::Absent)
    };
    change_step_by_step("/v1/apply", &request, wait, output).await
}
