//! `compare`: the same app under rpm, node:cluster and bare processes, or under two builds of rpm, in interleaved rounds.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rpm_loadtest::{Kind, Load, Stop};
use serde_json::{Value, json};

use super::fair::order;
use super::group::{Group, Ingredients, Setup, ports_for};
use super::place;
use super::procfs::Machine;
use super::results::{Results, Sample};
use super::table::Table;

/// Long enough for the JIT to compile what a request needs. At once, before the next group is started: a Node that has nothing to do for
/// some seconds after its first requests, and is then put under load, is slower by a quarter for good (V8's memory reducer; not so with
/// `--no-memory-reducer`).
const WARM_UP: Duration = Duration::from_secs(1);

/// What V8 makes of an app is another thing each time, by some percent: after so many rounds all groups are started anew.
const ROUNDS_PER_START: usize = 2;

/// Options of `compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Rounds; 16 or more give a useful interval, and in a multiple of 8 each group follows each other one as often.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=500))]
    rounds: u16,
    /// Seconds of load per group, kind and round.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Clients that send at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    clients: u16,
    /// Workers of each group.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Exit 1 if a floor is missed or a request to rpm failed.
    #[arg(long)]
    check: bool,
    /// Leave rpm out: only the groups it is compared with.
    #[arg(long)]
    without_rpm: bool,
    /// Compare rpm with another build of it, and with bare processes.
    #[arg(long, value_name = "PROGRAM", conflicts_with = "without_rpm")]
    against: Option<PathBuf>,
}

/// A time in seconds that a load may last.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        Ok(_) | Err(_) => Err("not a number of seconds above 0 and up to a day".to_owned()),
    }
}

/// Run it.
///
/// # Errors
/// A group cannot be started.
pub(crate) async fn compare(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let setting = Setting::find(&arguments).await?;
    if !arguments.json {
        println!("{setting}");
    }
    let before = Machine::now();
    let results = measure(&setting, &arguments).await?;
    let stolen = before.and_then(|before| Some(Machine::now()?.stolen_since(&before)));
    if arguments.json {
        let kinds: Vec<Value> = results.iter().map(Results::to_json).collect();
        println!(
            "{:#}",
            json!({ "setting": setting.to_json(), "stolen_cpu": stolen, "results": kinds })
        );
    } else {
        results.iter().for_each(|results| println!("{}", Table(results)));
        report_stolen(stolen);
    }
    let good = results.iter().all(passes);
    Ok(if good || !arguments.check {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A virtual machine whose host is busy measures its host.
fn report_stolen(stolen: Option<f64>) {
    if let Some(percent) = stolen
        .map(|stolen| stolen * 100.0)
        .filter(|percent| *percent >= 1.0)
    {
        println!("{percent:.0} % of the CPU time was taken by the hypervisor: expect wide intervals");
    }
}

fn passes(results: &Results) -> bool {
    let floors = results
        .verdicts()
        .iter()
        .all(|verdict| verdict.met() != Some(false));
    let mut ours = Setup::USUAL.iter().filter(|setup| setup.is_ours());
    floors && ours.all(|setup| results.failures(*setup) == 0)
}

async fn start(setting: &Setting, arguments: &Arguments) -> anyhow::Result<Vec<Group>> {
    let setups = match &setting.with.other {
        Some(_) => Setup::OF_BUILDS,
        None => Setup::USUAL,
    };
    let mut groups = Vec::new();
    for (setup, port) in setups.iter().copied().zip(ports_for(setups.len())?) {
        if setup.is_ours() && setting.with.rpm.is_none() {
            continue;
        }
        let group = Group::start(setup, port, &setting.with).await;
        let group = group.with_context(|| format!("starting the group {}", setup.as_str()))?;
        for kind in [Kind::NewConnection, Kind::KeepAlive] {
            sample(&group, kind, WARM_UP, arguments).await;
        }
        groups.push(group);
    }
    Ok(groups)
}

async fn measure(setting: &Setting, arguments: &Arguments) -> anyhow::Result<[Results; 2]> {
    let mut results = [Kind::NewConnection, Kind::KeepAlive].map(Results::new);
    let lasting = Duration::from_secs_f64(arguments.seconds);
    let mut groups = Vec::new();
    for round in 0..usize::from(arguments.rounds) {
        eprint!("\rround {} of {} ", round + 1, arguments.rounds);
        if round % ROUNDS_PER_START == 0 {
            // Those of before have their ports until then.
            groups.clear();
            groups = start(setting, arguments).await?;
        }
        for results in &mut results {
            for group in order(groups.len(), round).map(|index| &groups[index]) {
                results.add(group.setup, sample(group, results.kind, lasting, arguments).await);
            }
        }
    }
    eprintln!();
    Ok(results)
}

async fn sample(group: &Group, kind: Kind, lasting: Duration, arguments: &Arguments) -> Sample {
    let load = Load {
        kind,
        clients: arguments.clients.into(),
        lasting: Some(lasting),
        ..group.load()
    };
    let before = group.cpu();
    let report = load.run(&Stop::new()).await;
    let cpu = group.cpu().saturating_sub(before);
    Sample::new(&report, cpu.as_secs_f64())
}

/// What the numbers depend on.
#[derive(Debug)]
struct Setting {
    with: Ingredients,
    command: String,
    node: String,
    kernel: String,
    cores: usize,
}

impl Setting {
    async fn find(arguments: &Arguments) -> anyhow::Result<Self> {
        let node = place::node().await?;
        let version = place::node_version(&node).await?;
        ensure!(
            version.starts_with("v22."),
            "the fixtures' Node is {version}, not 22"
        );
        let rpm = if arguments.without_rpm {
            None
        } else {
            Some(place::rpm().await?)
        };
        let other = arguments.against.as_deref().map(place::program).transpose()?;
        let options: Vec<String> = std::env::args().skip(1).collect();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Setting {
            with: Ingredients {
                node,
                rpm,
                other,
                workers: arguments.workers.into(),
            },
            command: format!("cargo run --release -p rpm-loadtest -- {}", options.join(" ")),
            node: version,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cores,
        })
    }

    fn to_json(&self) -> Value {
        let Setting {
            with,
            command,
            node,
            kernel,
            cores,
        } = self;
        json!({ "command": command, "node": node, "kernel": kernel, "cores": cores, "workers": with.workers })
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Setting {
            with,
            command,
            node,
            kernel,
            cores,
        } = self;
        writeln!(f, "{command}")?;
        writeln!(
            f,
            "Node {node}, Linux {kernel}, {cores} cores, {} workers per group",
            with.workers
        )
    }
}
