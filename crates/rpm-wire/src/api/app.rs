//! What an app is started from: the table of its options.
// tidy: long because it is one table

mod by_key;

use std::collections::BTreeMap;

use super::proxy::ProxySpec;
use super::signal::StopSignal;
use super::spec::{Balance, BalancePolicy, ExecMode, HealthCheck, LogTarget, WatchSpec};
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
    /// Start a script once more that already runs
    Key::pm2("force", Kind::Switch).short('f').help("Start a script once more that already runs, under another name");
    /// Start it; `false` only adds it to the list
    Key::pm2("autostart", Kind::Switch).off("Only add it to the list") => autostart: bool = "yes";

    /// Workers that share the app's ports: n, 0 or max for one per CPU, -n for that many fewer
    Key::pm2("instances", Kind::Instances).below(WorkersAndPorts).short('i');
    /// `cluster` (N workers behind shared ports) or `fork` (one process)
    Key::pm2("exec_mode", Kind::Choice(&["cluster", "fork", "cluster_mode", "fork_mode"]))
        .aliases(&["_mode"]).below(WorkersAndPorts).short('x')
        .stands("execute-command", "fork", "One process, also with -i (fork mode)");
    /// Addresses to open and pass to the workers by LISTEN_FDS: `8080`, `127.0.0.1:8080` or `[::1]:8080`
    Key::own("listen", Kind::Addresses).below(WorkersAndPorts)
        .help("Open this address and pass it to the workers by LISTEN_FDS: 8080, 127.0.0.1:8080 or [::1]:8080")
        => listen: Vec<String>;
    /// How connections reach the workers: the kernel delivers them (direct), the daemon accepts them (handoff, for Node), or it speaks HTTP and forwards each request (proxy); auto is direct
    Key::own("balance", Kind::Choice(&["auto", "direct", "handoff", "proxy"])).below(WorkersAndPorts).value("HOW").default("auto")
        => balance: Balance;
    /// Which worker gets a connection: the next (round-robin), the one with the fewest open (least-connections), the client's own (ip-hash, as for socket.io), by `weights` (weighted), or the fastest (latency, with `balance: proxy`)
    Key::own("policy", Kind::Choice(&["round-robin", "least-connections", "ip-hash", "weighted", "latency"]))
        .below(WorkersAndPorts).value("POLICY").default("round-robin")
        .help("Which worker gets a connection: the next (round-robin), the one with the fewest open (least-connections), the client's own (ip-hash, as for socket.io), by --weights (weighted), or the fastest (latency, with --balance proxy)")
        => policy: BalancePolicy;
    /// Weights of the workers for the policy `weighted`, 1 to 100 each; the list repeats
    Key::own("weights", Kind::Numbers(1, 100)).below(WorkersAndPorts)
        .help("Weights of the workers for --policy weighted, 1 to 100 each; the list repeats")
        => weights: Vec<u32>;
    /// Of the ports that the program opens, share only these; with `uid` also those below 1024 that it may have
    Key::own("ports", Kind::Numbers(1, 65535)).below(WorkersAndPorts).value("PORT").default("all but random ones")
        .help("Of the ports that the program opens, share only these; with --uid also those below 1024 that it may have")
        => ports: Vec<u16>;
    /// Share the ports that the program opens by itself
    Key::own("intercept", Kind::Switch).below(WorkersAndPorts)
        .off("Do not share the ports that the program opens by itself (it is not balanced then, unless it is Node), and let it gain privileges (sudo)")
        => intercept: bool = "yes";
    /// Load the agent into Node and Bun, which drains them without a lost request
    Key::own("agent", Kind::Switch).below(WorkersAndPorts).off("Do not load the agent into Node and Bun, which drains them without a lost request")
        => agent: bool = "yes";
    /// How long idle client connections stay open, even if the app sets another time (Node and Bun, by the agent); choose more than the idle timeout of your load balancer
    Key::own("keep_alive_timeout", Kind::Time).below(WorkersAndPorts).default("the app's; 5s with Node")
        => #[serde(skip_serializing_if = "Option::is_none")] keep_alive_timeout_ms: Option<u64>;
    /// Path of the app's own metrics: `rpm observe` asks each worker for them, and adds up what they count
    Key::own("metrics_path", Kind::Text).below(WorkersAndPorts).value("PATH")
        => #[serde(skip_serializing_if = "Option::is_none")] metrics_path: Option<String>;
    /// Take the app's own metrics from prom-client: its workers make an `AggregatorRegistry`, and `rpm observe` adds up what they count (Node with `instances`)
    Key::own("prom_client", Kind::Switch).below(WorkersAndPorts)
        .help("Take the app's own metrics from prom-client: its workers make an AggregatorRegistry (Node with -i)")
        => #[serde(skip_serializing_if = "Option::is_none")] prom_client: Option<bool>;

    /// Working directory
    Key::pm2("cwd", Kind::Text).below(EnvironmentAndUser).value("DIR").default("the current one");
    /// Program that runs the script; `none` executes the script itself
    Key::pm2("exec_interpreter", Kind::Text).aliases(&["interpreter"]).below(EnvironmentAndUser)
        .long("interpreter").value("PROGRAM").default("by its extension or its first line");
    /// Arguments of the interpreter
    Key::pm2("node_args", Kind::Words).aliases(&["interpreter_args"]).below(EnvironmentAndUser)
        .long("interpreter-args").alias("node-args").value("ARGS").help("Arguments of the interpreter, separated by spaces");
    /// Variables of the app; those of `env_<name>` are added by --env <name>
    Key::pm2("env", Kind::Variables).file_only();
    /// User it runs as (root only); its programs cannot gain privileges (sudo) without `intercept: false`
    Key::pm2("uid", Kind::User).aliases(&["user"]).below(EnvironmentAndUser).value("USER")
        .help("User it runs as (root only); its programs cannot gain privileges (sudo) without --no-intercept")
        => uid: Option<String>;
    /// Group it runs as (root only)
    Key::pm2("gid", Kind::User).below(EnvironmentAndUser).value("GROUP") => gid: Option<String>;
    /// Do not inherit variables whose name contains one of these; `true`: inherit none
    Key::pm2("filter_env", Kind::Filter).below(EnvironmentAndUser)
        .help("Do not inherit variables whose name contains one of these; without a name: inherit none");
    /// Files of variables, as for node --env-file; what the command's environment or `env` says takes precedence
    Key::own("env_file", Kind::List).below(EnvironmentAndUser).value("FILE")
        .help("Read variables from this file, as node does; the environment takes precedence, and the file over what a known app has");
    /// Node reads source maps
    Key::pm2("source_map_support", Kind::Switch).file_only().default("true") => source_map_support: bool = "yes";
    /// The opposite of source_map_support
    Key::pm2("disable_source_map_support", Kind::Switch).below(EnvironmentAndUser).help("Node reads no source maps");
    /// Value of the variable PORT
    Key::pm2("port", Kind::COUNT).file_only();
    /// Name of the variable with the number of the instance
    Key::pm2("instance_var", Kind::Text).file_only().default("NODE_APP_INSTANCE") => instance_var: Option<String>;
    /// Name of a variable that is one higher for each further instance
    Key::pm2("increment_var", Kind::Text).file_only() => increment_var: Option<String>;
    /// `-<name>` of --env is added to its name
    Key::pm2("append_env_to_name", Kind::Switch).file_only();
    /// Prefix of its name
    Key::pm2("name_prefix", Kind::Text).file_only();

    /// A worker is ready when it sends `ready` (process.send)
    Key::pm2("wait_ready", Kind::Switch).below(ReadyStopRestart) => wait_ready: bool;
    /// How long a worker may take to become ready at a start (default: `reload_timeout`)
    Key::pm2("listen_timeout", Kind::Time).below(ReadyStopRestart) => listen_timeout_ms: Option<u64>;
    /// Time between the signal to stop and SIGKILL
    Key::pm2("kill_timeout", Kind::Time).below(ReadyStopRestart).short('k').default("10s") => kill_timeout_ms: Option<u64>;
    /// Signal that asks the program to stop
    Key::own("kill_signal", Kind::Signal).below(ReadyStopRestart).default("SIGINT") => kill_signal: StopSignal;
    /// Send the signal to everything that the program has started, too
    Key::pm2("treekill", Kind::Switch).below(ReadyStopRestart).off("Send the signal only to the program, not to what it has started")
        => treekill: bool = "yes";
    /// Ask the program to stop with the message `shutdown` (process.on('message')) instead of a signal
    Key::pm2("shutdown_with_message", Kind::Switch).below(ReadyStopRestart) => shutdown_with_message: bool;
    /// Exit codes after which it is not restarted
    Key::pm2("stop_exit_codes", Kind::Numbers(i32::MIN as i64, i32::MAX as i64)).below(ReadyStopRestart).value("CODE")
        => stop_exit_codes: Vec<i32>;
    /// Replace a worker whose processes use more memory than this: 300M, 1G
    Key::pm2("max_memory_restart", Kind::Memory).below(ReadyStopRestart).value("MEMORY") => max_memory_restart: Option<u64>;
    /// Restart on a schedule, as cron does: '0 3 * * *'
    Key::pm2("cron_restart", Kind::Cron).aliases(&["cron"]).below(ReadyStopRestart).short('c').alias("cron")
        => cron_restart: Option<String>;
    /// Time zone of cron_restart, as Europe/Berlin
    Key::own("cron_timezone", Kind::Text).file_only().default("the daemon's") => cron_timezone: Option<String>;
    /// Restart when files change: `true` for the working directory, or paths, also with `*`, `**`, `?`, `{a,b}`
    Key::pm2("watch", Kind::Watch).below(ReadyStopRestart).help("Restart when files change: in the working directory, or in these paths");
    /// Files whose changes are ignored: names, paths with `*`, regular expressions (`regex:…` in JSON and YAML)
    Key::pm2("ignore_watch", Kind::Patterns).below(ReadyStopRestart)
        .help("Files whose changes are ignored; several are separated by commas or blanks");
    /// Time from the first change to the restart, which also waits until changes cease (5 seconds at most)
    Key::pm2("watch_delay", Kind::Time).below(ReadyStopRestart);
    /// Give up after this many failures to start in a row
    Key::pm2("max_restarts", Kind::COUNT).below(ReadyStopRestart).default("16") => max_restarts: Option<u32>;
    /// An exit after this time does not count as a failure to start
    Key::pm2("min_uptime", Kind::Time).below(ReadyStopRestart).default("1s") => min_uptime_ms: Option<u64>;
    /// Wait this long before each restart
    Key::pm2("restart_delay", Kind::Time).below(ReadyStopRestart) => restart_delay_ms: Option<u64>;
    /// Wait this long before the first restart, longer before each further one
    Key::pm2("exp_backoff_restart_delay", Kind::Time).below(ReadyStopRestart) => exp_backoff_restart_delay_ms: Option<u64>;
    /// Restart a worker that ended by itself
    Key::pm2("autorestart", Kind::Switch).below(ReadyStopRestart).off("Do not restart a worker that ended by itself")
        => autorestart: bool = "yes";

    /// On reload: time a new worker has until it must be ready
    Key::own("reload_timeout", Kind::Time).below(Reload).default("30s") => reload_timeout_ms: Option<u64>;
    /// On reload: time an old worker has to finish its requests
    Key::own("drain_timeout", Kind::Time).below(Reload).default("30s") => drain_timeout_ms: Option<u64>;
    /// On reload: how long the old workers stand by when the new ones serve, to take over again if one of these ends
    Key::own("watch_after", Kind::Time).below(Reload).default("0") => watch_after_ms: Option<u64>;
    /// On reload: how many new workers may be starting at once; 0 is one per CPU
    Key::own("parallel", Kind::COUNT).below(Reload).default("0") => parallel: u32;
    /// On reload: how many more workers than instances there may be, those that drain included
    Key::own("max_surge", Kind::COUNT).below(Reload).default("any number") => max_surge: Option<u32>;
    /// On reload: for how many instances the old worker may leave before its successor is started
    Key::own("max_unavailable", Kind::COUNT).below(Reload).default("0") => max_unavailable: u32;
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

    /// File for standard output; `/dev/stdout` and `/dev/stderr` are those of `rpm runtime`, `/dev/null` discards it
    Key::pm2("out_file", Kind::Output).aliases(&["out", "output", "out_log"]).below(Output)
        .long("output").short('o').alias("out").help("File for standard output; /dev/null discards it");
    /// File for standard error; the same
    Key::pm2("error_file", Kind::Output).aliases(&["err", "error", "err_file", "err_log"]).below(Output)
        .long("error").short('e').alias("err").help("File for standard error");
    /// File for both, in addition
    Key::pm2("log_file", Kind::Output).aliases(&["log"]).below(Output).long("log").short('l').optional();
    /// Discard all output
    Key::pm2("disable_logs", Kind::Switch).below(Output);
    /// All instances write to the same files
    Key::pm2("merge_logs", Kind::Switch).aliases(&["combine_logs"]).below(Output) => merge: bool;
    /// Put the time in front of each line, in this format: YYYY-MM-DD HH:mm:ss.SSS Z
    Key::pm2("log_date_format", Kind::Text).below(Output).value("FORMAT");
    /// Put the time in front of each line, as YYYY-MM-DDTHH:mm:ss
    Key::pm2("time", Kind::Switch).below(Output);
    /// `json` writes each line as a JSON object
    Key::pm2("log_type", Kind::Choice(&["json", "raw"])).below(Output).value("TYPE");
    /// Rotate a log file when it has this size: `<file>.1`, `.2` and so on
    Key::own("log_max_size", Kind::Memory).below(Output) => max_bytes: Option<u64>;
    /// How many rotated files are kept
    Key::own("log_keep", Kind::COUNT).below(Output).default("10").needs("log_max_size") => keep: Option<u32>;
    /// File for the pid; `-<id>` is added to its name
    Key::pm2("pid_file", Kind::File).aliases(&["pid"]).below(Output).long("pid").short('p');
}

fn default_namespace() -> String {
    "default".to_owned()
}

impl AppSpec {
    /// Its workers have metrics of their own, which can be asked of each.
    #[must_use]
    pub fn has_metrics(&self) -> bool {
        self.metrics_path.is_some() || self.asks_prom_client()
    }

    /// They are asked of prom-client in the worker.
    #[must_use]
    pub fn asks_prom_client(&self) -> bool {
        self.prom_client == Some(true)
    }

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

    /// Stored states and older clients have them, and refuse any other: a field that came later is left out while it has no value.
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
        let mut fields: Vec<&str> = all
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        let mut known = FIELDS.to_vec();
        known.sort_unstable();
        fields.sort_unstable();
        assert_eq!(fields, known);
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
