//! The command line behind `:`: what a line means, and how it may go on.

use super::fleet::Sort;
use super::request::Verb;

/// What a line asks for. A target that is left out is the chosen one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Change(Verb, Option<String>),
    Details(Option<String>),
    Logs(Option<String>),
    Sort(Sort),
    Filter(String),
    Expand,
    Help,
    Quit,
}

/// A way to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suggestion {
    /// The whole line.
    pub(super) line: String,
    /// What it does.
    pub(super) about: &'static str,
}

/// What comes behind the word of a command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Target,
    /// `[target] count`
    Count,
    Order,
    Text,
}

/// The commands: word, what it takes, what it does.
const COMMANDS: [(&str, Takes, &str); 13] = [
    ("reload", Takes::Target, "replace workers, losing nothing"),
    (
        "restart",
        Takes::Target,
        "restart, by a reload where that is possible",
    ),
    ("stop", Takes::Target, "stop, and keep in the list"),
    ("start", Takes::Target, "start what is stopped"),
    (
        "scale",
        Takes::Count,
        "change the number of instances: n, +n, -n, max",
    ),
    (
        "rollback",
        Takes::Target,
        "bring back what served before the last reload",
    ),
    ("logs", Takes::Target, "show the output"),
    ("details", Takes::Target, "show facts and charts"),
    ("sort", Takes::Order, "order the list"),
    ("filter", Takes::Text, "show apps whose name contains this"),
    ("expand", Takes::Nothing, "show all instances, or none"),
    ("help", Takes::Nothing, "show the keys"),
    ("quit", Takes::Nothing, "leave"),
];

/// Numbers that are suggested for `scale`.
const COUNTS: [&str; 4] = ["+1", "-1", "2", "max"];

/// Reads a line.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub(super) fn parse(line: &str) -> Result<Option<Command>, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((&first, rest)) = words.split_first() else {
        return Ok(None);
    };
    let word = command_of(first)?;
    let one = || match rest {
        [] => Ok(None),
        [target] => Ok(Some((*target).to_owned())),
        _ => Err(format!("{word} takes one app or id; type :{word} NAME")),
    };
    let command = match word {
        "reload" => Command::Change(Verb::Reload, one()?),
        "restart" => Command::Change(Verb::Restart, one()?),
        "stop" => Command::Change(Verb::Stop, one()?),
        "start" => Command::Change(Verb::Start, one()?),
        "rollback" => Command::Change(Verb::Rollback, one()?),
        "scale" => match rest {
            [count] if is_count(count) => Command::Change(Verb::Scale((*count).to_owned()), None),
            [target, count] if is_count(count) => {
                Command::Change(Verb::Scale((*count).to_owned()), Some((*target).to_owned()))
            }
            _ => {
                return Err(
                    "scale takes a number of instances; type :scale 4, :scale NAME +1 or :scale NAME max"
                        .to_owned(),
                );
            }
        },
        "logs" => Command::Logs(one()?),
        "details" => Command::Details(one()?),
        "sort" => Command::Sort(sort_of(rest)?),
        "filter" => Command::Filter(rest.join(" ")),
        "expand" => Command::Expand,
        "help" => Command::Help,
        _ => Command::Quit,
    };
    Ok(Some(command))
}

/// The command that begins with this, if it is the only one; `q` and `?` as keys have them.
fn command_of(first: &str) -> Result<&'static str, String> {
    match first {
        "q" | "q!" | "exit" => return Ok("quit"),
        "?" => return Ok("help"),
        _ => {}
    }
    let words = || COMMANDS.iter().map(|(word, ..)| *word);
    if let Some(word) = words().find(|word| *word == first) {
        return Ok(word);
    }
    let begun: Vec<&str> = words().filter(|word| word.starts_with(first)).collect();
    match begun.as_slice() {
        [only] => Ok(only),
        [] => Err(format!(
            "unknown command {first:?}; Tab shows those that there are"
        )),
        several => Err(format!(
            "{first:?} may be {}; type more of it",
            several.join(" or ")
        )),
    }
}

fn is_count(word: &str) -> bool {
    let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
    word == "max"
        || (!digits.is_empty() && digits.len() < 6 && digits.bytes().all(|digit| digit.is_ascii_digit()))
}

fn sort_of(rest: &[&str]) -> Result<Sort, String> {
    let word = rest.first().copied().unwrap_or_default();
    let begun = |sort: &Sort| !word.is_empty() && sort.word().starts_with(word);
    Sort::ALL.into_iter().find(begun).ok_or_else(|| {
        let words: Vec<&str> = Sort::ALL.iter().map(|sort| sort.word()).collect();
        format!("sort takes one of {}", words.join(", "))
    })
}

