//! What an app is started from: the table of its options.
// tidy: long because it is one table

use std::collections::BTreeMap;

use super::proxy::ProxySpec;
use super::signal::StopSignal;
use super::spec::{Balance, ExecMode, HealthCheck, LogTarget, Policy, WatchSpec};
use super::yes;
use crate::options::Heading::{EnvironmentAndUser, Output, ReadyStopRestart, Reload, WorkersAndPorts};
use crate::options::{Key, Kind, options};

options! {
    /// An app as the user described it, resolved by the CLI to what the daemon can execute.
    /// Durations are in milliseconds.
    pub struct AppSpec {
        /// Unique name.
        pub name: String,
        /// The script or program, absolute.
        pub script: String,
        /// The interpreter, absolute or to be found on `env["PATH"]`; `None` executes the script itself.
        #[serde(default)]
        pub interpreter: Option<String>,
        /// Arguments of the interpreter, before the script.
        #[serde(default)]
        pub interpreter_args: Vec<String>,
        /// Arguments of the script.
        #[serde(default)]
        pub args: Vec<String>,
        /// Working directory, absolute.
        pub cwd: String,
        /// The whole environment of the app (the caller's, plus its own).
        #[serde(default)]
        pub env: BTreeMap<String, String>,
        /// Cluster or fork.
        pub exec_mode: ExecMode,
        /// How many instances; 0 = one per CPU the daemon may use, negative = that many fewer.
        pub instances: i32,
        /// What the proxy is to do, where it is what balances.
        #[serde(default)]
        pub proxy: ProxySpec,
        /// What a worker that a reload starts must answer before it takes over.
        #[serde(default)]
        pub health_check: Option<HealthCheck>,
        /// Restart when files change.
        #[serde(default)]
        pub watch: Option<WatchSpec>,
        /// Where its output goes.
        #[serde(default)]
        pub logs: LogSpec,
        /// Where the pids are written: the number of the instance is added to its name.
        #[serde(default)]
        pub pid_file: Option<String>,
    }
    default {
        name: String::new(),
        script: String::new(),
        interpreter: None,
        interpreter_args: Vec::new(),
        args: Vec::new(),
        cwd: "/".to_owned(),
        env: BTreeMap::new(),
        exec_mode: ExecMode::Fork,
        instances: 1,
        proxy: ProxySpec::default(),
        health_check: None,
        watch: None,
        logs: LogSpec::default(),
        pid_file: None,
    }

    /// The script, program or command line
    Key::pm2("script", Kind::Text).aliases(&["exec", "cmd", "command"]).file_only();
    /// Name
    Key::pm2("name", Kind::Text).short('n').default("the script's, without its extension");
    /// A group of apps that commands may name
    Key::pm2("namespace", Kind::Text) => namespace: String = "default_namespace";
    /// Arguments of the script
    Key::pm2("args", Kind::Words).file_only();
    /// Start a script that already runs once more
    Key::pm2("force", Kind::Switch).short('f').help("Start a script that already runs once more, under another name");
    /// Start it; `false` only adds it to the list
    Key::pm2("autostart", Kind::Switch).off("Only add it to the list") => autostart: bool = "yes";

    /// Workers that share the app's ports: n, 0 or max for one per CPU, -n for that many fewer
    Key::pm2("instances", Kind::Instances).below(WorkersAndPorts).short('i');
    /// `cluster` (N workers behind shared ports) or `fork` (one process)
    Key::pm2("exec_mode", Kind::Choice(&["cluster", "fork", "cluster_mode", "fork_mode"]))
        .aliases(&["_mode"]).below(WorkersAndPorts).short('x')
        .stands("execute-command", "fork", "One process, also with -i (fork mode)");
    /// Addresses to open and pass to the workers by LISTEN_FDS: 8080, 127.0.0.1:8080 or [::1]:8080
    Key::own("listen", Kind::Addresses).below(WorkersAndPorts)
        .help("Open this address and pass it to the workers by LISTEN_FDS: 8080, 127.0.0.1:8080 or [::1]:8080")
        => listen: Vec<String>;
    /// How connections reach the workers: the kernel delivers them (direct), the daemon accepts them (handoff, for Node), or it speaks HTTP and passes on each request (proxy)
    Key::own("balance", Kind::Choice(&["auto", "direct", "handoff", "proxy"])).below(WorkersAndPorts).value("HOW")
        => balance: Balance;
    /// Which worker gets a connection: the next (round-robin), the one with the fewest open (least-connections), the client's own (ip-hash, as for socket.io), by `weights` (weighted), or the fastest (latency, with `balance: proxy`)
    Key::own("policy", Kind::Choice(&["round-robin", "least-connections", "ip-hash", "weighted", "latency"]))
        .below(WorkersAndPorts).value("POLICY")
        .help("Which worker gets a connection: the next (round-robin), the one with the fewest open (least-connections), the client's own (ip-hash, as for socket.io), by --weights (weighted), or the fastest (latency, with --balance proxy)")
        => policy: Policy;
    /// Weights of the workers for the policy `weighted`, 1 to 100 each; the list repeats
    Key::own("weights", Kind::Numbers(1, 100)).below(WorkersAndPorts)
        .help("Weights of the workers for --policy weighted, 1 to 100 each; the list repeats")
        => weights: Vec<u32>;
    /// Share only these of the ports that the program opens; with `uid` also those below 1024 that it may have
    Key::own("ports", Kind::Numbers(1, 65535)).below(WorkersAndPorts).value("PORT").default("all but random ones")
        .help("Share only these of the ports that the program opens; with --uid also those below 1024 that it may have")
        => ports: Vec<u16>;
    /// Share the ports that the program opens by itself
    Key::own("intercept", Kind::Switch).below(WorkersAndPorts)
        .off("Leave the ports that the program opens by itself to it (it is not balanced then, unless it is Node), and let it gain privileges (sudo)")
        => intercept: bool = "yes";
    /// Load the agent that drains Node politely
    Key::own("agent", Kind::Switch).below(WorkersAndPorts).off("Do not load the agent that drains Node politely")
        => agent: bool = "yes";
    /// Keep idle connections of clients for this time, whatever the app sets (Node and Bun, with the agent); choose more than your load balancer's idle timeout
    Key::own("keep_alive_timeout", Kind::Time).below(WorkersAndPorts).default("the app's; 5s with Node")
        => keep_alive_timeout_ms: Option<u64>;

    /// Working directory
    Key::pm2("cwd", Kind::Text).below(EnvironmentAndUser).value("DIR").default("the current one");
    /// Run the script with this program; `none` executes it
    Key::pm2("exec_interpreter", Kind::Text).aliases(&["interpreter"]).below(EnvironmentAndUser)
        .long("interpreter").value("PROGRAM").default("by its extension or its first line");
    /// Arguments of the interpreter
    Key::pm2("node_args", Kind::Words).aliases(&["interpreter_args"]).below(EnvironmentAndUser)
        .long("interpreter-args").alias("node-args").value("ARGS").help("Arguments of the interpreter, separated by spaces");
    /// Variables of the app; those of `env_<name>` are added by --env <name>
    Key::pm2("env", Kind::Variables).file_only();
    /// The user it runs as (root only); its programs gain no privileges (sudo) without `intercept: false`
    Key::pm2("uid", Kind::User).aliases(&["user"]).below(EnvironmentAndUser).value("USER")
        .help("The user it runs as (root only); its programs gain no privileges (sudo) without --no-intercept")
        => uid: Option<String>;
    /// The group it runs as (root only)
    Key::pm2("gid", Kind::User).below(EnvironmentAndUser).value("GROUP") => gid: Option<String>;
    /// Variables that it does not inherit: those whose name contains one of these; `true`: all
    Key::pm2("filter_env", Kind::Filter).below(EnvironmentAndUser)
        .help("Variables that it does not inherit: those whose name contains one of these; without any: all");
    /// Files of variables, as for node --env-file; what the command's environment or `env` says takes precedence
    Key::own("env_file", Kind::List).below(EnvironmentAndUser).value("FILE")
        .help("Read variables from this file, as node does; the environment takes precedence, and the file over what a known app has");
    /// Node reads source maps
    Key::pm2("source_map_support", Kind::Switch).file_only().default("true") => source_map_support: bool = "yes";
    /// The opposite of source_map_support
    Key::pm2("disable_source_map_support", Kind::Switch).below(EnvironmentAndUser).help("Node reads no source maps");
    /// The variable PORT
    Key::pm2("port", Kind::COUNT).file_only();
    /// The variable with the number of the instance
    Key::pm2("instance_var", Kind::Text).file_only().default("NODE_APP_INSTANCE") => instance_var: Option<String>;
    /// A variable that is one higher for each further instance
    Key::pm2("increment_var", Kind::Text).file_only() => increment_var: Option<String>;
    /// `-<name>` of --env is added to its name
    Key::pm2("append_env_to_name", Kind::Switch).file_only();
    /// What its name begins with
    Key::pm2("name_prefix", Kind::Text).file_only();

    /// A worker is ready when it sends `ready` (process.send)
    Key::pm2("wait_ready", Kind::Switch).below(ReadyStopRestart) => wait_ready: bool;
    /// How long a worker may take to become ready; usually as long as for a reload
    Key::pm2("listen_timeout", Kind::Time).below(ReadyStopRestart) => listen_timeout_ms: Option<u64>;
    /// From the signal to stop until SIGKILL
    Key::pm2("kill_timeout", Kind::Time).below(ReadyStopRestart).short('k') => kill_timeout_ms: Option<u64>;
    /// Signal that asks the program to stop
    Key::own("kill_signal", Kind::Signal).below(ReadyStopRestart) => kill_signal: StopSignal;
    /// The signal goes to all that it has started, too
    Key::pm2("treekill", Kind::Switch).below(ReadyStopRestart).off("Signal the program alone, and not what it has started")
        => treekill: bool = "yes";
    /// Ask the program to stop by the message `shutdown` (process.on('message')) instead of a signal
    Key::pm2("shutdown_with_message", Kind::Switch).below(ReadyStopRestart) => shutdown_with_message: bool;
    /// Exit codes after which it is not restarted
    Key::pm2("stop_exit_codes", Kind::Numbers(i32::MIN as i64, i32::MAX as i64)).below(ReadyStopRestart).value("CODE")
        => stop_exit_codes: Vec<i32>;
    /// Replace a worker whose processes have more memory: 300M, 1G
    Key::pm2("max_memory_restart", Kind::Memory).below(ReadyStopRestart).value("MEMORY") => max_memory_restart: Option<u64>;
    /// Restart by the clock, as cron does: '0 3 * * *'
    Key::pm2("cron_restart", Kind::Cron).aliases(&["cron"]).below(ReadyStopRestart).short('c').alias("cron")
        => cron_restart: Option<String>;
    /// Time zone of cron_restart, as Europe/Berlin
    Key::own("cron_timezone", Kind::Text).file_only().default("the daemon's") => cron_timezone: Option<String>;
    /// Restart when files change: `true` for the working directory, or paths, also with `*`, `**`, `?`, `{a,b}`
    Key::pm2("watch", Kind::Watch).below(ReadyStopRestart).help("Restart when files change: in the working directory, or in these paths");
    /// Files whose changes do not matter: names, paths with `*`, regular expressions (`regex:…` in JSON and YAML)
    Key::pm2("ignore_watch", Kind::Patterns).below(ReadyStopRestart)
        .help("Files whose changes do not matter; several are separated by commas or blanks");
    /// At least so long from the first change to the restart, which waits until changes cease (5 seconds at most)
    Key::pm2("watch_delay", Kind::Time).below(ReadyStopRestart);
    /// Give up after this many failures to start in a row
    Key::pm2("max_restarts", Kind::COUNT).below(ReadyStopRestart) => max_restarts: Option<u32>;
    /// An exit after this time is no failure to start
    Key::pm2("min_uptime", Kind::Time).below(ReadyStopRestart) => min_uptime_ms: Option<u64>;
    /// Wait this long before each restart
    Key::pm2("restart_delay", Kind::Time).below(ReadyStopRestart) => restart_delay_ms: Option<u64>;
    /// Wait this long before the first restart, longer before each further one
    Key::pm2("exp_backoff_restart_delay", Kind::Time).below(ReadyStopRestart) => exp_backoff_restart_delay_ms: Option<u64>;
    /// Restart a worker that ended by itself
    Key::pm2("autorestart", Kind::Switch).below(ReadyStopRestart).off("Do not restart a worker that ended by itself")
        => autorestart: bool = "yes";

    /// On reload: time a new worker has until it must be ready
    Key::own("reload_timeout", Kind::Time).below(Reload) => reload_timeout_ms: Option<u64>;
    /// On reload: time an old worker has to finish what it has begun
    Key::own("drain_timeout", Kind::Time).below(Reload) => drain_timeout_ms: Option<u64>;
    /// On reload: time the old workers stand by when the new ones serve, to take over again if one of these ends
    Key::own("watch_after", Kind::Time).below(Reload) => watch_after_ms: Option<u64>;
    /// On reload: how many new workers may be starting at once; 0 is one per CPU
    Key::own("parallel", Kind::COUNT).below(Reload) => parallel: u32;
    /// On reload: how many workers more than instances there may be, those that drain included
    Key::own("max_surge", Kind::COUNT).below(Reload).default("any number") => max_surge: Option<u32>;
    /// On reload: for how many instances an old worker may leave before its successor is started
    Key::own("max_unavailable", Kind::COUNT).below(Reload) => max_unavailable: u32;
    /// On reload: accept a new version that listens elsewhere
    Key::own("allow_port_change", Kind::Switch).below(Reload) => allow_port_change: bool;
    /// On reload: path that a new worker must answer, with HTTP, before it serves; or an object with path, status, interval, timeout, threshold
    Key::own("health_check", Kind::Health).below(Reload)
        .help("On reload: path that a new worker must answer, with HTTP, before it serves");
}

