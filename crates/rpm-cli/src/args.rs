//! What may be typed, and what it means.

mod values;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use rpm_wire::api::{Balance, Policy, StopSignal};

use values::{count, duration, health_path, instances, listen_address};

/// The name in help where the program was not told its own.
const DEFAULT_NAME: &str = "rpm";

/// What the program is to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Invocation {
    /// A command for the daemon: [`crate::run`].
    Client(Client),
    /// The daemon itself, for the directory [`crate::home_dir`].
    Daemon {
        /// Only say whether this binary could take over from the one that runs.
        check: bool,
    },
    /// The demonstration.
    Demo {
        /// Serve there until interrupted.
        port: Option<u16>,
    },
}

/// A command for the daemon.
#[derive(Debug, PartialEq, Eq)]
pub struct Client {
    pub(crate) command: Command,
    /// The name the program was called by.
    pub(crate) program: String,
}

/// The arguments are no command; or they ask for help or the version, which is no failure.
#[derive(Debug)]
pub struct Usage(clap::Error);

impl Usage {
    /// Prints it where it belongs. Exit code 0 for help and version, otherwise 1 as under PM2.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        // Nobody is left to be told that standard error is closed.
        let _ = self.0.print();
        match self.0.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}

/// Reads the arguments; the first is the name the program was called by, which help and completions show.
///
/// # Errors
/// They are no command, or ask for help or the version: [`Usage::report`] says so.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, Usage> {
    let args: Vec<OsString> = args.into_iter().collect();
    let program = invoked_name(args.first());
    let matches = grammar(&program).try_get_matches_from(args).map_err(Usage)?;
    let Cli { command } = Cli::from_arg_matches(&matches).map_err(Usage)?;
    Ok(match command {
        Top::Daemon { check } => Invocation::Daemon { check },
        Top::Demo { port } => Invocation::Demo { port },
        Top::Client(command) => Invocation::Client(Client { command, program }),
    })
}

/// The grammar under the name `program`.
pub(crate) fn grammar(program: &str) -> clap::Command {
    // clap wants names that live for ever; this happens once or twice in a process.
    let name: &'static str = String::leak(program.to_owned());
    let version = Arg::new("version")
        .short('v')
        .short_alias('V')
        .long("version")
        .help("Print the version");
    Cli::command()
        .name(name)
        .bin_name(name)
        .arg(version.action(ArgAction::Version))
}

