//! The groups of processes that are compared.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rpm_loadtest::{Load, Report, Stop};
use tokio::process::{Child, Command};

use super::fair::in_own_session;
use super::private_rpm::{PrivateRpm, argument};
use super::{pidfds, place, procfs};

/// How long a group may take until every worker answers.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at a group that is not ready.
const READY_PAUSE: Duration = Duration::from_millis(50);

/// A way of sharing one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Setup {
    /// rpm, `-i N`.
    Rpm,
    /// The same, of workers that open the port by themselves as the bare ones do: their sockets are captured.
    Captured,
    /// The same as the first; the worker with the fewest connections gets the next.
    Least,
    /// The same; the daemon accepts, and hands connections over.
    Handoff,
    /// node:cluster; the primary accepts.
    RoundRobin,
    /// node:cluster; the workers share a listener.
    Shared,
    /// Processes that open the port themselves with `reusePort`.
    Bare,
    /// The same again: what two identical groups differ by is noise.
    BareAgain,
    /// As the first, with another build of rpm.
    Other,
    /// As the second, with that build.
    OtherCaptured,
    /// As the fourth, with that build.
    OtherHandoff,
    /// The first with that build again, for the noise.
    OtherAgain,
}

impl Setup {
    /// Is rpm needed for it?
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Setup::Rpm | Setup::Captured | Setup::Least | Setup::Handoff)
    }

    /// Those that are compared.
    pub(crate) const USUAL: &[Setup] = &[
        Setup::Rpm,
        Setup::Captured,
        Setup::Least,
        Setup::Handoff,
        Setup::RoundRobin,
        Setup::Shared,
        Setup::Bare,
        Setup::BareAgain,
    ];
    /// Those that are compared where it is about two builds of rpm. An even number, which is fair to all.
    pub(crate) const OF_BUILDS: &[Setup] = &[
        Setup::Rpm,
        Setup::Captured,
        Setup::Handoff,
        Setup::Bare,
        Setup::Other,
        Setup::OtherCaptured,
        Setup::OtherHandoff,
        Setup::OtherAgain,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Setup::Rpm => "rpm",
            Setup::Captured => "rpm-captured",
            Setup::Least => "rpm-least",
            Setup::Handoff => "rpm-handoff",
            Setup::RoundRobin => "cluster-rr",
            Setup::Shared => "cluster-shared",
            Setup::Bare => "bare",
            Setup::BareAgain => "bare-again",
            Setup::Other => "other",
            Setup::OtherCaptured => "other-captured",
            Setup::OtherHandoff => "other-handoff",
            Setup::OtherAgain => "other-again",
        }
    }
}

/// A running group; dropping it ends its processes.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) setup: Setup,
    port: u16,
    /// Every process of it, the daemon or primary included.
    pids: BTreeSet<u32>,
    _processes: Processes,
}

#[derive(Debug)]
enum Processes {
    Own { _children: Children },
    Rpm { _rpm: PrivateRpm },
}

/// Processes of our own; dropping them ends them and what they started.
#[derive(Debug)]
struct Children(Vec<Child>);

impl Children {
    fn pids(&self) -> Vec<u32> {
        self.0.iter().filter_map(Child::id).collect()
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        pidfds::end(&pidfds::hold(&self.pids()));
    }
}

/// What a group is started with.
#[derive(Debug)]
pub(crate) struct Ingredients {
    pub(crate) node: PathBuf,
    pub(crate) rpm: Option<PathBuf>,
    /// Another build of rpm that it is compared with.
    pub(crate) other: Option<PathBuf>,
    pub(crate) workers: usize,
}

impl Group {
    /// Start a group and wait until each of its workers has answered.
    ///
    /// # Errors
    /// It cannot be started, or is not ready in time.
    pub(crate) async fn start(setup: Setup, port: u16, with: &Ingredients) -> anyhow::Result<Group> {
        let (rpm, other) = (with.rpm.as_deref(), with.other.as_deref());
        let (roots, processes) = match setup {
            Setup::Rpm => start_rpm(rpm, port, with, "0", &[]).await?,
            Setup::Captured => start_rpm(rpm, port, with, "1", &[]).await?,
            Setup::Least => start_rpm(rpm, port, with, "0", &["--policy", "least-connections"]).await?,
            Setup::Handoff => start_rpm(rpm, port, with, "0", &["--balance", "handoff"]).await?,
            Setup::Other | Setup::OtherAgain => start_rpm(other, port, with, "0", &[]).await?,
            Setup::OtherCaptured => start_rpm(other, port, with, "1", &[]).await?,
            Setup::OtherHandoff => start_rpm(other, port, with, "0", &["--balance", "handoff"]).await?,
            Setup::RoundRobin => start_cluster("rr", port, with)?,
            Setup::Shared => start_cluster("none", port, with)?,
            Setup::Bare | Setup::BareAgain => start_bare(port, with)?,
        };
        let mut group = Group {
            setup,
            port,
            pids: BTreeSet::new(),
            _processes: processes,
        };
        group.until_ready(with.workers).await?;
        group.pids = procfs::trees(&roots);
        Ok(group)
    }

