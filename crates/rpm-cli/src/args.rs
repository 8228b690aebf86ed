//! The command line: grammar and parsing.

mod command;
mod dashboard;
mod help;
mod link;
mod logs;
mod mcp;
mod needless;
mod options;
mod sort;
mod start;
mod table;
mod values;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::complete::{Completion, QUESTION};
use crate::hints::pasteable;
use crate::home::like_pm2;
pub(crate) use command::{Command, FileArgs, ListArgs, RuntimeArgs, ServeArgs, StartupArgs, Switch, Targets};
pub use dashboard::{Dashboard, Entry};
pub(crate) use link::LinkArgs;
pub(crate) use logs::{EventsArgs, LogsArgs};
pub use mcp::Mcp;
#[cfg(test)]
pub(crate) use needless::Needless;
pub(crate) use sort::Sort;
pub(crate) use start::StartArgs;
#[cfg(test)]
pub(crate) use table::{OptionArgs, of_long};

/// The command that the process of `serve` runs, and the variables with what must not be on a command line.
pub(crate) const STATIC_SITE: &str = "static-site";
pub(crate) const SITE_USER: &str = "RPM_SERVE_USERNAME";
pub(crate) const SITE_PASSWORD: &str = "RPM_SERVE_PASSWORD";

/// The name in help if the program does not know its own.
const DEFAULT_NAME: &str = "rpm";

/// What the help of `restart` and `reload` shows, in this order; most are options of `start`.
const RENEWING: [&str; 9] = [
    "only",
    "env",
    "update_env",
    "dry_run",
    "watch",
    "watch_after",
    "no_wait",
    "hard",
    "wait",
];

/// What the program runs as.
#[derive(Debug, PartialEq, Eq)]
pub enum Invocation {
    /// A command for the daemon: [`crate::run`].
    Client(Client),
    /// The daemon itself, for the directory [`crate::home_dir`].
    Daemon {
        /// Only report whether this binary could take over from the running daemon.
        check: bool,
    },
    /// A server of static files, started by the daemon for `serve`.
    Static(StaticSite),
    /// An HTTP port for Prometheus.
    Observe(Observe),
    /// The rules of alerts.
    Alerts(Alerts),
    /// A link for a browser.
    Dashboard(Dashboard),
    /// What the apps have used.
    Past(Past),
    /// The apps for models, by the Model Context Protocol.
    Mcp(Mcp),
    /// Processes and their output, live: [`crate::monit`].
    Monit(Client),
    /// A shell asks for completions: [`Completion::answer`].
    Complete(Completion),
    /// The demonstration.
    Demo {
        /// Serve there until interrupted.
        port: Option<u16>,
    },
}

impl Invocation {
    /// That of a command for the daemon.
    fn of(client: Client) -> Invocation {
        match client.command {
            Command::Monit => Invocation::Monit(client),
            _ => Invocation::Client(client),
        }
    }
}

/// Static files, and how they are served.
#[derive(Debug, PartialEq, Eq)]
pub struct StaticSite {
    /// The directory.
    pub path: PathBuf,
    /// The port.
    pub port: u16,
    /// The address; `None` means all.
    pub host: Option<String>,
    /// Serve the index for missing files: for single-page applications, which route paths themselves.
    pub spa: bool,
    /// The index, below the directory.
    pub homepage: String,
    /// Also serve files whose path has a name that begins with a dot.
    pub dotfiles: bool,
    /// Also follow links that lead out of the directory.
    pub follow_links: bool,
    /// User and password for basic authentication.
    pub password: Option<(String, String)>,
}

/// A command for the daemon.
#[derive(Debug, PartialEq, Eq)]
pub struct Client {
    pub(crate) command: Command,
    /// The name that the program was called by.
    pub(crate) program: String,
    /// Print only data and errors.
    pub(crate) silent: bool,
    /// Without colours.
    pub(crate) no_color: bool,
}

/// The arguments are not a command; or they ask for help or the version, which is not a failure.
#[derive(Debug)]
pub struct Usage(clap::Error);

impl Usage {
    /// Prints it where it belongs. Exit code 0 for help and version, otherwise 1 as under PM2. `commit` is what the program was built from.
    #[must_use]
    pub fn report(&self, commit: Option<&str>) -> ExitCode {
        // If standard output or error is closed, there is nowhere to report it.
        let _ = match self.version(commit) {
            Some(version) => io::stdout().write_all(version.as_bytes()),
            None => self.0.print(),
        };
        match self.0.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }

    /// `rpm 0.1.0 (1234abcde 2026-11-30)`, if it was asked for and the commit is known.
    fn version(&self, commit: Option<&str>) -> Option<String> {
        let asked = self.0.kind() == ErrorKind::DisplayVersion;
        let commit = commit.filter(|_| asked)?;
        Some(format!("{} ({commit})\n", self.0.to_string().trim_end()))
    }
}

