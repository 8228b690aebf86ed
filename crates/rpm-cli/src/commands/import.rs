//! `import`: starts the apps that PM2 has saved, and reports those that cannot be taken over.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rpm_spec::pm2_dump::{self, Dumped, DumpedApp};
use rpm_wire::api::{Change, Plan, PlanRequest, Saved};
use serde_json::Value;

use super::dump::restore;
use super::{Check, session, surroundings, tell};
use crate::output::Output;
use crate::resolve::{Surroundings, app_spec};

/// What is started, and what is not: a line each.
struct Found {
    saved: Vec<Saved>,
    left_out: Vec<String>,
}

/// `import`. `dry_run`: only say what would be started.
pub(super) async fn import(
    file: Option<&Path>,
    (dry_run, wait): (bool, bool),
    check: Check,
    output: &mut Output,
) -> anyhow::Result<()> {
    let path = match file {
        Some(path) => path.to_owned(),
        None => usual()?,
    };
    if file.is_none() && !path.exists() {
        bail!(
            "there is no {}; run `pm2 save` first, or name the file: `rpm import FILE`",
            path.display()
        );
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let list: Value =
        serde_json::from_slice(text.as_bytes()).with_context(|| format!("{} is damaged", path.display()))?;
    if !list.is_array() {
        bail!(
            "{} is not a list of processes as `pm2 save` writes it",
            path.display()
        );
    }
    let Found { saved, left_out } = found(pm2_dump::apps(&list), &surroundings()?, check);
    let count = saved.len();
    match dry_run {
        true => show(&saved, output).await?,
        false => restore(saved, wait, output).await?,
    }
    if left_out.is_empty() {
        return Ok(());
    }
    let verb = if dry_run { "would be" } else { "were" };
    bail!(
        "{count} apps {verb} imported, {} not:\n{}",
        left_out.len(),
        left_out.join("\n")
    )
}

fn usual() -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || set("HOME").map(|home| Path::new(&home).join(".pm2"));
    let home = set("PM2_HOME").map(PathBuf::from).or_else(home);
    Ok(home
        .context("HOME is not set; name the file: import FILE")?
        .join("dump.pm2"))
}

fn found(dumped: Dumped, around: &Surroundings, check: Check) -> Found {
    let mut found = Found {
        saved: Vec::new(),
        left_out: dumped.left_out,
    };
    for note in &dumped.notes {
        tell(format!("note: {note}"));
    }
    for app in dumped.apps {
        let name = app.name.clone();
        match saved(app, around, check) {
            Ok(saved) => found.saved.push(saved),
            Err(faults) => found
                .left_out
                .extend(faults.into_iter().map(|fault| format!("{name}: {fault}"))),
        }
    }
    found
}

/// An app as it would be restored, or everything that prevents it.
fn saved(app: DumpedApp, around: &Surroundings, check: Check) -> Result<Saved, Vec<String>> {
    let read = rpm_spec::read(&app.options);
    let read = read.map_err(|faults| {
        faults
            .problems
            .iter()
            .map(|problem| problem.text.clone())
            .collect::<Vec<_>>()
    })?;
    for warning in &read.warnings {
        tell(format!("warning: {}: {}", app.name, warning.text));
    }
    let options = read
        .apps
        .first()
        .ok_or_else(|| vec!["it has no options".to_owned()])?;
    let spec = app_spec(options, around, None, None).map_err(|error| vec![error.to_string()])?;
    let faults = check(&spec);
    if !faults.is_empty() {
        return Err(faults.into_iter().map(|fault| fault.error).collect());
    }
    let stopped = u32::try_from(app.stopped.len()) == Ok(app.instances);
    Ok(Saved {
        app: spec,
        stopped,
        stopped_instances: if stopped { Vec::new() } else { app.stopped },
    })
}

async fn show(saved: &[Saved], output: &mut Output) -> anyhow::Result<()> {
    let apps = saved.iter().map(|saved| saved.app.clone()).collect();
    let plans: Vec<Plan> = session().await?.post("/v1/plan", &PlanRequest { apps }).await?;
    for (plan, saved) in plans.iter().zip(saved) {
        let down = match saved.stopped_instances.len() {
            _ if saved.stopped => ", stopped".to_owned(),
            0 => String::new(),
            count => format!(", {count} of them stopped"),
        };
        let app = &saved.app;
        if plan.change != Change::Added {
            output.line(format_args!("{} is there already, and left alone", app.name))?;
            continue;
        }
        let instances = app.instances;
        output.line(format_args!(
            "{}: new: {}, instances {instances}{down}",
            app.name, app.script
        ))?;
    }
    Ok(())
}