fn invoked_name(argv0: Option<&OsString>) -> String {
    let base = argv0.and_then(|path| Path::new(path).file_name());
    base.map_or_else(
        || DEFAULT_NAME.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Keeps applications alive and puts a whole machine behind one port
#[derive(Debug, Parser)]
#[command(
    version,
    disable_version_flag = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Top,
}

#[derive(Debug, Subcommand)]
enum Top {
    #[command(flatten)]
    Client(Command),
    /// Show what it does: a sample app on every core, traffic, a killed worker, and the outcome
    Demo {
        /// Keep serving this port for a browser
        #[arg(long)]
        port: Option<u16>,
    },
    /// Run the daemon in the foreground (started by the other commands when it is needed)
    #[command(hide = true)]
    Daemon {
        /// Only say whether this binary could take over from the one that runs
        #[arg(long)]
        check: bool,
    },
}

/// Everything a client can ask for.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Command {
    /// Start an app and wait until every worker is ready
    Start(Box<StartArgs>),
    /// Show all processes
    #[command(visible_aliases = ["ls", "l", "ps", "status"])]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print all processes as JSON in PM2's shape
    Jlist,
    /// Show an app: configuration, processes, listeners
    #[command(visible_aliases = ["desc", "info", "show"])]
    Describe {
        /// Name or id
        target: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop processes and keep them in the list: clients are refused, and requests under way are finished
    Stop {
        #[command(flatten)]
        targets: Targets,
        /// At once: requests under way are cut
        #[arg(long)]
        hard: bool,
    },
    /// Stop and start processes; a cluster that serves is reloaded
    Restart {
        #[command(flatten)]
        targets: Targets,
        /// Stop and start even where a reload would do
        #[arg(long)]
        hard: bool,
        /// Return only when the old workers are gone too
        #[arg(long, conflicts_with = "no_wait")]
        wait: bool,
    },
    /// Replace every worker and lose no request: new ones serve once they are ready, then the old ones drain
    Reload {
        #[command(flatten)]
        targets: Targets,
        /// Give the apps this environment, besides what they have
        #[arg(long)]
        update_env: bool,
        /// Time the old workers stand by when the new ones serve, to take over again if one of these ends
        #[arg(long, value_name = "TIME", value_parser = duration)]
        watch_after: Option<u64>,
        /// Return only when the old workers are gone too
        #[arg(long, conflicts_with = "no_wait")]
        wait: bool,
    },
    /// Bring back what an app was started from before its last reload, as a reload does; again: and back
    Rollback {
        /// Name, or id of one of its processes
        app: String,
        /// Return before the workers are ready
        #[arg(long)]
        no_wait: bool,
        /// Return only when the old workers are gone too
        #[arg(long, conflicts_with = "no_wait")]
        wait: bool,
    },
    /// Stop and forget processes
    #[command(visible_alias = "del")]
    Delete {
        #[command(flatten)]
        targets: Targets,
        /// At once: requests under way are cut
        #[arg(long)]
        hard: bool,
    },
    /// Change how many workers an app has
    Scale {
        /// Name, or id of one of its processes
        app: String,
        /// How many: n, +n, -n or max
        #[arg(allow_hyphen_values = true, value_parser = count)]
        count: String,
        /// Return before the new workers are ready
        #[arg(long)]
        no_wait: bool,
    },
    /// Show the last lines of the logs and follow them
    #[command(visible_alias = "log")]
    Logs {
        /// Name or id; without it, all
        target: Option<String>,
        /// How many lines of the past
        #[arg(long, default_value_t = 15)]
        lines: u32,
        /// Do not follow
        #[arg(long)]
        nostream: bool,
        /// Print JSON, one object a line
        #[arg(long)]
        json: bool,
    },
    /// Check that the daemon answers
    Ping {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what this kernel, user and container permit, and what to change to have more
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Have this version take over from the daemon that runs; the apps are not touched
    Update {
        /// Another binary than the one of this command
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
    },
    /// Stop all apps and the daemon
    Kill,
    /// Print a completion script
    Completion {
        /// For which shell
        shell: Shell,
    },
}

/// Instances to act on.
#[derive(Args, Debug, PartialEq, Eq)]
pub(crate) struct Targets {
    /// Names, ids or `all`
    #[arg(required = true)]
    pub(crate) targets: Vec<String>,
    /// Return before it is done
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// Of `start`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartArgs {
    /// A script or program: a path, or a name on PATH
    pub(crate) script: OsString,
    /// Workers that share the app's ports: n, 0 or max for one per CPU, -n for that many fewer
    #[arg(short, long, value_name = "N", allow_hyphen_values = true, value_parser = instances)]
    pub(crate) instances: Option<i32>,
    /// Name [default: the script's, without its extension]
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// Working directory [default: the current one]
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<OsString>,
    /// Run the script with this program; `none` executes it [default: by its extension]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) interpreter: Option<String>,
    /// Arguments of the interpreter, separated by spaces
    #[arg(
        long,
        visible_alias = "node-args",
        value_name = "ARGS",
        allow_hyphen_values = true
    )]
    pub(crate) interpreter_args: Vec<String>,
    /// Open this address and pass it to the workers by LISTEN_FDS: 8080, 127.0.0.1:8080 or [::1]:8080
    #[arg(long, value_name = "ADDR", value_delimiter = ',', value_parser = listen_address)]
    pub(crate) listen: Vec<String>,
    /// How connections come to the workers: direct (the kernel delivers them) or handoff (the daemon accepts, for Node workers)
    #[arg(long, value_name = "HOW", default_value_t)]
    pub(crate) balance: Balance,
    /// Who gets a connection: round-robin, least-connections (who has the fewest open), ip-hash (the same client to the same worker
    /// while it lives, as for socket.io) or weighted
    #[arg(long, value_name = "POLICY", default_value_t)]
    pub(crate) policy: Policy,
    /// What the workers weigh with --policy weighted, 1 to 100 each; those beyond the list begin it again
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) weights: Vec<u32>,
    /// Share only these of the ports that the program opens [default: all but random ones]
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) ports: Vec<u16>,
    /// Leave the ports that the program opens by itself to it (it is not balanced then, unless it is Node)
    #[arg(long)]
    pub(crate) no_intercept: bool,
    /// A worker is ready when it sends `ready` (process.send)
    #[arg(long)]
    pub(crate) wait_ready: bool,
    /// How long a worker may take to become ready
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) listen_timeout: Option<u64>,
    /// From the signal to stop until SIGKILL
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) kill_timeout: Option<u64>,
    /// What asks the program to stop: SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1 or SIGUSR2
    #[arg(long, value_name = "SIGNAL", default_value_t)]
    pub(crate) kill_signal: StopSignal,
    /// Signal the program alone, and not what it has started
    #[arg(long)]
    pub(crate) no_treekill: bool,
    /// Give up after this many failures to start in a row
    #[arg(long, value_name = "N")]
    pub(crate) max_restarts: Option<u32>,
    /// On reload: time a new worker has until it must be ready
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) reload_timeout: Option<u64>,
    /// On reload: time an old worker has to finish what it has begun
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) drain_timeout: Option<u64>,
    /// On reload: time the old workers stand by when the new ones serve, to take over again if one of these ends
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) watch_after: Option<u64>,
    /// On reload: how many new workers may be starting at once; 0 is one per CPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) parallel: u32,
    /// On reload: how many workers more than instances there may be, those that drain included [default: any number]
    #[arg(long, value_name = "N")]
    pub(crate) max_surge: Option<u32>,
    /// On reload: for how many instances an old worker may leave before its successor is started
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_unavailable: u32,
    /// On reload: accept a new version that listens elsewhere
    #[arg(long)]
    pub(crate) allow_port_change: bool,
    /// On reload: path that a new worker must answer, with HTTP, before it serves
    #[arg(long, value_name = "PATH", value_parser = health_path)]
    pub(crate) health_check: Option<String>,
    /// Status of a good answer to the health check [default: 200]
    #[arg(long, value_name = "CODE", requires = "health_check", value_parser = clap::value_parser!(u16).range(100..600))]
    pub(crate) health_status: Option<u16>,
    /// Time between two health checks [default: 250ms]
    #[arg(long, value_name = "TIME", requires = "health_check", value_parser = duration)]
    pub(crate) health_interval: Option<u64>,
    /// Time for an answer to a health check [default: 2s]
    #[arg(long, value_name = "TIME", requires = "health_check", value_parser = duration)]
    pub(crate) health_timeout: Option<u64>,
    /// So many good answers in a row [default: 1]
    #[arg(long, value_name = "N", requires = "health_check", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) health_threshold: Option<u32>,
    /// Do not load the agent that drains Node politely
    #[arg(long)]
    pub(crate) no_agent: bool,
    /// An exit after this time is no failure to start
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) min_uptime: Option<u64>,
    /// Wait this long before each restart
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) restart_delay: Option<u64>,
    /// Wait this long before the first restart, longer before each further one
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) exp_backoff_restart_delay: Option<u64>,
    /// Do not restart a worker that ended by itself
    #[arg(long)]
    pub(crate) no_autorestart: bool,
    /// Return once the workers are spawned
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Arguments of the script
    #[arg(last = true)]
    pub(crate) args: Vec<OsString>,
}

#[cfg(test)]
mod tests;
