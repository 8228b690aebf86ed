//! Small questions, and their answers as scripts expect them.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use ratatui::crossterm::terminal;
use rpm_wire::api::{ApiError, ChangeReply, Finding, Known, Process, SignalRequest, TargetsRequest, Unknown};
use rpm_wire::pm2;
use rpm_wire::terminal::coloured;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::monit::{Input, inputs};
use super::terminal::{OtherScreen, Signals};
use super::{read, session, surroundings, tell, versions};
use crate::args::ListArgs;
use crate::http::RequestError;
use crate::output::Output;
use crate::render::{self, Look};

/// What `init` writes.
const SAMPLE: &str = "\
module.exports = {
  apps: [
    {
      name: 'app',
      script: './app.js',
      instances: 'max',
      env: { NODE_ENV: 'development' },
      env_production: { NODE_ENV: 'production' },
    },
  ],
};
";

/// What an empty list is shown as.
const NO_APPS: &str = "no apps; `rpm start app.js -i max` starts one";

/// Interval of `list --watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

async fn all() -> anyhow::Result<Vec<Process>> {
    read("/v1/processes?spec=true").await
}

/// `list`.
pub(super) async fn list(args: &ListArgs, output: &mut Output) -> anyhow::Result<()> {
    if args.watch {
        return watch(args, output).await;
    }
    let processes = wanted(args).await?;
    if args.json {
        return Ok(output.json(&processes)?);
    }
    if processes.is_empty() {
        tell(NO_APPS);
        return Ok(());
    }
    if args.mini_list {
        return Ok(output.bytes(render::lines(&processes).as_bytes())?);
    }
    Ok(output.line(render::processes(&processes, output.look))?)
}

/// The requested processes, in the requested order.
async fn wanted(args: &ListArgs) -> anyhow::Result<Vec<Process>> {
    // A hidden process is shown if a target names it.
    let path = match args.hidden || !args.targets.is_empty() {
        true => "/v1/processes?hidden=true",
        false => "/v1/processes",
    };
    let mut processes: Vec<Process> = read(path).await?;
    if !args.targets.is_empty() {
        let request = TargetsRequest {
            targets: args.targets.clone(),
        };
        let meant: Vec<Known> = session().await?.post("/v1/resolve", &request).await?;
        let meant: BTreeSet<u32> = meant.iter().map(|process| process.id).collect();
        processes.retain(|process| meant.contains(&process.id));
    }
    if let Some(sort) = args.sort {
        sort.apply(&mut processes);
    }
    Ok(processes)
}

/// `list --watch`.
async fn watch(args: &ListArgs, output: &mut Output) -> anyhow::Result<()> {
    if output.look == Look::Plain {
        bail!("--watch needs a terminal; `rpm list --json` is for programs");
    }
    // Errors in the targets are reported before the screen changes.
    let first = wanted(args).await?;
    let mut signals = Signals::new().context("cannot wait for signals")?;
    let _screen = OtherScreen::open().context("the terminal cannot be used")?;
    tokio::select! {
        ended = signals.next() => Err(ended.into()),
        ended = redraw(args, first, output) => ended,
    }
}

async fn redraw(args: &ListArgs, first: Vec<Process>, output: &mut Output) -> anyhow::Result<()> {
    let mut inputs = inputs()?;
    let mut processes = first;
    let mut ticks = interval_at(Instant::now() + WATCH_INTERVAL, WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        output.bytes(picture(&processes, output.look, terminal::size()?.1).as_bytes())?;
        output.flush()?;
        tokio::select! {
            _ = ticks.tick() => processes = wanted(args).await?,
            input = inputs.recv() => match input {
                None => return Ok(()),
                Some(Input::Key(key)) if key.quits() => return Ok(()),
                // The window has another size, or it is a key without a meaning.
                Some(_) => {}
            },
        }
    }
}

/// The table from the first line of the screen on, as far as there is room for it.
fn picture(processes: &[Process], look: Look, rows: u16) -> String {
    let table = match processes.is_empty() {
        true => NO_APPS.to_owned(),
        false => render::processes(processes, look).to_string(),
    };
    let table = coloured(&table);
    let lines: Vec<&str> = table.lines().collect();
    let room = usize::from(rows).saturating_sub(2);
    let mut text = "\u{1b}[H".to_owned();
    for line in lines.iter().take(room) {
        text.push_str(line);
        text.push_str("\u{1b}[K\r\n");
    }
    let more = lines.len().saturating_sub(room);
    if more > 0 {
        text.push_str(&format!("… {more} lines more; "));
    }
    text.push_str("every 2 s; q quits\u{1b}[K\u{1b}[J");
    text
}

/// `prettylist`.
pub(super) async fn prettylist(output: &mut Output) -> anyhow::Result<()> {
    let list = pm2::jlist(&all().await?, versions::of);
    Ok(output.line(render::inspected(&list))?)
}

/// `pid`: one a line; of everything, or of the apps of a name.
pub(super) async fn pid(target: Option<&str>, output: &mut Output) -> anyhow::Result<()> {
    let processes = all().await?;
    let meant = |process: &&Process| {
        target.is_none_or(|target| process.name == target || process.id.to_string() == target)
    };
    let found: Vec<&Process> = processes.iter().filter(meant).collect();
    if let Some(target) = target.filter(|_| found.is_empty()) {
        return Err(no_such(target, &processes));
    }
    for process in found {
        output.line(process.pid.unwrap_or(0))?;
    }
    Ok(())
}

