//! Directories, limits and users with which a daemon cannot work: each message says what failed, why, and what to do.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::complaint::assert_says;
use rpm_testkit::{Port, Ran, Rpm, get, skip, wait_until};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(20);

/// As an unprivileged user, because root can write everywhere.
#[test]
fn a_home_that_is_not_ours() {
    let Some(rpm) = Rpm::unprivileged("a_home_that_is_not_ours") else {
        return;
    };
    let theirs = Rpm::new();
    let denied = |home: &std::path::Path| -> Ran {
        rpm.command(["ping"])
            .env("RPM_HOME", home)
            .output()
            .expect("rpm runs")
            .into()
    };
    let owner = format!("{} belongs to user 0", theirs.home().display());
    assert_says(
        &denied(theirs.home()),
        &[&owner, "set RPM_HOME to a directory of your own"],
    );
    fs::set_permissions(theirs.home(), Permissions::from_mode(0o755)).expect("it is ours");
    let inside = theirs.home().join("home");
    let place = format!("cannot create or use {}", inside.display());
    assert_says(
        &denied(&inside),
        &[
            &place,
            "Permission denied",
            "set RPM_HOME to a directory that you can write to",
        ],
    );
}

#[test]
fn a_home_whose_path_is_too_long_for_a_socket() {
    let rpm = Rpm::new();
    let long = rpm.home().join("x".repeat(120));
    let ran: Ran = rpm
        .command(["ping"])
        .env("RPM_HOME", &long)
        .output()
        .expect("rpm runs")
        .into();
    assert_says(
        &ran,
        &[
            "is too long for a socket",
            "at most 100",
            "set RPM_HOME to a shorter one",
        ],
    );
    assert!(!long.exists());
}

/// The disk is a small one that only this test's commands see.
#[test]
fn a_home_on_a_full_disk() {
    let test = "a_home_on_a_full_disk";
    let rpm = Rpm::new();
    let disk = rpm.home().join("disk");
    fs::create_dir(&disk).expect("a mount point");
    let script = "mount -t tmpfs -o size=64k,mode=0700 tmpfs \"$1\" || exit 77; \
        head -c 1000000 /dev/zero > \"$1/fill\" 2>/dev/null; exec env RPM_HOME=\"$1\" \"$0\" ping";
    let command = rpm.command(["ping"]);
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "sh", "-c", script])
        .arg(command.get_program())
        .arg(&disk);
    let ran: Ran = unshare.output().expect("unshare runs").into();
    if ran.code == Some(77) || ran.stderr.starts_with("unshare:") {
        return skip(test, &format!("only root can mount: {}", ran.stderr));
    }
    let place = format!("cannot write in {}", disk.display());
    let todo = [
        "free some space",
        "set RPM_HOME to another place",
        "No space left on device",
    ];
    assert_says(
        &ran,
        &[&["the daemon could not start", &place], todo.as_slice()].concat(),
    );
}

#[test]
fn the_limit_of_open_files() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    // The daemon inherits it from the command that starts it.
    let ping = rpm.command(["ping"]);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -n 64 && exec \"$0\" ping"])
        .arg(ping.get_program())
        .env("RPM_HOME", rpm.home());
    let started: Ran = limited.output().expect("sh runs").into();
    assert_eq!(started.code, Some(0), "{started:#?}");
    let ran = App::cluster("hello.js", "50").port(&port).try_start(&rpm);
    assert_says(
        &ran,
        &[
            "could not be started",
            "RLIMIT_NOFILE, the limit of open files, is 64",
            "raise it with ulimit -n",
        ],
    );
    assert_eq!(rpm.list().len(), 50, "the daemon lives on and answers");
    rpm.ok(["delete", "hello"]);
    App::cluster("hello.js", "2").port(&port).start(&rpm);
    assert_eq!(get(port.number(), "/").expect("it works as before").status, 200);
}

#[test]
fn a_second_daemon_on_the_same_home() {
    let rpm = Rpm::new();
    rpm.ok(["ping"]);
    let pid = rpm.daemon_pid().expect("the daemon runs");
    let ran = rpm.run(["daemon"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let home = rpm.home().display().to_string();
    assert!(
        ran.stdout.contains(&format!("pid {pid}")) && ran.stdout.contains(&home),
        "{ran:#?}"
    );
    rpm.ok(["ping"]);
    assert_eq!(rpm.daemon_pid(), Some(pid), "the first one is still the one");
}

/// The socket's mode keeps other users out. If it is changed, the check of their uid does.
#[test]
fn another_user_is_not_served() {
    let test = "another_user_is_not_served";
    let (rpm, Some(_)) = (Rpm::new(), Rpm::unprivileged(test)) else {
        return;
    };
    rpm.ok(["ping"]);
    let socket = rpm.home().join("rpm.sock");
    let ask = || {
        let mut curl = Command::new("setpriv");
        curl.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--",
            "curl",
            "--silent",
            "--max-time",
            "10",
        ]);
        curl.arg("--unix-socket")
            .arg(&socket)
            .arg("http://rpm/v1/ping")
            .output()
            .expect("setpriv runs")
    };
    // curl's code for "could not connect".
    assert_eq!(ask().status.code(), Some(7), "the directory is private");
    fs::set_permissions(rpm.home(), Permissions::from_mode(0o755)).expect("it is ours");
    assert_eq!(ask().status.code(), Some(7), "the socket is private");
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("it is ours");
    let refused = ask();
    assert!(
        !refused.status.success() && refused.stdout.is_empty(),
        "{refused:?}"
    );
    let noted = || {
        rpm.log()
            .contains("a connection of another user to the control socket was closed")
    };
    wait_until("the daemon's log tells", BOUND, noted, |noted| *noted);
    rpm.ok(["ping"]);
}

/// An app whose state cannot be stored is not started: if the daemon then died, no other would know of it.
#[test]
fn a_home_that_cannot_be_written_to_any_more() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2")
        .args(["--name", "web"])
        .port(&port)
        .start(&rpm);
    // Like a full disk: no daemon can open this for writing.
    let in_the_way = rpm.home().join("state.json.new");
    fs::create_dir(&in_the_way).expect("it is not there");
    let told = [
        "cannot write its state",
        "Is a directory",
        "free space there",
        "apps can be stopped and deleted",
    ];
    let stored = || rpm.run(["scale", "web", "3"]).code;
    wait_until(
        "what was written before proves nothing any more",
        BOUND,
        stored,
        |code| *code == Some(1),
    );
    for command in [
        &["scale", "web", "3"][..],
        &["reload", "web"],
        &["restart", "web"],
        &["restart", "web", "--hard"],
    ] {
        assert_says(&rpm.run(command), &told);
    }
    assert_says(
        &App::new("hello.js").args(["--name", "other"]).try_start(&rpm),
        &told,
    );
    assert!(get(port.number(), "/").is_ok(), "what serves goes on");
    rpm.ok(["stop", "web"]);
    fs::remove_dir(&in_the_way).expect("it is empty");
    rpm.ok(["start", "web"]);
    assert!(get(port.number(), "/").is_ok());
}