/// Reads the arguments; the first is the name the program was called by, which help and completions show.
///
/// # Errors
/// They are not a command, or ask for help or the version: [`Usage::report`] prints that.
#[expect(
    clippy::too_many_lines,
    reason = "one arm for each thing that the program can run as"
)]
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, Usage> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let program = invoked_name(args.first());
    if args.get(1).is_some_and(|first| first == QUESTION)
        && let Some(question) = Completion::of(&program, &args[2..])
    {
        return Ok(Invocation::Complete(question));
    }
    if program.ends_with("-runtime") || program.ends_with("-docker") {
        // PM2 has a separate program for it.
        args.insert(1, "runtime".into());
    }
    let grammar_of_all = grammar(&program);
    if let Some(words) = help::unknown_command(&args, &grammar_of_all) {
        return Err(missing(&program, words));
    }
    let args = exit_codes_apart(args);
    let args = match program.starts_with("pm2") || like_pm2() {
        // PM2's own connects with its dashboard.
        true if args.get(1).is_some_and(|first| first == "link") => {
            return Err(missing(&program, &args[1..]));
        }
        true => options::anywhere(args, &grammar_of_all),
        false => args,
    };
    let matches = grammar_of_all.try_get_matches_from(args).map_err(Usage)?;
    let Cli {
        command,
        silent,
        no_color,
    } = Cli::from_arg_matches(&matches).map_err(Usage)?;
    let silent = silent || variable("RPM_SILENT") || variable("PM2_SILENT");
    Ok(match command {
        Top::Daemon { check } => Invocation::Daemon { check },
        Top::Demo { port } => Invocation::Demo { port },
        Top::Observe { wish, switch: None } => Invocation::Observe(wish),
        Top::Observe {
            switch: Some(switch), ..
        } => Invocation::Client(Client {
            command: Command::Observe(switch),
            program,
            silent,
            no_color,
        }),
        Top::Past(wish) => Invocation::Past(wish),
        Top::Dashboard(wish) => Invocation::Dashboard(wish),
        Top::Alerts { what } => Invocation::Alerts(what.unwrap_or(Alerts::List)),
        Top::Mcp(wish) => Invocation::Mcp(wish),
        Top::StaticSite {
            path,
            port,
            host,
            spa,
            homepage,
            dotfiles,
            follow_links,
        } => {
            let own = |name: &str| std::env::var(name).ok();
            let password = match (own(SITE_USER), own(SITE_PASSWORD)) {
                (None, None) => None,
                (Some(user), Some(password)) if !password.is_empty() => Some((user, password)),
                // The files would be open to everybody.
                _ => {
                    let text = format!("{SITE_USER} and {SITE_PASSWORD} belong together");
                    return Err(Usage(
                        grammar(&program).error(ErrorKind::MissingRequiredArgument, text),
                    ));
                }
            };
            Invocation::Static(StaticSite {
                path,
                port,
                host,
                spa,
                homepage,
                dotfiles,
                follow_links,
                password,
            })
        }
        Top::Client(command) => Invocation::of(Client {
            command: in_foreground(command),
            program,
            silent,
            no_color,
        }),
        Top::Missing(words) => return Err(missing(&program, &words)),
    })
}

/// There is no such command.
fn missing(program: &str, words: &[OsString]) -> Usage {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let text = pasteable(&crate::compat::missing(&words));
    Usage(grammar(program).error(ErrorKind::InvalidSubcommand, text))
}

/// `--stop-exit-codes 0 1 app.js` ends with the last number, as under PM2.
fn exit_codes_apart(args: Vec<OsString>) -> Vec<OsString> {
    const OPTION: &str = "--stop-exit-codes";
    let Some(at) = args.iter().position(|arg| arg == OPTION || arg == "--") else {
        return args;
    };
    let number = |arg: &&OsString| {
        arg.to_str()
            .is_some_and(|text| !text.is_empty() && text.split(',').all(|part| part.parse::<i32>().is_ok()))
    };
    let numbers: Vec<&str> = args[at + 1..]
        .iter()
        .take_while(number)
        .filter_map(|arg| arg.to_str())
        .collect();
    if args[at] == "--" || numbers.is_empty() {
        return args;
    }
    let one = format!("{OPTION}={}", numbers.join(","));
    let behind = at + 1 + numbers.len();
    args[..at]
        .iter()
        .cloned()
        .chain([one.into()])
        .chain(args[behind..].iter().cloned())
        .collect()
}

/// `start --no-daemon` is `runtime`.
fn in_foreground(command: Command) -> Command {
    match command {
        Command::Start(start) if start.no_daemon => Command::Runtime(Box::new(RuntimeArgs {
            start: *start,
            ..RuntimeArgs::default()
        })),
        other => other,
    }
}

