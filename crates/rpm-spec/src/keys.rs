//! Every key that an app may have in an ecosystem file.
//!
//! One table: the schema, the documentation and the tests are made from it.
// tidy: long because it is one table

use crate::proxy::PROXY;

/// What kind of value a key wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string that is not empty.
    Text,
    /// `true` or `false`.
    Switch,
    /// A whole number from here on.
    Number(u32),
    /// `-i`: a number, `max`, or a negative number.
    Instances,
    /// Milliseconds, or a number with a unit.
    Time,
    /// Bytes, or a number with a unit.
    Memory,
    /// A string, which is split at blanks as a shell does, or a list of strings.
    Words,
    /// A string, which is split at commas, or a list of strings.
    List,
    /// Whole numbers: one, or a list.
    Numbers,
    /// An object of variables.
    Variables,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A path, or `true` for the usual one, or `false` for none.
    Path,
    /// `true`, `false`, a path, or a list of paths.
    Watch,
    /// `true`, `false`, a name, or a list of names.
    Filter,
    /// `true` for all, `false` for none, an address or a network, or a list of them.
    Networks,
    /// A time table; `0` or `false` for none.
    Cron,
    /// A name or a number.
    User,
    /// A path, or an object.
    Health,
    /// Whatever it is, it is not looked at.
    Anything,
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does what it says.
    Works,
    /// It is accepted, and there is nothing to do for it: why.
    Needless(&'static str),
    /// It is not supported: what to use instead.
    Instead(&'static str),
}

/// A key of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name, in snake case. In camel case it is understood as well.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// What it wants.
    pub kind: Kind,
    /// PM2 has it too.
    pub pm2: bool,
    /// What becomes of it.
    pub state: State,
    /// What it is, in a line.
    pub doc: &'static str,
}