/// `id`: those of a name.
pub(super) async fn id(name: &str, output: &mut Output) -> anyhow::Result<()> {
    let processes = all().await?;
    let ids: Vec<String> = processes
        .iter()
        .filter(|process| process.name == name)
        .map(|process| process.id.to_string())
        .collect();
    let text = if ids.is_empty() {
        "[]".to_owned()
    } else {
        format!("[ {} ]", ids.join(", "))
    };
    Ok(output.line(text)?)
}

/// `env`: the variables of a process.
pub(super) async fn env(target: &str, output: &mut Output) -> anyhow::Result<()> {
    let processes = all().await?;
    let meant = |process: &&Process| process.id.to_string() == target || process.name == target;
    let process = processes.iter().find(meant);
    let process = process.ok_or_else(|| no_such(target, &processes))?;
    let spec = process
        .spec
        .as_ref()
        .context("the daemon did not report its variables")?;
    for (name, value) in &spec.env {
        output.line(format_args!("{name}: {value}"))?;
    }
    Ok(())
}

/// The daemon's error for an unknown target, for targets that are looked up here.
fn no_such(target: &str, processes: &[Process]) -> anyhow::Error {
    let known: BTreeSet<&String> = processes.iter().map(|process| &process.name).collect();
    let known: Vec<String> = known.into_iter().cloned().collect();
    let error = ApiError {
        error: format!("no process or app {target:?}"),
        hint: Some("`rpm list` shows them".to_owned()),
        last_lines: Vec::new(),
        unknown: Some(Box::new(Unknown {
            target: target.to_owned(),
            known,
        })),
    };
    RequestError::Api(error).into()
}

/// `reset`.
pub(super) async fn reset(targets: &[String], output: &mut Output) -> anyhow::Result<()> {
    let request = TargetsRequest {
        targets: targets.to_vec(),
    };
    let reply: ChangeReply = session().await?.post("/v1/reset", &request).await?;
    super::show(&reply, output)
}

/// `sendSignal`.
pub(super) async fn send_signal(signal: &str, targets: &[String], output: &mut Output) -> anyhow::Result<()> {
    let request = SignalRequest {
        targets: targets.to_vec(),
        signal: signal.to_owned(),
    };
    let reply: ChangeReply = session().await?.post("/v1/signal", &request).await?;
    super::show(&reply, output)
}

/// `flush`.
pub(super) async fn flush(targets: &[String]) -> anyhow::Result<()> {
    let request = TargetsRequest {
        targets: targets.to_vec(),
    };
    let files: Vec<String> = session().await?.post("/v1/flush", &request).await?;
    for file in files.iter().filter(|file| *file != "/dev/null") {
        tell(format!("emptied {file}"));
    }
    Ok(())
}

/// `reloadLogs`.
pub(super) async fn reload_logs() -> anyhow::Result<()> {
    let _: ChangeReply = session()
        .await?
        .post("/v1/reopen-logs", &serde_json::json!({}))
        .await?;
    tell("log files reopened");
    Ok(())
}

/// `init`: writes a sample.
pub(super) fn init() -> anyhow::Result<()> {
    let path: PathBuf = surroundings()?.cwd.join("ecosystem.config.js");
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                anyhow!("{} exists already; remove or rename it first", path.display())
            }
            _ => anyhow::Error::new(error).context(format!("cannot write {}", path.display())),
        })?;
    file.write_all(SAMPLE.as_bytes())?;
    tell(format!(
        "{} written; edit it, then `rpm start ecosystem.config.js`",
        path.display()
    ));
    Ok(())
}

/// `report`: information for a bug report, without secrets.
pub(super) async fn report(output: &mut Output) -> anyhow::Result<()> {
    let session = session().await?;
    let pong = session.pong().clone();
    drop(session);
    let processes: Vec<Process> = read("/v1/processes").await?;
    let findings: Vec<Finding> = read("/v1/doctor").await?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    output.line(format_args!(
        "version  {} (daemon {}, pid {})",
        env!("CARGO_PKG_VERSION"),
        pong.version,
        pong.pid
    ))?;
    output.line(format_args!("kernel   {}", kernel.trim()))?;
    output.line(format_args!(
        "cpus     {}",
        std::thread::available_parallelism().map_or(1, usize::from)
    ))?;
    output.line("")?;
    output.line(render::doctor(&findings, output.look))?;
    if !processes.is_empty() {
        output.line(render::processes(&processes, output.look))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_fits_the_screen() {
        let process = |id: u32| {
            let text = format!(
                r#"{{"id":{id},"name":"web","instance":{id},"generation":1,"exec_mode":"fork","plane":"none","status":"online",
                "pid":7,"uptime_ms":1,"started_at_ms":0,"created_at_ms":0,"restarts":0,"unstable_restarts":0,"cpu_percent":0.0,
                "memory_bytes":1,"connections":null,"exit_code":null,"out_log":"","err_log":""}}"#
            );
            serde_json::from_str(&text).expect("a process")
        };
        let all: Vec<Process> = (0..40).map(process).collect();
        let text = picture(&all, Look::Terminal, 24);
        assert!(
            text.starts_with("\u{1b}[H") && text.ends_with("\u{1b}[J"),
            "{text:?}"
        );
        assert_eq!(text.split("\r\n").count(), 23, "{text}");
        assert!(text.contains("… 22 lines more; every 2 s; q quits"), "{text}");
        let text = picture(&all[..1], Look::Terminal, 24);
        assert!(text.contains(" online ") && !text.contains("more"), "{text}");
        assert!(picture(&[], Look::Terminal, 24).contains("no apps"));
    }
}
