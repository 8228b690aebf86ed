//! `restart`, `reload` and `start` of a known app take every option of `start`: each has an effect, or is listed here with the reason why not.

use std::collections::BTreeMap;
use std::fs;

use rpm_spec::keys::{Flag, Kind};

use super::tests::Place;
use super::*;
use crate::args::{Command, Invocation, StartArgs, grammar, of_long, parse};

/// They are not about the app.
const OTHERS: [(&str, &str); 11] = [
    ("only", "refused: it is for files"),
    ("env", "refused: it is for files"),
    ("no-daemon", "refused: there is an app already"),
    ("attach", "the command follows the logs"),
    ("dry-run", "the command changes nothing"),
    ("force", "there is nothing to force"),
    ("no-wait", "the command does not wait"),
    ("update-env", "a test of its own"),
    ("help", "clap's"),
    ("version", "clap's"),
    ("silent", "of every command"),
];

/// A value that a new app does not have.
fn value(option: &str) -> Option<&'static str> {
    let key = of_long(option)?;
    let value = match (key.name, key.kind) {
        _ if key.flag != Flag::Same => return None,
        ("exec_interpreter", _) => "bun",
        ("cwd", _) => "sub",
        ("env_file", _) => "more.env",
        ("filter_env", _) => "COLOUR",
        (_, Kind::Text | Kind::User) => "other",
        (_, Kind::Number(..) | Kind::Numbers(..) | Kind::Instances) => "7",
        (_, Kind::Ratio) => "0.07",
        (_, Kind::Time) => "7s",
        (_, Kind::Memory) => "7M",
        (_, Kind::Words) => "--smol",
        (_, Kind::List | Kind::Patterns) => "tmp",
        (_, Kind::Addresses) => "8080",
        (_, Kind::Choice(words)) => words.iter().copied().rfind(|word| *word != "raw")?,
        (_, Kind::Signal) => "SIGTERM",
        (_, Kind::File | Kind::Files | Kind::Output) => "some.file",
        (_, Kind::Cron) => "0 3 * * *",
        (_, Kind::Health) => "/health",
        // They mean something without one.
        (_, Kind::Switch | Kind::Watch | Kind::Networks) => return None,
        (_, Kind::Filter | Kind::Variables | Kind::Anything) => return None,
    };
    Some(value)
}

/// Options that need another one to mean something.
fn beside(option: &str) -> &'static [&'static str] {
    match option {
        "execute-command" => &["-i", "2", "--execute-command"],
        "log-keep" => &["--log-max-size", "7M", "--log-keep", "3"],
        "health-status" => &["--health-check", "/", "--health-status", "204"],
        "health-interval" => &["--health-check", "/", "--health-interval", "7s"],
        "health-timeout" => &["--health-check", "/", "--health-timeout", "7s"],
        "health-threshold" => &["--health-check", "/", "--health-threshold", "3"],
        "ignore-watch" => &["--watch", "--ignore-watch", "tmp"],
        "watch-delay" => &["--watch", "--watch-delay", "7s"],
        _ => &[],
    }
}

fn parsed(words: &[&str]) -> StartArgs {
    let args = ["rpm", "restart", "web"].iter().chain(words).map(OsString::from);
    match parse(args) {
        Ok(Invocation::Client(client)) => match client.command {
            Command::Restart { start, .. } => *start,
            other => panic!("{other:?}"),
        },
        other => panic!("{words:?}: {other:?}"),
    }
}

fn known(place: &Place) -> AppSpec {
    for (name, mode) in [
        ("web.js", 0o644),
        ("bin/node", 0o755),
        ("bin/bun", 0o755),
        ("sub/web.js", 0o644),
    ] {
        place.file(name, mode);
    }
    fs::write(place.0.join("more.env"), "COLOUR=blue\nSIZE=7\n").expect("a file");
    let mut spec = place.start("./web.js").expect("resolved");
    spec.env.insert("COLOUR".to_owned(), "red".to_owned());
    spec
}

fn after(place: &Place, before: &AppSpec, words: &[&str]) -> AppSpec {
    let args = parsed(words);
    let options = options_of(&args, None).expect("UTF-8");
    changed(before.clone(), &options, &place.around(), args.update_env).expect("resolved")
}

#[test]
fn each_option_has_an_effect_on_an_app_that_is_known() {
    let place = Place::new();
    let before = known(&place);
    let grammar = grammar("rpm");
    // `restart` hides most of them.
    let start = grammar.find_subcommand("start").expect("a command");
    let of_start = start.get_arguments().filter(|arg| !arg.is_hide_set());
    let names: Vec<&str> = of_start.filter_map(clap::Arg::get_long).collect();
    assert!(names.len() > 60, "{}: {names:?}", names.len());
    let mut without_effect = Vec::new();
    for name in names {
        if OTHERS.iter().any(|(other, _)| *other == name) {
            continue;
        }
        let option = format!("--{name}");
        let words = match (beside(name), value(name)) {
            ([], Some(value)) => vec![option.as_str(), value],
            ([], None) => vec![option.as_str()],
            (words, _) => words.to_vec(),
        };
        let without: Vec<&str> = match beside(name) {
            [] => Vec::new(),
            words => {
                let at = words
                    .iter()
                    .position(|word| *word == option)
                    .expect("it is there");
                words[..at].to_vec()
            }
        };
        if after(&place, &before, &words) == after(&place, &before, &without) {
            without_effect.push(option);
        }
    }
    assert_eq!(without_effect, Vec::<String>::new());
}

#[test]
fn variables_of_a_file_win_over_what_a_known_app_has() {
    let place = Place::new();
    let before = known(&place);
    let env = |words: &[&str]| -> BTreeMap<String, String> { after(&place, &before, words).env };
    let now = env(&["--env-file", "more.env"]);
    assert_eq!((now["COLOUR"].as_str(), now["SIZE"].as_str()), ("blue", "7"));
    assert_eq!(now["PATH"], before.env["PATH"], "the rest stays");
    fs::write(place.0.join("more.env"), "PATH=/nowhere\n").expect("a file");
    let updated = env(&["--env-file", "more.env", "--update-env"]);
    assert_eq!(updated["PATH"], before.env["PATH"], "the environment wins");
    let args = parsed(&["--env-file", "gone.env"]);
    let options = options_of(&args, None).expect("UTF-8");
    let gone = changed(before, &options, &place.around(), false);
    assert!(matches!(gone, Err(ResolveError::EnvFile { .. })), "{gone:?}");
}
