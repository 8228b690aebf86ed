//! The commands: their requests, and how responses are printed.

mod changes;
mod complaint;
mod conf;
mod daemon;
mod deploy;
mod described;
mod dump;
mod events;
mod existing;
mod import;
mod inspect;
mod leaving;
mod link;
mod logs;
mod monit;
mod observe;
mod ready;
mod receivers;
mod runtime;
mod start;
mod startup;
mod talk;
mod terminal;
mod versions;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rpm_wire::api::{
    Action, ActionRequest, ApiError, AppInfo, AppSpec, ApplyMode, ChangeReply, Finding, Follow, Known,
    Process, Progress, RollbackRequest, ScaleRequest, TargetsRequest,
};
use rpm_wire::pm2;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::{Client, Command, FileArgs, LogsArgs, StartArgs, Targets};
use crate::connect::{Lost, connect_or_start, program};
use crate::hints::command;
use crate::home::{Home, home_dir};
use crate::http::{RequestError, Session, percent_encoded};
use crate::output::{Output, OutputError};
use crate::progress::Board;
use crate::render;
use crate::resolve::{self, Surroundings};
use changes::How;
pub(crate) use complaint::tell;
use complaint::{be_silent, complain, complaint, is_silent};
pub(crate) use conf::keys_that_are_set;
pub use monit::run as monit;
pub use observe::observed;
use terminal::Ended;
pub use versions::of as versions;

/// How often a read is tried if the daemon goes away meanwhile, and the pause before the next try.
const READ_TRIES: u32 = 5;
const READ_PAUSE: Duration = Duration::from_millis(50);

/// The reasons for which a daemon of this version would reject an app, known before it is asked to start it.
pub type Check = fn(&AppSpec) -> Vec<ApiError>;

/// Runs a command and reports errors on standard error. Exit code 0 or 1.
#[must_use]
pub fn run(client: &Client, check: Check) -> ExitCode {
    if client.silent {
        be_silent();
    }
    concluded(execute(client, check))
}

fn concluded(done: anyhow::Result<()>) -> ExitCode {
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    if error.downcast_ref().is_some_and(OutputError::is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    if let Some(ended) = error.downcast_ref::<Ended>() {
        return ended.code();
    }
    if error.is::<Told>() {
        return ExitCode::FAILURE;
    }
    complain(complaint(&error));
    match error.downcast_ref() {
        Some(runtime::NothingRuns) => ExitCode::from(2),
        None => ExitCode::FAILURE,
    }
}

fn execute(client: &Client, check: Check) -> anyhow::Result<()> {
    let mut output = Output::new(client.no_color);
    if let Command::Completion { shell } = &client.command {
        output.bytes(shell.script(&client.program).as_bytes())?;
    } else {
        event_loop()?.block_on(converse(client, check, &mut output))?;
    }
    Ok(output.flush()?)
}

fn event_loop() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot set up the event loop")
}

