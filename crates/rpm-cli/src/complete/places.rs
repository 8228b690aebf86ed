//! What may stand where: commands, options, and the values of each.

use clap::{Arg, ArgAction, Command};

use super::Candidate;

/// What is looked for outside the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing.
    Fixed,
    /// Names, groups, ids and `all`.
    Apps,
    /// Those, and files where none of them fits.
    AppsThenFiles,
    /// Those, and files as well.
    AppsOrFiles,
    /// Names alone.
    Names,
    /// Groups alone.
    Namespaces,
    Files,
    Directories,
    /// Actions of the app that stands before.
    Actions,
    /// What `rpm set` has set.
    Values,
    /// The same, and variables of apps.
    Variables,
    /// Names of `env_<name>` in ecosystem files.
    Environments,
}

impl Wanted {
    /// Are apps named?
    pub(super) fn apps(self) -> bool {
        match self {
            Wanted::Apps
            | Wanted::AppsThenFiles
            | Wanted::AppsOrFiles
            | Wanted::Names
            | Wanted::Namespaces => true,
            Wanted::Fixed
            | Wanted::Files
            | Wanted::Directories
            | Wanted::Actions
            | Wanted::Values
            | Wanted::Variables
            | Wanted::Environments => false,
        }
    }
}

/// The place of the cursor.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// What stands before the value in the same word: `--only=a,`.
    pub(super) lead: String,
    /// What the grammar knows.
    pub(super) fixed: Vec<Candidate>,
    pub(super) wanted: Wanted,
}

impl Place {
    fn new(lead: impl Into<String>, fixed: Vec<Candidate>, wanted: Wanted) -> Place {
        let lead = lead.into();
        Place { lead, fixed, wanted }
    }

    /// Where the word `current` behind `words` is.
    pub(super) fn of(grammar: &Command, words: &[String], current: &str) -> Place {
        let at = words.iter().position(|word| !word.starts_with('-'));
        let Some((at, command)) = at.and_then(|at| Some((at, grammar.find_subcommand(&words[at])?))) else {
            return match (at, current.starts_with('-')) {
                // A command that does not exist has nothing to complete.
                (Some(_), _) => Place::new("", Vec::new(), Wanted::Fixed),
                (None, true) => Place::new("", options(grammar), Wanted::Fixed),
                (None, false) => Place::new("", commands(grammar), Wanted::Fixed),
            };
        };
        let behind = &words[at + 1..];
        if command.get_name() == "help" {
            return Place::new("", commands(grammar), Wanted::Fixed);
        }
        let walked = walk(command, behind);
        if let Some(option) = walked.pending {
            return value(command, option, "", current);
        }
        if walked.verbatim {
            return Place::new("", Vec::new(), Wanted::Files);
        }
        if let Some((name, text)) = current.strip_prefix("--").and_then(|it| it.split_once('=')) {
            let lead = format!("--{name}=");
            return match by_long(command, name) {
                Some(option) => value(command, option, &lead, text),
                None => Place::new(lead, Vec::new(), Wanted::Fixed),
            };
        }
        if current.starts_with('-') {
            return Place::new("", options(command), Wanted::Fixed);
        }
        let mut places: Vec<&Arg> = command
            .get_positionals()
            .filter(|arg| !arg.is_last_set())
            .collect();
        places.sort_by_key(|arg| arg.get_index());
        let many = |arg: &&&Arg| arg.get_num_args().is_some_and(|count| count.max_values() > 1);
        let place = places
            .get(walked.positions)
            .or_else(|| places.last().filter(many));
        place.map_or_else(
            || Place::new("", Vec::new(), Wanted::Fixed),
            |arg| value(command, arg, "", current),
        )
    }
}

/// What the words behind a command say of the next one.
struct Walked<'a> {
    /// The option whose value it is.
    pending: Option<&'a Arg>,
    /// How many words without an option stand before it.
    positions: usize,
    /// It is an argument of the script.
    verbatim: bool,
}

