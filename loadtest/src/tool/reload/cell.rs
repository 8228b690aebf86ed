//! One scenario: an app under every kind of client, and something that happens to it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rpm_loadtest::{Kind, Load, Pace, Report, Running, Stop};
use serde_json::Value;

use super::factors::{APP, Cell, EVENT, NODE, PATH};
use crate::tool::group::free_ports;
use crate::tool::place;
use crate::tool::private_rpm::{PrivateRpm, User, argument};

/// Clients of each kind.
const CLIENTS: usize = 2;
/// Requests per second of each kind that does not pause by itself.
const RATE: f64 = 100.0;
/// `drain_timeout`: long-lived connections must be left open for so long.
const HOLDS: Duration = Duration::from_secs(3);
/// Good answers of every kind between two events.
const SOME: u64 = 4;
/// For those to come.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// For old workers to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// What became of the requests of each kind.
pub(super) struct Outcome {
    pub(super) kinds: Vec<(Kind, Report)>,
    pub(super) took: Duration,
}

impl Outcome {
    /// Every request of every kind was answered well.
    pub(super) fn is_clean(&self) -> bool {
        self.kinds.iter().all(|(_, report)| report.check_clean().is_ok())
    }
}

/// The apps, their clients, and the daemon.
struct Scene {
    rpm: PrivateRpm,
    cell: Cell,
    ports: [u16; 4],
    stop: Stop,
    clients: Vec<(Kind, Running)>,
}

/// Runs it; so many reloads where there are several.
///
/// # Errors
/// It cannot be set up, or a command of rpm fails.
pub(super) async fn run(cell: Cell, reloads: u32, program: &Path) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    let user = match cell.level(PATH) {
        "classic" => User::Nobody,
        _ => User::Own,
    };
    let mut scene = Scene {
        rpm: PrivateRpm::new_as(program.to_owned(), Vec::new(), user)?,
        cell,
        ports: free_ports()?,
        stop: Stop::new(),
        clients: Vec::new(),
    };
    scene.start_app("web", scene.ports[0], scene.ports[1]).await?;
    scene.check_path().await?;
    if cell.level(EVENT) == "stop-other" {
        scene.start_app("other", scene.ports[2], scene.ports[3]).await?;
    }
    scene.begin();
    scene.some_answers().await?;
    scene.happen(reloads).await?;
    scene.some_answers().await?;
    scene.stop.stop();
    let mut kinds = Vec::new();
    for (kind, running) in std::mem::take(&mut scene.clients) {
        kinds.push((kind, running.finish().await));
    }
    Ok(Outcome {
        kinds,
        took: began.elapsed(),
    })
}

impl Scene {
    async fn start_app(&self, name: &str, port: u16, port2: u16) -> anyhow::Result<()> {
        let node = place::node_of(self.cell.level(NODE)).await?;
        let script = place::fixture("everything.js");
        let (port, port2) = (port.to_string(), port2.to_string());
        let mut env = vec![("PORT", port.as_str()), ("PORT2", port2.as_str())];
        env.extend(match self.cell.level(APP) {
            "handler" => vec![("HANDLER", "1")],
            "slow" => vec![("DELAY_MS", "200")],
            "boot-5s" => vec![("BOOT_MS", "5000")],
            "two-ports" => vec![("SECOND_MS", "2000")],
            "express" => vec![("FRAMEWORK", "express")],
            "fastify" => vec![("FRAMEWORK", "fastify")],
            _ => vec![],
        });
        let arguments = [
            "start",
            argument(&script)?,
            "--name",
            name,
            "-i",
            "2",
            "--drain-timeout",
            "3s",
            "--listen-timeout",
            "8s",
            "--interpreter",
            argument(&node)?,
        ];
        self.rpm.command_with(&arguments, &env).await?;
        self.listens([port.as_str(), &port2]).await
    }

