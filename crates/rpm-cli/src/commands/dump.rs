//! `save`, `resurrect`, `cleardump`: the apps as they are, in a file, and back.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rpm_wire::api::{AppSpec, ApplyMode, ApplyRequest, ObserveInfo, ObserveSpec, Saved};
use serde::{Deserialize, Serialize};

use super::import::import;
use super::{Check, change_step_by_step, follow, observe, read, session, tell};
use crate::files::{alone, write_private};
use crate::home::{home_dir, like_pm2, read_own};
use crate::output::Output;

/// Format of the file. Other formats are not read.
const FORMAT: u32 = 1;

/// The file.
#[derive(Serialize, Deserialize)]
struct Dump {
    format: u32,
    apps: Vec<Saved>,
    /// How the metrics are served, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    observe: Option<ObserveSpec>,
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
            "nothing is saved: there are no apps; `rpm save --force` writes the empty list over {}",
            path.display()
        ));
        return Ok(());
    }
    // The backup is the list that this one replaces.
    let _alone = alone(&path)?;
    match read_own(&path) {
        Ok(before) => write_private(&backup_of(&path), &before)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let count = apps.len();
    let ObserveInfo { observe, .. } = read("/v1/observe").await?;
    let dump = Dump {
        format: FORMAT,
        apps,
        observe,
    };
    write_private(&path, &format!("{}\n", serde_json::to_string_pretty(&dump)?))?;
    let apps = if count == 1 { "app" } else { "apps" };
    tell(format!("{count} {apps} saved in {}", path.display()));
    Ok(())
}

/// `cleardump`: also removes the backup, which `resurrect` would use instead.
pub(super) fn clear() -> anyhow::Result<()> {
    let path = file()?;
    let _alone = alone(&path)?;
    let mut removed = false;
    for path in [&path, &backup_of(&path)] {
        match fs::remove_file(path) {
            Ok(()) => removed = true,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot remove {}", path.display())),
        }
    }
    tell(match removed {
        true => format!("{} is removed", path.display()),
        false => "nothing was saved".to_owned(),
    });
    Ok(())
}

/// `resurrect`: starts the saved apps that do not run.
pub(super) async fn resurrect(wait: bool, check: Check, output: &mut Output) -> anyhow::Result<()> {
    let path = file()?;
    if is_of_pm2(&path) {
        // Under PM2's name for it, in PM2's directory.
        return import(Some(&path), (false, wait), check, output).await;
    }
    if !path.exists() && !backup_of(&path).exists() {
        // A service that starts at boot needs the daemon in any case.
        drop(session().await?);
        tell("nothing was saved; `rpm save` writes the list of apps");
        return Ok(());
    }
    let Dump {
        apps,
        observe: served,
        ..
    } = match load(&path) {
        Ok(saved) => saved,
        Err(error) if backup_of(&path).exists() => {
            tell(format!(
                "warning: {error:#}; using the previous list: {}",
                backup_of(&path).display()
            ));
            let saved = load(&backup_of(&path))?;
            // A file of another version is not damaged.
            if error.is::<serde_json::Error>() {
                put_aside(&path)?;
            }
            saved
        }
        Err(error) => return Err(error),
    };
    let restored = restore(apps, wait, output).await;
    // An app that fails must not leave the machine without its metrics.
    let observed = observe::restore(served, wait).await;
    restored.and(observed)
}

/// Renames a damaged file, so that it can be examined and the next `resurrect` does not find it again.
fn put_aside(path: &Path) -> anyhow::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    let _alone = alone(path)?;
    fs::rename(path, &aside).with_context(|| format!("cannot rename {}", path.display()))?;
    tell(format!("the damaged file was renamed to {}", aside.display()));
    Ok(())
}

fn is_of_pm2(path: &Path) -> bool {
    let text = read_own(path).unwrap_or_default();
    text.trim_start().starts_with('[')
}

fn load(path: &Path) -> anyhow::Result<Dump> {
    let text = match read_own(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{} is not there; `rpm save` writes it", path.display())
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let damaged = || format!("{} is damaged", path.display());
    let dump: Dump = serde_json::from_slice(text.as_bytes()).with_context(damaged)?;
    if dump.format != FORMAT {
        bail!(
            "{} is of another version of this program (format {}, expected {FORMAT})",
            path.display(),
            dump.format
        );
    }
    Ok(dump)
}

pub(super) async fn restore(saved: Vec<Saved>, wait: bool, output: &mut Output) -> anyhow::Result<()> {
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
