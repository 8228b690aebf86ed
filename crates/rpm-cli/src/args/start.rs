//! The arguments of `start`.

use std::ffi::OsString;

use clap::Args;
use rpm_wire::api::{Balance, Policy, StopSignal};

use super::needless::Needless;
use super::proxy::ProxyArgs;
use super::values::{
    amount, balance, duration, health_path, instances, listen_address, policy, stop_signal, trimmed,
};

/// Of `start`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartArgs {
    /// A script or program, an ecosystem file (`-` reads one from standard input), or a name or id that is known [default: ecosystem.config.js]
    pub(crate) targets: Vec<OsString>,
    /// Workers that share the app's ports: n, 0 or max for one per CPU, -n for that many fewer
    #[arg(short, long, value_name = "N", allow_hyphen_values = true, value_parser = instances)]
    pub(crate) instances: Option<i32>,
    /// Name [default: the script's, without its extension]
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// A group of apps that commands may name
    #[arg(long)]
    pub(crate) namespace: Option<String>,
    /// Of an ecosystem file, only these apps
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = trimmed)]
    pub(crate) only: Vec<String>,
    /// Of an ecosystem file, add the variables of env_<NAME>
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<String>,
    /// Give apps that are known already this environment, too
    #[arg(short = 'a', long)]
    pub(crate) update_env: bool,
    /// Show what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Start a script that runs already once more, under another name
    #[arg(short, long)]
    pub(crate) force: bool,
    /// One process, also with -i (fork mode)
    #[arg(short = 'x', long)]
    pub(crate) execute_command: bool,
    /// Stay in the foreground, as a container wants it: see `runtime`
    #[arg(long)]
    pub(crate) no_daemon: bool,
    /// Follow the apps' output when they are started
    #[arg(long, conflicts_with = "no_daemon")]
    pub(crate) attach: bool,
    /// Only put it in the list
    #[arg(long)]
    pub(crate) no_autostart: bool,
    /// Working directory [default: the current one]
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<OsString>,
    /// Run the script with this program; `none` executes it [default: by its extension or its first line]
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
    /// How connections reach the workers: the kernel delivers them (direct), the daemon accepts them (handoff, for Node), or it speaks
    /// HTTP and passes on each request (proxy)
    #[arg(long, value_name = "HOW", value_parser = balance())]
    pub(crate) balance: Option<Balance>,
    /// Which worker gets a connection: the next (round-robin), the one with the fewest open (least-connections), the client's own
    /// (ip-hash, as for socket.io), by --weights (weighted), or the fastest (latency, with --balance proxy)
    #[arg(long, value_name = "POLICY", value_parser = policy())]
    pub(crate) policy: Option<Policy>,
    /// Weights of the workers for --policy weighted, 1 to 100 each; the list repeats
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) weights: Vec<u32>,
    /// Share only these of the ports that the program opens [default: all but random ones]; with --uid also those below 1024 that it
    /// may have
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) ports: Vec<u16>,
    /// Leave the ports that the program opens by itself to it (it is not balanced then, unless it is Node), and let it gain privileges
    /// (sudo)
    #[arg(long)]
    pub(crate) no_intercept: bool,
    /// A worker is ready when it sends `ready` (process.send)
    #[arg(long)]
    pub(crate) wait_ready: bool,
    /// How long a worker may take to become ready; usually as long as for a reload
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) listen_timeout: Option<u64>,
    /// From the signal to stop until SIGKILL
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub(crate) kill_timeout: Option<u64>,
    /// Signal that asks the program to stop
    #[arg(long, value_name = "SIGNAL", ignore_case = true, value_parser = stop_signal())]
    pub(crate) kill_signal: Option<StopSignal>,
    /// Signal the program alone, and not what it has started
    #[arg(long)]
    pub(crate) no_treekill: bool,
    /// Ask the program to stop by the message `shutdown` (process.on('message')) instead of a signal
    #[arg(long)]
    pub(crate) shutdown_with_message: bool,
    /// Exit codes after which it is not restarted
    #[arg(long, value_name = "CODE", num_args = 1.., value_delimiter = ',', allow_negative_numbers = true)]
    pub(crate) stop_exit_codes: Vec<i32>,
    /// Replace a worker whose processes have more memory: 300M, 1G
    #[arg(long, value_name = "MEMORY", value_parser = amount)]
    pub(crate) max_memory_restart: Option<u64>,
    /// Restart by the clock, as cron does: '0 3 * * *'
    #[arg(short = 'c', long, visible_alias = "cron", value_name = "TABLE")]
    pub(crate) cron_restart: Option<String>,
    /// Restart when files change: in the working directory, or in these paths
    #[arg(long, value_name = "PATH", num_args = 0.., require_equals = true, value_delimiter = ',')]
    pub(crate) watch: Option<Vec<String>>,
    /// Files whose changes do not matter; several are separated by commas or blanks
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub(crate) ignore_watch: Vec<String>,
    /// At least so long from the first change to the restart, which waits until changes cease (5 seconds at most)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) watch_delay: Option<u64>,
    /// Where its output goes; /dev/null: nowhere
    #[arg(short, long, visible_alias = "out", value_name = "FILE")]
    pub(crate) output: Option<String>,
    /// Where its errors go
    #[arg(short, long, visible_alias = "err", value_name = "FILE")]
    pub(crate) error: Option<String>,
    /// Where both go, besides
    #[arg(short, long, value_name = "FILE", num_args = 0..=1, default_missing_value = "")]
    pub(crate) log: Option<String>,
    /// Throw its output away
    #[arg(long)]
    pub(crate) disable_logs: bool,
    /// All instances write to the same files
    #[arg(long)]
    pub(crate) merge_logs: bool,
    /// The time before each line, as YYYY-MM-DD HH:mm:ss.SSS Z
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_date_format: Option<String>,
    /// The same with YYYY-MM-DDTHH:mm:ss
    #[arg(long)]
    pub(crate) time: bool,
    /// `json`: each line as an object
    #[arg(long, value_name = "TYPE", value_parser = ["json", "raw"])]
    pub(crate) log_type: Option<String>,
    /// Rotate a log file when it is this large: <file>.1, .2 and so on
    #[arg(long, value_name = "SIZE", value_parser = amount)]
    pub(crate) log_max_size: Option<u64>,
    /// How many rotated files are kept [default: 10]
    #[arg(long, value_name = "N", requires = "log_max_size")]
    pub(crate) log_keep: Option<u32>,
    /// Where the pid is written; -<id> is added
    #[arg(short, long, value_name = "FILE")]
    pub(crate) pid: Option<String>,
    /// The user it runs as (root only); its programs gain no privileges (sudo) without --no-intercept
    #[arg(long, value_name = "USER")]
    pub(crate) uid: Option<String>,
    /// The group it runs as (root only)
    #[arg(long, value_name = "GROUP")]
    pub(crate) gid: Option<String>,
    /// Variables that it does not inherit: those whose name contains one of these; without any: all
    #[arg(long, value_name = "NAME", num_args = 0..=1, value_delimiter = ',')]
    pub(crate) filter_env: Option<Vec<String>>,
    /// Read variables from this file, as node does; those of the environment count for more, those that a known app has for less
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<String>,
    /// Node reads no source maps
    #[arg(long)]
    pub(crate) disable_source_map_support: bool,
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
    #[arg(long, value_name = "N")]
    pub(crate) parallel: Option<u32>,
    /// On reload: how many workers more than instances there may be, those that drain included [default: any number]
    #[arg(long, value_name = "N")]
    pub(crate) max_surge: Option<u32>,
    /// On reload: for how many instances an old worker may leave before its successor is started
    #[arg(long, value_name = "N")]
    pub(crate) max_unavailable: Option<u32>,
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
    #[command(flatten)]
    pub(crate) proxy: ProxyArgs,
    #[command(flatten)]
    pub(crate) needless: Needless,
    /// Arguments of the script
    #[arg(last = true)]
    pub(crate) args: Vec<OsString>,
}