async fn converse(client: &Client, check: Check, output: &mut Output) -> anyhow::Result<()> {
    existing::check(&client.command).await?;
    match &client.command {
        Command::Start(args) => {
            start::start(args, output).await?;
            match args.attach {
                true => follow_all(output).await,
                false => Ok(()),
            }
        }
        Command::StartOrRestart { file } => {
            let mode = (ApplyMode::Restart, !file.no_wait);
            start::start_or(&file.file, &file.files, mode, output).await
        }
        Command::StartOrReload { file } => {
            let mode = (ApplyMode::Reload, !file.no_wait);
            start::start_or(&file.file, &file.files, mode, output).await
        }
        Command::Serve(args) => start::serve(args, output).await,
        Command::Validate { files, strict } => described::validate(files, *strict, check, output),
        Command::Init { .. } => inspect::init(),
        command @ (Command::Stop {
            targets, files, hard, ..
        }
        | Command::Delete { targets, files, hard }) => stop(command, (targets, files), *hard, output).await,
        command @ (Command::Restart { start, .. } | Command::Reload { start, .. }) => {
            renew(start, How::of(command, start), output).await
        }
        Command::Rollback { app, no_wait, wait } => {
            let request = RollbackRequest {
                target: app.clone(),
                wait: !no_wait,
                follow: follow(*wait),
            };
            change_step_by_step("/v1/rollback", &request, request.wait, output).await
        }
        Command::Scale { app, count, no_wait } => {
            let request = ScaleRequest {
                target: app.clone(),
                count: count.clone(),
                wait: !no_wait,
            };
            change("/v1/scale", &request, output).await
        }
        Command::Runtime(args) => runtime::run(args, output).await,
        Command::Set { key, value } => conf::set(key.as_deref(), value.as_deref(), output).await,
        Command::Multiset { values } => conf::multiset(values, output).await,
        Command::Resurrect { no_wait } => dump::resurrect(!no_wait, check, output).await,
        Command::Import {
            file,
            dry_run,
            no_wait,
        } => import::import(file.as_deref(), (*dry_run, !no_wait), check, output).await,
        Command::Update { binary } => daemon::update(binary.as_deref(), output).await,
        Command::Kill { keep_apps, service } => {
            let keep_apps = *keep_apps || *service && startup::restarting::is_restarting();
            if keep_apps {
                daemon::leave().await
            } else {
                daemon::kill().await
            }
        }
        Command::Observe(switch) => observe::switch(switch, output).await,
        question => ask(question, output).await,
    }
}

/// `restart` and `reload`, of ecosystem files and of known apps.
async fn renew(args: &StartArgs, how: How, output: &mut Output) -> anyhow::Result<()> {
    let mode = (how.mode, how.wait);
    let files = FileArgs::of(args);
    let flags = resolve::options_of(args, None)?;
    args.needless.said().iter().for_each(tell);
    let others = start::apply_files(&args.targets, &files, &flags, mode, output).await?;
    if !others.is_empty() {
        changes::apply(start::by_script(others).await?, args, how, output).await?;
    }
    match args.attach {
        true => follow_all(output).await,
        false => Ok(()),
    }
}

/// `--attach`.
async fn follow_all(output: &mut Output) -> anyhow::Result<()> {
    let all = LogsArgs {
        lines: 15,
        ..LogsArgs::default()
    };
    logs::logs(&all, output).await
}

/// Commands that do not change a process.
async fn ask(command: &Command, output: &mut Output) -> anyhow::Result<()> {
    match command {
        Command::List(args) => inspect::list(args, output).await,
        Command::Jlist => jlist(output).await,
        Command::Describe { target, json } => describe(target, *json, output).await,
        Command::Logs(args) => logs::logs(args, output).await,
        Command::Events(args) => events::events(args, output).await,
        Command::Ping { json, no_start } => existing::ping(*json, *no_start, output).await,
        Command::Ready { targets, json } => ready::ready(targets, *json, output).await,
        Command::Doctor { json } => doctor(*json, output).await,
        Command::Prettylist => inspect::prettylist(output).await,
        Command::Pid { target } => inspect::pid(target.as_deref(), output).await,
        Command::Id { name } => inspect::id(name, output).await,
        Command::Env { target } => inspect::env(target, output).await,
        Command::Flush { targets } => inspect::flush(targets).await,
        Command::ReloadLogs => inspect::reload_logs().await,
        Command::Reset { targets } => inspect::reset(targets, output).await,
        Command::SendSignal { signal, targets } => inspect::send_signal(signal, targets, output).await,
        Command::Deploy { words } => deploy::deploy(words),
        Command::Link(args) => link::link(args, output),
        Command::Report => inspect::report(output).await,
        Command::Save { force } => dump::save(*force).await,
        Command::Cleardump => dump::clear(),
        Command::Startup(args) => startup::install(args, output),
        Command::Unstartup(args) => startup::remove(args, output),
        Command::Get { key } => conf::get(key.as_deref(), output),
        Command::Unset { key } => conf::unset(key),
        Command::Send { target, line } => talk::send(target, line).await,
        Command::Attach { target, .. } => talk::attach(target, output).await,
        Command::Trigger {
            target,
            action,
            params,
        } => talk::trigger(target, action, params.as_deref(), output).await,
        // Done by `execute`, `converse` and `monit::run`. All are named, so that a new command that nobody carries out does not compile.
        Command::Completion { .. }
        | Command::Monit
        | Command::Start(_)
        | Command::StartOrRestart { .. }
        | Command::StartOrReload { .. }
        | Command::Serve(_)
        | Command::Validate { .. }
        | Command::Init { .. }
        | Command::Stop { .. }
        | Command::Delete { .. }
        | Command::Restart { .. }
        | Command::Reload { .. }
        | Command::Rollback { .. }
        | Command::Scale { .. }
        | Command::Runtime(_)
        | Command::Set { .. }
        | Command::Multiset { .. }
        | Command::Resurrect { .. }
        | Command::Import { .. }
        | Command::Update { .. }
        | Command::Observe(_)
        | Command::Kill { .. } => Ok(()),
    }
}

