//! The commands of a client, and their options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Observe;
use super::link::LinkArgs;
use super::logs::{EventsArgs, LogsArgs};
use super::sort::{self, Sort};
use super::start::StartArgs;
use super::values::{self, count};
use crate::complete::Shell;

/// Everything a client can ask for.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Command {
    /// Start an app and wait until every worker is ready
    Start(Box<StartArgs>),
    /// Start apps in the foreground, for containers
    Runtime(Box<RuntimeArgs>),
    /// Show all processes
    #[command(visible_aliases = ["ls", "l", "ps", "status"])]
    List(ListArgs),
    /// Print all processes as JSON in PM2's shape
    Jlist,
    /// Print all processes as PM2 prints them, a field a line
    Prettylist,
    /// Print the pids of an app or of all, one a line
    Pid {
        /// Name or id
        target: Option<String>,
    },
    /// Print the ids of an app's processes
    Id {
        /// Name
        name: String,
    },
    /// Print the variables that an app was given
    Env {
        /// Id or name
        target: String,
    },
    /// Show an app: settings, processes, listeners
    #[command(visible_aliases = ["desc", "info", "show"])]
    Describe {
        /// Name or id
        target: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop apps and keep them in the list
    Stop {
        #[command(flatten)]
        targets: Targets,
        #[command(flatten)]
        files: FileArgs,
        /// At once: requests in flight are cut
        #[arg(long)]
        hard: bool,
        /// Do not watch their files any more, either
        #[arg(long)]
        watch: bool,
    },
    /// Restart apps; a cluster that serves is reloaded
    Restart {
        #[command(flatten)]
        start: Box<StartArgs>,
        /// Stop and start even where a reload would do
        #[arg(long)]
        hard: bool,
        /// Return only when the old workers are gone too
        #[arg(long, conflicts_with = "no_wait")]
        wait: bool,
    },
    /// Replace every worker without losing a request
    Reload {
        #[command(flatten)]
        start: Box<StartArgs>,
        /// Return only when the old workers are gone too
        #[arg(long, conflicts_with = "no_wait")]
        wait: bool,
    },
    /// Bring back what served before the last reload
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
    /// Stop apps and remove them from the list
    #[command(visible_alias = "del")]
    Delete {
        #[command(flatten)]
        targets: Targets,
        #[command(flatten)]
        files: FileArgs,
        /// At once: requests in flight are cut
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
    Logs(LogsArgs),
    /// Show what has happened: crashes, reloads, frozen workers
    Events(EventsArgs),
    /// Empty the log files
    Flush {
        /// Names, ids, namespaces or /patterns/
        targets: Vec<String>,
    },
    /// Reopen the log files after they were moved
    #[command(name = "reloadLogs", visible_alias = "reload-logs")]
    ReloadLogs,
    /// Set the count of restarts to 0
    Reset {
        /// Names, ids, namespaces, /patterns/ or `all`
        #[arg(required = true)]
        targets: Vec<String>,
    },
    /// Send a signal to programs
    #[command(name = "sendSignal", visible_alias = "send-signal")]
    SendSignal {
        /// Its name or number
        signal: String,
        /// Names, ids, namespaces, /patterns/ or `all`
        #[arg(required = true)]
        targets: Vec<String>,
    },
    /// Start the apps of a file, restart those that run
    #[command(name = "startOrRestart", visible_alias = "start-or-restart")]
    StartOrRestart {
        #[command(flatten)]
        file: OneFile,
    },
    /// Start the apps of a file, reload those that run
    #[command(name = "startOrReload", visible_aliases = ["startOrGracefulReload", "start-or-reload"])]
    StartOrReload {
        #[command(flatten)]
        file: OneFile,
    },
    /// Check ecosystem files without starting anything
    Validate {
        /// Files [default: ecosystem.config.js]
        files: Vec<OsString>,
        /// Fail for what is only worth a warning, too: keys that are unknown or not supported
        #[arg(long)]
        strict: bool,
    },
    /// Write a sample ecosystem file
    #[command(visible_alias = "ecosystem")]
    Init {
        /// Accepted for PM2's sake
        #[arg(hide = true)]
        kind: Option<String>,
    },
    /// Set a value, or a variable of an app: web.PORT 8080
    #[command(visible_aliases = ["conf", "config"])]
    Set {
        /// Its name
        key: Option<String>,
        /// The value
        value: Option<String>,
    },
    /// Set several values
    Multiset {
        /// Keys and values, in turn
        values: String,
    },
    /// Print a value that was set, or all of them
    Get {
        /// Its name
        key: Option<String>,
    },
    /// Remove a value that was set, or all of them
    Unset {
        /// Its name
        key: String,
    },
    /// Write a line to the standard input of a process
    Send {
        /// Id or name
        target: String,
        /// The line
        #[arg(allow_hyphen_values = true)]
        line: String,
    },
    /// Connect the terminal to a process: output and input
    Attach {
        /// Id or name
        target: String,
        /// Accepted for PM2's sake
        #[arg(hide = true)]
        separator: Option<String>,
    },
    /// Call an action of a program (io.action of @pm2/io)
    Trigger {
        /// Name, id, namespace, /pattern/ or `all`
        target: String,
        /// Its name
        action: String,
        /// What it is given
        #[arg(allow_hyphen_values = true)]
        params: Option<String>,
    },
    /// Watch processes and their output on the terminal
    #[command(visible_aliases = ["dash", "imonit"])]
    Monit,
    /// Deploy to other machines, as the file's `deploy` says
    Deploy {
        /// [file] <environment> [setup | update | ref <version> | revert <n> | curr | prev | list | exec <command>]
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Print what a bug report needs
    Report,
    /// Serve static files, as an app
    #[command(visible_alias = "expose")]
    Serve(ServeArgs),
    /// Check that the daemon answers
    Ping {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Start no daemon: fail if none runs
        #[arg(long)]
        no_start: bool,
    },
    /// Exit with 0 if the apps serve, for health checks
    Ready {
        /// Names or ids [default: all that are not stopped]
        targets: Vec<String>,
        /// Print JSON: each app with its instances, and why it is not ready
        #[arg(long)]
        json: bool,
    },
    /// Show what this system permits, and how to get more
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Replace the running daemon by this version
    #[command(visible_alias = "updatePM2")]
    Update {
        /// Another binary than the one of this command
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
    },
    /// Save the list of apps for `resurrect`
    #[command(visible_alias = "dump")]
    Save {
        /// Also an empty list
        #[arg(short, long)]
        force: bool,
    },
    /// Start the apps that were saved and do not run
    Resurrect {
        /// Return before it is done
        #[arg(long)]
        no_wait: bool,
    },
    /// Remove the saved list
    Cleardump,
    /// Start the apps that PM2 has saved (`pm2 save`)
    Import {
        /// Its file [default: ~/.pm2/dump.pm2]
        file: Option<PathBuf>,
        /// Show what would be started, and what would not and why, and start nothing
        #[arg(long)]
        dry_run: bool,
        /// Return before it is done
        #[arg(long)]
        no_wait: bool,
    },
    /// Start the daemon and the saved apps at boot
    Startup(StartupArgs),
    /// Undo `startup`
    Unstartup(StartupArgs),
    /// `observe` with a word behind it: alone it is no command for the daemon.
    #[command(skip)]
    Observe(Switch),
    /// Stop all apps and the daemon
    Kill {
        /// End the daemon alone: the apps serve on, and the next command takes them back
        #[arg(long)]
        keep_apps: bool,
        /// For units of systemd: keep the apps if the unit is being restarted
        #[arg(long, hide = true)]
        service: bool,
    },
    /// Give this program another name: rpm or pm2
    Link(LinkArgs),
    /// Print a completion script
    Completion {
        /// The shell that will read it
        shell: Shell,
    },
}

/// What the daemon does about the metrics.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Switch {
    /// Have the daemon run it, and start it again with the apps
    On(Observe),
    /// End that
    Off,
    /// Say whether it is on, and where
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Which part of an ecosystem file.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileArgs {
    /// Only these apps of the ecosystem file
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = values::trimmed)]
    pub(crate) only: Vec<String>,
    /// Add the variables of env_<NAME> in the ecosystem file
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<String>,
    /// Show what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl FileArgs {
    /// Those among the arguments of `start`.
    pub(crate) fn of(args: &StartArgs) -> FileArgs {
        FileArgs {
            only: args.only.clone(),
            env: args.env.clone(),
            dry_run: args.dry_run,
        }
    }
}

