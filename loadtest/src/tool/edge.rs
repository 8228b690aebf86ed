//! `edge`: rpm's proxy, nginx and HAProxy, or the proxies of two builds of rpm, before the same app, in interleaved rounds.

mod measured;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rpm_loadtest::{Kind, Load, Report, Stop};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use measured::Measured;

use super::compare::seconds;
use super::fair::{in_own_session, order};
use super::group::{free_ports, ports_for};
use super::private_rpm::{PrivateRpm, argument};
use super::results::Sample;
use super::{pidfds, place, procfs};

/// Long enough for the JIT to compile what a request needs; at once, before the next site is started, for the reason that `compare` has.
const WARM_UP: Duration = Duration::from_secs(1);
/// For all to answer.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Options of `edge`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Rounds; a multiple of 4 is fair to all, and 16 or more give a useful interval.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=500))]
    rounds: u16,
    /// Seconds of load per proxy, cell and round.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Workers of the app, and threads of each proxy.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Exit 1 if a floor is missed or a request through rpm failed.
    #[arg(long)]
    check: bool,
    /// Compare rpm with another build of it alone.
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
}

/// What is before the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    Rpm,
    Nginx,
    /// What two identical ones differ by is noise.
    NginxAgain,
    HaProxy,
    /// This build of rpm again, for the noise.
    RpmAgain,
    /// Another build of rpm.
    Other,
    /// That build again.
    OtherAgain,
}

impl Edge {
    /// Those that are compared.
    const USUAL: &[Edge] = &[Edge::Rpm, Edge::Nginx, Edge::NginxAgain, Edge::HaProxy];
    /// Those that are compared where it is about two builds of rpm. An even number, which is fair to all.
    const OF_BUILDS: &[Edge] = &[Edge::Rpm, Edge::Other, Edge::RpmAgain, Edge::OtherAgain];

    fn as_str(self) -> &'static str {
        match self {
            Edge::Rpm => "rpm",
            Edge::Nginx => "nginx",
            Edge::NginxAgain => "nginx-again",
            Edge::HaProxy => "haproxy",
            Edge::RpmAgain => "rpm-again",
            Edge::Other => "other",
            Edge::OtherAgain => "other-again",
        }
    }
}

/// A load that all get.
#[derive(Clone, Copy, Debug)]
struct Cell {
    kind: Kind,
    clients: usize,
    bytes: usize,
    /// Who must be reached, at what part of its throughput.
    floor: Edge,
}

const CELLS: [Cell; 5] = [
    cell(Kind::KeepAlive, 64, 1024, Edge::Nginx),
    cell(Kind::KeepAlive, 1024, 1024, Edge::Nginx),
    cell(Kind::KeepAlive, 64, 65_536, Edge::Nginx),
    cell(Kind::KeepAlive, 1024, 65_536, Edge::Nginx),
    cell(Kind::NewConnection, 64, 1024, Edge::HaProxy),
];
const FLOOR: f64 = 0.9;

const fn cell(kind: Kind, clients: usize, bytes: usize, floor: Edge) -> Cell {
    Cell {
        kind,
        clients,
        bytes,
        floor,
    }
}

