//! Logs that are not regular files and stop accepting bytes, or never start: they cost their own app lines, and nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rpm_e2e::app::{App, PRINTED, PRINTING};
use rpm_e2e::ask::BOUND;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Rpm, get, wait_for, wait_until};

fn fifo(place: &Place, name: &str) -> PathBuf {
    let path = place.path().join(name);
    let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
    assert!(made.success());
    path
}

/// Opens a FIFO for reading, whether or not there is a writer.
fn reader(path: &Path) -> File {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(nonblocking);
    options.open(path).expect("a FIFO")
}

/// Reads what has arrived so far.
fn take(reader: &mut File, text: &mut String) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

/// A terminal that nothing reads. It ends when this is dropped.
struct Terminal {
    script: Child,
    path: PathBuf,
}

impl Terminal {
    fn open() -> Terminal {
        let mut command = Command::new("script");
        command
            .args(["-qfec", "tty; exec sleep 600", "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut script = command.spawn().expect("script runs");
        // One byte at a time, because what follows the name must not be read.
        let output = script.stdout.as_mut().expect("it is piped");
        let mut name = String::new();
        BufReader::with_capacity(1, output)
            .read_line(&mut name)
            .expect("its name");
        let path = PathBuf::from(name.trim());
        Terminal { script, path }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// The number of a process's controlling terminal; 0 for none.
fn terminal_of(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let after_name = stat.rsplit(") ").next().expect("it has fields");
    after_name
        .split(' ')
        .nth(4)
        .expect("the number of a terminal")
        .to_owned()
}

#[test]
fn a_log_that_stops_taking_bytes_costs_its_own_lines() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    App::cluster("say.js", "1").port(&port).start(&rpm);
    place.write("app.js", PRINTING);
    let pipe = fifo(&place, "pipe");
    let mut pipe_reader = reader(&pipe);
    let terminal = Terminal::open();
    for (name, path) in [("pipe", &pipe), ("terminal", &terminal.path)] {
        let path = path.to_str().expect("UTF-8");
        let done = format!("{name}.done");
        place.ok(&rpm, ["start", "app.js", "-n", name, "-o", path, "--", &done]);
        wait_until(
            "the app has printed everything",
            BOUND,
            || place.path().join(&done).exists(),
            |done| *done,
        );
        for _ in 0..5 {
            // More than the app's pipe holds.
            let query = format!("/?out={name}{}&times=130", "x".repeat(1000));
            assert_eq!(get(port.number(), &query).expect("an answer").status, 200);
        }
        let shown = rpm.ok(["logs", "say", "--nostream", "--lines", "1"]);
        assert!(shown.contains(&format!("{name}xxx")), "{shown}");
        // A log that is not a regular file cannot be read back, and must not be taken from its reader.
        assert_eq!(rpm.ok(["logs", name, "--nostream", "--out"]), "");
    }
    let daemon = rpm.daemon_pid().expect("a daemon");
    assert_eq!(terminal_of(daemon), "0", "the daemon has a controlling terminal");
    // A reader that returns gets what was kept, and the size of the gap.
    let mut text = String::new();
    let read = || {
        take(&mut pipe_reader, &mut text);
        text.clone()
    };
    let text = wait_until("the gap is marked", BOUND, read, |text| {
        text.ends_with(" bytes of output were lost here]\n")
    });
    let (kept, mark) = text.split_once("\n[rpm: ").expect("a mark");
    assert!(kept.lines().all(|line| line.len() == 127), "lines are kept whole");
    let lost = mark.split(' ').next().expect("a number").parse::<usize>();
    assert_eq!(kept.len() + lost.expect("a number"), PRINTED);
    place.ok(&rpm, ["sendSignal", "SIGUSR2", "pipe"]);
    let mut text = String::new();
    let again = || {
        take(&mut pipe_reader, &mut text);
        text.clone()
    };
    wait_until("it is written again", BOUND, again, |text| text == "again\n");
}

#[test]
fn a_pipe_without_a_reader_delays_nothing() {
    let (rpm, place) = (Rpm::new(), Place::new());
    place.write("app.js", PRINTING);
    let pipe = fifo(&place, "pipe");
    // Its pid file, too, numbered as each instance's.
    let _pid = fifo(&place, "app-0.pid");
    let done = place.path().join("done");
    place.ok(
        &rpm,
        [
            "start", "app.js", "-n", "app", "-o", "pipe", "--pid", "app.pid", "--", "done",
        ],
    );
    wait_until("it prints", BOUND, || done.exists(), |done| *done);
    assert_eq!(rpm.ok(["logs", "--nostream", "--lines", "5"]), "");
    let warning = "losing output";
    assert_eq!(rpm.log().matches(warning).count(), 1, "{}", rpm.log());
    assert!(rpm.log().contains("app-0.pid"), "{}", rpm.log());
    let mut opened = reader(&pipe);
    // One line for each signal: the first of them opens the pipe again.
    let mut text = String::new();
    wait_for("a reader gets lines", BOUND, || {
        place.ok(&rpm, ["sendSignal", "SIGUSR2", "app"]);
        take(&mut opened, &mut text);
        text.contains("again\n").then_some(())
    });
    assert!(
        text.contains(&format!("[rpm: {PRINTED} bytes of output were lost here]")),
        "{text}"
    );
    rpm.ok(["delete", "app"]);
}

#[test]
fn an_access_log_without_a_reader_delays_no_request() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let pipe = fifo(&place, "access");
    let app = App::cluster("hello.js", "1").port(&port);
    app.args(["--balance", "proxy", "--access-log"])
        .args([pipe.as_os_str()])
        .start(&rpm);
    let ask = || get(port.number(), "/asked").expect("an answer").status;
    assert_eq!(ask(), 200);
    let mut opened = reader(&pipe);
    let mut text = String::new();
    wait_for("a reader gets lines", BOUND, || {
        assert_eq!(ask(), 200);
        take(&mut opened, &mut text);
        text.contains("GET /asked").then_some(())
    });
}

#[test]
fn a_certificate_that_would_be_waited_for_is_refused() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let path = fifo(&place, "cert");
    let refused = App::cluster("hello.js", "1")
        .port(&port)
        .args(["--balance", "proxy", "--tls-cert"])
        .args([path.as_os_str()])
        .args(["--tls-key"])
        .args([path.as_os_str()])
        .try_start(&rpm);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("not a regular file"), "{refused:?}");
}
