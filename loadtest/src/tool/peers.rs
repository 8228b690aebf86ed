//! `reload-peers`: the same reloads under rpm, PM2 and node:cluster with a rolling script, side by side.

use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rpm_loadtest::{Kind, Latency, Load, Pace, Report, Stop};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;

use super::fair::in_own_session;
use super::group::free_ports;
use super::pm2::Pm2;
use super::private_rpm::{PrivateRpm, argument};
use super::stats::median;
use super::{pidfds, place};

/// Clients of each kind.
const CLIENTS: usize = 8;
/// Requests per second of each kind: a load that leaves the machine room for what a reload costs.
const RATE: f64 = 150.0;
/// Load alone, between two reloads.
const BETWEEN: Duration = Duration::from_millis(500);
/// The longest a reload may take.
const RELOAD_WITHIN: Duration = Duration::from_secs(120);
/// For workers to answer.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// How much slower than beside booting processes requests may be during a reload (p99).
const P99_FLOOR: f64 = 1.5;

/// Options of `reload-peers`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Reloads of each, in turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Workers of the apps that are reloaded under load.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Workers of the apps that are reloaded without any.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=64))]
    idle_workers: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Who reloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Rpm,
    Pm2,
    Cluster,
}

impl Peer {
    const ALL: [Peer; 3] = [Peer::Rpm, Peer::Pm2, Peer::Cluster];

    fn as_str(self) -> &'static str {
        match self {
            Peer::Rpm => "rpm",
            Peer::Pm2 => "pm2",
            Peer::Cluster => "cluster",
        }
    }
}

/// A running app of one of them; dropping it ends it.
enum Running {
    Rpm(PrivateRpm),
    Pm2(Pm2),
    Cluster(Box<Cluster>),
}

/// A primary of node:cluster, and what it prints.
struct Cluster {
    primary: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        pidfds::end(&pidfds::hold(&self.primary.id().into_iter().collect::<Vec<_>>()));
    }
}

/// What was measured of one of them under load.
struct Measured {
    peer: Peer,
    report: Report,
    seconds: Vec<f64>,
}

