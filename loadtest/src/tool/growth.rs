//! `growth`: what the daemon's work takes with few workers and with many, and with many apps. What it does for a connection should not depend on
//! how many workers there are, and what it does for a worker should not depend on how many others there are.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::group::free_ports;
use super::private_rpm::{PrivateRpm, argument};
use super::stats::median;
use super::{place, procfs};

/// With so few workers a connection is weighed, and with so many.
const FEW: u32 = 2;
const MANY: u32 = 300;
/// Connections that it is weighed with, one after the other, in each of [`ROUNDS`] parts.
const CONNECTIONS: u32 = 2000;
const ROUNDS: usize = 5;
const LISTS: usize = 20;
/// What a command leaves to be done is over by then.
const SETTLE: Duration = Duration::from_secs(3);
/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(20);
/// The first of the ports of many apps; below those that the kernel gives to clients.
const FIRST_PORT: u16 = 21_000;

/// Options of `growth`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Workers of the largest app.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(3..=1000))]
    workers: u32,
    /// Apps of two workers each.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=5000))]
    apps: u16,
    /// Exit 1 if a floor is missed.
    #[arg(long)]
    check: bool,
}

/// What was measured of one app with so many workers, or of many apps.
struct Row {
    what: String,
    /// Seconds that the command took, and of them the daemon's CPU.
    commands: Vec<(&'static str, f64, f64)>,
    list_ms: f64,
    /// The longest that `list` took in the seconds after a reload.
    list_after_ms: f64,
    idle_percent: f64,
    /// Milliseconds of the daemon's CPU for 1000 connections.
    per_1000: Option<f64>,
    resident: f64,
}

/// Run it.
///
/// # Errors
/// There is no C compiler, or rpm answers something unexpected.
pub(crate) async fn growth(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let program = Program::compile().await?;
    let mut rows = Vec::new();
    for workers in [FEW, MANY.min(arguments.workers), arguments.workers] {
        eprintln!("one app of {workers} workers");
        rows.push(one_app(&program.0, workers).await?);
    }
    eprintln!("{} apps of 2 workers", arguments.apps);
    rows.push(many_apps(&program.0, arguments.apps).await?);
    for row in &rows {
        row.print();
    }
    let ratio = ratio(&rows).context("no connection was weighed")?;
    let slowest = rows.iter().map(|row| row.list_ms).fold(0.0, f64::max);
    let idle = rows.iter().map(|row| row.idle_percent).fold(0.0, f64::max);
    let mut good = true;
    for (what, value, limit) in [
        ("a connection, with 300 workers and with 2, ratio", ratio, 1.3),
        ("list, ms", slowest, 50.0),
        ("idle, % of a core", idle, 0.5),
    ] {
        let met = value <= limit;
        good &= met;
        let met = if met { "met" } else { "missed" };
        println!("{what:<52}{value:>8.2}  at most {limit} {met}");
    }
    Ok(if good || !arguments.check {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn ratio(rows: &[Row]) -> Option<f64> {
    let mut weighed = rows.iter().filter_map(|row| row.per_1000);
    Some((weighed.next()?, weighed.next()?)).map(|(few, many)| many / few)
}

impl Row {
    fn print(&self) {
        println!("{}", self.what);
        for (name, wall, cpu) in &self.commands {
            match cpu.is_nan() {
                true => println!("  {name:<28}{wall:>8.2} s"),
                false => println!("  {name:<28}{wall:>8.2} s, of it the daemon's CPU {cpu:.2} s"),
            }
        }
        println!("  {:<28}{:>8.1} ms", "list", self.list_ms);
        println!(
            "  {:<28}{:>8.1} ms",
            "list, longest after a reload", self.list_after_ms
        );
        println!("  {:<28}{:>8.2} % of a core", "idle", self.idle_percent);
        if let Some(per_1000) = self.per_1000 {
            println!(
                "  {:<28}{per_1000:>8.2} ms of the daemon's CPU",
                "1000 connections"
            );
        }
        println!("  {:<28}{:>8.1} MB", "VmRSS of the daemon", self.resident);
    }
}

/// The commands that are measured, and what they took.
struct Measured<'r> {
    rpm: &'r PrivateRpm,
    daemon: u32,
    commands: Vec<(&'static str, f64, f64)>,
}

impl Measured<'_> {
    fn cpu(&self) -> anyhow::Result<f64> {
        let cpu = procfs::exact_cpu(self.daemon).context("the daemon is gone")?;
        Ok(cpu.as_secs_f64())
    }

    async fn run(&mut self, name: &'static str, arguments: &[&str]) -> anyhow::Result<()> {
        let (before, from) = (self.cpu()?, Instant::now());
        self.rpm.command(arguments).await?;
        let wall = from.elapsed().as_secs_f64();
        self.commands.push((name, wall, self.cpu()? - before));
        Ok(())
    }

    async fn list_ms(&self) -> anyhow::Result<f64> {
        let from = Instant::now();
        self.rpm.command(&["list"]).await?;
        Ok(from.elapsed().as_secs_f64() * 1000.0)
    }

    async fn lists_ms(&self) -> anyhow::Result<Vec<f64>> {
        let mut times = Vec::with_capacity(LISTS);
        for _ in 0..LISTS {
            times.push(self.list_ms().await?);
        }
        Ok(times)
    }

    async fn idle_percent(&self) -> anyhow::Result<f64> {
        let (before, from) = (self.cpu()?, Instant::now());
        tokio::time::sleep(IDLE).await;
        Ok(100.0 * (self.cpu()? - before) / from.elapsed().as_secs_f64())
    }

    /// Lists, reloads what `target` means, lists again, and rests.
    async fn into_row(
        mut self,
        what: String,
        target: &str,
        per_1000: Option<f64>,
    ) -> anyhow::Result<(Self, Row)> {
        tokio::time::sleep(SETTLE).await;
        let list_ms = median(&self.lists_ms().await?);
        self.run("reload", &["reload", target]).await?;
        let after = self.lists_ms().await?;
        tokio::time::sleep(SETTLE).await;
        let idle_percent = self.idle_percent().await?;
        let memory = procfs::memory(self.daemon).context("the daemon is gone")?;
        let row = Row {
            what,
            commands: Vec::new(),
            list_ms,
            list_after_ms: after.into_iter().fold(0.0, f64::max),
            idle_percent,
            per_1000,
            resident: memory.resident as f64 / 1e6,
        };
        Ok((self, row))
    }
}

async fn one_app(program: &Path, workers: u32) -> anyhow::Result<Row> {
    let [port] = free_ports()?;
    let rpm = PrivateRpm::new(place::rpm().await?, vec![("PORT".to_owned(), port.to_string())])?;
    rpm.command(&["ping"]).await?;
    let mut measured = Measured {
        daemon: rpm.daemon().await?,
        rpm: &rpm,
        commands: Vec::new(),
    };
    let count = workers.to_string();
    let start = [
        "start",
        argument(program)?,
        "--name",
        "one",
        "-i",
        &count,
        "--interpreter",
        "none",
    ];
    measured.run("start", &start).await?;
    tokio::time::sleep(SETTLE).await;
    let per_1000 = per_1000(&measured, port).await?;
    let what = format!("one app of {workers} workers");
    let (mut measured, mut row) = measured.into_row(what, "one", Some(per_1000)).await?;
    measured.run("scale down to 2", &["scale", "one", "2"]).await?;
    measured.run("scale up again", &["scale", "one", &count]).await?;
    row.commands = measured.commands;
    row.commands.push(end(&rpm).await?);
    Ok(row)
}

async fn many_apps(program: &Path, count: u16) -> anyhow::Result<Row> {
    let rpm = PrivateRpm::new(place::rpm().await?, Vec::new())?;
    let file = rpm.home().join("many.json");
    let apps = (0..count).map(|number| {
        json!({
            "name": format!("app-{number}"), "script": program, "interpreter": "none", "instances": 2,
            "exec_mode": "cluster", "env": { "PORT": (FIRST_PORT + number).to_string() }
        })
    });
    let text = json!({ "apps": apps.collect::<Vec<_>>() }).to_string();
    std::fs::write(&file, text).context("writing the ecosystem file")?;
    rpm.command(&["ping"]).await?;
    let mut measured = Measured {
        daemon: rpm.daemon().await?,
        rpm: &rpm,
        commands: Vec::new(),
    };
    measured.run("start", &["start", argument(&file)?]).await?;
    let what = format!("{count} apps of 2 workers");
    let (measured, mut row) = measured.into_row(what, "all", None).await?;
    row.commands = measured.commands;
    row.commands.push(end(&rpm).await?);
    Ok(row)
}

/// `kill`: the daemon tells nothing of its CPU afterwards.
async fn end(rpm: &PrivateRpm) -> anyhow::Result<(&'static str, f64, f64)> {
    let from = Instant::now();
    rpm.command(&["kill"]).await?;
    Ok(("kill", from.elapsed().as_secs_f64(), f64::NAN))
}

/// Milliseconds of the daemon's CPU for 1000 connections, one after the other: the median of some rounds.
async fn per_1000(measured: &Measured<'_>, port: u16) -> anyhow::Result<f64> {
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let before = measured.cpu()?;
        for _ in 0..CONNECTIONS {
            connect(port).await?;
        }
        rounds.push((measured.cpu()? - before) * 1000.0 / (f64::from(CONNECTIONS) / 1000.0));
    }
    Ok(median(&rounds))
}

async fn connect(port: u16) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    ensure!(
        answer.starts_with(b"HTTP/1.1 200"),
        "a worker answered {:?}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

/// A small server, compiled for this; removed when it is dropped.
struct Program(PathBuf);

impl Program {
    async fn compile() -> anyhow::Result<Program> {
        let name = format!("rpm-loadtest-server-{}", std::process::id());
        let program = Program(std::env::temp_dir().join(name));
        let mut compiler = Command::new("cc");
        compiler
            .args(["-O2", "-static", "-o"])
            .arg(&program.0)
            .arg(place::fixture("hello.c"));
        let status = compiler.stdin(Stdio::null()).kill_on_drop(true).status().await;
        let status =
            status.context("executing cc, to compile a server that is small enough to have 1000 of it")?;
        ensure!(status.success(), "cc failed: {status}");
        Ok(program)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // What is left of it is in the directory for temporary files.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(per_1000: Option<f64>) -> Row {
        Row {
            what: String::new(),
            commands: Vec::new(),
            list_ms: 0.0,
            list_after_ms: 0.0,
            idle_percent: 0.0,
            per_1000,
            resident: 0.0,
        }
    }

    #[test]
    fn few_workers_are_compared_with_many() {
        let rows = [row(Some(2.0)), row(Some(3.0)), row(Some(9.0)), row(None)];
        assert_eq!(ratio(&rows), Some(1.5));
        assert_eq!(ratio(&rows[3..]), None);
    }

    #[tokio::test]
    async fn what_a_busy_thread_uses_is_seen_to_the_nanosecond() {
        let own = std::process::id();
        let before = procfs::exact_cpu(own).expect("it runs");
        let began = Instant::now();
        while procfs::exact_cpu(own).expect("it runs") == before {
            assert!(began.elapsed() < Duration::from_secs(5), "nothing is seen");
        }
    }
}
