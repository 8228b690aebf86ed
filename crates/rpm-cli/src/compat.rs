//! PM2's commands, and what each does here. The documentation is generated from this table, and tests check it.

use crate::hints::command;

/// What a command of PM2 does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Here {
    /// The same as under PM2.
    Works,
    /// It does not exist here: what to use instead.
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

const DASHBOARD: &str = "there is no hosted dashboard: `rpm dashboard` prints a link to one on this machine, `rpm observe` gives metrics to Prometheus (`rpm link pm2` makes a symbolic link)";
const MODULES: &str =
    "there are no modules; `rpm observe` gives metrics to Prometheus, and log_max_size rotates logs";

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
    works(&["monit", "dash", "imonit"]),
    works(&["dashboard"]),
    instead(&["deepUpdate"], "install the new version, then `rpm update`"),
    works(&["deploy"]),
    instead(&["examples"], "see `rpm start --help` and the README"),
    instead(
        &["logrotate"],
        "it is built in: log_max_size, log_keep; logrotate works as well, with `rpm reloadLogs`",
    ),
    instead(
        &["pull", "forward", "backward"],
        "use git, then `rpm reload all`; `rpm rollback APP` brings back what served before",
    ),
    instead(
        &["inspect", "profile:cpu", "profile:mem"],
        "`rpm start app.js --node-args=--inspect`",
    ),
    instead(
        &["slist", "sysinfos"],
        "`rpm report` and `rpm doctor` show the system",
    ),
    instead(&["create", "autoinstall"], "`rpm init` writes an ecosystem file"),
    instead(
        &["install-otel", "uninstall-otel"],
        "load OpenTelemetry: `rpm start app.js --node-args='--require ./otel.js'`",
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

/// The error for a command that does not exist.
pub(crate) fn missing<T: AsRef<str>>(words: &[T]) -> String {
    let (name, rest) = words
        .split_first()
        .map_or(("", words), |(name, rest)| (name.as_ref(), rest));
    let known = COMMANDS.iter().find(|command| command.names.contains(&name));
    match known.map(|command| command.here) {
        Some(Here::Instead(what)) => format!("{name}: {what}"),
        Some(Here::Works) | None => {
            let names = COMMANDS.iter().filter(|command| command.here == Here::Works);
            let own = [
                "rollback", "doctor", "validate", "demo", "runtime", "import", "link", "events", "observe",
            ];
            let all = names.flat_map(|command| command.names.iter().copied()).chain(own);
            match rpm_spec::nearest(name, all) {
                Some(near) => {
                    let line = [near].into_iter().chain(rest.iter().map(AsRef::as_ref));
                    format!("there is no command {name:?}; did you mean {}?", command(line))
                }
                None => format!("there is no command {name:?}; `rpm --help` lists them"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
