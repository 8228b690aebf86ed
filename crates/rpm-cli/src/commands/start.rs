//! `start`, and other commands for ecosystem files.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{anyhow, bail};
use rpm_spec::{AppOptions, Watch};
use rpm_wire::api::{
    AppSpec, ApplyMode, ApplyRequest, ChangeReply, Known, LogTarget, Plan, PlanRequest, StartRequest, Status,
};
use rpm_wire::shell::word;

use super::changes::{self, How};
use super::described::specs_of;
use super::{
    change_step_by_step, follow, observe, read, session, show_served, surroundings, tell, warn_of_skipped,
};
use crate::args::{FileArgs, ServeArgs, StartArgs};
use crate::config;
use crate::hints::command;
use crate::http::Session;
use crate::output::Output;
use crate::render;
use crate::resolve::{ResolveError, Site, Surroundings, USUAL_PORT, app_spec, options_of};

/// What an argument of `start` means.
enum Meant {
    File,
    /// A known app: by name, namespace, pattern or id.
    Known(String),
    Script,
}

/// `start`: an ecosystem file, a known app, or a script.
pub(super) async fn start(args: &StartArgs, output: &mut Output) -> anyhow::Result<()> {
    let around = surroundings()?;
    warn_of_skipped(&around);
    args.needless.said().iter().for_each(tell);
    let args = &directories_to_watch(args, &around);
    let targets = match args.targets.is_empty() {
        true => vec![config::usual(&around, "a script or an ecosystem file")?],
        false => args.targets.clone(),
    };
    let mut known: Option<Vec<Known>> = None;
    let mut open: Option<Session> = None;
    for target in &targets {
        match meaning(target, &around, (&mut known, &mut open)).await? {
            Meant::File => {
                let files = FileArgs::of(args);
                let flags = options_of(args, None)?;
                let mode = (ApplyMode::Restart, !args.no_wait);
                apply_file(target, &around, (&files, &flags), mode, output).await?;
            }
            Meant::Known(name) => {
                changes::apply(vec![name], args, How::start(args), output).await?;
            }
            Meant::Script => {
                let all = processes((&mut known, &mut open)).await?.to_vec();
                start_script(target, args, &around, &all, (&mut open, output)).await?;
                known = None;
            }
        }
    }
    Ok(())
}

/// `start app.js --watch src` as under PM2: a directory cannot be started, so it is what to watch.
fn directories_to_watch(args: &StartArgs, around: &Surroundings) -> StartArgs {
    let mut args = args.clone();
    if args.options.0.watch == Some(Watch::Everything) && args.targets.len() > 1 {
        let is_dir = |target: &OsString| around.absolute(target.as_ref()).is_dir();
        let (directories, others): (Vec<_>, Vec<_>) = args.targets.into_iter().partition(is_dir);
        let paths = directories.iter().filter_map(|target| target.to_str());
        let paths: Vec<String> = paths.map(str::to_owned).collect();
        if !paths.is_empty() {
            args.options.0.watch = Some(Watch::Paths(paths));
        }
        args.targets = others;
    }
    args
}

/// The known apps, and the connection that they were read on.
type Asked<'a> = (&'a mut Option<Vec<Known>>, &'a mut Option<Session>);

async fn processes((known, open): Asked<'_>) -> anyhow::Result<&[Known]> {
    if known.is_none() {
        *known = Some(on(open).await?.get("/v1/known").await?);
    }
    Ok(known.as_deref().unwrap_or_default())
}

async fn on(open: &mut Option<Session>) -> anyhow::Result<&mut Session> {
    if open.is_none() {
        *open = Some(session().await?);
    }
    open.as_mut().ok_or_else(|| anyhow!("no connection"))
}

