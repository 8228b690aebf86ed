//! What `--help` says beside the options: the commands in groups, and what to type.

use clap::{Arg, Command};
use rpm_spec::keys::Heading;

/// The widest line of the overview.
const WIDTH: usize = 80;
/// Where the descriptions of its commands begin.
const INDENT: usize = 18;

/// The commands of the overview.
const GROUPS: [(&str, &[&str]); 8] = [
    (
        "Start and stop",
        &["start", "stop", "restart", "scale", "delete", "kill"],
    ),
    ("Deploy", &["reload", "rollback", "deploy"]),
    (
        "Look",
        &[
            "list", "describe", "logs", "events", "monit", "observe", "alerts", "doctor", "report", "ping",
        ],
    ),
    (
        "Ecosystem files",
        &["init", "validate", "startOrReload", "startOrRestart"],
    ),
    (
        "Boot and containers",
        &[
            "startup",
            "unstartup",
            "save",
            "resurrect",
            "cleardump",
            "import",
            "runtime",
            "ready",
        ],
    ),
    (
        "Programs and files",
        &[
            "serve",
            "sendSignal",
            "send",
            "attach",
            "trigger",
            "set",
            "get",
            "multiset",
            "unset",
            "flush",
            "reloadLogs",
            "reset",
        ],
    ),
    ("For scripts", &["jlist", "prettylist", "pid", "id", "env"]),
    ("rpm itself", &["demo", "update", "link", "completion", "help"]),
];

/// What stands below the overview.
const OVERVIEW: &[(&str, &str)] = &[
    ("start app.js -i max", "on every core, behind one port"),
    ("reload app", "the code on disk takes over"),
    ("start app.js -i max --balance proxy", "TLS, HTTP/2, retries"),
];