/// The grammar of the command line, for a program of this name. Help, completion and man pages come from it.
#[must_use]
pub fn grammar(program: &str) -> clap::Command {
    // clap wants static names. A process builds its grammar once or twice.
    let name: &'static str = String::leak(program.to_owned());
    let version = Arg::new("version")
        .short('v')
        .short_alias('V')
        .long("version")
        .help("Print the version");
    // All arguments at once: `mut_arg` would move an argument to the end.
    let renewed = |arg: Arg| {
        let arg = arg.help_heading(None::<&str>);
        let shown = RENEWING.iter().position(|shown| arg.get_id() == shown);
        match (arg.get_id().as_str(), shown) {
            ("targets", _) => {
                let help = "Names, ids, namespaces, /patterns/, scripts, ecosystem files or `all`";
                arg.required(true).help(help)
            }
            ("watch", Some(place)) => {
                let help = "Toggle watching, or watch these paths";
                arg.display_order(place + 2).help(help)
            }
            (_, Some(place)) => arg.display_order(place + 2),
            (_, None) => arg.hide(true),
        }
    };
    let renewing = |command: clap::Command| command.mut_args(renewed);
    let grammar = Cli::command()
        .name(name)
        .bin_name(name)
        .arg(version.action(ArgAction::Version))
        .mut_subcommand("start", help::headed)
        .mut_subcommand("runtime", help::headed)
        .mut_subcommand("restart", renewing)
        .mut_subcommand("reload", renewing);
    help::with_examples(grammar, name)
}

/// Whether this variable is `true` or `1`.
fn variable(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| value == "true" || value == "1")
}

fn invoked_name(argv0: Option<&OsString>) -> String {
    let base = argv0.and_then(|path| Path::new(path).file_name());
    base.map_or_else(
        || DEFAULT_NAME.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Keeps apps alive and puts all cores of a machine behind one port
#[derive(Debug, Parser)]
#[command(
    version,
    disable_version_flag = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    /// Print only data and errors
    #[arg(short, long, global = true)]
    silent: bool,
    /// Without colours
    #[arg(long, global = true)]
    no_color: bool,
    #[command(subcommand)]
    command: Top,
}

/// What `observe` serves, and to whom.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq)]
#[group(skip)]
pub struct Observe {
    /// Listen there; addresses other than loopback need a token, or --tls-client-ca
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9209", value_parser = values::listen)]
    pub listen: SocketAddr,
    /// Answer whoever sends what is in this file as a bearer token, and nobody else
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Serve HTTPS with the certificate in this file (PEM); the dashboard, too
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Answer only clients with a certificate of an authority in this file (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
}

/// What the apps have used since then.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Past {
    /// These apps alone
    pub apps: Vec<String>,
    /// Since then: how long ago (10m, 6h, 7d at most), or a time; an hour ago by default
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub since: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What is done about alerts.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Alerts {
    /// Show the rules
    List,
    /// Send a test message, and show what the receiver says
    Test {
        /// The number of one rule; all if it is left out
        rule: Option<usize>,
    },
    /// Send nothing for a while
    Mute {
        /// For how long, such as 1h
        #[arg(value_name = "TIME", value_parser = values::duration)]
        lasting_ms: u64,
    },
    /// Send again
    Unmute,
}

#[derive(Debug, Subcommand)]
enum Top {
    #[command(flatten)]
    Client(Command),
    /// Show it at work: traffic, a killed worker, no lost request
    Demo {
        /// Keep serving this port for a browser
        #[arg(long)]
        port: Option<u16>,
    },
    /// Give the metrics of all apps to Prometheus, over HTTP
    #[command(args_conflicts_with_subcommands = true)]
    Observe {
        #[command(flatten)]
        wish: Observe,
        #[command(subcommand)]
        switch: Option<Switch>,
    },
    /// Show what the apps have used recently
    #[command(name = "top")]
    Past(Past),
    /// Print a link that opens the dashboard in a browser
    Dashboard(Dashboard),
    /// Show, test and mute the rules for alerts
    Alerts {
        #[command(subcommand)]
        what: Option<Alerts>,
    },
    /// Let a model look at the apps (Model Context Protocol)
    Mcp(Mcp),
    /// The process of `serve`
    #[command(hide = true, name = STATIC_SITE)]
    StaticSite {
        path: PathBuf,
        #[arg(long)]
        port: u16,
        #[arg(long)]
        host: Option<String>,
        #[arg(long)]
        spa: bool,
        #[arg(long, default_value = "index.html")]
        homepage: String,
        #[arg(long)]
        dotfiles: bool,
        #[arg(long)]
        follow_links: bool,
    },
    #[command(external_subcommand)]
    Missing(Vec<OsString>),
    /// Run the daemon in the foreground (started by the other commands when it is needed)
    #[command(hide = true)]
    Daemon {
        /// Only report whether this binary could take over from the running daemon
        #[arg(long)]
        check: bool,
    },
}

#[cfg(test)]
mod tests;