/// As under PM2, a known name, namespace or id takes precedence over a script.
async fn meaning(target: &OsStr, around: &Surroundings, asked: Asked<'_>) -> anyhow::Result<Meant> {
    if config::is_file(target, around) {
        return Ok(Meant::File);
    }
    let Some(text) = target.to_str() else {
        return Ok(Meant::Script);
    };
    let all = processes(asked).await?;
    let is_known = all
        .iter()
        .any(|process| process.name == text || process.namespace == text || process.id.to_string() == text);
    let is_file = around.absolute(text.as_ref()).is_file();
    // Every app without a namespace is in `default`.
    let known = is_known && !(is_file && all.iter().all(|process| process.name != text));
    Ok(if known || (text == "all" && !is_file) {
        Meant::Known(text.to_owned())
    } else {
        Meant::Script
    })
}

async fn start_script(
    script: &OsStr,
    args: &StartArgs,
    around: &Surroundings,
    known: &[Known],
    (open, output): (&mut Option<Session>, &mut Output),
) -> anyhow::Result<()> {
    let options = options_of(args, Some(script))?;
    let near_app = |error| near_app(error, known);
    let mut spec = app_spec(&options, around, args.env.as_deref(), None).map_err(near_app)?;
    let same: Vec<&Known> = known.iter().filter(|process| process.name == spec.name).collect();
    if !same.is_empty() {
        let of_script = same
            .iter()
            .any(|process| is_script(process, spec.script.as_ref()));
        let rests = same
            .iter()
            .all(|process| matches!(process.status, Status::Stopped | Status::Errored));
        if options.force == Some(true) {
            spec.name = free_name(&spec.name, known);
            tell(format!("note: it is named {:?}", spec.name));
        } else if of_script && rests {
            // Its options stay as they are, except those that the command gives.
            return changes::apply(vec![spec.name], args, How::start(args), output).await;
        } else if of_script {
            bail!(
                "{:?} already runs; {} restarts it, and {} starts it once more",
                spec.name,
                command(["restart", &spec.name]),
                command(["start", &script.to_string_lossy(), "--force"])
            );
        }
    }
    warn_of_standard_streams(&spec);
    if args.dry_run {
        return apply(vec![spec], ApplyMode::Restart, (true, false), output).await;
    }
    let request = StartRequest {
        app: spec,
        wait: !args.no_wait,
    };
    let reply: ChangeReply = on(open).await?.post("/v1/apps", &request).await?;
    show_served(&reply, output)
}

/// Whether it runs this file. The daemon knows the path with symbolic links resolved.
fn is_script(process: &Known, path: &Path) -> bool {
    Path::new(&process.script) == path
        || path
            .canonicalize()
            .is_ok_and(|real| Path::new(&process.script) == real)
}

/// Replaces targets that are scripts of known apps, and not names, namespaces or ids, by the ids of their processes.
pub(super) async fn by_script(targets: Vec<String>) -> anyhow::Result<Vec<String>> {
    let around = surroundings()?;
    let is_path = |target: &String| target.contains(['/', '.']) || around.absolute(target.as_ref()).is_file();
    if !targets.iter().any(is_path) {
        return Ok(targets);
    }
    let all: Vec<Known> = read("/v1/known").await?;
    let mut found = Vec::new();
    for target in targets {
        let is_known = all.iter().any(|process| {
            process.name == target || process.namespace == target || process.id.to_string() == target
        });
        let path = around.absolute(target.as_ref());
        let ids = all
            .iter()
            .filter(|process| !is_known && is_script(process, &path));
        let ids: Vec<String> = ids.map(|process| process.id.to_string()).collect();
        match ids.is_empty() {
            true => found.push(target),
            false => found.extend(ids),
        }
    }
    Ok(found)
}

/// A missing script, if no file has a similar name, may be the misspelled name of an app.
fn near_app(error: ResolveError, known: &[Known]) -> ResolveError {
    match error {
        ResolveError::ScriptNotFound {
            script,
            looked,
            near: None,
        } => {
            let names = known.iter().map(|process| process.name.as_str());
            let near = rpm_spec::nearest(&script, names).map(str::to_owned);
            ResolveError::ScriptNotFound { script, looked, near }
        }
        other => other,
    }
}

