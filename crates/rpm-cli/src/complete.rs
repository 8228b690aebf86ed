//! Shell completion. The script of a shell asks this program for candidates, and it asks the daemon for the apps. It waits only briefly,
//! does not start a daemon, and reports no errors.

mod line;
mod places;
mod sources;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use rpm_wire::api::{Known, Status};

use places::{Place, Wanted};
use sources::{Here, Source};

/// First argument when a completion script calls.
pub(crate) const QUESTION: &str = "__complete";

/// The namespace of apps that name none.
const USUAL_NAMESPACE: &str = "default";

/// The supported shells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Fish,
    Zsh,
}

impl Shell {
    /// The script for the program `name`.
    pub(crate) fn script(self, name: &str) -> String {
        let script = match self {
            Shell::Bash => include_str!("complete/rpm.bash"),
            Shell::Fish => include_str!("complete/rpm.fish"),
            Shell::Zsh => include_str!("complete/rpm.zsh"),
        };
        let function: String = name
            .chars()
            .map(|letter| {
                if letter.is_ascii_alphanumeric() {
                    letter
                } else {
                    '_'
                }
            })
            .collect();
        script.replace("@NAME@", name).replace("@FUNCTION@", &function)
    }
}

/// A request for candidates, and its shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    shell: Shell,
    /// The words between the program and the cursor's word.
    words: Vec<String>,
    /// The cursor's word up to the cursor, without quotes.
    current: String,
    /// The part of that word that the shell has cut off and does not complete.
    cut: usize,
    /// Whether the word is quoted, so that nothing needs to be escaped.
    quoted: bool,
    /// The name that help and completions show.
    program: String,
}

/// A candidate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    text: String,
    about: String,
}

impl Candidate {
    fn new(text: impl Into<String>, about: impl Into<String>) -> Candidate {
        let (text, about) = (text.into(), about.into());
        Candidate { text, about }
    }
}

impl Completion {
    /// Reads the request: `bash WORDBREAKS LINE`, or `fish|zsh WORD… CURRENT`. `None` if it is not one.
    pub(crate) fn of(program: &str, args: &[OsString]) -> Option<Completion> {
        let args: Vec<String> = args.iter().map(|it| it.to_string_lossy().into_owned()).collect();
        let (shell, rest) = args.split_first()?;
        let shell: Shell = clap::ValueEnum::from_str(shell, false).ok()?;
        let (words, current, cut, quoted) = match (shell, rest) {
            (Shell::Bash, [breaks, line]) => {
                let split = line::split(line);
                let cut = split.cut(breaks);
                (split.words, split.current, cut, split.quote.is_some())
            }
            (Shell::Bash, _) => return None,
            (Shell::Fish | Shell::Zsh, _) => {
                let (current, words) = rest.split_last()?;
                // fish passes it on as it was typed, with its quotes.
                let current = match shell {
                    Shell::Fish => line::split(current).current,
                    Shell::Bash | Shell::Zsh => current.clone(),
                };
                (words.to_vec(), current, 0, false)
            }
        };
        // PM2's other program is a command here.
        let runtime = program.ends_with("-runtime") || program.ends_with("-docker");
        let words = runtime.then(|| "runtime".to_owned()).into_iter().chain(words);
        Some(Completion {
            shell,
            words: words.collect(),
            current,
            cut,
            quoted,
            program: program.to_owned(),
        })
    }

    /// The lines for the script: a candidate with its description each, and `:files` or `:directories` where the shell has to look.
    #[must_use]
    pub fn answer(&self) -> String {
        self.answer_from(&Here)
    }

    fn answer_from(&self, source: &impl Source) -> String {
        let mut grammar = crate::args::grammar(&self.program);
        grammar.build();
        let place = Place::of(&grammar, &self.words, &self.current);
        let mut found = place.fixed;
        if place.wanted.apps() {
            found.extend(apps(&source.known(), place.wanted, &self.words));
        }
        let value = self.current.get(place.lead.len()..).unwrap_or_default();
        found.extend(self.others(place.wanted, value, source));
        found.retain(|candidate| candidate.text.starts_with(value));
        let files = match place.wanted {
            Wanted::Files | Wanted::AppsOrFiles => true,
            // Ecosystem files and scripts may be named, too; who has the names of apps to choose from wants them.
            Wanted::AppsThenFiles => found.is_empty(),
            Wanted::Directories
            | Wanted::Apps
            | Wanted::Names
            | Wanted::Namespaces
            | Wanted::Fixed
            | Wanted::Actions
            | Wanted::Values
            | Wanted::Variables
            | Wanted::Environments => false,
        };
        let mut lines = match (files, place.wanted == Wanted::Directories, self.shell) {
            (true, _, Shell::Bash) => {
                found.extend(line::files(value, false));
                Vec::new()
            }
            (_, true, Shell::Bash) => {
                found.extend(line::files(value, true));
                Vec::new()
            }
            (true, ..) => vec![":files".to_owned()],
            (_, true, _) => vec![":directories".to_owned()],
            (false, false, _) => Vec::new(),
        };
        lines.extend(found.iter().map(|candidate| self.line(candidate, &place.lead)));
        lines.push(String::new());
        lines.join("\n")
    }