const fn works(name: &'static str, aliases: &'static [&'static str], kind: Kind, doc: &'static str) -> Key {
    Key {
        name,
        aliases,
        kind,
        pm2: true,
        state: State::Works,
        doc,
    }
}

pub(crate) const fn own(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key {
        pm2: false,
        ..works(name, &[], kind, doc)
    }
}

const fn needless(name: &'static str, why: &'static str) -> Key {
    Key {
        state: State::Needless(why),
        ..works(name, &[], Kind::Anything, "")
    }
}

const fn instead(name: &'static str, what: &'static str) -> Key {
    Key {
        state: State::Instead(what),
        ..works(name, &[], Kind::Anything, "")
    }
}

/// Why the probes of PM2's dashboard are needless.
const DASHBOARD: &str = "it was for PM2's dashboard; figures are at GET /metrics";

/// All of them but those of the proxy.
const KEYS: &[Key] = &[
    works(
        "script",
        &["exec", "cmd", "command"],
        Kind::Text,
        "the script, program or command line",
    ),
    works(
        "name",
        &[],
        Kind::Text,
        "name of the app; the script's without its extension by default",
    ),
    works("cwd", &[], Kind::Text, "working directory"),
    works("args", &[], Kind::Words, "arguments of the script"),
    works(
        "exec_interpreter",
        &["interpreter"],
        Kind::Text,
        "what runs the script; `none` executes it; by its extension or its first line (`#!`) by default",
    ),
    works(
        "node_args",
        &["interpreter_args"],
        Kind::Words,
        "arguments of the interpreter",
    ),
    works(
        "instances",
        &[],
        Kind::Instances,
        "workers that share the app's ports: a number, `max`, or that many fewer than CPUs",
    ),
    works(
        "exec_mode",
        &["_mode"],
        Kind::Choice(&["cluster", "fork", "cluster_mode", "fork_mode"]),
        "`cluster` (N workers behind shared ports) or `fork` (one process)",
    ),
    works(
        "env",
        &[],
        Kind::Variables,
        "variables of the app; `env_<name>` are added by --env <name>",
    ),
    works(
        "out_file",
        &["out", "output", "out_log"],
        Kind::Path,
        "where its output goes; `/dev/stdout` and `/dev/stderr` are those of `rpm runtime`",
    ),
    works(
        "error_file",
        &["err", "error", "err_file", "err_log"],
        Kind::Path,
        "where its errors go; the same",
    ),
    works("log_file", &["log"], Kind::Path, "where both go, besides"),
    works(
        "merge_logs",
        &["combine_logs"],
        Kind::Switch,
        "all instances write to the same files, whole lines",
    ),
    works(
        "log_date_format",
        &[],
        Kind::Text,
        "before each line the time, in this format: YYYY-MM-DD HH:mm:ss.SSS Z",
    ),
    works("time", &[], Kind::Switch, "the same with YYYY-MM-DDTHH:mm:ss"),
    works(
        "log_type",
        &[],
        Kind::Choice(&["json", "raw"]),
        "`json`: each line as an object",
    ),
    works("disable_logs", &[], Kind::Switch, "output is thrown away"),
    works(
        "pid_file",
        &["pid"],
        Kind::Text,
        "where the pid is written; -<id> is added",
    ),
    works(
        "autorestart",
        &[],
        Kind::Switch,
        "restart a worker that ended by itself",
    ),
    works(
        "autostart",
        &[],
        Kind::Switch,
        "start it; `false` only puts it in the list",
    ),
    works(
        "max_restarts",
        &[],
        Kind::Number(0),
        "failures to start in a row before it is given up",
    ),
    works(
        "min_uptime",
        &[],
        Kind::Time,
        "an exit after this time is no failure to start",
    ),
    works(
        "restart_delay",
        &[],
        Kind::Time,
        "wait this long before each restart",
    ),
    works(
        "exp_backoff_restart_delay",
        &[],
        Kind::Time,
        "wait this long before the first restart, longer before each further one",
    ),
    works(
        "stop_exit_codes",
        &[],
        Kind::Numbers,
        "exit codes after which it is not restarted",
    ),
    works(
        "max_memory_restart",
        &[],
        Kind::Memory,
        "a worker whose processes have more memory is replaced",
    ),
    works(
        "cron_restart",
        &["cron"],
        Kind::Cron,
        "when to restart: a time table of cron",
    ),
    works(
        "kill_timeout",
        &[],
        Kind::Time,
        "from the signal to stop until SIGKILL",
    ),
    works(
        "wait_ready",
        &[],
        Kind::Switch,
        "ready when it sends `ready` (process.send)",
    ),
    works(
        "listen_timeout",
        &[],
        Kind::Time,
        "how long a worker may take to become ready",
    ),
    works(
        "shutdown_with_message",
        &[],
        Kind::Switch,
        "it is asked to stop by the message `shutdown`",
    ),
    works(
        "treekill",
        &[],
        Kind::Switch,
        "the signal goes to all that it has started, too",
    ),
    works(
        "watch",
        &[],
        Kind::Watch,
        "restart when files change: `true` for the working directory, or paths, also with `*`, `**`, `?`, `{a,b}`",
    ),
    works(
        "ignore_watch",
        &[],
        Kind::List,
        "files whose changes do not matter: names, paths with `*`, regular expressions (`regex:…` in JSON and YAML)",
    ),
    works(
        "watch_delay",
        &[],
        Kind::Time,
        "so long after the first change, and not while changes go on (for 5 seconds at most)",
    ),
    works(
        "instance_var",
        &[],
        Kind::Text,
        "the variable with the number of the instance; NODE_APP_INSTANCE by default",
    ),
    works(
        "increment_var",
        &[],
        Kind::Text,
        "a variable that is one higher for each further instance",
    ),
    works(
        "namespace",
        &[],
        Kind::Text,
        "a group of apps that commands may name",
    ),
    works(
        "filter_env",
        &[],
        Kind::Filter,
        "variables that are not inherited: those whose name contains one of these; `true`: all",
    ),
    works("port", &[], Kind::Number(0), "the variable PORT"),
    works(
        "uid",
        &["user"],
        Kind::User,
        "the user that it runs as (root only); its programs gain no privileges (sudo) without `intercept: false`",
    ),
    works("gid", &[], Kind::User, "the group that it runs as (root only)"),
    works(
        "append_env_to_name",
        &[],
        Kind::Switch,
        "`-<name>` of --env is added to its name",
    ),
    works("name_prefix", &[], Kind::Text, "what its name begins with"),
    works(
        "force",
        &[],
        Kind::Switch,
        "start it even if the same script runs already",
    ),
    works(
        "source_map_support",
        &[],
        Kind::Switch,
        "Node reads source maps; on by default",
    ),
    works(
        "disable_source_map_support",
        &[],
        Kind::Switch,
        "the opposite of source_map_support",
    ),
    needless("execute_command", "`exec_mode: \"fork\"` says it"),
    needless("kill_retry_time", "the end of a process is seen at once"),
    needless("vizion", "git is not asked"),
    needless("pmx", DASHBOARD),
    needless("automation", DASHBOARD),
    needless("trace", DASHBOARD),
    needless("disable_trace", DASHBOARD),
    needless("v8", DASHBOARD),
    needless("event_loop_inspector", DASHBOARD),
    needless("deep_monitoring", DASHBOARD),
    needless("io", DASHBOARD),
    needless("write", "it is for PM2's own files"),
    needless("username", "the app inherits USER"),
    needless("windows_hide", "it is for Windows"),
    needless(
        "watch_options",
        "the kernel tells of changes; ignore_watch and watch_delay are understood",
    ),
    instead("post_update", "run it in your deploy script, before the reload"),
    instead("install_url", "install what the app needs before it is started"),
    own(
        "balance",
        Kind::Choice(&["auto", "direct", "handoff", "proxy"]),
        "how connections come to the workers",
    ),
    own(
        "policy",
        Kind::Choice(&[
            "round-robin",
            "least-connections",
            "ip-hash",
            "weighted",
            "latency",
        ]),
        "who gets a connection",
    ),
    own(
        "weights",
        Kind::Numbers,
        "what the workers weigh with `weighted`, 1 to 100 each",
    ),
    own(
        "log_max_size",
        Kind::Memory,
        "a log file that has grown so large is put aside: <file>.1, the one before it becomes <file>.2",
    ),
    own(
        "log_keep",
        Kind::Number(0),
        "so many of those are kept; 10 by default",
    ),
    own("listen", Kind::List, "addresses to open and pass by LISTEN_FDS"),
    own(
        "ports",
        Kind::Numbers,
        "the only ports that workers share; none: all but random ones",
    ),
    own(
        "intercept",
        Kind::Switch,
        "share the ports that the program opens by itself",
    ),
    own(
        "kill_signal",
        Kind::Choice(&["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"]),
        "what asks the program to stop",
    ),
    own(
        "reload_timeout",
        Kind::Time,
        "on reload: time a new worker has until it must be ready",
    ),
    own(
        "drain_timeout",
        Kind::Time,
        "on reload: time an old worker has to finish what it has begun",
    ),
    own(
        "watch_after",
        Kind::Time,
        "on reload: time the old workers stand by when the new ones serve",
    ),
    own(
        "parallel",
        Kind::Number(0),
        "on reload: how many new workers may be starting at once; 0 is one per CPU",
    ),
    own(
        "max_surge",
        Kind::Number(0),
        "on reload: how many workers more than instances there may be",
    ),
    own(
        "max_unavailable",
        Kind::Number(0),
        "on reload: for how many instances an old worker may leave before its successor is started",
    ),
    own(
        "allow_port_change",
        Kind::Switch,
        "on reload: accept a new version that listens elsewhere",
    ),
    own(
        "health_check",
        Kind::Health,
        "on reload: path that a new worker must answer, with HTTP, before it serves; or an object with path, status, interval, timeout, threshold",
    ),
    own("agent", Kind::Switch, "load the agent that drains Node politely"),
    own(
        "env_file",
        Kind::List,
        "files of variables, as for node --env-file; what the command's environment or `env` says counts for more",
    ),
    own(
        "cron_timezone",
        Kind::Text,
        "time zone of cron_restart, as Europe/Berlin; that of the daemon by default",
    ),
];

/// The key of this name or alias, in snake or camel case.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    let snake = snake_case(name);
    let known = |key: &&Key| {
        let mut names = [key.name].into_iter().chain(key.aliases.iter().copied());
        names.any(|known| known == name || known == snake)
    };
    all().find(known)
}

