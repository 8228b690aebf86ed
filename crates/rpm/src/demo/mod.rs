//! `rpm demo`: what rpm is for, in five seconds, with nothing installed.
//!
//! It starts a daemon of its own and drives it through the same commands that a user types.

pub(crate) mod worker;

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rpm_loadtest::{Kind, Load, Outcome, Report, Running, Stop};
use rpm_shared::{OutputError, say};
use rpm_sys::{PidFd, Signal};
use rpm_wire::api::{AppInfo, Process};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// First argument of a sample worker.
pub(crate) const WORKER: &str = "demo-worker";
/// Traffic before, and after, a worker is killed.
const HALF: Duration = Duration::from_millis(1500);
const CLIENTS: usize = 16;

/// Runs the demonstration; on `port` it goes on serving until it is interrupted.
pub(crate) fn run(port: Option<u16>) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let daemon = PrivateDaemon::set()?;
    let played = runtime.block_on(async {
        // Before anything is started: without them an interruption would leave it behind.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            played = play(&daemon, port) => played,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        }
    });
    played.and(daemon.clear())
}

/// Starts the clients, on a thread of their own: the commands of the demonstration block the other one.
///
/// A runtime of several threads would have every task of this program compiled a second time.
fn traffic(address: SocketAddr, stop: &Stop) -> anyhow::Result<Running> {
    let load = Load {
        kind: Kind::NewConnection,
        clients: CLIENTS,
        ..Load::new(address)
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let running = {
        let _spawns_there = runtime.enter();
        load.start_simple(stop)
    };
    // It ends with the process.
    std::thread::Builder::new().spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(running)
}

/// A private daemon.
struct PrivateDaemon {
    home: PathBuf,
    exe: PathBuf,
}

impl PrivateDaemon {
    fn set() -> anyhow::Result<PrivateDaemon> {
        let home = std::env::temp_dir().join(format!("rpm-demo-{}", std::process::id()));
        let exe = std::env::current_exe().context("cannot find this program's own file")?;
        Ok(PrivateDaemon { home, exe })
    }

    fn rpm(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<String> {
        let ran = Command::new(&self.exe)
            .args(args)
            .env("RPM_HOME", &self.home)
            .output()?;
        if !ran.status.success() {
            bail!("{}", String::from_utf8_lossy(&ran.stderr).trim().to_owned());
        }
        Ok(String::from_utf8(ran.stdout)?)
    }

    fn clear(self) -> anyhow::Result<()> {
        self.rpm(["kill"])?;
        std::fs::remove_dir_all(&self.home).context("cannot remove the demo's directory")
    }
}

impl Drop for PrivateDaemon {
    fn drop(&mut self) {
        if self.home.exists() {
            // Only after a failure, which has been reported.
            let _ = self.rpm(["kill"]);
            let _ = std::fs::remove_dir_all(&self.home);
        }
    }
}

async fn play(daemon: &PrivateDaemon, port: Option<u16>) -> anyhow::Result<()> {
    let chosen = match port {
        Some(port) => port,
        None => free_port()?,
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, chosen));
    start(daemon, address)?;
    let before = processes(daemon)?;
    let info: AppInfo = serde_json::from_slice(daemon.rpm(["describe", "demo", "--json"])?.as_bytes())?;
    let steering = info
        .listeners
        .first()
        .map(|l| format!("{} ({})", l.steering, l.reason))
        .unwrap_or_default();
    say(format_args!("{} workers share http://{address}/", before.len()))?;
    say(format_args!("steering: {steering}\n"))?;

    let stop = Stop::new();
    let running = traffic(address, &stop)?;
    tokio::time::sleep(HALF).await;
    let victim = kill_one(&before)?;
    say(format_args!(
        "kill -9 {} (worker {}), under load",
        victim.pid.unwrap_or_default(),
        victim.instance
    ))?;
    let replaced = replacement(daemon, &victim, &running).await?;
    tokio::time::sleep(HALF).await;
    stop.stop();
    let report = running.finish().await;
    say(format_args!("pid {replaced} took its place and its socket\n"))?;
    show(&report)?;
    say(format_args!("\n{}", verdict(&report, before.len())))?;
    // A request that the killed worker was answering is lost with it, and nothing else may be.
    report.check_allowing(&[Outcome::ResetFresh, Outcome::Truncated])?;
    if port.is_some() {
        say(format_args!("\nserving http://{address}/ until you press Ctrl-C"))?;
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Two workers at least, so that there is one to survive.
fn start(daemon: &PrivateDaemon, address: SocketAddr) -> anyhow::Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = cpus.max(2).to_string();
    let address = address.to_string();
    let exe = daemon.exe.as_os_str();
    let start: [&OsStr; 12] = [
        "start".as_ref(),
        exe,
        "--name".as_ref(),
        "demo".as_ref(),
        "--interpreter".as_ref(),
        "none".as_ref(),
        "--instances".as_ref(),
        workers.as_ref(),
        "--listen".as_ref(),
        address.as_ref(),
        "--".as_ref(),
        WORKER.as_ref(),
    ];
    daemon.rpm(start).map(drop)
}

fn free_port() -> anyhow::Result<u16> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free on 127.0.0.1")?;
    Ok(probe.local_addr()?.port())
}

fn processes(daemon: &PrivateDaemon) -> anyhow::Result<Vec<Process>> {
    // Bytes, as everywhere: what reads from text would be compiled for all these types a second time.
    Ok(serde_json::from_slice(
        daemon.rpm(["list", "--json"])?.as_bytes(),
    )?)
}

fn kill_one(processes: &[Process]) -> anyhow::Result<Process> {
    let victim = processes.first().context("no worker runs")?;
    let pid = victim.pid.context("the worker has no process")?;
    PidFd::open(pid)?.send_signal(Signal::KILL)?;
    Ok(victim.clone())
}

/// Waits, as long as requests are answered, until the killed worker has a successor.
async fn replacement(daemon: &PrivateDaemon, victim: &Process, running: &Running) -> anyhow::Result<u32> {
    let patience = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let now = processes(daemon)?
            .into_iter()
            .find(|process| process.id == victim.id);
        if let Some(pid) = now
            .and_then(|process| process.pid)
            .filter(|pid| Some(*pid) != victim.pid)
        {
            return Ok(pid);
        }
        if tokio::time::Instant::now() > patience {
            bail!(
                "the killed worker was not replaced ({} requests were answered)",
                running.so_far().outcomes.ok()
            );
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn show(report: &Report) -> Result<(), OutputError> {
    say(format_args!(
        "{} requests, a new connection each, {:.0} per second:",
        report.outcomes.total(),
        report.throughput()
    ))?;
    for (outcome, count) in report.outcomes.counts() {
        if count > 0
            || matches!(
                outcome,
                Outcome::Refused | Outcome::ResetFresh | Outcome::TimedOut
            )
        {
            say(format_args!("  {:<12} {count}", outcome.as_str()))?;
        }
    }
    for (worker, count) in &report.responders {
        say(format_args!("  by worker {worker:<3} {count}"))?;
    }
    say(format_args!(
        "  p50 {} µs, p99 {} µs",
        report.latency.p50_us(),
        report.latency.p99_us()
    ))
}

/// What was shown, in one line.
fn verdict(report: &Report, workers: usize) -> String {
    let (total, ok) = (report.outcomes.total(), report.outcomes.ok());
    let cut: u64 = [Outcome::ResetFresh, Outcome::Truncated]
        .into_iter()
        .map(|outcome| report.outcomes.count(outcome))
        .sum();
    let lost = total - ok;
    let mut verdict =
        format!("{total} requests to {workers} workers, one of them killed under load: {lost} lost");
    match (lost, cut) {
        (0, _) => {}
        (_, 1) if lost == cut => verdict.push_str(" (the killed worker was answering it)"),
        _ if lost == cut => verdict.push_str(" (the killed worker was answering them)"),
        _ => verdict.push_str(&format!(", of which the killed worker was answering {cut}")),
    }
    verdict
}