    /// Candidates that are neither in the grammar nor apps.
    fn others(&self, wanted: Wanted, value: &str, source: &impl Source) -> Vec<Candidate> {
        let plain = |names: Vec<String>| names.into_iter().map(|name| Candidate::new(name, "")).collect();
        match wanted {
            Wanted::Actions => {
                let target = self.words.iter().skip(1).find(|word| !word.starts_with('-'));
                target.map_or_else(Vec::new, |target| plain(actions(&source.known(), target)))
            }
            Wanted::Values => plain(source.values()),
            Wanted::Variables => {
                let mut found: Vec<Candidate> = plain(source.values());
                match value.split_once(['.', ':']) {
                    Some((app, _)) => {
                        let before = &value[..=app.len()];
                        let variables = source.variables(app).into_iter();
                        found.extend(variables.map(|name| Candidate::new(format!("{before}{name}"), "")));
                    }
                    None => {
                        let names = source.known().into_iter().map(|process| process.name);
                        let names: BTreeSet<String> = names.collect();
                        let prefix = |name| Candidate::new(format!("{name}."), "variables of the app");
                        found.extend(names.into_iter().map(prefix));
                    }
                }
                let mut seen = BTreeSet::new();
                found.retain(|candidate| seen.insert(candidate.text.clone()));
                found
            }
            Wanted::Environments => plain(source.environments(&self.words)),
            Wanted::Fixed
            | Wanted::Apps
            | Wanted::AppsThenFiles
            | Wanted::AppsOrFiles
            | Wanted::Names
            | Wanted::Namespaces
            | Wanted::Files
            | Wanted::Directories => Vec::new(),
        }
    }

    /// A candidate as the shell takes it.
    fn line(&self, Candidate { text, about }: &Candidate, lead: &str) -> String {
        match self.shell {
            Shell::Bash => {
                let whole = format!("{lead}{text}");
                let rest = whole.get(self.cut..).unwrap_or_default();
                match self.quoted {
                    true => rest.to_owned(),
                    false => line::escaped(rest),
                }
            }
            Shell::Fish => format!("{lead}{text}\t{about}"),
            Shell::Zsh => {
                let list = lead.split_once('=').map_or(lead, |(_, list)| list);
                format!("{list}{text}\t{about}")
            }
        }
    }
}

/// The actions that the programs of a target offer.
fn actions(known: &[Known], target: &str) -> Vec<String> {
    let meant = |process: &&Known| {
        [&process.name, &process.namespace, &process.id.to_string()].contains(&&target.to_owned())
            || target == "all"
    };
    let names: BTreeSet<&String> = known
        .iter()
        .filter(meant)
        .flat_map(|process| &process.actions)
        .collect();
    names.into_iter().cloned().collect()
}

/// Names, groups and ids, without those that are already on the line.
fn apps(known: &[Known], wanted: Wanted, given: &[String]) -> Vec<Candidate> {
    let mut found = Vec::new();
    let names: BTreeSet<&str> = known.iter().map(|process| process.name.as_str()).collect();
    let online = |process: &&Known| process.status == Status::Online;
    if wanted != Wanted::Namespaces {
        found.extend(names.iter().map(|name| {
            let own = known.iter().filter(|process| process.name == *name);
            let about = format!("{} of {} online", own.clone().filter(online).count(), own.count());
            Candidate::new(*name, about)
        }));
    }
    if wanted != Wanted::Names {
        let spaces: BTreeSet<&str> = known.iter().map(|process| process.namespace.as_str()).collect();
        let spaces = spaces.into_iter().filter(|space| {
            *space != USUAL_NAMESPACE && (wanted == Wanted::Namespaces || !names.contains(space))
        });
        found.extend(spaces.map(|space| Candidate::new(space, "namespace")));
    }
    if !matches!(wanted, Wanted::Names | Wanted::Namespaces) && !known.is_empty() {
        found.push(Candidate::new("all", "every app"));
        found.extend(known.iter().map(|process| {
            let file = Path::new(&process.script).file_name().unwrap_or_default();
            let status = process.status.as_str();
            let about = format!("{} ({}), {status}", process.name, file.to_string_lossy());
            Candidate::new(process.id.to_string(), about)
        }));
    }
    found.retain(|candidate| !given.contains(&candidate.text));
    found
}

/// The words behind the program of a line.
#[cfg(test)]
pub(crate) fn words(line: &str) -> Vec<String> {
    line::split(&format!("{line} ")).words
}

#[cfg(test)]
mod tests;