/// Connects to the daemon, and starts it if it is not running.
async fn session() -> anyhow::Result<Session> {
    session_that(Lost::Refuse).await
}

async fn session_that(lost: Lost) -> anyhow::Result<Session> {
    let home = Home::open(home_dir()?)?;
    let program = program().context("cannot find this program's own file")?;
    let mut tries = READ_TRIES;
    loop {
        match Session::open(connect_or_start(&home, &program, lost).await?).await {
            Ok(session) => return greeted(session),
            Err(error) => once_more(error, &mut tries).await?,
        }
    }
}

/// Reads from the daemon. If it dies or is updated meanwhile, its successor is asked.
async fn read<T: DeserializeOwned>(path: &str) -> anyhow::Result<T> {
    let mut tries = READ_TRIES;
    loop {
        match session().await?.get(path).await {
            Ok(known) => return Ok(known),
            Err(error) => once_more(error, &mut tries).await?,
        }
    }
}

async fn once_more(error: RequestError, tries: &mut u32) -> Result<(), RequestError> {
    *tries -= 1;
    match error {
        RequestError::Broken(_) | RequestError::Cut(_) if *tries > 0 => {
            tokio::time::sleep(READ_PAUSE).await;
            Ok(())
        }
        error => Err(error),
    }
}

fn greeted(session: Session) -> anyhow::Result<Session> {
    let (ours, theirs) = (env!("CARGO_PKG_VERSION"), &session.pong().version);
    if theirs != ours {
        tell(format!(
            "warning: the daemon is of version {theirs}, this program of version {ours}"
        ));
    }
    Ok(session)
}

/// The environment of this command, if apps are to get it (`--update-env`).
fn own_env(wanted: bool) -> anyhow::Result<BTreeMap<String, String>> {
    if !wanted {
        return Ok(BTreeMap::new());
    }
    let around = surroundings()?;
    warn_of_skipped(&around);
    Ok(around.env)
}

fn surroundings() -> anyhow::Result<Surroundings> {
    Surroundings::of_process().context("the current directory is gone")
}

fn warn_of_skipped(around: &Surroundings) {
    if !around.skipped.is_empty() {
        tell(format!(
            "warning: not UTF-8 and not passed on: {}",
            around.skipped.join(", ")
        ));
    }
}

fn action(action: Action, targets: Vec<String>, wait: bool) -> ActionRequest {
    ActionRequest {
        action,
        targets,
        hard: false,
        toggle_watch: false,
        env: BTreeMap::new(),
        wait,
        follow: Follow::default(),
    }
}

/// `stop` and `delete`.
async fn stop(
    command_line: &Command,
    (targets, files): (&Targets, &FileArgs),
    hard: bool,
    output: &mut Output,
) -> anyhow::Result<()> {
    let (what, verb) = match command_line {
        Command::Delete { .. } => (Action::Delete, "delete"),
        _ => (Action::Stop, "stop"),
    };
    let names = start::by_script(described::names_of(&targets.targets, files)?).await?;
    if files.dry_run {
        let request = TargetsRequest { targets: names };
        let meant: Vec<Known> = session().await?.post("/v1/resolve", &request).await?;
        for line in leaving::would(what, &meant) {
            output.line(line)?;
        }
        return Ok(());
    }
    let request = ActionRequest {
        hard,
        toggle_watch: matches!(command_line, Command::Stop { watch: true, .. }),
        ..action(what, names, !targets.no_wait)
    };
    let named = request.targets.iter().map(String::as_str);
    let at_once = command([verb].into_iter().chain(named).chain(["--hard"]));
    leaving::explained(change("/v1/actions", &request, output), &at_once).await
}