/// How a line may go on: by a command, or by what that takes. `targets` are the names of apps.
pub(super) fn suggestions(line: &str, targets: &[String]) -> Vec<Suggestion> {
    let Some((first, rest)) = line.split_once(' ') else {
        return commands(line);
    };
    let Some((word, takes, about)) = COMMANDS.iter().find(|(word, ..)| *word == first) else {
        return Vec::new();
    };
    let (before, begun) = rest
        .rsplit_once(' ')
        .map_or(("", rest), |(before, begun)| (before, begun));
    let head = if before.is_empty() {
        format!("{word} ")
    } else {
        format!("{word} {before} ")
    };
    let names = || -> Vec<String> {
        targets
            .iter()
            .filter(|name| !name.contains(' '))
            .cloned()
            .collect()
    };
    let sorts = || Sort::ALL.iter().map(|sort| sort.word().to_owned()).collect();
    let counts = || COUNTS.iter().map(|count| (*count).to_owned());
    let candidates: Vec<String> = match (takes, before) {
        (Takes::Target, "") => names(),
        (Takes::Order, "") => sorts(),
        (Takes::Count, "") => names().into_iter().chain(counts()).collect(),
        (Takes::Count, _) => counts().collect(),
        (Takes::Nothing | Takes::Text | Takes::Target | Takes::Order, _) => Vec::new(),
    };
    let fits = |candidate: &String| candidate.to_lowercase().starts_with(&begun.to_lowercase());
    let made = |candidate: String| Suggestion {
        line: format!("{head}{candidate}"),
        about,
    };
    candidates.into_iter().filter(fits).map(made).collect()
}

/// Commands that begin with this, then those that contain it.
fn commands(begun: &str) -> Vec<Suggestion> {
    let begin = COMMANDS.iter().filter(|(word, ..)| word.starts_with(begun));
    let contain = COMMANDS
        .iter()
        .filter(|(word, ..)| !word.starts_with(begun) && word.contains(begun));
    let made = |(word, takes, about): &(&str, Takes, &'static str)| Suggestion {
        line: match takes {
            Takes::Nothing => (*word).to_owned(),
            _ => format!("{word} "),
        },
        about,
    };
    begin.chain(contain).map(made).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_what_they_mean() {
        let named = || Some("api".to_owned());
        let cases = [
            ("", None),
            ("reload", Some(Command::Change(Verb::Reload, None))),
            (" stop  api ", Some(Command::Change(Verb::Stop, named()))),
            ("roll api", Some(Command::Change(Verb::Rollback, named()))),
            (
                "scale 4",
                Some(Command::Change(Verb::Scale("4".to_owned()), None)),
            ),
            (
                "scale api -1",
                Some(Command::Change(Verb::Scale("-1".to_owned()), named())),
            ),
            ("sort mem", Some(Command::Sort(Sort::Memory))),
            ("filter", Some(Command::Filter(String::new()))),
            ("logs api", Some(Command::Logs(named()))),
            ("q", Some(Command::Quit)),
        ];
        for (line, command) in cases {
            assert_eq!(parse(line), Ok(command), "{line:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        let cases = [
            ("bogus", "Tab shows"),
            ("re", "reload or restart"),
            ("stop a b", ":stop NAME"),
            ("scale", ":scale 4"),
            ("scale api many", ":scale NAME +1"),
            ("scale +", ":scale 4"),
            ("sort", "one of id, name, cpu"),
        ];
        for (line, part) in cases {
            let error = parse(line).expect_err(line);
            assert!(error.contains(part), "{line:?}: {error}");
        }
    }

    #[test]
    fn a_line_goes_on_with_what_the_command_takes() {
        let names = ["api".to_owned(), "Apple".to_owned(), "web".to_owned()];
        let lines = |line: &str| -> Vec<String> {
            let all = suggestions(line, &names);
            all.into_iter().map(|suggestion| suggestion.line).collect()
        };
        assert_eq!(lines("").len(), COMMANDS.len());
        assert_eq!(lines("re"), ["reload ", "restart "]);
        assert_eq!(lines("back"), ["rollback "]);
        assert_eq!(lines("reload a"), ["reload api", "reload Apple"]);
        assert_eq!(lines("reload api x"), Vec::<String>::new());
        assert_eq!(lines("scale w"), ["scale web"]);
        assert_eq!(lines("scale web m"), ["scale web max"]);
        assert_eq!(lines("sort c"), ["sort cpu", "sort connections"]);
        assert_eq!(lines("help x"), Vec::<String>::new());
    }

    #[test]
    fn every_command_can_be_typed() {
        for (word, takes, _) in COMMANDS {
            let line = match takes {
                Takes::Nothing | Takes::Target | Takes::Text => word.to_owned(),
                Takes::Count => format!("{word} 2"),
                Takes::Order => format!("{word} cpu"),
            };
            assert!(matches!(parse(&line), Ok(Some(_))), "{line}");
        }
    }
}