/// Run it: exit code 1 if a request to rpm failed, or rpm was slower than it should be.
///
/// # Errors
/// One of them cannot be started or does not reload.
pub(crate) async fn peers(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut measured = Vec::new();
    for peer in Peer::ALL {
        match under_load(peer, &arguments).await {
            Ok(one) => measured.push(one),
            Err(error) if peer != Peer::Rpm => eprintln!("{} is left out: {error:#}", peer.as_str()),
            Err(error) => return Err(error),
        }
    }
    let (during, beside) = latencies(&arguments).await?;
    let idle = idle(&arguments).await?;
    let ratio = during.p99_us() as f64 / beside.p99_us().max(1) as f64;
    if arguments.json {
        println!("{:#}", to_json(&measured, &idle, &during, &beside));
    } else {
        show(&arguments, &measured, &idle);
        println!(
            "p99 of requests to rpm during a reload {:.2} ms, while as many Node processes boot beside it {:.2} ms: ratio {ratio:.2}",
            during.p99_us() as f64 / 1000.0,
            beside.p99_us() as f64 / 1000.0
        );
    }
    let rpm = measured
        .iter()
        .find(|one| one.peer == Peer::Rpm)
        .context("rpm was measured")?;
    let of = |peer: Peer| {
        idle.iter()
            .find(|(of, _)| *of == peer)
            .map(|(_, times)| median(times))
    };
    let faster = of(Peer::Pm2).is_none_or(|pm2| of(Peer::Rpm).is_some_and(|rpm| rpm < pm2));
    let good = rpm.report.check_clean().is_ok() && faster && ratio <= P99_FLOOR;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(arguments: &Arguments, measured: &[Measured], idle: &[(Peer, Vec<f64>)]) {
    println!(
        "{} reloads of {} workers under load",
        arguments.rounds, arguments.workers
    );
    for Measured {
        peer,
        report,
        seconds,
    } in measured
    {
        println!(
            "{:<8} {}  median {:.2} s",
            peer.as_str(),
            report.outcomes,
            median(seconds)
        );
    }
    println!("reload of {} idle workers", arguments.idle_workers);
    for (peer, seconds) in idle {
        println!(
            "{:<8} median {:.2} s of {seconds:.2?}",
            peer.as_str(),
            median(seconds)
        );
    }
}

fn to_json(measured: &[Measured], idle: &[(Peer, Vec<f64>)], during: &Latency, beside: &Latency) -> Value {
    let under_load = measured.iter().map(|one| {
        let outcomes = one.report.outcomes.counts();
        let outcomes = outcomes.map(|(of, count)| (of.to_string(), json!(count)));
        json!({
            "peer": one.peer.as_str(),
            "outcomes": Value::Object(outcomes.collect()),
            "reload_seconds": one.seconds,
        })
    });
    json!({
        "under_load": under_load.collect::<Vec<_>>(),
        "idle": idle.iter().map(|(peer, times)| json!({ "peer": peer.as_str(), "reload_seconds": times }))
            .collect::<Vec<_>>(),
        "p99_us": { "during_reload": during.p99_us(), "beside_booting_processes": beside.p99_us() },
    })
}

async fn under_load(peer: Peer, arguments: &Arguments) -> anyhow::Result<Measured> {
    let [port] = free_ports()?;
    let mut running = Running::start(peer, port, arguments.workers).await?;
    let stop = Stop::new();
    let clients = load(port, &stop);
    let mut seconds = Vec::new();
    for _ in 0..arguments.rounds {
        seconds.push(running.reload().await?.as_secs_f64());
        tokio::time::sleep(BETWEEN).await;
    }
    stop.stop();
    let mut report = Report::default();
    for client in clients {
        report.merge(&client.finish().await);
    }
    Ok(Measured {
        peer,
        report,
        seconds,
    })
}

fn load(port: u16, stop: &Stop) -> Vec<rpm_loadtest::Running> {
    let of = |kind| {
        let load = Load {
            kind,
            clients: CLIENTS,
            pace: Pace::Open { per_second: RATE },
            ..Load::local(port)
        };
        load.start(stop)
    };
    [Kind::NewConnection, Kind::KeepAlive].map(of).into()
}

/// Latencies during reloads, and during windows in which as many Node processes of the app boot and take no traffic.
async fn latencies(arguments: &Arguments) -> anyhow::Result<(Latency, Latency)> {
    let [port, other] = free_ports()?;
    let mut running = Running::start(Peer::Rpm, port, arguments.workers).await?;
    let (mut during, mut beside) = (Latency::default(), Latency::default());
    for _ in 0..arguments.rounds {
        let stop = Stop::new();
        let clients = load(port, &stop);
        running.reload().await?;
        during.merge(&finished(clients, &stop).await);
        let stop = Stop::new();
        let clients = load(port, &stop);
        boot_beside(arguments.workers, other).await?;
        beside.merge(&finished(clients, &stop).await);
    }
    Ok((during, beside))
}

async fn finished(clients: Vec<rpm_loadtest::Running>, stop: &Stop) -> Latency {
    stop.stop();
    let mut latency = Latency::default();
    for client in clients {
        latency.merge(&client.finish().await.latency);
    }
    latency
}

/// So many processes of the app boot, until one of them answers, and are ended.
async fn boot_beside(workers: u16, port: u16) -> anyhow::Result<()> {
    let node = place::node().await?;
    let mut booting = Vec::new();
    for instance in 0..workers {
        let mut command = in_own_session(&node);
        command.arg(place::script("app.js"));
        command.env("PORT", port.to_string()).env("REUSE_PORT", "1");
        command.env("NODE_APP_INSTANCE", instance.to_string());
        booting.push(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .kill_on_drop(true)
                .spawn()?,
        );
    }
    answered(port, usize::from(workers)).await
}

/// Times of reloads without load, in turn.
async fn idle(arguments: &Arguments) -> anyhow::Result<Vec<(Peer, Vec<f64>)>> {
    let ports: [u16; 3] = free_ports()?;
    let mut all = Vec::new();
    for (peer, port) in Peer::ALL.into_iter().zip(ports) {
        match Running::start(peer, port, arguments.idle_workers).await {
            Ok(running) => all.push((peer, running, Vec::new())),
            Err(error) if peer != Peer::Rpm => eprintln!("{} is left out: {error:#}", peer.as_str()),
            Err(error) => return Err(error),
        }
    }
    for _ in 0..arguments.rounds {
        for (_, running, times) in &mut all {
            times.push(running.reload().await?.as_secs_f64());
        }
    }
    Ok(all.into_iter().map(|(peer, _, times)| (peer, times)).collect())
}

impl Running {
    async fn start(peer: Peer, port: u16, workers: u16) -> anyhow::Result<Running> {
        let node = place::node().await?;
        let (app, count, text) = (place::script("app.js"), workers.to_string(), port.to_string());
        let running = match peer {
            Peer::Rpm => {
                let rpm = PrivateRpm::new(place::rpm().await?, vec![("PORT".to_owned(), text)])?;
                let start = ["start", argument(&app)?, "--name", "web", "-i", &count];
                let start = [&start[..], &["--interpreter", argument(&node)?]].concat();
                rpm.command(&start).await?;
                Running::Rpm(rpm)
            }
            Peer::Pm2 => {
                let pm2 = Pm2::new(node).await?;
                let start = ["start", argument(&app)?, "--name", "web", "-i", &count];
                let status = pm2.command(&start).env("PORT", text).status().await?;
                ensure!(status.success(), "pm2 start: {status}");
                Running::Pm2(pm2)
            }
            Peer::Cluster => {
                let mut primary = in_own_session(&node);
                primary.arg(place::script("rolling.js"));
                primary.env("PORT", text).env("WORKERS", count);
                primary
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .kill_on_drop(true);
                let mut primary = primary.spawn()?;
                let lines = BufReader::new(primary.stdout.take().context("no pipe")?).lines();
                Running::Cluster(Box::new(Cluster { primary, lines }))
            }
        };
        answered(port, usize::from(workers)).await?;
        Ok(running)
    }

    /// Reloads, and returns how long that took.
    async fn reload(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let reloaded = async {
            match self {
                Running::Rpm(rpm) => drop(rpm.command(&["reload", "web"]).await?),
                Running::Pm2(pm2) => {
                    let status = pm2.command(&["reload", "web"]).status().await?;
                    ensure!(status.success(), "pm2 reload: {status}");
                }
                Running::Cluster(cluster) => {
                    let pid = cluster.primary.id().and_then(|pid| i32::try_from(pid).ok());
                    let pid = pid
                        .and_then(rustix::process::Pid::from_raw)
                        .context("it has ended")?;
                    rustix::process::kill_process(pid, rustix::process::Signal::USR2)?;
                    match cluster.lines.next_line().await?.as_deref() {
                        Some("rolled") => {}
                        other => bail!("the rolling script said {other:?}"),
                    }
                }
            }
            Ok(())
        };
        timeout(RELOAD_WITHIN, reloaded)
            .await
            .context("a reload takes too long")??;
        Ok(began.elapsed())
    }
}

/// Waits until so many workers have answered.
async fn answered(port: u16, workers: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    let hello = Load {
        clients: 4,
        requests: Some(64),
        timeout: Duration::from_secs(1),
        ..Load::local(port)
    };
    let mut seen = std::collections::BTreeSet::new();
    while Instant::now() < deadline {
        seen.extend(hello.run(&Stop::new()).await.responders.into_keys());
        if seen.len() >= workers.min(2) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("nobody answers on port {port}")
}
