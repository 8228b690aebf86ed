//! Completion in the shells themselves: bash and zsh with keys typed on a terminal of their own, fish by its own command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_testkit::{Ran, Rpm, skip, wait_until};

const BOUND: Duration = Duration::from_secs(20);

/// The completion scripts, and a link to the program, which they call by its name.
struct Shells {
    rpm: Rpm,
    bin: PathBuf,
}

impl Shells {
    fn new() -> Shells {
        let rpm = Rpm::new();
        let bin = rpm.home().join("bin");
        fs::create_dir(&bin).expect("a directory");
        let program = rpm.command(["ping"]).get_program().to_owned();
        std::os::unix::fs::symlink(program, bin.join("rpm")).expect("a link");
        for (shell, file) in [("bash", "rpm.bash"), ("zsh", "_rpm"), ("fish", "rpm.fish")] {
            let script = rpm.ok(["completion", shell]);
            fs::write(bin.join(file), script).expect("a script");
        }
        Shells { rpm, bin }
    }

    fn with_apps() -> Shells {
        let shells = Shells::new();
        for (name, namespace, script) in [
            ("api", "default", "talks.js"),
            ("npm start", "shop", "no-listen.js"),
            ("@acme:db", "default", "no-listen.js"),
        ] {
            App::new(script)
                .args(["--name", name, "--namespace", namespace])
                .start(&shells.rpm);
        }
        let offered = || shells.rpm.ok(["__complete", "fish", "trigger", "api", ""]);
        wait_until("its actions", BOUND, offered, |actions| {
            actions.contains("double")
        });
        shells.rpm.ok(["set", "colour", "red"]);
        let apps = r#"{"apps": [{"script": "a.js", "env_production": {"A": "1"}}]}"#;
        fs::write(shells.bin.join("apps.json"), apps).expect("a file");
        shells
    }

    fn run(&self, program: &str, args: &[&str]) -> Ran {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .args(args)
            .env("PATH", format!("{}:{path}", self.bin.display()))
            .env("RPM_HOME", self.rpm.home())
            .env("HOME", &self.bin)
            .env("TERM", "dumb")
            .current_dir(&self.bin);
        command.output().expect("the shell runs").into()
    }

