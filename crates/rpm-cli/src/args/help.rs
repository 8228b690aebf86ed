//! What `--help` says beside the options: the commands in groups, and what to type.

mod pages;

use std::ffi::OsString;

use clap::{Arg, Command};
use rpm_spec::keys::Heading;

use pages::{PAGES, Page};

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
            "list",
            "describe",
            "logs",
            "events",
            "monit",
            "top",
            "dashboard",
            "observe",
            "alerts",
            "mcp",
            "doctor",
            "report",
            "ping",
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

/// The name of the program, in examples.
const NAME: &str = "@NAME@";

/// What stands below the overview.
const OVERVIEW: &[(&str, &str)] = &[
    ("start app.js -i max", "on every core, behind one port"),
    ("reload app", "the code on disk takes over"),
    ("start app.js -i max --balance proxy", "TLS, HTTP/2, retries"),
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

/// The words of a command that is not there, where clap would have another error: `help strat`, and PM2's `link SECRET PUBLIC`.
pub(super) fn unknown_command<'a>(args: &'a [OsString], grammar: &Command) -> Option<&'a [OsString]> {
    let words = args.get(1..)?;
    let is_name = |word: &OsString| !word.as_encoded_bytes().starts_with(b"-");
    let known = |word: &OsString| {
        word.to_str()
            .is_some_and(|name| name == "help" || grammar.find_subcommand(name).is_some())
    };
    match words {
        [help, name, ..] if help == "help" && is_name(name) && !known(name) => Some(&words[1..]),
        [link, secret, public, ..] if link == "link" && is_name(secret) && is_name(public) => Some(words),
        _ => None,
    }
}

impl Page {
    fn text(&self, program: &str) -> String {
        let more = self.more.replace(NAME, program);
        let mut text = more.replace("`rpm ", &format!("`{program} "));
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

/// A line for each example. What they do stands behind them in a column; above them where that would be too wide.
fn lines(examples: &[(&str, &str)], program: &str) -> String {
    let lines: Vec<(String, String)> = examples
        .iter()
        .map(|(line, about)| {
            let line = format!("{program} {}", line.replace(NAME, program));
            (line, about.replace("`rpm ", &format!("`{program} ")))
        })
        .collect();
    let column = column(&lines);
    let mut text = String::new();
    for (line, about) in &lines {
        let behind = line.chars().count() <= column;
        text.push_str(&match (about.is_empty(), behind) {
            (true, _) => format!("  {line}\n"),
            (false, true) => format!("  {line:<column$}  \u{1b}[2m# {about}\u{1b}[0m\n"),
            (false, false) => format!("  \u{1b}[2m# {about}\u{1b}[0m\n  {line}\n"),
        });
    }
    text.truncate(text.trim_end().len());
    text
}

/// The width of the widest line that can have a comment behind it, with all shorter ones.
fn column(lines: &[(String, String)]) -> usize {
    let width = |text: &String| text.chars().count();
    let mut left: Vec<_> = lines.iter().filter(|(_, about)| !about.is_empty()).collect();
    left.sort_by_key(|(line, _)| width(line));
    while let Some((widest, _)) = left.last() {
        let column = width(widest);
        let fits = |about| 2 + column + "  # ".len() + width(about) <= WIDTH;
        if left.iter().all(|(_, about)| fits(about)) {
            return column;
        }
        left.pop();
    }
    0
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
    fn comments_are_aligned_or_above() {
        let plain = |examples: &[(&str, &str)]| {
            let text = lines(examples, "rpm");
            text.replace("\u{1b}[2m", "").replace("\u{1b}[0m", "")
        };
        let long = format!("start {}", "x".repeat(60));
        let shown = plain(&[
            ("list", "all"),
            (&long, "a comment of some length"),
            ("stop api", "one"),
            ("kill", ""),
        ]);
        let expected = format!(
            "  rpm list      # all\n  # a comment of some length\n  rpm {long}\n  rpm stop api  # one\n  rpm kill"
        );
        assert_eq!(shown, expected);
        for page in PAGES {
            let text = plain(page.examples);
            let columns: BTreeSet<usize> = text.lines().filter_map(|line| line.find("  # ")).collect();
            assert!(
                columns.iter().filter(|column| **column > 0).count() <= 1,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_asked_of_no_command_is_found() {
        let asked = |line: &str| {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            unknown_command(&args, &grammar()).map(<[OsString]>::to_vec)
        };
        assert_eq!(asked("rpm help strat"), Some(vec!["strat".into()]));
        assert_eq!(
            asked("rpm link SECRET PUBLIC"),
            Some(vec!["link".into(), "SECRET".into(), "PUBLIC".into()])
        );
        for line in [
            "rpm help start",
            "rpm help ls",
            "rpm help",
            "rpm link pm2 --force",
            "rpm strat",
        ] {
            assert_eq!(asked(line), None, "{line}");
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
