//! `restart`, `reload` and `start` of known apps: options that are given apply from then on.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use rpm_spec::{AppOptions, Watch};
use rpm_wire::api::{
    Action, ActionRequest, AppSpec, ApplyMode, ApplyRequest, Known, Plan, PlanRequest, ReloadRequest, Saved,
    TargetsRequest,
};
use serde_json::Value;

use super::{action, change_step_by_step, follow, own_env, read, session, surroundings, tell};
use crate::args::{Command, StartArgs};
use crate::home::like_pm2;
use crate::output::Output;
use crate::render;
use crate::resolve::{changed, options_of};

/// The option that, given with `reload`, is for that reload only.
const WATCH_AFTER: &str = "watch_after";

/// How changes are applied to apps.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// By a restart, or by a reload.
    pub(super) mode: ApplyMode,
    /// Stop and start even where a reload would do.
    pub(super) hard: bool,
    /// `--watch` alone switches the watching of files off where it is on.
    pub(super) toggles: bool,
    /// Return when it is done.
    pub(super) wait: bool,
    /// Return when the old workers are gone, too.
    pub(super) drained: bool,
}

impl How {
    /// As `restart` or `reload` is to do it.
    pub(super) fn of(command: &Command, args: &StartArgs) -> How {
        let (mode, hard, drained) = match command {
            Command::Reload { wait, .. } => (ApplyMode::Reload, false, *wait),
            Command::Restart { hard, wait, .. } => (ApplyMode::Restart, *hard, *wait),
            _ => (ApplyMode::Restart, false, false),
        };
        How {
            mode,
            hard,
            toggles: mode == ApplyMode::Restart,
            drained,
            ..How::start(args)
        }
    }

    /// As `start` does it.
    pub(super) fn start(args: &StartArgs) -> How {
        How {
            mode: ApplyMode::Restart,
            hard: false,
            toggles: false,
            wait: !args.no_wait,
            drained: false,
        }
    }
}

/// Restarts or reloads these, with the options in the arguments.
pub(super) async fn apply(
    targets: Vec<String>,
    args: &StartArgs,
    how: How,
    output: &mut Output,
) -> anyhow::Result<()> {
    for_files_alone(args)?;
    let mut said = options_of(args, None)?;
    let watch_after = match how.mode {
        ApplyMode::Reload => said.settings.remove(WATCH_AFTER),
        ApplyMode::Restart | ApplyMode::Changed | ApplyMode::Absent => None,
    };
    said.force = None;
    let toggle = how.toggles && said.watch == Some(Watch::Everything);
    let only_toggled = AppOptions {
        watch: None,
        ..said.clone()
    };
    if args.dry_run
        || said != AppOptions::default()
            && !(toggle && only_toggled == AppOptions::default() && all_watched(&targets).await?)
    {
        said.settings.extend(watch_after.map(|time| (WATCH_AFTER, time)));
        return change(targets, args, (said, toggle), how, output).await;
    }
    let env = own_env(args.update_env)?;
    let follow = follow(how.drained);
    if how.mode == ApplyMode::Reload {
        let request = ReloadRequest {
            targets,
            env,
            watch_after_ms: watch_after.as_ref().and_then(Value::as_u64),
            attach: false,
            wait: how.wait,
            follow,
        };
        return change_step_by_step("/v1/reload", &request, how.wait, output).await;
    }
    let request = ActionRequest {
        hard: how.hard,
        toggle_watch: toggle,
        env,
        follow,
        ..action(Action::Restart, targets, how.wait)
    };
    change_step_by_step("/v1/actions", &request, how.wait, output).await
}

/// Rejects options for ecosystem files if no file is named: they would have no effect. (PM2 takes them everywhere.)
fn for_files_alone(args: &StartArgs) -> anyhow::Result<()> {
    let said = [("--env", args.env.is_some()), ("--only", !args.only.is_empty())];
    for (option, _) in said.into_iter().filter(|(_, is_said)| *is_said) {
        if !like_pm2() {
            bail!("{option} is for ecosystem files: name the file, or leave {option} out");
        }
        tell(format!(
            "warning: {option} is for ecosystem files; without one it has no effect"
        ));
    }
    if args.no_daemon {
        bail!("--no-daemon is for apps that do not run yet; `rpm logs` follows those that do");
    }
    Ok(())
}

/// The apps that are meant, as they are.
async fn known(targets: &[String]) -> anyhow::Result<Vec<AppSpec>> {
    let request = TargetsRequest {
        targets: targets.to_vec(),
    };
    let meant: Vec<Known> = session().await?.post("/v1/resolve", &request).await?;
    let names: BTreeSet<String> = meant.into_iter().map(|process| process.name).collect();
    let saved: Vec<Saved> = read("/v1/dump").await?;
    let specs = saved.into_iter().map(|saved| saved.app);
    Ok(specs.filter(|spec| names.contains(&spec.name)).collect())
}

async fn all_watched(targets: &[String]) -> anyhow::Result<bool> {
    Ok(known(targets).await?.iter().all(|spec| spec.watch.is_some()))
}

async fn change(
    targets: Vec<String>,
    args: &StartArgs,
    (said, toggle): (AppOptions, bool),
    how: How,
    output: &mut Output,
) -> anyhow::Result<()> {
    let around = surroundings()?;
    let before = known(&targets).await?;
    if let Some(name) = &said.name
        && before.len() > 1
    {
        bail!(
            "{} apps cannot all be named {name:?}; name one of them",
            before.len()
        );
    }
    let (mut apps, mut renamed, mut toggle_watch) = (Vec::new(), BTreeMap::new(), Vec::new());
    for spec in before {
        let name = spec.name.clone();
        let mut options = said.clone();
        if toggle && spec.watch.is_some() {
            options.watch = None;
            toggle_watch.push(options.name.clone().unwrap_or_else(|| name.clone()));
        }
        let spec = changed(spec, &options, &around, args.update_env)?;
        if spec.name != name {
            tell(format!("note: {name} is now named {}", spec.name));
            renamed.insert(spec.name.clone(), name);
        }
        apps.push(spec);
    }
    if renamed.is_empty() {
        let request = PlanRequest { apps: apps.clone() };
        let plans: Vec<Plan> = session().await?.post("/v1/plan", &request).await?;
        let mut lines = plans.iter().flat_map(render::plan);
        match args.dry_run {
            true => lines.try_for_each(|line| output.line(line))?,
            false => lines.for_each(tell),
        }
    }
    if args.dry_run {
        return Ok(());
    }
    let request = ApplyRequest {
        renamed,
        toggle_watch,
        hard: how.hard,
        wait: how.wait,
        follow: follow(how.drained),
        ..ApplyRequest::new(apps, how.mode)
    };
    change_step_by_step("/v1/apply", &request, how.wait, output).await
}