/// Every key.
pub fn all() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().chain(PROXY)
}

/// `maxMemoryRestart` is `max_memory_restart`.
pub(crate) fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

impl Kind {
    /// What is expected, for people.
    #[must_use]
    pub fn expected(self) -> String {
        match self {
            Kind::Text => "a string".to_owned(),
            Kind::Switch => "true or false".to_owned(),
            Kind::Number(0) => "a whole number, 0 or more".to_owned(),
            Kind::Number(least) => format!("a whole number, {least} or more"),
            Kind::Instances => "a number of instances: 4, \"max\", or -1 for one fewer than CPUs".to_owned(),
            Kind::Time => "a time: milliseconds, or a number with ms, s, m, h or d, as \"10s\"".to_owned(),
            Kind::Memory => "an amount of memory: bytes, or a number with K, M or G, as \"300M\"".to_owned(),
            Kind::Words | Kind::List => "a string or a list of strings".to_owned(),
            Kind::Numbers => "a whole number or a list of them".to_owned(),
            Kind::Variables => "an object of variables: { NAME: \"value\" }".to_owned(),
            Kind::Choice(words) => format!("one of: {}", words.join(", ")),
            Kind::Path => "a path, true or false".to_owned(),
            Kind::Watch => "true, false, a path or a list of paths".to_owned(),
            Kind::Filter => "true, false, a name or a list of names".to_owned(),
            Kind::Networks => {
                "true, false, an address or a network, as \"10.0.0.0/8\", or a list of them".to_owned()
            }
            Kind::Cron => "a time table of cron, as \"0 3 * * *\", or 0 for none".to_owned(),
            Kind::User => "a name or a number".to_owned(),
            Kind::Health => {
                "a path that begins with /, or an object with path, status, interval, timeout, threshold"
                    .to_owned()
            }
            Kind::Anything => "anything".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_every_spelling_and_are_unique() {
        for (name, canonical) in [
            ("maxMemoryRestart", "max_memory_restart"),
            ("interpreterArgs", "node_args"),
            ("cmd", "script"),
            ("errFile", "error_file"),
            ("_mode", "exec_mode"),
            ("windowsHide", "windows_hide"),
        ] {
            assert_eq!(find(name).map(|key| key.name), Some(canonical), "{name}");
        }
        assert_eq!(find("colour"), None);
        let mut names: Vec<&str> = all()
            .flat_map(|key| key.aliases.iter().chain([&key.name]))
            .copied()
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
