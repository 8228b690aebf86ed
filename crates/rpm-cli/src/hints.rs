//! Commands in messages, in a form that can be pasted into the user's shell.
//!
//! All messages have them in backticks and as `rpm …`; here the word `rpm` becomes the way this program is called there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rpm_wire::api::Unknown;
use rpm_wire::shell::word;

use crate::home::home_dir;

/// Start of a command in messages.
const CANONICAL: &str = "`rpm ";

/// How the program was called, and must be called again.
#[derive(Debug, Default)]
struct Call {
    argv0: Option<OsString>,
    /// The directory of the daemon, unless it is the default one.
    home: Option<PathBuf>,
    /// It was called by sudo.
    sudo: bool,
}

impl Call {
    fn of_process() -> Call {
        let usual = std::env::var_os("HOME").map(|home| Path::new(&home).join(".rpm"));
        Call {
            argv0: std::env::args_os().next(),
            home: home_dir().ok().filter(|home| Some(home) != usual.as_ref()),
            sudo: rustix::process::geteuid().is_root() && std::env::var_os("SUDO_USER").is_some(),
        }
    }

    /// The words before the name of a command.
    fn prefix(&self) -> String {
        let mut prefix = String::new();
        if self.sudo {
            prefix.push_str("sudo ");
        }
        if let Some(home) = &self.home {
            if self.sudo {
                prefix.push_str("env ");
            }
            prefix.push_str(&format!("RPM_HOME={} ", word(&home.to_string_lossy())));
        }
        let program = self.argv0.as_ref().map(|program| program.to_string_lossy());
        let program = program.filter(|program| !program.is_empty());
        prefix.push_str(&word(&program.unwrap_or_else(|| "rpm".into())));
        // The name under which it is PM2's other program has `runtime` in it.
        for ending in ["-runtime", "-docker"] {
            prefix = prefix.strip_suffix(ending).unwrap_or(&prefix).to_owned();
        }
        prefix
    }
}

/// The text, with its commands as they must be typed here.
#[must_use]
pub fn pasteable(text: &str) -> String {
    static PREFIX: OnceLock<String> = OnceLock::new();
    if !text.contains(CANONICAL) {
        return text.to_owned();
    }
    with_prefix(text, PREFIX.get_or_init(|| Call::of_process().prefix()))
}

fn with_prefix(text: &str, prefix: &str) -> String {
    text.replace(CANONICAL, &format!("`{prefix} "))
}

/// A command, from its words, in backticks.
pub(crate) fn command(words: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let words: Vec<String> = words.into_iter().map(|it| word(it.as_ref())).collect();
    format!("{CANONICAL}{}`", words.join(" "))
}

/// A suggestion for an unknown target: `did you mean "api"?`, and the corrected command line.
pub(crate) fn meant(unknown: &Unknown) -> Option<(String, String)> {
    let typed = std::env::args_os().skip(1);
    let typed: Option<Vec<String>> = typed.map(|word| word.into_string().ok()).collect();
    meant_in(unknown, &typed.unwrap_or_default())
}

