//! `edge-memory`: what idle clients of the proxy, and slow ones, cost the daemon.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use super::group::free_ports;
use super::private_rpm::{PrivateRpm, argument};
use super::{place, procfs};

/// Of an idle connection, in bytes.
const IDLE_FLOOR: f64 = 16.0 * 1024.0;
/// What a slow reader may make the daemon grow by, in bytes.
const SLOW_FLOOR: f64 = 4.0 * 1024.0 * 1024.0;
/// The answer that is read slowly.
const LONG: u64 = 1 << 30;
/// Between two looks at a slow reader.
const PAUSE: Duration = Duration::from_millis(20);

/// Options of `edge-memory`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Idle connections.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    idle: u32,
    /// Seconds for which a long answer is read slowly.
    #[arg(long, default_value_t = 5.0, value_parser = super::compare::seconds)]
    seconds: f64,
    /// Exit 1 if a limit is exceeded.
    #[arg(long)]
    check: bool,
}

/// Run it.
///
/// # Errors
/// rpm cannot be started, or too few descriptors are permitted.
pub(crate) async fn edge_memory(arguments: Arguments) -> anyhow::Result<ExitCode> {
    raise_limit(u64::from(arguments.idle) + 100)?;
    let [port] = free_ports::<1>()?;
    let rpm = PrivateRpm::new(place::rpm().await?, vec![("PORT".to_owned(), port.to_string())])?;
    let (app, node) = (place::script("edge.js"), place::node().await?);
    let start = [
        "start",
        argument(&app)?,
        "-i",
        "2",
        "--name",
        "edge",
        "--balance",
        "proxy",
        "--idle-timeout",
        "10m",
    ];
    rpm.command(&[&start[..], &["--interpreter", argument(&node)?]].concat())
        .await?;
    let daemon = rpm.daemon().await?;
    let resident = || {
        procfs::memory(daemon)
            .context("the daemon has ended")
            .map(|memory| memory.resident as f64)
    };

    // What the first requests need once is not what a connection costs.
    let warm = connections(port, 200).await?;
    drop(warm);
    let before = resident()?;
    let idle = connections(port, arguments.idle).await?;
    let each = (resident()? - before) / f64::from(arguments.idle);
    println!(
        "{} idle connections: {each:.0} bytes each in the daemon (limit {IDLE_FLOOR:.0})",
        idle.len()
    );
    drop(idle);

    let mut slow = connect(0, port).await?;
    slow.write_all(format!("GET /stream/{LONG} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
        .await?;
    let before = resident()?;
    let (mut most, mut read) = (before, 0);
    let mut part = vec![0; 64 * 1024];
    let until = Instant::now() + Duration::from_secs_f64(arguments.seconds);
    while Instant::now() < until {
        read += slow.read(&mut part).await?;
        most = most.max(resident()?);
        sleep(PAUSE).await;
    }
    let grown = most - before;
    println!(
        "a slow reader of {LONG} bytes: {read} read in {} s, the daemon has grown by {grown:.0} bytes at most (limit {SLOW_FLOOR:.0})",
        arguments.seconds
    );
    let good = each <= IDLE_FLOOR && grown <= SLOW_FLOOR;
    Ok(if good || !arguments.check {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn raise_limit(wanted: u64) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    ensure!(
        limit.maximum.is_none_or(|most| most >= wanted),
        "{wanted} descriptors are needed, and {:?} permitted: ulimit -n",
        limit.maximum
    );
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).context("raising the limit of descriptors")
}

/// So many connections that have had an answer each.
async fn connections(port: u16, count: u32) -> anyhow::Result<Vec<TcpStream>> {
    let mut all = Vec::new();
    for number in 0..count {
        let mut stream = connect(number, port).await?;
        stream.write_all(b"GET /16 HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer).await?;
        ensure!(answer[..length].starts_with(b"HTTP/1.1 200"), "no good answer");
        all.push(stream);
    }
    Ok(all)
}

/// From many addresses: one has not enough ports for all.
async fn connect(number: u32, port: u16) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let own = u8::try_from(number / 10_000).unwrap_or(u8::MAX);
    socket.bind(SocketAddr::from(([127, 1, own, 1], 0)))?;
    let stream = socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await;
    stream.context("connecting")
}
