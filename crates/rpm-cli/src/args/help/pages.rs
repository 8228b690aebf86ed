//! What the help of each command ends with.

/// A command: what else is to be said of it, and examples with what they do.
pub(super) struct Page {
    pub(super) command: &'static str,
    pub(super) more: &'static str,
    pub(super) examples: &'static [(&'static str, &'static str)],
}

const fn page(
    command: &'static str,
    more: &'static str,
    examples: &'static [(&'static str, &'static str)],
) -> Page {
    Page {
        command,
        more,
        examples,
    }
}

const RENEWING: &str = "Also takes the options of `rpm start`, which apply from then on.";
const IN_FORK_MODE: &str = "For processes in fork mode: the workers of a cluster have no standard input.";

pub(super) const PAGES: &[Page] = &[
    page(
        "start",
        "Returns when every worker is ready. If one is not, it fails and prints the last lines of that worker.",
        &[
            ("start app.js", "one process"),
            ("start app.js -i max", "a worker per CPU, behind one port"),
            ("start app.js --name api --watch", "restart when files change"),
            ("start app.js -- --port 3000", "arguments of the script"),
            ("start 'npm start' --name web", "a command line"),
            ("start app.py -i 4", "any language"),
            ("start ecosystem.config.js --env production", "the apps of a file"),
            (
                "start ecosystem.config.js --only api --dry-run",
                "show what would change",
            ),
        ],
    ),
    page(
        "stop",
        "New clients are refused at once; requests in flight are finished.",
        &[
            ("stop api", ""),
            ("stop 0 1", "by id"),
            ("stop all --hard", "at once: requests in flight are cut"),
        ],
    ),
    page(
        "restart",
        RENEWING,
        &[
            ("restart api", ""),
            ("restart all --update-env", "with the variables of this shell"),
            ("restart api --max-memory-restart 300M", "with another setting"),
            ("restart ecosystem.config.js --only api", ""),
        ],
    ),
    page(
        "reload",
        "New workers serve once they are ready, then the old ones drain. If a new one does not become ready, the old ones keep serving.\n\
         Also takes the options of `rpm start`, which apply from then on.",
        &[
            ("reload api", ""),
            ("reload ecosystem.config.js --env production", ""),
            (
                "reload api --watch-after 10s",
                "swap back if the new version crashes",
            ),
        ],
    ),
    page(
        "rollback",
        "Brings back script, arguments, environment and directory. A second rollback undoes the first.",
        &[("rollback api", "")],
    ),
    page("delete", "", &[("delete api", ""), ("delete all", "")]),
    page(
        "scale",
        "",
        &[
            ("scale api 4", "four workers"),
            ("scale api +2", "two more"),
            ("scale api max", "one per CPU"),
        ],
    ),
    page(
        "kill",
        "",
        &[
            ("kill", "`rpm resurrect` starts what was saved"),
            ("kill --keep-apps", "the daemon alone"),
        ],
    ),
    page(
        "list",
        "",
        &[
            ("list", ""),
            ("list api", ""),
            ("list --sort memory:desc", ""),
            ("list --watch", "again every 2 s, until q"),
            ("list --json", "all details"),
        ],
    ),
    page("describe", "", &[("describe api", ""), ("describe 0 --json", "")]),
    page(
        "logs",
        "Past lines come from the last MiB of each file; with --since or --until, at most 10,000 lines.",
        &[
            ("logs", "of all apps, and follow"),
            ("logs api -n 200", ""),
            ("logs api --err --nostream", "past errors"),
            ("logs api --since 10m", "of the last ten minutes, and follow"),
            ("logs --json", "an object a line"),
        ],
    ),
    page(
        "events",
        "Of apps that are gone, too. The last 10 MiB are kept, over restarts and updates of the daemon.",
        &[
            ("events", "the last 100"),
            ("events api --since 12h", "what happened last night"),
            ("events -f", "and what happens"),
            ("events --json", "an object a line"),
        ],
    ),
    page(
        "monit",
        "A row for each app. Keys (? shows all of them):\n\n\
         \x20 Space     open an app to its instances, and during a reload to old and new workers\n\
         \x20 Enter     facts and charts\n\
         \x20 l         the output alone: / searches, n and N go on\n\
         \x20 r t s S   reload, restart, stop, start what is chosen (y confirms)\n\
         \x20 + -       scale it (y confirms)\n\
         \x20 :         a command, which Tab completes\n\
         \x20 m         give the mouse back to the terminal, or take it again\n\
         \x20 Esc q     go back, quit\n\n\
         The mouse chooses, orders by columns and scrolls. If the daemon ends, the screen says so and waits for the next one; it starts none. \
         NO_COLOR and --no-color are respected.",
        &[("monit", "")],
    ),
    page("doctor", "", &[("doctor", "")]),
    page("report", "", &[("report > report.txt", "")]),
    page(
        "ping",
        "",
        &[
            ("ping", ""),
            ("ping --no-start", "a health check: fails if no daemon runs"),
        ],
    ),
    page(
        "ready",
        "Every instance must be online, and every address of the apps accept a connection. If not, it exits with 1 and prints a line for each reason. It starts no daemon.",
        &[
            ("ready", "every app, but not those that are stopped"),
            ("ready api", "fails if it is stopped, too"),
            ("ready --json", "what is ready and what is not, for programs"),
        ],
    ),
    page("init", "", &[("init", "writes ecosystem.config.js")]),
    page(
        "validate",
        "",
        &[
            ("validate", "every error in ecosystem.config.js at once"),
            ("validate apps.yaml --strict", "unknown keys are errors, too"),
        ],
    ),
    page(
        "startOrReload",
        "",
        &[("startOrReload ecosystem.config.js --env production", "")],
    ),
    page(
        "startOrRestart",
        "",
        &[("startOrRestart ecosystem.config.js", "")],
    ),
    page(
        "deploy",
        "",
        &[
            ("deploy ecosystem.config.js production setup", "once"),
            ("deploy ecosystem.config.js production", "the newest version"),
            ("deploy ecosystem.config.js production revert 1", "the one before"),
        ],
    ),
    page(
        "startup",
        "",
        &[
            ("startup", "a service for systemd or OpenRC"),
            ("startup systemd --print", "only show it"),
        ],
    ),
    page("unstartup", "", &[("unstartup", "")]),
    page("save", "", &[("save", "`rpm startup` brings these back at boot")]),
    page("resurrect", "", &[("resurrect", "")]),
    page("cleardump", "", &[("cleardump", "")]),
    page(
        "import",
        "",
        &[
            ("import --dry-run", "what PM2 has saved, and what would not start"),
            ("import", ""),
        ],
    ),
    page(
        "runtime",
        "Prints what the apps print; a signal ends everything.",
        &[
            ("runtime ecosystem.config.js --env production", ""),
            ("runtime app.js -i max --json", ""),
        ],
    ),
    page(
        "serve",
        "",
        &[
            ("serve public 8080", ""),
            ("serve dist 8080 --spa", "an application of one page"),
        ],
    ),
    page("sendSignal", "", &[("sendSignal SIGUSR2 api", "")]),
    page("send", IN_FORK_MODE, &[("send api 'reload config'", "")]),
    page("attach", IN_FORK_MODE, &[("attach api", "Ctrl-C leaves")]),
    page("trigger", "", &[("trigger api 'heap dump'", "")]),
    page(
        "set",
        "Setting a variable of an app restarts it. Without a value, the current one is printed.",
        &[
            ("set api.LOG_LEVEL debug", "a variable of the app `api`"),
            ("set api.LOG_LEVEL", ""),
        ],
    ),
    page("get", "", &[("get", "all of them"), ("get api.LOG_LEVEL", "")]),
    page(
        "multiset",
        "",
        &[("multiset 'api.LOG_LEVEL debug api.DEBUG 1'", "")],
    ),
    page("unset", "", &[("unset api.LOG_LEVEL", ""), ("unset all", "")]),
    page(
        "flush",
        "",
        &[("flush", "of all apps, and the daemon's"), ("flush api", "")],
    ),
    page("reloadLogs", "", &[("reloadLogs", "in logrotate's postrotate")]),
    page("reset", "", &[("reset api", ""), ("reset all", "")]),
    page("jlist", "", &[("jlist", "")]),
    page("prettylist", "", &[("prettylist", "")]),
    page("pid", "", &[("pid api", ""), ("pid", "of all")]),
    page("id", "", &[("id api", "")]),
    page(
        "env",
        "Without those that rpm adds for each process, such as NODE_APP_INSTANCE.",
        &[("env 0", "")],
    ),
    page(
        "observe",
        "Serves GET /metrics until it is interrupted, whether the daemon runs or not: `rpm_up` says which. \
         An app that gives itself figures as @pm2/io does has them there too, by the names that pm2-metrics uses. \
         `rpm observe on` has the daemon run it: supervised, but not in the list. It also sends alerts, the logs of the apps, and \
         metrics and traces by OTLP where `observe` of an ecosystem file says so: docs/OBSERVE.md.",
        &[
            ("observe on", "http://127.0.0.1:9209/metrics"),
            (
                "observe on --listen 0.0.0.0:9209 --token-file token",
                "for other machines",
            ),
            ("observe on --tls-cert site.crt --tls-key site.key", "HTTPS"),
            ("observe status", "where it is, and who takes what is sent"),
            ("observe off", ""),
            ("observe", "in the foreground"),
        ],
    ),
    page(
        "top",
        "Averages and maxima, of the app that used most CPU first. Only what was recorded counts: `rpm observe on` records while it runs.",
        &[
            ("top", "the last hour"),
            ("top --since 10m api", "one app, by the second"),
            ("top --since 7d --json", ""),
        ],
    ),
    page(
        "dashboard",
        "It is served by the process of `rpm observe on`, which is started if it does not run: on a loopback address, or by HTTPS \
         (`rpm observe on --tls-cert FILE --tls-key FILE`). The link opens \
         once, within five minutes; the session that it opens lasts a week. From another machine, \
         `ssh -L 9209:127.0.0.1:9209 HOST` first, and then open the link there.",
        &[
            ("dashboard", "a link for a browser"),
            ("dashboard --read-only", "for somebody who may look and not act"),
            ("dashboard --sign-out", "end all sessions"),
            ("dashboard password alice", "a user who may sign in"),
            ("dashboard password bob --read-only", "who may look and not act"),
            ("dashboard host db https://10.0.0.2:9209 --token-file token", ""),
        ],
    ),
    page(
        "alerts",
        "Rules stand in `observe.alerts` of an ecosystem file, and `rpm start` of that file puts them in force; docs/OBSERVE.md has \
         them all. Messages are sent by the process of `rpm observe on`.",
        &[
            ("alerts", "the rules, and who is told"),
            ("alerts test", "send a message by each of them"),
            ("alerts mute 1h", ""),
        ],
    ),
    page(
        "mcp",
        crate::args::mcp::REGISTER,
        &[
            ("mcp", "only look"),
            ("mcp --allow-actions", "also reload, restart, scale, roll back"),
        ],
    ),
    page(
        "demo",
        "Needs nothing, and leaves nothing behind.",
        &[("demo", ""), ("demo --port 3000", "keep serving")],
    ),
    page(
        "update",
        "Apps and their clients are not affected.",
        &[("update", ""), ("update --binary ./rpm-new", "")],
    ),
    page(
        "link",
        "A symbolic link beside the program, and refused where another program on the PATH has that name.",
        &[("link rpm", ""), ("link pm2", "for scripts that call PM2")],
    ),
    page(
        "completion",
        "Names of apps come from the daemon if it runs; completion does not start one.",
        &[
            (
                "completion bash > ~/.local/share/bash-completion/completions/@NAME@",
                "",
            ),
            ("completion zsh > ~/.zfunc/_@NAME@", "a directory of $fpath"),
            ("completion fish > ~/.config/fish/completions/@NAME@.fish", ""),
        ],
    ),
];