fn walk<'a>(command: &'a Command, words: &[String]) -> Walked<'a> {
    let mut walked = Walked {
        pending: None,
        positions: 0,
        verbatim: false,
    };
    for word in words {
        if walked.pending.take().is_some() {
            continue;
        }
        match word.as_str() {
            "--" => {
                walked.verbatim = true;
                return walked;
            }
            long if long.starts_with("--") && !long.contains('=') => {
                walked.pending = by_long(command, &long[2..]).filter(needs_value);
            }
            short if short.starts_with('-') && short.chars().count() == 2 => {
                let letter = short.chars().nth(1);
                let option = command.get_arguments().find(|arg| arg.get_short() == letter);
                walked.pending = option.filter(needs_value);
            }
            option if option.starts_with('-') && option.len() > 1 => {}
            _ => walked.positions += 1,
        }
    }
    walked
}

/// Does the next word belong to it?
fn needs_value(arg: &&Arg) -> bool {
    let least = arg.get_num_args().map_or(1, |count| count.min_values());
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) && least > 0
}

fn by_long<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| {
        arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
    })
}

fn commands(grammar: &Command) -> Vec<Candidate> {
    let shown = grammar.get_subcommands().filter(|command| !command.is_hide_set());
    shown
        .map(|command| Candidate::new(command.get_name(), first_line(command.get_about())))
        .collect()
}

fn options(command: &Command) -> Vec<Candidate> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown
        .filter_map(|arg| Some((format!("--{}", arg.get_long()?), arg)))
        .map(|(name, arg)| Candidate::new(name, first_line(arg.get_help())))
        .collect()
}

fn first_line(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// The values of an argument. `before` stands before the value in its word, which begins with `text`.
fn value(command: &Command, arg: &Arg, before: &str, text: &str) -> Place {
    let lead = match arg
        .get_value_delimiter()
        .and_then(|delimiter| text.rfind(delimiter))
    {
        Some(at) => format!("{before}{}", &text[..=at]),
        None => before.to_owned(),
    };
    let possible = arg.get_possible_values();
    if !possible.is_empty() && !matches!(arg.get_action(), ArgAction::SetTrue) {
        let shown = possible.iter().filter(|value| !value.is_hide_set());
        let fixed = shown.map(|value| Candidate::new(value.get_name(), first_line(value.get_help())));
        return Place::new(lead, fixed.collect(), Wanted::Fixed);
    }
    let words = |words: &[&str]| words.iter().map(|&word| Candidate::new(word, "")).collect();
    let fixed: Vec<Candidate> = match arg.get_id().as_str() {
        "instances" | "count" => vec![Candidate::new("max", "one per CPU")],
        "sort" => words(&crate::args::Sort::columns()),
        "signal" => words(&["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"]),
        "platform" => words(&["systemd", "openrc"]),
        "interpreter" => words(&["bun", "deno", "node", "none", "python3"]),
        _ => Vec::new(),
    };
    Place::new(lead, fixed, wanted(command.get_name(), arg))
}

fn wanted(command: &str, arg: &Arg) -> Wanted {
    let shown = arg.get_value_names().and_then(|names| names.first());
    match (arg.get_id().as_str(), command) {
        ("targets", "start" | "runtime") => Wanted::AppsOrFiles,
        ("targets", "stop" | "delete" | "restart" | "reload") => Wanted::AppsThenFiles,
        ("targets", _) => Wanted::Apps,
        ("target" | "app" | "name", _) if arg.is_positional() => Wanted::Apps,
        ("action", "trigger") => Wanted::Actions,
        ("key", "set") => Wanted::Variables,
        ("key", _) => Wanted::Values,
        ("env", _) => Wanted::Environments,
        ("only", _) => Wanted::Names,
        ("namespace", _) => Wanted::Namespaces,
        ("path", "serve") => Wanted::Directories,
        ("file" | "files" | "words", _) => Wanted::Files,
        _ => match shown.map(|name| name.as_str()) {
            Some("FILE" | "PATH" | "PROGRAM") => Wanted::Files,
            Some("DIR") => Wanted::Directories,
            _ => Wanted::Fixed,
        },
    }
}
