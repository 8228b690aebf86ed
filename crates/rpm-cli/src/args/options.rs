//! Options where PM2 accepts them: each with every command, before it and after it.

use std::ffi::OsString;

use Value::{May, Must, No};

/// Whether an option has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// None.
    No,
    /// Always.
    Must,
    /// If the next word is not an option.
    May,
}

/// PM2's options: name, letter, value.
pub(crate) const OPTIONS: &[(&str, Option<char>, Value)] = &[
    ("silent", Some('s'), No),
    ("name", Some('n'), Must),
    ("mini-list", Some('m'), No),
    ("interpreter", None, Must),
    ("interpreter-args", None, Must),
    ("node-args", None, Must),
    ("output", Some('o'), Must),
    ("error", Some('e'), Must),
    ("log", Some('l'), May),
    ("filter-env", None, May),
    ("log-type", None, Must),
    ("log-date-format", None, Must),
    ("time", None, No),
    ("disable-logs", None, No),
    ("merge-logs", None, No),
    ("env", None, Must),
    ("update-env", Some('a'), No),
    ("force", Some('f'), No),
    ("instances", Some('i'), Must),
    ("parallel", None, Must),
    ("shutdown-with-message", None, No),
    ("pid", Some('p'), Must),
    ("kill-timeout", Some('k'), Must),
    ("listen-timeout", None, Must),
    ("wait-ready", None, No),
    ("max-memory-restart", None, Must),
    ("restart-delay", None, Must),
    ("exp-backoff-restart-delay", None, Must),
    ("execute-command", Some('x'), No),
    ("max-restarts", None, Must),
    ("user", Some('u'), Must),
    ("uid", None, Must),
    ("gid", None, Must),
    ("namespace", None, Must),
    ("cwd", None, Must),
    ("hp", None, Must),
    ("wait-ip", None, No),
    ("service-name", None, Must),
    ("cron", Some('c'), Must),
    ("cron-restart", None, Must),
    ("write", Some('w'), No),
    ("no-daemon", None, No),
    ("source-map-support", None, No),
    ("disable-source-map-support", None, No),
    ("only", None, Must),
    ("watch", None, May),
    ("ignore-watch", None, Must),
    ("watch-delay", None, Must),
    ("no-color", None, No),
    ("no-vizion", None, No),
    ("no-autostart", None, No),
    ("no-autorestart", None, No),
    ("stop-exit-codes", None, Must),
    ("no-treekill", None, No),
    ("no-pmx", None, No),
    ("no-automation", None, No),
    ("trace", None, No),
    ("disable-trace", None, No),
    ("sort", None, Must),
    ("attach", None, No),
    ("v8", None, No),
    ("event-loop-inspector", None, No),
    ("deep-monitoring", None, No),
    ("ext", None, Must),
];

/// Commands that parse their words themselves.
const VERBATIM: [&str; 2] = ["deploy", "completion"];

/// The arguments with the options moved behind the command, and without those that it does not take.
pub(super) fn anywhere(args: Vec<OsString>, grammar: &clap::Command) -> Vec<OsString> {
    let is_option = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"-") && arg.len() > 1;
    let mut early = Vec::new();
    let mut words = args.iter().skip(1).peekable();
    let command = loop {
        match words.next() {
            Some(word) if is_option(word) => {
                early.push(word.clone());
                let value = known(word).map_or(No, |(_, value)| value);
                let is_command = |word: &OsString| {
                    word.to_str()
                        .and_then(|name| grammar.find_subcommand(name))
                        .is_some()
                };
                let follows = |next: &&OsString| match value {
                    Must => true,
                    May => !is_option(next) && !is_command(next),
                    No => false,
                };
                if !word.as_encoded_bytes().contains(&b'=') {
                    early.extend(words.next_if(follows).cloned());
                }
            }
            other => break other,
        }
    };
    let found = command.and_then(|name| grammar.find_subcommand(name));
    let (Some(name), Some(command)) = (command, found) else {
        return args;
    };
    if VERBATIM.contains(&command.get_name()) {
        return args;
    }
    let rest = words.cloned();
    let all: Vec<OsString> = early.into_iter().chain(rest).collect();
    let kept = without_needless(&all, |long, word| {
        let of = |grammar: &clap::Command| {
            grammar.get_arguments().any(|arg| {
                let by_long = arg.get_long() == Some(long)
                    || arg.get_all_aliases().is_some_and(|all| all.contains(&long));
                let letter = word.strip_prefix('-').filter(|word| !word.starts_with('-'));
                let by_short = letter.and_then(|word| word.chars().next()) == arg.get_short();
                by_long && (letter.is_none() || by_short)
            })
        };
        of(command) || of(grammar)
    });
    args.iter()
        .take(1)
        .cloned()
        .chain([name.clone()])
        .chain(kept)
        .collect()
}

