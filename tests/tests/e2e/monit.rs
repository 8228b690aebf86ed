//! `monit` and `list --watch` on a terminal.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use rpm_e2e::ask::BOUND;
use rpm_e2e::outside::{freeze, terminate, thaw};
use rpm_e2e::place::Place;
use rpm_testkit::{Rpm, wait_until};
use rpm_wire::api::Status;

/// A command on a terminal of 100 columns, which `script` (util-linux) provides.
struct Screen {
    script: Child,
    keys: ChildStdin,
    output: ChildStdout,
    /// What was drawn, as it was sent to the terminal. A piece may end within a character.
    shown: Vec<u8>,
    /// How much of that was looked at, up to the end of a character.
    seen: usize,
}

impl Screen {
    /// Runs `rpm` with these arguments.
    fn of(rpm: &Rpm, what: &str) -> Screen {
        Screen::of_shell(rpm, &format!("exec \"$RPM\" {what}"))
    }

    fn of_shell(rpm: &Rpm, shell: &str) -> Screen {
        let shell = format!("stty rows 30 cols 100; {shell}");
        let mut script = Command::new("timeout")
            .args(["100", "script", "-qfec", &shell, "/dev/null"])
            .env("RPM", rpm.binary())
            .env("RPM_HOME", rpm.home())
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script runs");
        Screen {
            keys: script.stdin.take().expect("a pipe"),
            output: script.stdout.take().expect("a pipe"),
            script,
            shown: Vec::new(),
            seen: 0,
        }
    }

    /// Waits until this was drawn after what the last call waited for. Only cells that change are drawn.
    fn until(&mut self, wanted: &[&str]) -> String {
        let mut buffer = [0; 4096];
        loop {
            let new = &self.shown[self.seen..];
            let text = String::from_utf8_lossy(new).into_owned();
            if wanted.iter().all(|part| text.contains(part)) {
                self.seen += std::str::from_utf8(new).map_or_else(|error| error.valid_up_to(), str::len);
                return text;
            }
            let count = self.output.read(&mut buffer).expect("it prints");
            assert!(
                count > 0,
                "it ended without {wanted:?}: {}",
                String::from_utf8_lossy(&self.shown)
            );
            self.shown.extend_from_slice(&buffer[..count]);
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a key");
    }

    /// The rest of the output.
    fn end(mut self) -> (ExitStatus, String) {
        let mut rest = Vec::new();
        self.output.read_to_end(&mut rest).expect("the rest");
        let status = self.script.wait().expect("it ends");
        (status, String::from_utf8_lossy(&rest).into_owned())
    }
}

#[test]
fn a_terminal_shows_processes_and_their_output() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write("app.js", "console.log('saying'); setInterval(() => {}, 1000);");
    place.ok(&rpm, ["start", "app.js", "-n", "watched"]);
    let refused = place.run(&rpm, ["monit"]);
    assert!(
        refused.code == Some(1) && refused.stderr.contains("needs a terminal"),
        "{refused:?}"
    );
    for (what, wanted) in [
        ("monit", ["watched", "saying"]),
        ("list --watch", ["watched", "q quits"]),
    ] {
        shown_until_q(&rpm, what, wanted);
    }
}

/// The program that draws the screen is not the daemon's.
#[test]
fn monit_starts_the_daemon() {
    let rpm = Rpm::new();
    shown_until_q(&rpm, "monit", ["no apps", "quit"]);
    let daemon = rpm.daemon_pid().expect("it runs");
    let program = fs::read_link(format!("/proc/{daemon}/exe")).expect("its program");
    assert_eq!(program, rpm.binary().canonicalize().expect("a file"));
}

fn shown_until_q(rpm: &Rpm, what: &str, wanted: [&str; 2]) {
    let mut screen = Screen::of(rpm, what);
    screen.until(&wanted);
    screen.press("q");
    assert!(screen.end().0.success());
}

/// A daemon that was killed stays dead until somebody starts one; then processes and their output are those of the new one.
#[test]
fn monit_outlives_the_daemon_and_starts_none() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write("app.js", "console.log('first'); setInterval(() => {}, 1000);");
    place.write("next.js", "console.log('SECOND'); setInterval(() => {}, 1000);");
    place.ok(&rpm, ["start", "app.js", "-n", "watched"]);
    let mut screen = Screen::of(&rpm, "monit");
    screen.until(&["watched", "first"]);
    place.ok(&rpm, ["kill"]);
    screen.until(&["the daemon is not running; trying again"]);
    screen.press("ry");
    // Blanks that were there before are not drawn again.
    screen.until(&["running"]);
    let refused = place.run(&rpm, ["ping", "--no-start"]);
    assert_ne!(refused.code, Some(0), "nothing has started one: {refused:?}");
    place.ok(&rpm, ["start", "next.js", "-n", "ANOTHER"]);
    screen.until(&["ANOTHER", "SECOND"]);
    screen.press("q");
    assert!(screen.end().0.success());
}