/// Of `list`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListArgs {
    /// Only these: names, ids, namespaces or /patterns/
    pub(crate) targets: Vec<String>,
    /// Also the process of `observe on`
    #[arg(long)]
    pub(crate) hidden: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[arg(long, value_name = "COLUMN[:desc]", value_parser = Sort::parse, help = sort::help())]
    pub(crate) sort: Option<Sort>,
    /// A line for each figure instead of a table
    #[arg(short, long)]
    pub(crate) mini_list: bool,
    /// On a terminal: again every 2 s, until `q` or Ctrl-C
    #[arg(long, conflicts_with_all = ["json", "mini_list"])]
    pub(crate) watch: bool,
}

/// Of `runtime`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuntimeArgs {
    #[command(flatten)]
    pub(crate) start: StartArgs,
    /// Go on when no app runs any more
    #[arg(long)]
    pub(crate) no_auto_exit: bool,
    /// Print the apps' lines as JSON, one object a line
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
    /// Print them as timestamp=… app=… id=… type=… message=…
    #[arg(long, visible_alias = "formatted")]
    pub(crate) format: bool,
    /// Print them as they are (which is the default)
    #[arg(long, hide = true)]
    pub(crate) raw: bool,
}

/// Of `serve`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServeArgs {
    /// The directory [default: the current one]
    pub(crate) path: Option<PathBuf>,
    /// Port to serve on [default: 8080]
    pub(crate) at: Option<u16>,
    /// The same
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Answer missing paths with index.html
    #[arg(long)]
    pub(crate) spa: bool,
    /// Serve files whose names begin with a dot, too (of `.well-known` what is below it is always served)
    #[arg(long)]
    pub(crate) dotfiles: bool,
    /// Follow links that lead out of the directory
    #[arg(long)]
    pub(crate) follow_links: bool,
    /// User that a client must know
    #[arg(long, value_name = "USER", requires = "basic_auth_password")]
    pub(crate) basic_auth_username: Option<String>,
    /// Password that a client must know
    #[arg(long, value_name = "PASSWORD", requires = "basic_auth_username")]
    pub(crate) basic_auth_password: Option<String>,
    /// Name of the app [default: static-page-server-<port>]
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// Processes that share the port
    #[arg(short, long, value_name = "N", allow_hyphen_values = true, value_parser = values::instances)]
    pub(crate) instances: Option<i32>,
}