/// Run it.
///
/// # Errors
/// A proxy is not installed, or cannot be started.
pub(crate) async fn edge(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let edges = match arguments.against {
        Some(_) => Edge::OF_BUILDS,
        None => Edge::USUAL,
    };
    let sites = start(&arguments, edges).await?;
    let new = |cell| Measured::new(cell, edges);
    let mut tables: Vec<Measured> = CELLS.into_iter().map(new).collect();
    let lasting = Duration::from_secs_f64(arguments.seconds);
    for round in 0..usize::from(arguments.rounds) {
        eprint!("\rround {} of {} ", round + 1, arguments.rounds);
        for table in &mut tables {
            for index in order(sites.len(), round) {
                table.add(index, sample(&sites[index], table.cell, lasting).await);
            }
        }
    }
    eprintln!();
    if arguments.json {
        let tables: Vec<Value> = tables.iter().map(Measured::to_json).collect();
        println!("{:#}", json!({ "rounds": arguments.rounds, "cells": tables }));
    } else {
        tables.iter().for_each(Measured::print);
    }
    let good = tables.iter().all(Measured::passes);
    Ok(if good || !arguments.check {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A proxy with workers of its own; dropping it ends all.
pub(super) struct Site {
    port: u16,
    /// The proxy's processes alone.
    proxy: BTreeSet<u32>,
    rpm: Option<PrivateRpm>,
    _processes: Processes,
    _dir: Dir,
}

impl Site {
    /// The workers of rpm's, by process.
    ///
    /// # Errors
    /// They are another proxy's.
    pub(super) async fn workers(&self) -> anyhow::Result<Vec<u32>> {
        let rpm = self.rpm.as_ref().context("it is another proxy's")?;
        rpm.workers().await
    }
}

struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        let pids: Vec<u32> = self.0.iter().filter_map(Child::id).collect();
        pidfds::end(&pidfds::hold(&pids));
    }
}

struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn start(arguments: &Arguments, edges: &[Edge]) -> anyhow::Result<Vec<Site>> {
    let other = arguments.against.as_deref().map(place::program).transpose()?;
    let mut sites = Vec::new();
    for (edge, port) in edges.iter().copied().zip(ports_for(edges.len())?) {
        let site = match edge {
            Edge::Rpm | Edge::RpmAgain => before_rpm(port, arguments.workers).await,
            Edge::Nginx | Edge::NginxAgain | Edge::HaProxy => before(edge, port, arguments.workers).await,
            Edge::Other | Edge::OtherAgain => {
                let program = other.clone().context("no other build was named")?;
                before_build(program, port, arguments.workers).await
            }
        };
        let site = site.with_context(|| format!("starting {}", edge.as_str()))?;
        ready(port, usize::from(arguments.workers))
            .await
            .with_context(|| format!("{} is not ready", edge.as_str()))?;
        for cell in CELLS {
            sample(&site, cell, WARM_UP).await;
        }
        sites.push(site);
    }
    // nginx has its workers by now.
    for site in sites.iter_mut().filter(|site| site.rpm.is_none()) {
        site.proxy = procfs::trees(&site.proxy.iter().copied().collect::<Vec<_>>());
    }
    Ok(sites)
}

pub(super) async fn before_rpm(port: u16, workers: u16) -> anyhow::Result<Site> {
    before_build(place::rpm().await?, port, workers).await
}

async fn before_build(program: PathBuf, port: u16, workers: u16) -> anyhow::Result<Site> {
    let rpm = PrivateRpm::new(program, vec![("PORT".to_owned(), port.to_string())])?;
    let (app, node, workers) = (
        place::script("edge.js"),
        place::node().await?,
        workers.to_string(),
    );
    let start = [
        "start",
        argument(&app)?,
        "-i",
        &workers,
        "--name",
        "edge",
        "--balance",
        "proxy",
        "--interpreter",
        argument(&node)?,
    ];
    rpm.command(&start).await?;
    let daemon = rpm.daemon().await?;
    Ok(Site {
        port,
        proxy: BTreeSet::from([daemon]),
        _dir: Dir(rpm.home().join("edge")),
        rpm: Some(rpm),
        _processes: Processes(Vec::new()),
    })
}

/// Processes of Node, and before them one of the others.
async fn before(edge: Edge, port: u16, workers: u16) -> anyhow::Result<Site> {
    let node = place::node().await?;
    let dir = std::env::temp_dir().join(format!("rpm-edge-{}-{}", std::process::id(), edge.as_str()));
    fs::create_dir_all(&dir)?;
    let dir = Dir(dir);
    let mut processes = Processes(Vec::new());
    let mut upstreams = Vec::new();
    for instance in 0..workers {
        let [own] = free_ports::<1>()?;
        upstreams.push(own);
        processes.0.push(quiet(
            in_own_session(&node)
                .arg(place::script("edge.js"))
                .env("PORT", own.to_string())
                .env("NODE_APP_INSTANCE", instance.to_string()),
        )?);
    }
    let (program, template) = match edge {
        Edge::HaProxy => ("haproxy", "haproxy.cfg"),
        _ => ("nginx", "nginx.conf"),
    };
    let config = dir.0.join(template);
    fs::write(
        &config,
        filled(
            &fs::read_to_string(place::edge(template))?,
            &dir.0,
            port,
            &upstreams,
        ),
    )?;
    let mut command = in_own_session(&found(program)?);
    match edge {
        Edge::HaProxy => command.arg("-f").arg(&config),
        _ => command.arg("-c").arg(&config).arg("-p").arg(&dir.0),
    };
    let proxy = quiet(&mut command)?;
    let pid = proxy.id().context("it has ended at once")?;
    processes.0.push(proxy);
    Ok(Site {
        port,
        proxy: BTreeSet::from([pid]),
        rpm: None,
        _processes: processes,
        _dir: dir,
    })
}

/// Debian has them where only root looks.
fn found(program: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = places
        .iter()
        .map(|place| place.join(program))
        .find(|it| it.is_file());
    found.with_context(|| format!("{program} is not installed: apt-get install nginx-light haproxy"))
}

fn quiet(command: &mut Command) -> anyhow::Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .env_remove("NODE_OPTIONS")
        .kill_on_drop(true);
    let shown = format!("{:?}", command.as_std());
    command.spawn().with_context(|| format!("executing {shown}"))
}

fn filled(template: &str, dir: &Path, port: u16, upstreams: &[u16]) -> String {
    let lines = |line: &dyn Fn(usize, u16) -> String| {
        let lines: Vec<String> = upstreams
            .iter()
            .enumerate()
            .map(|(at, port)| line(at, *port))
            .collect();
        lines.join("\n        ")
    };
    template
        .replace("@THREADS@", &upstreams.len().to_string())
        .replace("@DIR@", &dir.display().to_string())
        .replace("@PORT@", &port.to_string())
        .replace(
            "@NGINX_SERVERS@",
            &lines(&|_, port| format!("server 127.0.0.1:{port};")),
        )
        .replace(
            "@HAPROXY_SERVERS@",
            &lines(&|at, port| format!("server w{at} 127.0.0.1:{port}")),
        )
}

async fn ready(port: u16, workers: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    let hello = Load {
        clients: 8,
        requests: Some(64),
        timeout: Duration::from_secs(1),
        ..Load::local(port)
    };
    let mut last = Report::default();
    while Instant::now() < deadline {
        last = hello.run(&Stop::new()).await;
        if last.check_clean().is_ok() && last.responders.len() >= workers {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("after {READY_WITHIN:?}:\n{last}")
}

async fn sample(site: &Site, cell: Cell, lasting: Duration) -> Sample {
    let load = Load {
        path: format!("/{}", cell.bytes),
        kind: cell.kind,
        clients: cell.clients,
        lasting: Some(lasting),
        target: SocketAddr::from(([127, 0, 0, 1], site.port)),
        ..Load::local(site.port)
    };
    let before = procfs::cpu(&site.proxy);
    let report = load.run(&Stop::new()).await;
    let cpu = procfs::cpu(&site.proxy).saturating_sub(before);
    Sample::new(&report, cpu.as_secs_f64())
}