/// Whoever says yes and leaves at once has meant both.
#[test]
fn a_change_is_made_though_monit_is_left_at_once() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write("app.js", "setInterval(() => {}, 1000);");
    place.ok(&rpm, ["start", "app.js", "-n", "watched"]);
    let mut screen = Screen::of(&rpm, "monit");
    screen.until(&["watched", "quit"]);
    screen.press("syq");
    let (status, rest) = screen.end();
    assert!(status.success() && rest.contains("stop watched: "), "{rest}");
    let stopped = || {
        rpm.list()
            .iter()
            .map(|process| process.status)
            .collect::<Vec<_>>()
    };
    wait_until("it is stopped", BOUND, stopped, |all| *all == [Status::Stopped]);
}

/// A process that runs again at the end of a test, so that it can be ended.
struct Thawed(u32);

impl Drop for Thawed {
    fn drop(&mut self) {
        thaw(self.0);
    }
}

/// The keys do not wait for the daemon.
#[test]
fn monit_heeds_keys_while_the_daemon_is_stopped() {
    let rpm = Rpm::new();
    let mut screen = Screen::of(&rpm, "monit");
    screen.until(&["no apps", "quit"]);
    let daemon = rpm.daemon_pid().expect("it runs");
    freeze(daemon);
    let _thawed = Thawed(daemon);
    screen.until(&["the daemon does not answer"]);
    screen.press("/w");
    screen.until(&["w▏"]);
    screen.press("\u{1b}");
    screen.until(&["quit"]);
    screen.press("q");
    assert!(screen.end().0.success());
}

#[test]
fn a_signal_ends_the_screen_and_restores_the_terminal() {
    let rpm = Rpm::new();
    for (what, wanted) in [("monit", "no apps"), ("list --watch", "q quits")] {
        let shell = format!("sh -c 'echo pid=$$.; exec \"$RPM\" {what}'; echo code=$?; stty -a; echo end");
        let mut screen = Screen::of_shell(&rpm, &shell);
        let shown = screen.until(&["pid=", wanted]);
        let (_, after) = shown.split_once("pid=").expect("a pid");
        let (pid, _) = after.split_once('.').expect("its end");
        terminate(pid.parse().expect("a number"));
        let (_, rest) = screen.end();
        assert!(rest.contains("code=143"), "{what}: {rest}");
        for restored in ["\u{1b}[?1049l", "\u{1b}[?1000l", "\u{1b}[?25h"] {
            assert!(
                rest.contains(restored),
                "{what}: {restored:?} is missing in {rest:?}"
            );
        }
        let is_cooked = rest.contains(" icanon") && rest.contains(" echo ");
        assert!(is_cooked, "{what}: {rest}");
    }
}

/// Instances, a change after a question, a click, and many lines of output, as a user finds them.
#[test]
fn monit_shows_instances_changes_them_and_searches_their_output() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write(
        "app.js",
        "require('http').createServer((q, s) => s.end()).listen(0, '127.0.0.1');
         if (process.env.NODE_APP_INSTANCE === '1')
           for (let n = 1; n <= 6000; n++) console.log({ 5500: 'NEEDLE', 6000: 'THATSALL' }[n] ?? `line-${n}.`);",
    );
    place.ok(&rpm, ["start", "app.js", "-n", "several", "-i", "2"]);
    // So low that the header is one row, whatever the machine has.
    let mut screen = Screen::of_shell(&rpm, "stty rows 15; exec \"$RPM\" monit");
    screen.until(&["several", "×2"]);
    screen.press(" ");
    screen.until(&["├─", "└─"]);
    screen.press(":scale several 3\r");
    screen.until(&["cancel"]);
    screen.press("y");
    screen.until(&["done"]);
    // Below header, frame, names, app and first instance.
    screen.press("\u{1b}[<0;20;6M\u{1b}[<0;20;6m");
    // Its last line: nothing that comes before can be missed by the search. It shares no cell with lines that stood there.
    screen.until(&["(1)", "THATSALL"]);
    screen.press("l");
    screen.until(&["wrap"]);
    screen.press("/needle\r");
    screen.until(&["NEEDLE"]);
    screen.press("q");
    assert!(screen.end().0.success());
    let listed = place.ok(&rpm, ["id", "several"]);
    assert!(listed.stdout.contains("[ 0, 1, 2 ]"), "{listed:?}");
}