/// A command: what else is to be said of it, and examples with what they do.
struct Page {
    command: &'static str,
    more: &'static str,
    examples: &'static [(&'static str, &'static str)],
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

const PAGES: &[Page] = &[
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
    page("kill", "", &[("kill", "`rpm resurrect` starts what was saved")]),
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
        "Keys: Up and Down (k, j), Page Up and Page Down, Home and End (g, G) choose a process. / shows those whose name contains what is \
         typed; Enter keeps that, Esc shows all again. o sorts by the next of name, CPU, memory, restarts and id. r reloads, t restarts and \
         s stops the chosen one, after a y. q, Ctrl+C, or Esc without a filter, quit. If the daemon ends, the screen says so and waits for \
         the next one; it starts none.",
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
            ("set api.PORT 8080", "a variable of the app `api`"),
            ("set api.PORT", ""),
        ],
    ),
    page("get", "", &[("get", "all of them"), ("get api.PORT", "")]),
    page("multiset", "", &[("multiset 'api.PORT 8080 api.DEBUG 1'", "")]),
    page("unset", "", &[("unset api.PORT", ""), ("unset all", "")]),
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
    page("env", "", &[("env 0", "")]),
    page(
        "observe",
        "Serves GET /metrics until it is interrupted, whether the daemon runs or not: `rpm_up` says which. \
         An app that gives itself figures as @pm2/io does has them there too, by the names that pm2-metrics uses. \
         `rpm observe on` has the daemon run it: supervised, but not in the list.",
        &[
            ("observe on", "http://127.0.0.1:9209/metrics"),
            (
                "observe on --listen 0.0.0.0:9209 --token-file token",
                "for other machines",
            ),
            ("observe status", "whether it is on, and where"),
            ("observe off", ""),
            ("observe", "in the foreground"),
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

/// Where the arguments of `start` stand that are no options of an app. All others of them are below clap's own headings.
const BELOW: [(Heading, &[&str]); 4] = [
    (Heading::EcosystemFiles, &["only", "env", "dry_run"]),
    (Heading::EnvironmentAndUser, &["update_env"]),
    (
        Heading::Reload,
        &[
            "health_status",
            "health_interval",
            "health_timeout",
            "health_threshold",
        ],
    ),
    (Heading::Output, &["json", "format"]),
];

/// `start` with its arguments below their headings. Those come in the order in which the arguments do.
pub(super) fn headed(start: Command) -> Command {
    let below = |arg: &Arg| {
        let id = arg.get_id().as_str();
        let found = BELOW.iter().find(|(_, ids)| ids.contains(&id));
        found.map(|(heading, _)| *heading)
    };
    let headed = start.get_arguments().cloned().map(|arg| match below(&arg) {
        Some(heading) => arg.help_heading(heading.title()),
        None => arg,
    });
    let mut args: Vec<Arg> = headed.collect();
    args.sort_by_key(|arg| {
        Heading::ALL
            .iter()
            .position(|it| it.title() == arg.get_help_heading())
    });
    let mut sorted = args.into_iter();
    start.mut_args(|arg| sorted.next().unwrap_or(arg))
}

/// The grammar with its overview, and each command with its examples.
pub(super) fn with_examples(grammar: Command, program: &str) -> Command {
    let overview = overview(&grammar, program);
    PAGES
        .iter()
        .fold(grammar, |grammar, page| {
            grammar.mut_subcommand(page.command, |command| command.after_help(page.text(program)))
        })
        .help_template(overview)
}

impl Page {
    fn text(&self, program: &str) -> String {
        let mut text = self.more.replace("`rpm ", &format!("`{program} "));
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(&heading("Examples"));
        text.push_str(&lines(self.examples, program));
        text
    }
}

fn heading(text: &str) -> String {
    format!("\u{1b}[1m\u{1b}[4m{text}:\u{1b}[0m\n")
}

/// A line for each example. What they do stands behind them where there is room, and in a column.
fn lines(examples: &[(&str, &str)], program: &str) -> String {
    let lines: Vec<(String, String)> = examples
        .iter()
        .map(|(line, about)| {
            let line = format!("{program} {}", line.replace("@NAME@", program));
            (line, about.replace("`rpm ", &format!("`{program} ")))
        })
        .collect();
    let width = |(line, _): &(String, String)| line.chars().count();
    let column = lines
        .iter()
        .filter(|it| !it.1.is_empty())
        .map(width)
        .max()
        .unwrap_or_default();
    let mut text = String::new();
    for (line, about) in &lines {
        // In the column, unless the line would be too wide there.
        let fits = 2 + column + "  # ".len() + about.chars().count() <= WIDTH;
        let column = if fits { column } else { 0 };
        let padded = match about.is_empty() {
            true => line.clone(),
            false => format!("{line:<column$}  \u{1b}[2m# {about}\u{1b}[0m"),
        };
        text.push_str(&format!("  {padded}\n"));
    }
    text.truncate(text.trim_end().len());
    text
}

fn overview(grammar: &Command, program: &str) -> String {
    let mut text = "{about}\n\n{usage-heading} {usage}\n".to_owned();
    for (group, names) in GROUPS {
        text.push('\n');
        text.push_str(&heading(group));
        for name in names {
            let command = grammar.find_subcommand(name);
            let about = command.and_then(Command::get_about).map(ToString::to_string);
            let about = about.unwrap_or_else(|| "Print this, or the help of a command".to_owned());
            let aliases: Vec<&str> = command
                .into_iter()
                .flat_map(Command::get_visible_aliases)
                .collect();
            let also = match aliases.is_empty() {
                true => String::new(),
                false => format!(" ({})", aliases.join(", ")),
            };
            let fits = INDENT + about.chars().count() + also.len() <= WIDTH;
            let also = if fits { also.as_str() } else { "" };
            let pad = INDENT - 3;
            text.push_str(&format!("  \u{1b}[1m{name:<pad$}\u{1b}[0m {about}{also}\n"));
        }
    }
    text.push_str(&format!("\n{}{{options}}\n\n", heading("Options")));
    text.push_str(&heading("Examples"));
    text.push_str(&lines(OVERVIEW, program));
    text.push_str(&format!(
        "\n\n`{program} COMMAND --help` has the options of a command, and examples."
    ));
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn grammar() -> Command {
        super::super::grammar("rpm")
    }

    #[test]
    fn the_overview_has_every_command_once_and_fits() {
        let shown: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| names.iter().copied())
            .collect();
        let grammar = grammar();
        let visible = grammar.get_subcommands().filter(|command| !command.is_hide_set());
        let visible: BTreeSet<&str> = visible.map(Command::get_name).chain(["help"]).collect();
        assert_eq!(shown.iter().copied().collect::<BTreeSet<_>>(), visible);
        assert_eq!(shown.len(), visible.len(), "one is there twice");
        let help = grammar.clone().render_help().to_string();
        for line in help.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        assert!(help.contains("Deploy:\n  reload "), "{help}");
        assert!(help.contains("(ls, l, ps, status)"), "{help}");
    }

    #[test]
    fn every_command_has_examples_that_can_be_typed() {
        let grammar = grammar();
        let mut of: BTreeSet<&str> = PAGES.iter().map(|page| page.command).collect();
        of.insert("help");
        for command in grammar.get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(
                of.contains(command.get_name()),
                "{} has no example",
                command.get_name()
            );
        }
        for page in PAGES {
            let command = grammar.find_subcommand(page.command).expect(page.command);
            let help = command.get_after_help().expect(page.command).to_string();
            let (_, examples) = help.split_once("Examples:\n").expect(page.command);
            for line in examples.lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
        }
        let examples = PAGES.iter().flat_map(|page| page.examples).chain(OVERVIEW);
        for (line, _) in examples {
            let typed = line.split(" > ").next().unwrap_or(line);
            let words = crate::complete::words(&format!("rpm {typed}"));
            let parsed = grammar
                .clone()
                .try_get_matches_from(["rpm".to_owned()].into_iter().chain(words));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
    }

    #[test]
    fn options_of_start_stand_below_headings() {
        let grammar = grammar();
        let start = grammar.find_subcommand("start").expect("start");
        let known: BTreeSet<&str> = start.get_arguments().map(|arg| arg.get_id().as_str()).collect();
        for (_, options) in BELOW {
            let unknown = options.iter().filter(|option| !known.contains(*option));
            let unknown: Vec<_> = unknown
                .filter(|option| !["json", "format"].contains(option))
                .collect();
            assert!(unknown.is_empty(), "{unknown:?}");
        }
        let help = start.clone().render_help().to_string();
        let headings: Vec<&str> = help
            .lines()
            .filter(|line| !line.starts_with(' ') && line.ends_with(':'))
            .collect();
        let titles = Heading::ALL.map(|heading| heading.title().unwrap_or("Options"));
        let expected: Vec<String> = titles.map(|title| format!("{title}:")).into();
        assert_eq!(headings[0], "Arguments:");
        assert_eq!(headings[1..=titles.len()], expected);
        let arguments = help.find("[ARGS]...").expect("the script's arguments");
        assert!(arguments < help.find("Options:").expect("options"), "{help}");
    }
}
