//! PM2's commands, and what becomes of each here. The documentation is made from this table, and the tests go through it.

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Here {
    /// It does what it does there.
    Works,
    /// It is not here: what to use instead.
    Instead(&'static str),
}

/// A command of PM2, with its other names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pm2Command {
    pub(crate) names: &'static [&'static str],
    pub(crate) here: Here,
}

const fn works(names: &'static [&'static str]) -> Pm2Command {
    Pm2Command {
        names,
        here: Here::Works,
    }
}

const fn instead(names: &'static [&'static str], what: &'static str) -> Pm2Command {
    Pm2Command {
        names,
        here: Here::Instead(what),
    }
}

const DASHBOARD: &str = "there is no hosted dashboard; figures are at GET /metrics, for Prometheus";
const MODULES: &str =
    "there are no modules; figures are at GET /metrics, and logs are put aside by log_max_size";

/// All of them.
pub(crate) const COMMANDS: &[Pm2Command] = &[
    works(&["start"]),
    works(&["stop"]),
    works(&["restart"]),
    works(&["reload"]),
    works(&["delete", "del"]),
    works(&["list", "ls", "l", "ps", "status"]),
    works(&["jlist"]),
    works(&["prettylist"]),
    works(&["describe", "desc", "info", "show"]),
    works(&["logs", "log"]),
    works(&["flush"]),
    works(&["reloadLogs"]),
    works(&["scale"]),
    works(&["kill"]),
    works(&["update", "updatePM2"]),
    works(&["ping"]),
    works(&["report"]),
    works(&["pid"]),
    works(&["id"]),
    works(&["env"]),
    works(&["reset"]),
    works(&["sendSignal"]),
    works(&["startOrRestart"]),
    works(&["startOrReload", "startOrGracefulReload"]),
    works(&["ecosystem", "init"]),
    works(&["completion"]),
    works(&["send"]),
    works(&["attach"]),
    works(&["trigger"]),
    works(&["set", "conf", "config"]),
    works(&["get"]),
    works(&["multiset"]),
    works(&["unset"]),
    works(&["serve", "expose"]),
    works(&["save", "dump"]),
    works(&["resurrect"]),
    works(&["cleardump"]),
    works(&["startup"]),
    works(&["unstartup"]),
    works(&["monit", "dashboard", "dash", "imonit"]),
    instead(&["deepUpdate"], "install the new version, then `update`"),
    works(&["deploy"]),
    instead(&["examples"], "see `start --help` and the README"),
    instead(
        &["logrotate"],
        "it is built in: log_max_size, log_keep; logrotate works as well, with `reloadLogs`",
    ),
    instead(
        &["pull", "forward", "backward"],
        "use git, then `reload`; `rollback` goes back to what served before",
    ),
    instead(
        &["inspect", "profile:cpu", "profile:mem"],
        "start the app with --node-args=--inspect",
    ),
    instead(&["slist", "sysinfos"], "`report` and `doctor` tell of the system"),
    instead(&["create", "autoinstall"], "write an ecosystem file with `init`"),
    instead(
        &["install-otel", "uninstall-otel"],
        "load OpenTelemetry with --node-args",
    ),
    instead(
        &[
            "install",
            "module:install",
            "module:update",
            "uninstall",
            "module:generate",
            "package",
            "publish",
        ],
        MODULES,
    ),
    instead(
        &[
            "link",
            "unlink",
            "monitor",
            "unmonitor",
            "open",
            "plus",
            "register",
            "login",
            "logout",
        ],
        DASHBOARD,
    ),
];

/// What to say of a command that does not exist.
pub(crate) fn missing(name: &str) -> String {
    let known = COMMANDS.iter().find(|command| command.names.contains(&name));
    match known.map(|command| command.here) {
        Some(Here::Instead(what)) => format!("{name}: {what}"),
        Some(Here::Works) | None => {
            let names = COMMANDS.iter().filter(|command| command.here == Here::Works);
            let own = ["rollback", "doctor", "validate", "demo", "runtime", "import"];
            let all = names.flat_map(|command| command.names.iter().copied()).chain(own);
            match rpm_spec::nearest(name, all) {
                Some(near) => format!("there is no command {name:?}; did you mean `{near}`?"),
                None => format!("there is no command {name:?}; see --help"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