    /// A load to this group's port.
    pub(crate) fn load(&self) -> Load {
        Load::local(self.port)
    }

    /// CPU time all its processes have used so far.
    pub(crate) fn cpu(&self) -> Duration {
        procfs::cpu(&self.pids)
    }

    async fn until_ready(&self, workers: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        let hello = Load {
            clients: 8,
            requests: Some(64),
            timeout: Duration::from_secs(1),
            ..self.load()
        };
        let mut last = Report::default();
        while Instant::now() < deadline {
            last = hello.run(&Stop::new()).await;
            if last.check_clean().is_ok() && last.responders.len() >= workers {
                return Ok(());
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
        bail!(
            "{} is not ready after {READY_LIMIT:?}; at last:\n{last}",
            self.setup.as_str()
        )
    }
}

/// As many ports that nobody uses, all different.
///
/// # Errors
/// No port is left.
pub(crate) fn ports_for(count: usize) -> anyhow::Result<Vec<u16>> {
    // All are held until the last is found, else the kernel may give one twice.
    let listener = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port");
    let held: Vec<TcpListener> = (0..count).map(listener).collect::<Result<_, _>>()?;
    let port = |listener: &TcpListener| Ok(listener.local_addr().context("finding a free port")?.port());
    held.iter().map(port).collect()
}

/// The same, as many as there are names for.
///
/// # Errors
/// As [`ports_for`].
pub(crate) fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let ports = ports_for(N)?;
    ports.try_into().ok().context("finding free ports")
}

async fn start_rpm(
    program: Option<&Path>,
    port: u16,
    with: &Ingredients,
    reuse_port: &str,
    options: &[&str],
) -> anyhow::Result<(Vec<u32>, Processes)> {
    let program = program.context("rpm is not among the groups")?.to_owned();
    let variables = [("PORT", port.to_string()), ("REUSE_PORT", reuse_port.to_owned())];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    let rpm = PrivateRpm::new(program, variables.to_vec())?;
    let (app, workers) = (place::script("app.js"), with.workers.to_string());
    let interpreter = argument(&with.node)?;
    let start = [
        "start",
        argument(&app)?,
        "-i",
        &workers,
        "--name",
        "bench",
        "--interpreter",
        interpreter,
    ];
    rpm.command(&[&start, options].concat()).await?;
    let mut roots = rpm.workers().await?;
    roots.push(rpm.daemon().await?);
    Ok((roots, Processes::Rpm { _rpm: rpm }))
}

fn start_cluster(policy: &str, port: u16, with: &Ingredients) -> anyhow::Result<(Vec<u32>, Processes)> {
    let mut primary = node(&with.node, "cluster.js", port);
    primary
        .env("SCHED", policy)
        .env("WORKERS", with.workers.to_string());
    children([primary])
}

fn start_bare(port: u16, with: &Ingredients) -> anyhow::Result<(Vec<u32>, Processes)> {
    children((0..with.workers).map(|instance| {
        let mut worker = node(&with.node, "app.js", port);
        worker
            .env("REUSE_PORT", "1")
            .env("NODE_APP_INSTANCE", instance.to_string());
        worker
    }))
}

fn node(node: &Path, script: &str, port: u16) -> Command {
    let mut command = in_own_session(node);
    command.arg(place::script(script)).env("PORT", port.to_string());
    for foreign in [
        "NODE_OPTIONS",
        "NODE_CHANNEL_FD",
        "NODE_UNIQUE_ID",
        "NODE_CLUSTER_SCHED_POLICY",
    ] {
        command.env_remove(foreign);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}

fn children(commands: impl IntoIterator<Item = Command>) -> anyhow::Result<(Vec<u32>, Processes)> {
    let mut children = Children(Vec::new());
    for mut command in commands {
        children.0.push(command.spawn().context("spawning Node")?);
    }
    Ok((children.pids(), Processes::Own { _children: children }))
}