fn meant_in(Unknown { target, known }: &Unknown, typed: &[String]) -> Option<(String, String)> {
    let near = rpm_spec::nearest(target, known.iter().map(String::as_str))?;
    let once = typed.iter().filter(|word| *word == target).count() == 1;
    let corrected = typed.iter().map(|word| match word == target {
        true => near,
        false => word.as_str(),
    });
    let line = if once { command(corrected) } else { String::new() };
    Some((format!("did you mean {near:?}?"), line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_become_those_of_this_shell() {
        let call = |argv0: &str, home: Option<&str>, sudo| Call {
            argv0: Some(argv0.into()),
            home: home.map(PathBuf::from),
            sudo,
        };
        for (call, expected) in [
            (call("rpm", None, false), "rpm"),
            (call("pm2", None, false), "pm2"),
            (call("./target/my dir/rpm", None, false), "'./target/my dir/rpm'"),
            (call("rpm", Some("/srv/rpm"), false), "RPM_HOME=/srv/rpm rpm"),
            (call("rpm", Some("/srv/a b"), false), "RPM_HOME='/srv/a b' rpm"),
            (call("rpm", None, true), "sudo rpm"),
            (
                call("rpm", Some("/srv/rpm"), true),
                "sudo env RPM_HOME=/srv/rpm rpm",
            ),
            (call("/usr/bin/pm2-runtime", None, false), "/usr/bin/pm2"),
            (call("", None, false), "rpm"),
            (Call::default(), "rpm"),
        ] {
            assert_eq!(call.prefix(), expected, "{call:?}");
            assert_eq!(
                with_prefix("see `rpm logs a` or `rpm list`; not `other`", expected),
                format!("see `{expected} logs a` or `{expected} list`; not `other`")
            );
        }
        assert_eq!(command(["logs", "npm start"]), "`rpm logs 'npm start'`");
    }

    #[test]
    fn a_shell_reads_each_word_as_it_was() {
        for text in [
            "web",
            "npm start",
            "it's",
            "$HOME",
            "~",
            "/^web-/",
            "a\\b",
            "",
            "a;b",
            "\"q\"",
            "{a,b}",
            "*",
        ] {
            let ran = std::process::Command::new("bash")
                .args(["-c", &format!("printf %s {}", word(text))])
                .output()
                .expect("bash runs");
            assert_eq!(String::from_utf8_lossy(&ran.stdout), text);
        }
    }

    #[test]
    fn the_nearest_name_is_meant() {
        let unknown = |target: &str| Unknown {
            target: target.to_owned(),
            known: ["api", "web", "npm start", "staging"].map(String::from).to_vec(),
        };
        let typed = |line: &[&str]| line.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let did = |near: &str, line: &str| Some((format!("did you mean {near:?}?"), line.to_owned()));
        let line = typed(&["reload", "apii", "--wait"]);
        assert_eq!(
            meant_in(&unknown("apii"), &line),
            did("api", "`rpm reload api --wait`")
        );
        let line = typed(&["logs", "npm strat"]);
        assert_eq!(
            meant_in(&unknown("npm strat"), &line),
            did("npm start", "`rpm logs 'npm start'`")
        );
        assert_eq!(
            meant_in(&unknown("stagin"), &typed(&["stop"])),
            did("staging", "")
        );
        // Which of the two is the target is not known.
        assert_eq!(
            meant_in(&unknown("wbe"), &typed(&["send", "wbe", "wbe"])),
            did("web", "")
        );
        assert_eq!(meant_in(&unknown("nothing-like-it"), &line), None);
        assert_eq!(meant_in(&unknown("7"), &line), None);
    }

    /// Commands in the messages of all our crates, with where they are.
    fn messages() -> Vec<(String, String)> {
        let crates = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let mut found = Vec::new();
        for name in [
            "rpm",
            "rpm-cli",
            "rpm-core",
            "rpm-daemon",
            "rpm-listen",
            "rpm-proxy",
            "rpm-spec",
            "rpm-sys",
            "rpm-wire",
        ] {
            sources(&crates.join(name).join("src"), &mut found);
        }
        assert!(found.len() > 100, "{} files are not all", found.len());
        let mut commands = Vec::new();
        for path in found {
            let text = std::fs::read_to_string(&path).expect("a source");
            // Tests say what is printed, in other words.
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            let lines = text
                .lines()
                .map(str::trim_start)
                .filter(|line| !line.starts_with("//"));
            let text = lines.fold(String::new(), |text, line| match text.strip_suffix("\\\n") {
                Some(begun) => format!("{begun}{line}\n"),
                None => format!("{text}{line}\n"),
            });
            for line in text.lines() {
                let parts = line.split('`').skip(1).step_by(2);
                let parts = parts.filter(|part| !part.contains('"'));
                commands.extend(parts.map(|part| (path.display().to_string(), part.to_owned())));
            }
        }
        commands
    }

    fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => sources(&path, found),
                false if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("tests.rs") => {
                    found.push(path);
                }
                false => {}
            }
        }
    }

    /// A sentence's placeholder stands for a word.
    fn filled(command: &str) -> String {
        let mut filled = String::new();
        let mut inside = false;
        for letter in command.chars() {
            match letter {
                '{' => {
                    inside = true;
                    filled.push_str("web");
                }
                '}' => inside = false,
                _ if !inside => filled.push(letter),
                _ => {}
            }
        }
        filled
    }

    #[test]
    fn every_command_in_a_message_can_be_typed() {
        // Keys of an ecosystem file that are named like a command.
        const KEYS: [&str; 4] = ["env", "deploy", "static", "observe"];
        let grammar = crate::args::grammar("rpm");
        let (mut checked, mut wrong) = (0, Vec::new());
        for (path, part) in messages() {
            let words = crate::complete::words(&filled(&part));
            let typed = part.strip_prefix("rpm ").map(|_| words);
            match typed {
                Some(words) => {
                    checked += 1;
                    let whole = ["rpm".to_owned()].into_iter().chain(words);
                    let help = part.ends_with("--help");
                    if let Err(error) = grammar.clone().try_get_matches_from(whole)
                        && !help
                    {
                        wrong.push(format!("{path}: `{part}`: {error}"));
                    }
                }
                None => {
                    let first = part.split(' ').next().unwrap_or_default();
                    if grammar.find_subcommand(first).is_some() && !KEYS.contains(&part.as_str()) {
                        wrong.push(format!("{path}: `{part}` lacks the program"));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(checked > 25, "only {checked} commands were found");
    }
}
