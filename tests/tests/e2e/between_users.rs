//! Other users of the machine, and the output of apps, cannot harm whoever runs commands.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::process::Command;

use rpm_e2e::app::App;
use rpm_e2e::ask::BOUND;
use rpm_e2e::complaint::assert_says;
use rpm_e2e::place::Place;
use rpm_testkit::{Ran, Rpm, wait_until};
use serde_json::json;

/// Nobody.
const OTHER: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn mode(rpm: &Rpm, mode: u32) {
    fs::set_permissions(rpm.home(), Permissions::from_mode(mode)).expect("it is ours");
}

/// Files that others put there would run as its owner.
#[test]
fn a_home_that_others_can_write_to_is_refused() {
    let rpm = Rpm::new();
    let todo = format!("chmod go-w {}", rpm.home().display());
    for open in [0o777, 0o775, 0o1777, 0o702] {
        mode(&rpm, open);
        assert_says(&rpm.run(["ping"]), &["other users can write to", &todo]);
        let daemon = rpm.run(["daemon"]);
        assert!(
            daemon.code == Some(1) && daemon.stdout.contains(&todo),
            "{open:o}: {daemon:#?}"
        );
        assert_eq!(rpm.daemon_pid(), None);
    }
    mode(&rpm, 0o755);
    rpm.ok(["ping"]);
    mode(&rpm, 0o770);
    assert_says(&rpm.run(["list"]), &[&todo, "mode 0770"]);
    mode(&rpm, 0o700);
    rpm.ok(["list"]);
}

/// They may be there since the directory was open to others.
#[test]
fn files_of_others_in_a_home_are_not_used_and_links_not_followed() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let target = place.write("target", "precious");
    for name in [
        "state.json",
        "apps.json",
        "rpm.pid",
        "rpm.lock",
        "rpm.sock",
        "agent.sock",
        "dump.json",
        "events.ndjson",
    ] {
        let rpm = Rpm::new();
        let path = rpm.home().join(name);
        fs::write(&path, "{}").expect("a file");
        chown(&path, Some(OTHER), None).expect("root may");
        let owner = format!("{} belongs to user {OTHER}", path.display());
        assert_says(&rpm.run(["ping"]), &[&owner, "rm -r"]);
        fs::remove_file(&path).expect("it is there");
        rpm.ok(["ping"]);
        rpm.ok(["kill"]);
    }
    for name in [
        "state.json",
        "rpm.pid",
        "rpm.lock",
        "agent.sock",
        "calls",
        "events.ndjson",
    ] {
        let rpm = Rpm::new();
        let link = rpm.home().join(name);
        symlink(&target, &link).expect("a link");
        let ran = rpm.run(["ping"]);
        assert_eq!(ran.code, Some(1), "{name}: {ran:#?}");
        assert_eq!(place.read("target"), "precious", "{name}");
        assert_eq!(rpm.run(["daemon"]).code, Some(1), "{name}");
        assert_eq!(place.read("target"), "precious", "{name}");
        fs::remove_file(&link).expect("it is there");
    }
}

/// This also holds while a daemon runs, which checked the files at its start.
#[test]
fn a_saved_list_of_another_user_is_not_started() {
    if !is_root() {
        return;
    }
    let rpm = Rpm::new();
    App::of(["sleep 1000"]).args(["--name", "web"]).start(&rpm);
    rpm.ok(["save"]);
    rpm.ok(["delete", "web"]);
    let list = rpm.home().join("dump.json");
    chown(&list, Some(OTHER), None).expect("root may");
    let owner = format!("it belongs to user {OTHER}");
    assert_says(&rpm.run(["resurrect"]), &["dump.json", &owner]);
    assert_eq!(rpm.list(), []);
    chown(&list, Some(0), None).expect("root may");
    rpm.ok(["resurrect"]);
    assert_eq!(rpm.list().len(), 1);
    rpm.ok(["set", "a", "1"]);
    chown(rpm.home().join("conf.json"), Some(OTHER), None).expect("root may");
    assert_says(&rpm.run(["get", "a"]), &["conf.json", &owner]);
}

/// A `start` request contains the environment of the user who runs it.
#[test]
fn nothing_is_sent_to_the_daemon_of_another_user() {
    let test = "nothing_is_sent_to_the_daemon_of_another_user";
    let (rpm, Some(other)) = (Rpm::new(), Rpm::unprivileged(test)) else {
        return;
    };
    other.ok(["ping"]);
    symlink(other.home().join("rpm.sock"), rpm.home().join("rpm.sock")).expect("a link");
    let who = format!("user {OTHER} listens at");
    for command in [&["start", "/bin/cat", "--name", "web"][..], &["list"], &["kill"]] {
        assert_says(&rpm.run(command), &[&who, "nothing was sent"]);
    }
    assert_eq!(other.list(), [], "it has got nothing");
}

/// `sudo RPM_HOME=… rpm list`.
#[test]
fn root_talks_to_the_daemon_of_a_user_but_starts_none_for_it() {
    let test = "root_talks_to_the_daemon_of_a_user_but_starts_none_for_it";
    let Some(rpm) = Rpm::unprivileged(test) else {
        return;
    };
    App::of(["sleep 1000"]).args(["--name", "theirs"]).start(&rpm);
    let as_root = |words: &[&str]| -> Ran {
        let mut command = Command::new(rpm.binary());
        command.args(words).env("RPM_HOME", rpm.home());
        command.output().expect("rpm runs").into()
    };
    let listed = as_root(&["list"]);
    assert!(
        listed.code == Some(0) && listed.stdout.contains("theirs"),
        "{listed:#?}"
    );
    assert_eq!(as_root(&["stop", "theirs"]).code, Some(0));
    assert_eq!(as_root(&["kill"]).code, Some(0));
    wait_until(
        "the daemon has ended",
        BOUND,
        || rpm.daemon_pid(),
        Option::is_none,
    );
    let owner = format!("belongs to user {OTHER}");
    assert_says(&as_root(&["list"]), &[&owner, "run this as that user"]);
    assert_eq!(rpm.daemon_pid(), None);
    rpm.ok(["ping"]);
}