    /// Types `keys`, Tab and Enter at a zsh prompt on a terminal, and returns the words that the command gets.
    fn typed(&self, keys: &str) -> String {
        let script = "zmodload zsh/zpty; zpty it zsh -f -i
             zpty -w it 'PS1=; fpath=($PWD $fpath); autoload -Uz compinit; compinit -D -u'
             zpty -w it 'rpm() { print -r -- \"<${(j:|:)@}>\" }; echo ready-$((1+1))'
             zpty -r it seen '*ready-2*'
             zpty -w it $1$'\\t'
             zpty -r it seen $'*\\n<*>*'
             print -r -- ${seen##*$'\\n'}
             zpty -d it";
        let ran = self.run("timeout", &["30", "zsh", "-f", "-c", script, "zsh", keys]);
        // Without a completion a quoted word has no end, and there is no command.
        if ran.code == Some(124) {
            return "no command".to_owned();
        }
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{keys}: {ran:#?}");
        ran.stdout.trim().to_owned()
    }

    /// What bash replaces the cursor's word with; it splits words at `=` and `:`.
    fn replies(&self, keys: &str) -> String {
        let script = "source ./rpm.bash; compopt() { echo \"$@\"; }
             COMP_WORDBREAKS=$' \\t\\n\"\\'><=;|&(:' COMP_LINE=$1 COMP_POINT=${#1}
             _rpm_complete rpm; printf '%s\\n' \"${COMPREPLY[@]}\"; complete -p rpm > /dev/null";
        let ran = self.run("bash", &["--norc", "--noprofile", "-c", script, "bash", keys]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:#?}");
        ran.stdout
    }
}

/// Waits until a shell completes as expected: it offers nothing where the daemon does not answer within a second.
fn completes(line: &str, expected: &str, complete: impl Fn(&str) -> String) {
    wait_until(line, 3 * BOUND, || complete(line), |seen| seen == expected);
}

/// True if the shell is installed.
fn has(test: &str, program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| Path::is_file(&dir.join(program)));
    if !found {
        skip(test, &format!("{program} is not installed"));
    }
    found
}

/// What is typed, the words that result, and what bash replaces the last one with.
const LINES: [(&str, &str, &str); 13] = [
    ("rpm rollb", "rollback", "rollback"),
    ("rpm stop ap", "stop|api", "api"),
    ("rpm stop np", "stop|npm start", "npm\\ start"),
    ("rpm stop \"np", "stop|npm start", "npm start"),
    ("rpm stop @acme:d", "stop|@acme:db", "db"),
    ("rpm stop sh", "stop|shop", "shop"),
    ("rpm logs --nos", "logs|--nostream", "--nostream"),
    (
        "rpm start a.js --balance ha",
        "start|a.js|--balance|handoff",
        "handoff",
    ),
    (
        "rpm start a.js --balance=ha",
        "start|a.js|--balance=handoff",
        "handoff",
    ),
    ("rpm validate _r", "validate|_rpm", "_rpm"),
    ("rpm trigger api do", "trigger|api|double", "double"),
    ("rpm get co", "get|colour", "colour"),
    (
        "rpm start apps.json --env pro",
        "start|apps.json|--env|production",
        "production",
    ),
];

#[test]
fn zsh_completes_what_is_typed() {
    if !has("zsh_completes_what_is_typed", "zsh") {
        return;
    }
    let shells = Shells::with_apps();
    for (keys, words, _) in LINES {
        completes(keys, &format!("<{words}>"), |keys| shells.typed(keys));
    }
    // After the name of an app whose variable is meant comes nothing.
    completes("rpm set ap\tPATH", "<set|api.PATH>", |keys| shells.typed(keys));
}

#[test]
fn bash_completes_what_is_typed() {
    let shells = Shells::with_apps();
    for (keys, _, reply) in LINES {
        completes(keys, &format!("{reply}\n"), |keys| shells.replies(keys));
    }
    let all = "@acme:db\napi\nnpm\\ start\nshop\nall\n0\n1\n2\n";
    completes("rpm stop ", all, |keys| shells.replies(keys));
    completes("rpm set ap", "-o nospace\napi.\n", |keys| shells.replies(keys));
    let path = || shells.replies("rpm set api.PAT");
    wait_until("a variable", BOUND, path, |seen| seen.contains("api.PATH\n"));
    fs::create_dir(shells.bin.join("public")).expect("a directory");
    assert_eq!(shells.replies("rpm serve pu"), "-o nospace\npublic/\n");
}

#[test]
fn fish_completes_with_descriptions() {
    if !has("fish_completes_with_descriptions", "fish") {
        return;
    }
    let shells = Shells::with_apps();
    let complete = |line: &str| {
        let script = format!("source ./rpm.fish; complete -C '{line}'");
        shells.run("fish", &["--no-config", "-c", &script]).stdout
    };
    for (line, expected) in [
        (
            "rpm rollb",
            "rollback\tBring back what served before the last reload\n",
        ),
        ("rpm stop ap", "api\t1 of 1 online\n"),
        ("rpm stop np", "npm start\t1 of 1 online\n"),
        ("rpm stop @acme:d", "@acme:db\t1 of 1 online\n"),
        ("rpm stop sho", "shop\tnamespace\n"),
        ("rpm start a.js --balance han", "handoff\n"),
        ("rpm start a.js --balance=han", "--balance=handoff\n"),
        ("rpm validate _r", "_rpm\n"),
        ("rpm trigger api do", "double\n"),
        ("rpm get co", "colour\n"),
        ("rpm set ap", "api.\tvariables of the app\n"),
        ("rpm start apps.json --env pro", "production\n"),
    ] {
        completes(line, expected, complete);
    }
}

#[test]
fn completion_starts_no_daemon_and_says_nothing() {
    let shells = Shells::new();
    shells.rpm.ok(["kill"]);
    for args in [["zsh", "stop", ""], ["fish", "logs", "a"]] {
        let ran = shells.rpm.run(["__complete"].into_iter().chain(args));
        assert_eq!(
            (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
            (Some(0), if args[0] == "zsh" { ":files\n" } else { "" }, "")
        );
    }
    assert_eq!(shells.rpm.daemon_pid(), None);
    let nowhere = shells
        .rpm
        .command(["__complete", "fish", "stop", "a"])
        .env("RPM_HOME", "/proc/nowhere")
        .output()
        .expect("rpm runs");
    assert!(
        nowhere.status.success() && nowhere.stderr.is_empty(),
        "{nowhere:?}"
    );
}