    /// A start waits for the first port of an app.
    async fn listens(&self, ports: [&str; 2]) -> anyhow::Result<()> {
        let deadline = Instant::now() + ANSWERS_WITHIN;
        for port in ports {
            while tokio::net::TcpStream::connect(format!("127.0.0.1:{port}"))
                .await
                .is_err()
            {
                ensure!(Instant::now() < deadline, "nobody listens on port {port}");
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// What is to be measured must be what runs.
    async fn check_path(&self) -> anyhow::Result<()> {
        let wanted = match self.cell.level(PATH) {
            "classic" => "cbpf",
            path => path,
        };
        let app: Value = serde_json::from_str(&self.rpm.command(&["describe", "web", "--json"]).await?)?;
        let listeners = app["listeners"].as_array().context("no listeners")?;
        let steered: Vec<&str> = listeners
            .iter()
            .filter_map(|it| it["steering"].as_str())
            .collect();
        ensure!(
            !steered.is_empty() && steered.iter().all(|steering| *steering == wanted),
            "steered by {steered:?} and not by {wanted}"
        );
        Ok(())
    }

    fn begin(&mut self) {
        for kind in Kind::ALL {
            let port = if kind == Kind::Http2 {
                self.ports[1]
            } else {
                self.ports[0]
            };
            let pauses = matches!(kind, Kind::SlowUpload | Kind::EventStream | Kind::WebSocket);
            let load = Load {
                kind,
                clients: CLIENTS,
                pace: if pauses {
                    Pace::Closed
                } else {
                    Pace::Open { per_second: RATE }
                },
                path: if kind == Kind::EventStream { "/events" } else { "/" }.to_owned(),
                holds: HOLDS,
                ..Load::local(port)
            };
            self.clients.push((kind, load.start(&self.stop)));
        }
    }

    async fn happen(&self, reloads: u32) -> anyhow::Result<()> {
        match self.cell.level(EVENT) {
            "reload" => {
                for _ in 0..reloads {
                    self.through(&["reload", "web", "--wait"]).await?;
                }
                Ok(())
            }
            "scale" => {
                for count in ["4", "1", "2"] {
                    self.through(&["scale", "web", count]).await?;
                }
                Ok(())
            }
            "stop-other" => {
                self.rpm.command(&["stop", "other"]).await?;
                Ok(())
            }
            "daemon-killed" => {
                self.kill_daemon().await?;
                self.some_answers().await?;
                self.through(&["reload", "web", "--wait"]).await
            }
            "daemon-updated" => {
                self.rpm.command(&["update"]).await?;
                self.some_answers().await?;
                self.through(&["reload", "web", "--wait"]).await
            }
            other => bail!("nobody knows how to {other}"),
        }
    }

    /// A command that has workers leave, until they are gone.
    async fn through(&self, command: &[&str]) -> anyhow::Result<()> {
        self.clients.iter().for_each(|(_, running)| running.mark());
        self.rpm.command(command).await?;
        self.clients.iter().for_each(|(_, running)| running.mark_end());
        let deadline = Instant::now() + GONE_WITHIN;
        loop {
            let list: Value = serde_json::from_str(&self.rpm.command(&["list", "--json"]).await?)?;
            let processes = list.as_array().context("not a list")?;
            if processes.iter().all(|process| process["others"].is_null()) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "old workers are not gone: {list}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn kill_daemon(&self) -> anyhow::Result<()> {
        let pong: Value = serde_json::from_str(&self.rpm.command(&["ping", "--json"]).await?)?;
        let pid = pong["pid"].as_u64().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw).context("no pid")?;
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
    }

    async fn some_answers(&self) -> anyhow::Result<()> {
        let good = |running: &Running| {
            let outcomes = running.so_far().outcomes;
            outcomes.ok() + outcomes.count(rpm_loadtest::Outcome::Resent)
        };
        let before: Vec<u64> = self.clients.iter().map(|(_, running)| good(running)).collect();
        let deadline = Instant::now() + ANSWERS_WITHIN;
        loop {
            let waiting = self.clients.iter().zip(&before);
            let waiting = waiting.filter(|((_, running), before)| good(running) < **before + SOME);
            let Some(((kind, running), _)) = waiting.into_iter().next() else {
                return Ok(());
            };
            ensure!(
                Instant::now() < deadline,
                "{} gets no answers any more: {}",
                kind.as_str(),
                running.so_far()
            );
            tokio::time::sleep(PAUSE).await;
        }
    }
}