/// Drops PM2's options, with their values, for which `means` is false.
fn without_needless(words: &[OsString], means: impl Fn(&str, &str) -> bool) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            kept.push(word.clone());
            break;
        }
        match known(word).zip(word.to_str()) {
            Some(((long, value), text)) if !means(long, text) => {
                if value == Must && !text.contains('=') {
                    words.next();
                }
            }
            Some(((_, value), text)) => {
                kept.push(word.clone());
                if value == Must && !text.contains('=') {
                    kept.extend(words.next().cloned());
                }
            }
            None => kept.push(word.clone()),
        }
    }
    kept.extend(words.cloned());
    kept
}

/// The option of a word, by its long name or by a single letter.
fn known(word: &OsString) -> Option<(&'static str, Value)> {
    let text = word.to_str()?;
    let found = match text.strip_prefix("--") {
        Some(long) => {
            let name = long.split('=').next().unwrap_or(long);
            OPTIONS.iter().find(|(known, ..)| *known == name)
        }
        None => {
            let mut letters = text.strip_prefix('-')?.chars();
            let letter = letters.next().filter(|_| letters.next().is_none())?;
            OPTIONS.iter().find(|(_, known, _)| *known == Some(letter))
        }
    };
    found.map(|(name, _, value)| (*name, *value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        let args = text.split(' ').map(OsString::from).collect();
        let found = anywhere(args, &crate::args::grammar("pm2"));
        let words: Vec<&str> = found.iter().filter_map(|word| word.to_str()).collect();
        words.join(" ")
    }

    #[test]
    fn options_come_to_their_command_or_go() {
        for (typed, expected) in [
            ("pm2 --name foo start app.js", "pm2 start --name foo app.js"),
            (
                "pm2 -n foo -i 2 start app.js -- --name x",
                "pm2 start -n foo -i 2 app.js -- --name x",
            ),
            ("pm2 --watch start app.js", "pm2 start --watch app.js"),
            ("pm2 list --name foo -i 4", "pm2 list"),
            ("pm2 ls -m --sort memory:desc", "pm2 ls -m --sort memory:desc"),
            ("pm2 stop --watch app", "pm2 stop --watch app"),
            ("pm2 stop app --kill-timeout=3 -k 5", "pm2 stop app"),
            ("pm2 delete all -f -s", "pm2 delete all -s"),
            ("pm2 save -f --no-color", "pm2 save -f --no-color"),
            ("pm2 jlist -u me --hp /home/me", "pm2 jlist"),
            (
                "pm2 startup -u me --hp /home/me",
                "pm2 startup -u me --hp /home/me",
            ),
            ("pm2 scale app -1 --time", "pm2 scale app -1"),
            ("pm2 logs --lines 3 --time app", "pm2 logs --lines 3 app"),
            ("pm2 restart app -a --name b", "pm2 restart app -a --name b"),
            ("pm2 reload app --nonsense", "pm2 reload app --nonsense"),
            ("pm2 nonsense --name x", "pm2 nonsense --name x"),
            ("pm2 deploy production --name x", "pm2 deploy production --name x"),
            ("pm2 --name", "pm2 --name"),
            ("pm2", "pm2"),
        ] {
            assert_eq!(line(typed), expected, "{typed}");
        }
    }

    /// Those that `-v` and `--help` are not among.
    #[test]
    fn each_command_takes_each_option() {
        let grammar = crate::args::grammar("pm2");
        let targets = [
            ("stop", "x"),
            ("restart", "x"),
            ("describe", "x"),
            ("save", ""),
            ("list", ""),
            ("logs", "x"),
            ("kill", ""),
        ];
        for (option, letter, value) in OPTIONS {
            let spellings = [
                Some(format!("--{option}")),
                letter.map(|letter| format!("-{letter}")),
            ];
            for ((command, target), spelling) in targets
                .iter()
                .flat_map(|it| spellings.iter().flatten().map(move |spelling| (it, spelling)))
            {
                let of = match (*option, value) {
                    (_, No | May) => "",
                    ("instances" | "stop-exit-codes" | "parallel" | "max-restarts", Must) => "2",
                    ("log-type", Must) => "json",
                    ("sort", Must) => "name",
                    (_, Must) => "10",
                };
                let words = [*command, *target, spelling, of];
                let args = ["pm2"]
                    .into_iter()
                    .chain(words.into_iter().filter(|word| !word.is_empty()));
                let args = anywhere(args.map(OsString::from).collect(), &grammar);
                let parsed = grammar.clone().try_get_matches_from(&args);
                assert!(parsed.is_ok(), "{args:?}: {parsed:?}");
            }
        }
    }
}