options! {
    /// Where an app's output goes, and how.
    pub struct LogSpec {
        /// Standard output.
        #[serde(default)]
        pub out: LogTarget,
        /// Standard error.
        #[serde(default)]
        pub err: LogTarget,
        /// Both, besides; `usual` is `<name>.log`.
        #[serde(default)]
        pub both: Option<LogTarget>,
        /// The time before each line: `YYYY-MM-DD HH:mm:ss.SSS Z`.
        #[serde(default)]
        pub date_format: Option<String>,
        /// Each line as a JSON object.
        #[serde(default)]
        pub json: bool,
    }
    default {
        out: LogTarget::default(),
        err: LogTarget::default(),
        both: None,
        date_format: None,
        json: false,
    }

    /// Where its output goes; `/dev/stdout` and `/dev/stderr` are those of `rpm runtime`, /dev/null: nowhere
    Key::pm2("out_file", Kind::Output).aliases(&["out", "output", "out_log"]).below(Output)
        .long("output").short('o').alias("out").help("Where its output goes; /dev/null: nowhere");
    /// Where its errors go; the same
    Key::pm2("error_file", Kind::Output).aliases(&["err", "error", "err_file", "err_log"]).below(Output)
        .long("error").short('e').alias("err").help("Where its errors go");
    /// Where both go, besides
    Key::pm2("log_file", Kind::Output).aliases(&["log"]).below(Output).long("log").short('l').optional();
    /// Throw its output away
    Key::pm2("disable_logs", Kind::Switch).below(Output);
    /// All instances write to the same files
    Key::pm2("merge_logs", Kind::Switch).aliases(&["combine_logs"]).below(Output) => merge: bool;
    /// The time before each line, as YYYY-MM-DD HH:mm:ss.SSS Z
    Key::pm2("log_date_format", Kind::Text).below(Output).value("FORMAT");
    /// The same with YYYY-MM-DDTHH:mm:ss
    Key::pm2("time", Kind::Switch).below(Output);
    /// `json`: each line as an object
    Key::pm2("log_type", Kind::Choice(&["json", "raw"])).below(Output).value("TYPE");
    /// Rotate a log file when it is this large: <file>.1, .2 and so on
    Key::own("log_max_size", Kind::Memory).below(Output) => max_bytes: Option<u64>;
    /// How many rotated files are kept
    Key::own("log_keep", Kind::COUNT).below(Output).default("10").needs("log_max_size") => keep: Option<u32>;
    /// Where the pid is written; -<id> is added
    Key::pm2("pid_file", Kind::File).aliases(&["pid"]).below(Output).long("pid").short('p');
}