/// Warns of logs that go to standard streams, which an app in the background does not have.
fn warn_of_standard_streams(spec: &AppSpec) {
    let logs = &spec.logs;
    for target in [Some(&logs.out), Some(&logs.err), logs.both.as_ref()]
        .into_iter()
        .flatten()
    {
        if let (LogTarget::File(path), Some(_)) = (target, target.standard_stream()) {
            tell(format!(
                "warning: {}: {path} is written to under `rpm runtime` only; `rpm logs {}` shows the lines",
                spec.name,
                word(&spec.name)
            ));
        }
    }
}

fn free_name(name: &str, known: &[Known]) -> String {
    let taken = |name: &String| known.iter().any(|process| &process.name == name);
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    numbered.into_iter().find(|name| !taken(name)).unwrap_or_default()
}

/// Prints what changes, and applies it.
pub(super) async fn apply(
    apps: Vec<AppSpec>,
    mode: ApplyMode,
    (dry_run, wait): (bool, bool),
    output: &mut Output,
) -> anyhow::Result<()> {
    apps.iter().for_each(warn_of_standard_streams);
    let plans: Vec<Plan> = session()
        .await?
        .post("/v1/plan", &PlanRequest { apps: apps.clone() })
        .await?;
    let mut lines = plans.iter().flat_map(render::plan);
    if dry_run {
        return Ok(lines.try_for_each(|line| output.line(line))?);
    }
    lines.for_each(tell);
    let request = ApplyRequest {
        wait,
        follow: follow(false),
        ..ApplyRequest::new(apps, mode)
    };
    change_step_by_step("/v1/apply", &request, wait, output).await
}

/// Applies an ecosystem file: its apps, then what it says of the metrics.
async fn apply_file(
    target: &OsStr,
    around: &Surroundings,
    (files, flags): (&FileArgs, &AppOptions),
    (mode, wait): (ApplyMode, bool),
    output: &mut Output,
) -> anyhow::Result<()> {
    let (specs, observe) = specs_of(target, around, files, flags)?;
    apply(specs, mode, (files.dry_run, wait), output).await?;
    observe::apply(observe, files.dry_run, output).await
}

/// Applies the ecosystem files among the targets, and returns the other targets.
pub(super) async fn apply_files(
    targets: &[OsString],
    files: &FileArgs,
    flags: &AppOptions,
    (mode, wait): (ApplyMode, bool),
    output: &mut Output,
) -> anyhow::Result<Vec<String>> {
    let around = surroundings()?;
    let mut others = Vec::new();
    for target in targets {
        if config::is_file(target, &around) {
            warn_of_skipped(&around);
            apply_file(target, &around, (files, flags), (mode, wait), output).await?;
        } else {
            others.push(target.to_string_lossy().into_owned());
        }
    }
    Ok(others)
}

/// `startOrRestart`, `startOrReload`, which take only a file.
pub(super) async fn start_or(
    file: &OsString,
    files: &FileArgs,
    (mode, wait): (ApplyMode, bool),
    output: &mut Output,
) -> anyhow::Result<()> {
    let around = surroundings()?;
    if !config::is_file(file, &around) {
        bail!("{} is not an ecosystem file", file.to_string_lossy());
    }
    let flags = AppOptions::default();
    apply_file(file, &around, (files, &flags), (mode, wait), output).await
}

/// `serve`: this program itself, as an app.
pub(super) async fn serve(args: &ServeArgs, output: &mut Output) -> anyhow::Result<()> {
    let around = surroundings()?;
    let site = Site {
        path: around.absolute(args.path.as_deref().unwrap_or_else(|| ".".as_ref())),
        port: args.port.or(args.at).unwrap_or(USUAL_PORT),
        spa: args.spa,
        dotfiles: args.dotfiles,
        follow_links: args.follow_links,
        auth: args
            .basic_auth_username
            .clone()
            .zip(args.basic_auth_password.clone()),
        ..Site::default()
    };
    let spec = site.app(around.env.clone())?;
    let app = AppSpec {
        name: args.name.clone().unwrap_or(spec.name),
        instances: args.instances.unwrap_or(spec.instances),
        ..spec
    };
    let request = StartRequest { app, wait: true };
    let reply: ChangeReply = session().await?.post("/v1/apps", &request).await?;
    show_served(&reply, output)
}