/// Of `startup`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartupArgs {
    /// systemd or openrc [default: what runs here]
    pub(crate) platform: Option<String>,
    /// Whose daemon [default: yours]
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// The user's home directory
    #[arg(long, value_name = "DIR")]
    pub(crate) hp: Option<PathBuf>,
    /// Name of the service [default: rpm-<user>]
    #[arg(long, value_name = "NAME")]
    pub(crate) service_name: Option<String>,
    /// Start when the network has addresses
    #[arg(long)]
    pub(crate) wait_ip: bool,
    /// Print the service file, and change nothing
    #[arg(long)]
    pub(crate) print: bool,
}

/// An ecosystem file.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct OneFile {
    /// The file; `-` reads one from standard input
    pub(crate) file: OsString,
    #[command(flatten)]
    pub(crate) files: FileArgs,
    /// Accepted for PM2's sake: a file's environment is always taken
    #[arg(short = 'a', long, hide = true)]
    pub(crate) update_env: bool,
    /// Return before it is done
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// Instances to act on.
#[derive(Args, Debug, PartialEq, Eq)]
pub(crate) struct Targets {
    /// Names, ids, namespaces, /patterns/, ecosystem files or `all`
    #[arg(required = true)]
    pub(crate) targets: Vec<String>,
    /// Return before it is done
    #[arg(long)]
    pub(crate) no_wait: bool,
}