fn default_namespace() -> String {
    "default".to_owned()
}

impl AppSpec {
    /// What instance `number` has in the variable that rises; `None`: there is no such variable.
    #[must_use]
    pub fn incremented(&self, number: u32) -> Option<(String, String)> {
        let name = self.increment_var.as_ref()?;
        let first = self
            .env
            .get(name)
            .and_then(|text| text.trim().parse::<i64>().ok());
        let value = first.unwrap_or(0).saturating_add(i64::from(number));
        Some((name.clone(), value.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Stored states and older clients have them.
    const FIELDS: [&str; 50] = [
        "name",
        "script",
        "interpreter",
        "interpreter_args",
        "args",
        "cwd",
        "env",
        "exec_mode",
        "instances",
        "balance",
        "policy",
        "proxy",
        "weights",
        "listen",
        "intercept",
        "ports",
        "wait_ready",
        "autorestart",
        "listen_timeout_ms",
        "kill_timeout_ms",
        "kill_signal",
        "treekill",
        "reload_timeout_ms",
        "drain_timeout_ms",
        "watch_after_ms",
        "parallel",
        "max_surge",
        "max_unavailable",
        "allow_port_change",
        "health_check",
        "agent",
        "max_restarts",
        "min_uptime_ms",
        "restart_delay_ms",
        "exp_backoff_restart_delay_ms",
        "namespace",
        "autostart",
        "stop_exit_codes",
        "max_memory_restart",
        "cron_restart",
        "cron_timezone",
        "shutdown_with_message",
        "watch",
        "instance_var",
        "increment_var",
        "uid",
        "gid",
        "source_map_support",
        "logs",
        "pid_file",
    ];

    #[test]
    fn fields_keep_their_names_and_their_defaults() {
        let required =
            json!({"name": "web", "script": "/a.js", "cwd": "/", "exec_mode": "fork", "instances": 1});
        let spec: AppSpec = serde_json::from_value(required.clone()).expect("the others have defaults");
        let expected = AppSpec {
            name: "web".to_owned(),
            script: "/a.js".to_owned(),
            ..AppSpec::default()
        };
        assert_eq!(spec, expected);
        for name in ["name", "script", "cwd", "exec_mode", "instances"] {
            let mut without = required.clone();
            without.as_object_mut().expect("an object").remove(name);
            let refused = serde_json::from_value::<AppSpec>(without);
            assert!(refused.is_err(), "{name} is required");
        }
        let on = [
            "intercept",
            "autorestart",
            "treekill",
            "agent",
            "autostart",
            "source_map_support",
        ];
        let all = serde_json::to_value(&spec).expect("JSON");
        assert_eq!(FIELDS.iter().find(|name| all.get(name).is_none()), None);
        let is_on = |name: &&str| all[name] == Value::Bool(true);
        assert!(on.iter().all(is_on), "{all}");
        assert_eq!(all["namespace"], "default");
    }

    #[test]
    fn an_option_sets_its_field() {
        let mut spec = AppSpec::default();
        assert!(matches!(spec.set("drain_timeout", json!(7)), Ok(true)));
        assert!(matches!(spec.set("balance", json!("proxy")), Ok(true)));
        assert_eq!((spec.drain_timeout_ms, spec.balance), (Some(7), Balance::Proxy));
        assert!(matches!(spec.logs.set("merge_logs", json!(true)), Ok(true)));
        assert!(spec.logs.merge);
        assert!(spec.set("drain_timeout", json!("soon")).is_err());
        assert!(matches!(spec.set("merge_logs", json!(true)), Ok(false)));
    }
}
