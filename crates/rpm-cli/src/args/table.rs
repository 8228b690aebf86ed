//! The options of an app on the command line: clap's arguments, generated from the tables of options. What is typed is read as the value of
//! the key in an ecosystem file.

use clap::builder::{PossibleValue, PossibleValuesParser, ValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use rpm_spec::AppOptions;
use rpm_spec::keys::{self, Flag, Heading, Key, Kind};
use serde_json::Value;

/// Gap between the `display_order` of two options, for arguments of `start` that are not options of an app.
const BETWEEN: usize = 10;

/// The options of an app that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OptionArgs(pub(crate) AppOptions);

impl Args for OptionArgs {
    fn augment_args(command: Command) -> Command {
        let below = |heading| typed().filter(move |key| key.heading == heading);
        let placed = Heading::ALL
            .into_iter()
            .flat_map(|heading| below(heading).enumerate());
        placed.fold(command, |command, (at, key)| {
            command.arg(argument(key).display_order(at * BETWEEN + 1))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        OptionArgs::augment_args(command)
    }
}

impl FromArgMatches for OptionArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<OptionArgs, clap::Error> {
        let mut options = OptionArgs::default();
        options.update_from_arg_matches(matches)?;
        Ok(options)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for key in typed() {
            let id = id(key);
            if matches.value_source(&id) == Some(ValueSource::CommandLine) {
                let words = matches.get_raw(&id).into_iter().flatten();
                let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
                let wrong = |_| {
                    let text = format!("--{}: expected {}\n", id.replace('_', "-"), key.kind.expected());
                    clap::Error::raw(ErrorKind::ValueValidation, text)
                };
                self.0.set(key, &value(key, &words)).map_err(wrong)?;
            }
        }
        Ok(())
    }
}

/// The options that the command line takes.
fn typed() -> impl Iterator<Item = &'static Key> {
    keys::all().filter(|key| key.flag != Flag::None)
}

/// The option with this long name.
#[cfg(test)]
pub(crate) fn of_long(long: &str) -> Option<&'static Key> {
    typed().find(|key| id(key) == long.replace('-', "_"))
}

/// Id of its argument: the long name, with underscores.
fn id(key: &Key) -> String {
    let name = key.long.unwrap_or(key.name).replace('-', "_");
    match key.flag {
        Flag::Off(_) => format!("no_{name}"),
        Flag::Same | Flag::Stands { .. } | Flag::None => name,
    }
}

fn argument(key: &'static Key) -> Arg {
    // clap wants static names. A process builds its grammar once or twice.
    let id: &'static str = String::leak(id(key));
    let long: &'static str = String::leak(id.replace('_', "-"));
    let arg = Arg::new(id)
        .long(long)
        .help(help(key))
        .help_heading(key.heading.title());
    let arg = key.short.into_iter().fold(arg, Arg::short);
    let arg = key.alias.into_iter().fold(arg, Arg::visible_alias);
    let arg = key.needs.into_iter().fold(arg, Arg::requires);
    match key.flag {
        Flag::Same if key.kind != Kind::Switch => valued(key, arg),
        _ => arg.action(ArgAction::SetTrue),
    }
}

fn help(key: &Key) -> String {
    let text = match key.flag {
        Flag::Off(help) | Flag::Stands { help, .. } => return help.to_owned(),
        Flag::Same | Flag::None => key.help.unwrap_or(key.doc),
    };
    let default = key.default.map(|default| format!(" [default: {default}]"));
    format!("{text}{}", default.unwrap_or_default())
}

/// An argument with a value, by the kind of the option.
fn valued(key: &'static Key, arg: Arg) -> Arg {
    let arg = arg.value_parser(parser(key)).action(ArgAction::Set);
    let arg = if key.optional { arg.num_args(0..=1) } else { arg };
    let list = |arg: Arg| arg.action(ArgAction::Append).value_delimiter(',');
    let (name, arg) = match key.kind {
        Kind::Number(..) => ("N", arg),
        Kind::Ratio => ("RATIO", arg),
        Kind::Instances => ("N", arg.allow_hyphen_values(true)),
        Kind::Time => ("TIME", arg),
        Kind::Memory => ("SIZE", arg),
        Kind::Words => ("ARGS", arg.action(ArgAction::Append).allow_hyphen_values(true)),
        // As PM2 takes them: `--stop-exit-codes 0 2`. Exit codes are the only numbers that may be negative, and the only ones in words apart.
        Kind::Numbers(..0, _) => ("N", list(arg).num_args(1..).allow_negative_numbers(true)),
        Kind::Numbers(..) => ("N", list(arg)),
        Kind::Patterns => ("PATTERN", list(arg)),
        Kind::List => ("NAME", list(arg)),
        Kind::Addresses => ("ADDR", list(arg)),
        Kind::Files => ("FILE", list(arg)),
        Kind::File | Kind::Output => ("FILE", arg),
        Kind::Signal => ("SIGNAL", arg.ignore_case(true)),
        Kind::Watch => ("PATH", list(arg).num_args(0..).require_equals(true)),
        Kind::Filter => ("NAME", list(arg).num_args(0..=1)),
        Kind::Networks => ("NETWORK", list(arg).num_args(0..=1).require_equals(true)),
        Kind::Cron => ("TABLE", arg),
        Kind::Health => ("PATH", arg),
        Kind::Choice(_) => ("NAME", arg),
        Kind::Text | Kind::User | Kind::Switch | Kind::Variables | Kind::Anything => ("", arg),
    };
    match key.value.unwrap_or(name) {
        "" => arg.value_name(String::leak(key.name.to_uppercase()) as &str),
        name => arg.value_name(name),
    }
}

/// Checks a value, and says what was expected. Choices are listed by help and completion.
fn parser(key: &'static Key) -> ValueParser {
    match key.kind {
        Kind::Choice(words) => PossibleValuesParser::new(words).into(),
        Kind::Signal => {
            let names = ["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"];
            PossibleValuesParser::new(names.map(|name| PossibleValue::new(name).alias(&name[3..]))).into()
        }
        _ => ValueParser::from(move |word: &str| {
            let checked = AppOptions::default().set(key, &value(key, &[word.to_owned()]));
            let expected = |_| format!("expected {}", key.kind.expected());
            checked.map(|()| word.to_owned()).map_err(expected)
        }),
    }
}

/// The value that the key would have in an ecosystem file.
fn value(key: &Key, words: &[String]) -> Value {
    let blank = |words: &[String]| -> Vec<String> {
        let parts = words.iter().flat_map(|word| word.split_whitespace());
        parts.map(str::to_owned).collect()
    };
    match (key.flag, key.kind) {
        (Flag::Off(_), _) => false.into(),
        (Flag::Stands { r#for, .. }, _) => r#for.into(),
        (_, Kind::Switch) => true.into(),
        (_, Kind::Watch | Kind::Filter | Kind::Networks | Kind::Output) if words.is_empty() => true.into(),
        (_, Kind::Output) if words == [""] => true.into(),
        // Takes away what a file says.
        (_, Kind::Words) if words == ["null"] => Value::Array(Vec::new()),
        (_, Kind::Words) => words.join(" ").into(),
        // As PM2 has them on the command line.
        (_, Kind::Patterns) => blank(words).into(),
        (
            _,
            Kind::List
            | Kind::Files
            | Kind::Addresses
            | Kind::Numbers(..)
            | Kind::Watch
            | Kind::Filter
            | Kind::Networks,
        ) => words.to_vec().into(),
        _ => words.concat().into(),
    }
}