fn follow(drained: bool) -> Follow {
    Follow {
        drained,
        progress: true,
    }
}

async fn change(path: &str, request: &impl Serialize, output: &mut Output) -> anyhow::Result<()> {
    let reply: ChangeReply = session().await?.post(path, request).await?;
    show(&reply, output)
}

/// The same for a request that streams its progress; without `wait` the response comes at once.
async fn change_step_by_step(
    path: &str,
    request: &impl Serialize,
    wait: bool,
    output: &mut Output,
) -> anyhow::Result<()> {
    if !wait {
        return change(path, request, output).await;
    }
    let mut session = session().await?;
    let mut stream = session.post_for_lines(path, request).await?;
    let mut board = Board::on_stderr();
    while let Some(lines) = stream.next().await? {
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line).context("the daemon sent no line of progress")? {
                Progress::Step(_) if is_silent() => {}
                Progress::Step(step) => board.step(&step),
                Progress::Done(reply) => {
                    board.end();
                    return show_served(&reply, output);
                }
                Progress::Failed(error) => {
                    board.end();
                    return Err(failed(error, &board.apps(), output).await);
                }
            }
        }
    }
    bail!("the daemon ended before the change was made; see `rpm list`")
}

/// If several apps were to be changed, the error is printed here, with what they are now below it.
async fn failed(error: ApiError, apps: &[String], output: &mut Output) -> anyhow::Error {
    let error = RequestError::Api(error).into();
    let processes = match apps.len() > 1 && !is_silent() {
        true => read("/v1/processes").await,
        false => return error,
    };
    let Ok(mut processes): anyhow::Result<Vec<Process>> = processes else {
        return error;
    };
    processes.retain(|process| apps.contains(&process.name));
    complain(complaint(&error));
    let shown = output
        .line(render::processes(&processes, output.look))
        .and_then(|()| output.flush());
    shown.map_or_else(Into::into, |()| Told.into())
}

/// The error was printed already.
#[derive(Debug, thiserror::Error)]
#[error("the change failed")]
struct Told;

fn show(reply: &ChangeReply, output: &mut Output) -> anyhow::Result<()> {
    if is_silent() {
        return Ok(());
    }
    for note in &reply.notes {
        tell(format!("note: {note}"));
    }
    if reply.processes.is_empty() {
        tell("done");
        return Ok(());
    }
    Ok(output.line(render::processes(&reply.processes, output.look))?)
}

/// The same after a change that starts workers: and where clients find them.
fn show_served(reply: &ChangeReply, output: &mut Output) -> anyhow::Result<()> {
    show(reply, output)?;
    if !is_silent() {
        // On a terminal it is the last line.
        output.flush()?;
        render::served(&reply.processes).iter().for_each(tell);
    }
    Ok(())
}

async fn jlist(output: &mut Output) -> anyhow::Result<()> {
    let processes: Vec<Process> = read("/v1/processes?spec=true").await?;
    Ok(output.line(pm2::jlist(&processes, versions::of))?)
}

async fn describe(target: &str, json: bool, output: &mut Output) -> anyhow::Result<()> {
    let path = format!("/v1/apps/{}", percent_encoded(target));
    let info: AppInfo = read(&path).await?;
    if json {
        return Ok(output.json(&info)?);
    }
    Ok(output.bytes(render::app(&info, &versions::of(&info.spec), output.look).as_bytes())?)
}

async fn doctor(json: bool, output: &mut Output) -> anyhow::Result<()> {
    let findings: Vec<Finding> = read("/v1/doctor").await?;
    if json {
        return Ok(output.json(&findings)?);
    }
    let table = render::doctor(&findings, output.look);
    Ok(output.line(format_args!("{table}"))?)
}