/// The command's output on a terminal.
fn on_a_terminal(rpm: &Rpm, words: &[&str]) -> String {
    let line = format!("{} {}", rpm.binary().display(), words.join(" "));
    let mut command = Command::new("script");
    command
        .args(["-qec", &line, "/dev/null"])
        .env("RPM_HOME", rpm.home())
        .env_remove("NO_COLOR")
        .env("TERM", "xterm");
    let done = command.output().expect("script runs");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// What a client of an app writes into its log must not set the title, the screen or the clipboard of the administrator's terminal.
#[test]
fn a_terminal_obeys_nothing_that_apps_print_but_colours() {
    let rpm = Rpm::new();
    let line = "printf '\\033]0;title\\007\\033[31mred\\033[0m\\302\\233H\\033[2Jdone\\n'; sleep 1000";
    App::of([line]).args(["--name", "rude"]).start(&rpm);
    let out = || String::from_utf8_lossy(&rpm.output("rude", "out", None)).into_owned();
    let text = wait_until("its line", BOUND, out, |text| text.contains("done"));
    let logs = ["logs", "rude", "--nostream"];
    let bad = ["\u{1b}]0;", "\u{1b}[2J", "\u{9b}", "\u{7}"];
    for more in [&[][..], &["--json"], &["--format"]] {
        let shown = on_a_terminal(&rpm, &[&logs[..], more].concat());
        assert!(shown.contains("done"), "{shown:?}");
        assert!(bad.iter().all(|bad| !shown.contains(bad)), "{more:?}: {shown:?}");
    }
    let shown = on_a_terminal(&rpm, &logs);
    assert!(
        shown.contains("\u{1b}[31mred\u{1b}[0m") && shown.contains("\\u{1b}]0;title\\u{7}"),
        "{shown:?}"
    );
    let raw = on_a_terminal(&rpm, &[&logs[..], &["--raw"]].concat());
    assert!(raw.contains(text.trim_end()), "{raw:?}");
    assert!(rpm.ok(logs).contains(text.trim_end()), "a pipe gets it as it is");
}

#[test]
fn errors_have_the_last_lines_of_apps_and_names_without_control_characters() {
    let rpm = Rpm::new();
    let line = "printf '\\033]0;title\\007because\\n' >&2; exit 1";
    let ran = App::of([line])
        .args(["--name", "rude", "-i", "1"])
        .try_start(&rpm);
    assert_says(&ran, &["\\u{1b}]0;title\\u{7}because"]);
    assert!(!ran.stderr.contains('\u{1b}'), "{ran:?}");
    for name in ["\u{1b}]0;x\u{7}", "a\u{202e}b"] {
        let ran = rpm.run(["start", "/bin/cat", "--name", name]);
        assert!(ran.code == Some(1) && ran.stderr.contains("--name"), "{ran:?}");
        assert!(!ran.stderr.contains(['\u{1b}', '\u{202e}']), "{ran:?}");
        let ran = rpm.run(["stop", name]);
        assert!(
            ran.code == Some(1) && !ran.stderr.contains(['\u{1b}', '\u{202e}']),
            "{ran:?}"
        );
        let ran = rpm.run(["start", "/bin/cat", "--namespace", name]);
        assert!(
            ran.code == Some(1) && ran.stderr.contains("--namespace"),
            "{ran:?}"
        );
    }
}

/// npm, git, ssh and the like look there.
#[test]
fn an_app_of_another_user_has_the_home_of_that_user() {
    if !is_root() {
        return;
    }
    let (rpm, place) = (
        Rpm::new().with_env("HOME", "/root").with_env("USER", "root"),
        Place::new(),
    );
    let script = place.write(
        "show.sh",
        "echo \"<$HOME $USER $LOGNAME $SHELL>\"; exec sleep 1000",
    );
    let app = |name: &str, env: serde_json::Value| json!({"name": name, "script": script, "interpreter": "/bin/sh", "uid": "nobody", "env": env});
    let file =
        json!({"apps": [app("usual", json!({})), app("own", json!({"HOME": "/srv", "SHELL": "/bin/x"}))]});
    place.write("ecosystem.json", &file.to_string());
    place.ok(&rpm, ["start", "ecosystem.json"]);
    let accounts = fs::read_to_string("/etc/passwd").expect("accounts");
    let nobody = accounts
        .lines()
        .find(|line| line.starts_with("nobody:"))
        .expect("it is there");
    let fields: Vec<&str> = nobody.split(':').collect();
    let (home, shell) = (fields[5], fields[6]);
    let shows = |name: &str, text: &str, times: usize| {
        let out = || String::from_utf8_lossy(&rpm.output(name, "out", None)).into_owned();
        wait_until("its line", BOUND, out, |out| out.matches(text).count() == times);
    };
    let usual = format!("<{home} nobody nobody {shell}>");
    shows("usual", &usual, 1);
    shows("own", "</srv nobody nobody /bin/x>", 1);
    for (times, command) in [
        (2, &["restart", "all", "--update-env"][..]),
        (3, &["reload", "all", "--update-env"]),
    ] {
        place.ok(&rpm, command);
        shows("usual", &usual, times);
        shows("own", "</srv nobody nobody /bin/x>", times);
    }
}
